"""Why `fuse-attention` and its neighbours refuse, and what they tell about what they fuse."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tunesmith.ir.text import parse_graph
from tunesmith.passes import attention_match
from tunesmith.passes.base import PassContext
from tunesmith.passes.pipeline import Pipeline

from .reasons import found_reasons, refused_cases

REFUSED = refused_cases("fuse-attention.nir")
CASES = [
    (name, what, reason, graph)
    for name, what in (
        ("fuse-attention", "attention"),
        ("fuse-rotary", "rotary"),
        ("lift-dequantize", "dequantize"),
    )
    for reason, graph in refused_cases(f"{name}.nir").items()
]


@pytest.mark.parametrize(("name", "what", "reason", "graph"), CASES)
def test_near_miss(name: str, what: str, reason: str, graph: str) -> None:
    """What is refused stays as it is, and the note names the condition that failed."""
    assert found_reasons(graph, name, what) == [reason]


def test_every_guard_has_a_case() -> None:
    """Each reason in the sources occurs in the golden file, whatever it is filled with."""
    folder = Path(attention_match.__file__).parent
    files = ("attention_match.py", "attention_masks.py", "fuse_attention.py")
    source = "".join((folder / file).read_text() for file in files)
    written = re.findall(r'Refused\(\s*f?"([^"]+)"', source)
    written += re.findall(r'reason = f?"([^"]+)"', source)
    assert len(written) > 20
    allowed = {"a row may be masked entirely by finite numbers, so the triangle stays in the mask"}
    patterns = [re.sub(r"\\{.*?\\}", ".*", re.escape(text)) for text in written]
    missing = [
        text
        for text, pattern in zip(written, patterns, strict=True)
        if text not in allowed and not any(re.fullmatch(pattern, reason) for reason in REFUSED)
    ]
    assert missing == []


def test_classifiers_are_not_near_misses() -> None:
    """A softmax over a linear layer at the end of a model is silent."""
    context = PassContext()
    text = """
    graph @f(%x: f32[B, 2]) {
      %w = constant() {value = f32[2, 2] [1.0, 2.0, 3.0, 4.0]}
      %s = matmul(%x, %w)
      %p = softmax(%s)
      return %p
    }
    """
    assert Pipeline.parse("fuse-attention").run(parse_graph(text), context) == [False]
    assert context.notes == []


def test_a_second_run_changes_nothing() -> None:
    """What the pass writes, it leaves alone: for every case that fuses."""
    text = (Path(__file__).parent / "fuse-attention.nir").read_text().partition("\n")[2]
    for case in text.split("\n// -----\n"):
        graph = parse_graph(case.partition("\n// =>\n")[0])
        Pipeline.parse("fuse-attention").run(graph, PassContext())
        context = PassContext()
        assert Pipeline.parse("fuse-attention").run(graph, context) == [False], case
        assert context.matches("attention") == []
