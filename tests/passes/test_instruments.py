"""Observers: what they print, write, measure and catch."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from tunesmith.ir.diagnostics import PassError, VerifyError
from tunesmith.ir.graph import Graph
from tunesmith.ir.ops import Expr
from tunesmith.ir.opset.math import abs_
from tunesmith.ir.rewriter import Rewriter
from tunesmith.ir.text import parse_graph
from tunesmith.passes.base import Pass, PassContext
from tunesmith.passes.canonicalize import Canonicalize
from tunesmith.passes.eliminate_dead_code import EliminateDeadCode
from tunesmith.passes.instruments import CheckEach, Dump, Print, Reproduce, Time, Verify
from tunesmith.passes.pipeline import Pipeline

TEXT = "graph @f(%x: f32[B]) {\n  %a = neg(%x)\n  %y = neg(%a)\n  return %y\n}"
FEEDS = {"x": np.asarray([-1.0, 2.0], np.float32)}


@dataclass(frozen=True, kw_only=True)
class Wrong(Pass):
    """Takes the magnitude of the output."""

    name = "wrong"

    def run(self, graph: Graph, context: PassContext) -> bool:
        rewriter = Rewriter(graph)
        build = rewriter.before(graph.terminator)
        result = abs_(Expr(build, graph.outputs[0]))
        rewriter.set_operand(graph.terminator, 0, result.value)
        return True


@dataclass(frozen=True, kw_only=True)
class Rough(Wrong):
    """The same, but admitted."""

    name = "rough"
    exact = False


@dataclass(frozen=True, kw_only=True)
class Breaks(Pass):
    """Leaves a graph that breaks a rule."""

    name = "breaks"

    def run(self, graph: Graph, context: PassContext) -> bool:
        graph.outputs[0].users.clear()
        return True


def test_print_after_change() -> None:
    """Only the passes that changed something are printed, unless all are wanted."""
    for only, names in ((True, ["canonicalize"]), (False, ["canonicalize", "eliminate-dead-code"])):
        stream = io.StringIO()
        pipeline = Pipeline([Canonicalize(), EliminateDeadCode()])
        pipeline.run(parse_graph(TEXT), PassContext(), [Print(stream, only)])
        heads = [line for line in stream.getvalue().splitlines() if line.startswith("//")]
        assert heads == [f"// after {name}" for name in names]


def test_dump(tmp_path: Path) -> None:
    """One numbered file for each pass; each parses."""
    folder = tmp_path / "dump"
    pipeline = Pipeline.parse("repeat{canonicalize,fold-constants},eliminate-dead-code")
    pipeline.run(parse_graph(TEXT), PassContext(), [Dump(folder)])
    names = sorted(path.name for path in folder.iterdir())
    assert names[0] == "00_canonicalize.nir" and names[-1] == "04_eliminate-dead-code.nir"
    for name in names:
        parse_graph((folder / name).read_text())


def test_time() -> None:
    """Runs and changes are counted; the table names each pass."""
    clock = Time()
    Pipeline.parse("repeat{canonicalize}").run(parse_graph(TEXT), PassContext(), [clock])
    assert clock.runs == {"canonicalize": 2} and clock.changes == {"canonicalize": 1}
    assert "canonicalize" in str(clock)


def test_check_each_names_the_pass() -> None:
    """The first pass whose outputs drift is named; the one before it is not."""
    check = CheckEach(FEEDS)
    with pytest.raises(PassError, match="outputs drift after `wrong`: `y` differs"):
        Pipeline([Canonicalize(), Wrong()]).run(parse_graph(TEXT), PassContext(), [check])
    assert check.worst["canonicalize"] == 0.0
    assert check.worst["wrong"] > 1.0


def test_check_each_lets_inexact_passes_drift() -> None:
    """A pass that documents a tolerance sets the reference for those after it."""
    passes = Pipeline([Rough(), Canonicalize()])
    passes.run(parse_graph(TEXT), PassContext(), [CheckEach(FEEDS)])


def test_verify_and_reproduce(tmp_path: Path) -> None:
    """The reproducer holds the rest of the pipeline and the graph before the failing pass."""
    path = tmp_path / "crash.nir"
    pipeline = Pipeline([Canonicalize(), Breaks(), EliminateDeadCode()])
    with pytest.raises(VerifyError) as caught:
        pipeline.run(parse_graph(TEXT), PassContext(), [Reproduce(path), Verify()])
    assert f"reproducer: {path}" in caught.value.__notes__
    head, _, body = path.read_text().partition("\n")
    assert head == "// RUN breaks,eliminate-dead-code"
    assert len(parse_graph(body)) == 0
