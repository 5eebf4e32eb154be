"""The arena that an artifact states: what its planned storage and its results add up to."""

from __future__ import annotations

import pytest

from tunesmith.driver import compile_model
from tunesmith.ir.text import parse_graph
from tunesmith.runtime.manifest import Json

pytestmark = pytest.mark.tvm

# Each softmax is a kernel of its own; the second one's result is an output.
TEXT = """graph @g(%x: f32[{rows}, 64]) {{
  %a = softmax(%x) {{axis = -1}}
  %b = softmax(%a) {{axis = -1}}
  %c = softmax(%b) {{axis = -1}}
  return %c
}}"""


def arena(rows: str) -> Json:
    """What the manifest says of three kernels in a row."""
    return compile_model(parse_graph(TEXT.format(rows=rows)), threads=1).manifest.report["arena"]


def test_static_storage_is_added_up() -> None:
    assert arena("10") == str(3 * 10 * 64 * 4), "two values in between, and the result"


def test_open_sizes_are_symbols() -> None:
    assert arena("rows") == "768*rows"


def test_what_is_dead_lends_its_storage() -> None:
    text = TEXT.replace("%c = softmax(%b)", "%d = softmax(%b) {{axis = -1}}\n  %c = softmax(%d)")
    graph = parse_graph(text.format(rows="10"))
    longer = compile_model(graph, threads=1).manifest.report["arena"]
    assert longer == arena("10"), "the third value lies where the first one lay"
