"""Where a model goes wrong: the first pass whose outputs are not those before it, or the backend.

A pass is held against the interpreter on the graph as it was before that very pass, on several
inputs; then the compiled model against the interpreter on the last graph.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tunesmith.children import ask_child
from tunesmith.ir.diagnostics import CompilerError
from tunesmith.ir.graph import Graph
from tunesmith.ir.interpreter import evaluate
from tunesmith.ir.subgraph import subgraph
from tunesmith.ir.symbols import bind_symbols
from tunesmith.ir.target import Target
from tunesmith.ir.verifier import verify
from tunesmith.oracle import OutputReport, compare_output
from tunesmith.passes.base import PassContext
from tunesmith.passes.instruments import Instrument, Step
from tunesmith.passes.pipeline import Pipeline

__all__ = ["BACKEND", "Check", "Drift", "copy_graph", "find_drift", "sizes_now"]

Array = NDArray[np.generic]
Feeds = Mapping[str, Array]

BACKEND = "backend"  # the name that stands for lowering, building and running
_SECONDS = 300  # that running a compiled model may take


@dataclass(frozen=True)
class Drift:
    """What changed the outputs, and all that is needed to see it again."""

    name: str  # of a pass, or `BACKEND`
    run: int  # how many passes ran, this one included
    what: str  # which output differs by how much, or which error was raised
    graph: Graph  # as it was before
    feeds: Feeds  # that show it


@dataclass(frozen=True)
class Check:
    """How to look for a drift: passes, then the backend for a target, unless there is none."""

    pipeline: Pipeline
    target: Target
    backend: bool = True
    atol: float | None = None
    rtol: float | None = None

    def only(self, name: str) -> Check:
        """The same for one pass, or for the backend alone."""
        passes = [p for p in _flat(self.pipeline.passes) if p.name == name][:1]
        return Check(Pipeline(passes), self.target, name == BACKEND, self.atol, self.rtol)


def find_drift(graph: Graph, feeds: Sequence[Feeds], check: Check) -> Drift | None:
    """The first pass, or the backend, whose outputs drift on one of `feeds`; the graph is kept.

    A pass that raises, or leaves a graph that breaks a rule, is named like one that drifts. A pass
    that says that it is not exact only has to leave a valid graph.

    Raises:
        CompilerError: the interpreter cannot run the graph as it is given.
    """
    work = copy_graph(graph)
    watch = _Watch(check, feeds)
    try:
        check.pipeline.run(work, PassContext(target=check.target), [watch])
    except _Found as found:
        return found.drift
    except Exception as error:
        if watch.started is None:
            raise
        return watch.blame(f"{type(error).__name__}: {error}", feeds[0])
    return _try_backend(work, feeds, check, watch.runs) if check.backend else None


def copy_graph(graph: Graph) -> Graph:
    """A graph that can be changed without changing this one; weights are shared."""
    nodes = list(graph.nodes)
    copy, _, _ = subgraph(graph, nodes, outputs=graph.outputs)
    copy.output_names = list(graph.output_names)
    return copy


def sizes_now(graph: Graph, feeds: Feeds) -> dict[str, int]:
    """The size of each symbol for these inputs."""
    types = [value.type for value in graph.inputs]
    names = [value.name for value in graph.inputs]
    return bind_symbols(types, [np.asarray(feeds[name]).shape for name in names], names)


class _Found(BaseException):
    """Ends a pipeline: no error of a pass, so nothing on the way takes it for one."""

    def __init__(self, drift: Drift) -> None:
        self.drift = drift


@dataclass
class _Watch(Instrument):
    """Compares the outputs after each pass that changed something with those before it."""

    check: Check
    feeds: Sequence[Feeds]
    runs: int = 0
    started: Step | None = None
    before_it: Graph | None = None
    reference: list[list[Array]] = field(default_factory=list)

    def before(self, step: Step, graph: Graph) -> None:
        """Keep the graph and what it gives."""
        if not self.reference:
            self.reference = [list(evaluate(graph, feeds)) for feeds in self.feeds]
        self.started, self.before_it = step, copy_graph(graph)
        self.runs += 1

    def after(self, step: Step, graph: Graph, changed: bool) -> None:
        """Look at what the pass has done; `_Found` if it is wrong."""
        if not changed:
            return
        verify(graph)
        fresh = []
        for feeds, wanted in zip(self.feeds, self.reference, strict=True):
            found = list(evaluate(graph, feeds))
            fresh.append(found)
            report = _first_failure(graph.output_names, found, wanted, self.check)
            if report is not None and step.pass_.exact:
                raise _Found(self.blame(_told(report), feeds))
        self.reference = fresh

    def blame(self, what: str, feeds: Feeds) -> Drift:
        """The drift of the pass that ran last."""
        assert self.started is not None and self.before_it is not None
        return Drift(self.started.pass_.name, self.runs, what, self.before_it, feeds)


def _first_failure(
    names: Sequence[str], found: Sequence[Array], wanted: Sequence[Array], check: Check
) -> OutputReport | None:
    for name, ours, theirs in zip(names, found, wanted, strict=True):
        report = compare_output(name, ours, theirs, atol=check.atol, rtol=check.rtol)
        if not report.passed:
            return report
    return None


def _told(report: OutputReport) -> str:
    shape = "x".join(map(str, report.shape)) or "scalar"
    return f"`{report.name}` {report.dtype} {shape}: {report.reason}, max abs {report.max_abs:.3g}"


def _try_backend(graph: Graph, feeds: Sequence[Feeds], check: Check, runs: int) -> Drift | None:
    """Compile the graph as it is, run it in a child, and compare with the interpreter."""
    from tunesmith.driver import compile_model

    try:
        artifact = compile_model(copy_graph(graph), target=check.target.name, preset="")
        with tempfile.TemporaryDirectory(prefix="tunesmith-") as folder:
            said = ask_child(lambda: _run(artifact, feeds, Path(folder)), _SECONDS)
            if "error" in said:
                return Drift(BACKEND, runs, str(said["error"]), graph, feeds[0])
            for index, one in enumerate(feeds):
                wanted = list(evaluate(graph, one))
                with np.load(Path(folder) / f"{index}.npz", allow_pickle=False) as held:
                    found = [
                        held[f"o{place}"].view(array.dtype) for place, array in enumerate(wanted)
                    ]
                report = _first_failure(graph.output_names, found, wanted, check)
                if report is not None:
                    return Drift(BACKEND, runs, _told(report), graph, one)
    except CompilerError as error:
        return Drift(BACKEND, runs, f"{type(error).__name__}: {error.message}", graph, feeds[0])
    return None


def _run(artifact: Any, feeds: Sequence[Feeds], folder: Path) -> dict[str, Any]:
    """In the child: the outputs as files."""
    from tunesmith.runtime import load

    executable = load(artifact, threads=1)
    for index, one in enumerate(feeds):
        results = executable.run({name: np.asarray(array) for name, array in one.items()})
        arrays: dict[str, Any] = {f"o{i}": array for i, array in enumerate(results.values())}
        np.savez(folder / f"{index}.npz", **arrays)
    return {"done": True}


def _flat(passes: Sequence[Any]) -> Iterator[Any]:
    """The passes of a pipeline, those in groups too."""
    for one in passes:
        inner = getattr(one, "passes", None)
        if isinstance(inner, tuple):
            yield from _flat(inner)
        else:
            yield one
