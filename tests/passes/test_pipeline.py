"""Pipelines as text, and what they do with passes that fail."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith import presets
from tunesmith.ir.diagnostics import ParseError
from tunesmith.ir.graph import Graph
from tunesmith.ir.text import parse_graph
from tunesmith.passes import PASSES
from tunesmith.passes.base import Pass, PassContext
from tunesmith.passes.canonicalize import Canonicalize
from tunesmith.passes.decompose import Decompose
from tunesmith.passes.pipeline import Pipeline, Repeat

TEXT = "graph @f(%x: f32[B]) {\n  %a = neg(%x)\n  %y = neg(%a)\n  return %y\n}"

SIMPLE = st.sampled_from([row() for row in PASSES])
KEEPS = st.builds(Decompose, keep=st.lists(st.sampled_from(["gelu", "a b", "x=1"]), max_size=2)
                  .map(lambda names: tuple(n for name in names for n in name.split())))  # fmt: skip
GROUPS = st.builds(Repeat, passes=st.lists(SIMPLE | KEEPS, max_size=3).map(tuple))


@given(st.lists(SIMPLE | KEEPS | GROUPS, max_size=5))
def test_text_round_trips(passes: list[Pass]) -> None:
    """`parse` and `str` are inverses."""
    pipeline = Pipeline(passes)
    assert Pipeline.parse(str(pipeline)) == pipeline


@pytest.mark.parametrize("name", presets.PRESETS)
def test_presets_parse(name: str) -> None:
    """Every preset names passes that exist."""
    text = presets.PRESETS[name]
    assert str(Pipeline.parse(text)) == text


def test_names_follow_the_files() -> None:
    """`FuseRmsNorm` is `fuse-rms-norm` in `fuse_rms_norm.py`, with a docstring."""
    for row in PASSES:
        words = "".join(f"-{c.lower()}" if c.isupper() else c for c in row.__name__).lstrip("-")
        assert row.name == words and row.__doc__
        assert row.__module__.rpartition(".")[2] == words.replace("-", "_")
    assert [row.name for row in PASSES] == sorted(row.name for row in PASSES)


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("fuse-gelo", "unknown pass `fuse-gelo`", "did you mean `fuse-gelu`?"),
        ("decompose{kep=gelu}", "has no option `kep`", "did you mean `keep`?"),
        ("fuse-gelu{a=1}", "has no option `a`", "it has no options"),
        ("fuse-gelu,", "the name of a pass is missing", None),
        ("fuse-gelu fuse-silu", "`,` is expected", None),
        ("repeat{fuse-gelu", "`,` is expected", None),
        ('decompose{keep="gelu}', "this quote is not closed", None),
        ("decompose{keep}", "`=` is expected", None),
    ],
)
def test_errors(text: str, message: str, hint: str | None) -> None:
    """An error says what, where, and what was meant."""
    if text == "repeat{fuse-gelu":
        message = "is missing"
    with pytest.raises(ParseError) as caught:
        Pipeline.parse(text)
    assert message in caught.value.message
    assert caught.value.hint == hint
    assert str(caught.value.where).startswith("pipeline:")


@dataclass(frozen=True, kw_only=True)
class Fails(Pass):
    """Always fails."""

    name = "fails"

    def run(self, graph: Graph, context: PassContext) -> bool:
        raise RuntimeError("no")


def test_failure_names_the_pass() -> None:
    """The notes of an error say which pass of how many."""
    graph = parse_graph(TEXT)
    with pytest.raises(RuntimeError) as caught:
        Pipeline([Canonicalize(), Repeat(passes=(Canonicalize(), Fails()))]).run(
            graph, PassContext()
        )
    assert caught.value.__notes__ == ["in pass 2 of 2: fails", "in pass 2 of 2: repeat"]


def test_run_tells_what_changed() -> None:
    """One flag a pass; a group changed if one of its passes did."""
    graph = parse_graph(TEXT)
    flags = Pipeline.parse("repeat{canonicalize},canonicalize").run(graph, PassContext())
    assert flags == [True, False]
    assert len(graph) == 0
