"""Observers of a pipeline: they look at every pass and change nothing."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

import numpy as np
from numpy.typing import NDArray

from tunesmith.ir.diagnostics import PassError
from tunesmith.ir.graph import Graph
from tunesmith.ir.interpreter import evaluate
from tunesmith.ir.store import save_graph
from tunesmith.ir.text import parse_graph, print_graph
from tunesmith.ir.verifier import verify

from .base import Pass

__all__ = ["CheckEach", "Dump", "Instrument", "Print", "Reproduce", "Step", "Time", "Verify"]

Oracle = Callable[[Graph, Mapping[str, NDArray[np.generic]]], Sequence[NDArray[np.generic]]]


@dataclass(frozen=True)
class Step:
    """One run of one pass."""

    pass_: Pass
    remaining: str  # this pass and those that follow, as the text of a pipeline


class Instrument:
    """What a pipeline calls around each pass; the base does nothing."""

    def before(self, step: Step, graph: Graph) -> None:
        """A pass is about to run."""

    def after(self, step: Step, graph: Graph, changed: bool) -> None:
        """A pass has run; an error raised here is laid to it."""

    def failed(self, step: Step, error: Exception) -> None:
        """A pass, or an instrument after it, has raised."""


class Verify(Instrument):
    """Checks the rules of the IR after each pass."""

    def after(self, step: Step, graph: Graph, changed: bool) -> None:
        """`VerifyError` if the pass has broken a rule."""
        verify(graph)


@dataclass
class Print(Instrument):
    """Prints the graph after each pass, or after each that changed it."""

    stream: TextIO = field(default_factory=lambda: sys.stdout)
    only_changes: bool = True

    def after(self, step: Step, graph: Graph, changed: bool) -> None:
        """Print under a comment that names the pass."""
        if changed or not self.only_changes:
            self.stream.write(f"// after {step.pass_.name}\n{print_graph(graph)}\n\n")


@dataclass
class Dump(Instrument):
    """Writes the graph after each pass into a folder: `00_fuse-attention.nir`, …"""

    folder: Path
    count: int = 0

    def after(self, step: Step, graph: Graph, changed: bool) -> None:
        """Write the next file."""
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{self.count:02}_{step.pass_.name}.nir"
        save_graph(graph, path)
        self.count += 1


@dataclass
class Time(Instrument):
    """Measures the passes; `str` is a table. Before other instruments, or it measures them too."""

    seconds: dict[str, float] = field(default_factory=dict)
    runs: dict[str, int] = field(default_factory=dict)
    changes: dict[str, int] = field(default_factory=dict)
    started: float = 0.0

    def before(self, step: Step, graph: Graph) -> None:
        """Start the clock."""
        self.started = time.perf_counter()

    def after(self, step: Step, graph: Graph, changed: bool) -> None:
        """Stop it."""
        name = step.pass_.name
        spent = time.perf_counter() - self.started
        self.seconds[name] = self.seconds.get(name, 0.0) + spent
        self.runs[name] = self.runs.get(name, 0) + 1
        self.changes[name] = self.changes.get(name, 0) + changed

    def __str__(self) -> str:
        lines = [f"{'pass':<24}{'ms':>10}{'runs':>8}{'changed':>9}"]
        for name, spent in sorted(self.seconds.items(), key=lambda item: -item[1]):
            row = f"{name:<24}{spent * 1e3:>10.2f}{self.runs[name]:>8}{self.changes[name]:>9}"
            lines.append(row)
        return "\n".join(lines)


@dataclass
class CheckEach(Instrument):
    """Runs the graph after each pass and names the first whose outputs drift.

    The oracle evaluates a graph on feeds: the interpreter, or an outside engine through export.
    After a pass that is not exact the outputs are the new reference: its own tolerance is judged
    elsewhere.
    """

    feeds: Mapping[str, NDArray[np.generic]]
    oracle: Oracle = evaluate
    rtol: float = 1e-4
    atol: float = 1e-5
    reference: list[NDArray[np.generic]] | None = None
    worst: dict[str, float] = field(default_factory=dict)  # drift by pass

    def before(self, step: Step, graph: Graph) -> None:
        """Evaluate the graph as it was before the first pass."""
        if self.reference is None:
            self.reference = list(self.oracle(graph, self.feeds))

    def after(self, step: Step, graph: Graph, changed: bool) -> None:
        """`PassError` if an output is not what it was."""
        if not changed:
            return
        found = list(self.oracle(graph, self.feeds))
        if not step.pass_.exact:
            self.reference = found
            return
        assert self.reference is not None
        for name, before, after in zip(graph.output_names, self.reference, found, strict=True):
            drift = _drift(before, after, self.rtol, self.atol)
            self.worst[step.pass_.name] = max(self.worst.get(step.pass_.name, 0.0), drift)
            if drift > 1.0:
                raise PassError(
                    f"outputs drift after `{step.pass_.name}`: `{name}` differs by {drift:.3g} "
                    f"times its tolerance (rtol {self.rtol}, atol {self.atol})"
                )


def _drift(
    before: NDArray[np.generic], after: NDArray[np.generic], rtol: float, atol: float
) -> float:
    """The greatest difference, in units of the tolerance; infinite where it cannot be one."""
    if before.shape != after.shape or before.dtype != after.dtype:
        return np.inf
    if before.dtype.kind in "biu":
        return 0.0 if np.array_equal(before, after) else np.inf
    one, other = before.astype(np.float64), after.astype(np.float64)
    if not np.array_equal(np.isnan(one), np.isnan(other)):
        return np.inf
    same = (one == other) | np.isnan(one)
    with np.errstate(invalid="ignore"):
        gap = np.where(same, 0.0, np.abs(one - other) / (atol + rtol * np.abs(one)))
    return float(np.nan_to_num(gap, nan=np.inf).max(initial=0.0))


@dataclass
class Reproduce(Instrument):
    """Keeps the graph before each pass as text; a failure leaves a `.nir` that fails the same way.

    The file is a golden test without its expectation: the rest of the pipeline stands under `RUN`.
    """

    path: Path
    text: str = ""
    weights: dict[str, NDArray[np.generic]] = field(default_factory=dict)
    written: bool = False

    def before(self, step: Step, graph: Graph) -> None:
        """Remember the graph; its constants are shared, not copied."""
        self.text = print_graph(graph)
        constants = (v.constant for node in graph.nodes for v in node.results)
        self.weights = {c.digest: c.array for c in constants if c is not None}

    def failed(self, step: Step, error: Exception) -> None:
        """Write the reproducer, once, and say where."""
        if self.written:
            return
        graph = parse_graph(self.text, weights=self.weights)
        save_graph(graph, self.path, head=f"// RUN {step.remaining}\n")
        self.written = True
        error.add_note(f"reproducer: {self.path}")
