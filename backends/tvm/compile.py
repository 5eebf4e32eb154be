"""The backend: legalize, lower, build."""

from __future__ import annotations

from collections.abc import Callable

from tunesmith.ir.graph import Graph
from tunesmith.ir.target import Target

from ..base import Library, Lowered, TuningRecords
from .build import build_library
from .legalize import legalize
from .relax import lower_graph

__all__ = ["TvmBackend"]


class TvmBackend:
    """Graphs to machine code by way of Relax and our own kernels."""

    name = "tvm"

    def lower(self, graph: Graph, target: Target, records: TuningRecords | None = None) -> Lowered:
        """Give every node a kernel, by its tuned knobs if there are some; changes the graph."""
        legalize(graph)
        return lower_graph(graph, target, records)

    def build(
        self,
        lowered: Lowered,
        progress: Callable[[int, int], None] | None = None,
        before_fork: Callable[[], None] = lambda: None,
    ) -> Library:
        """Generate and link the code; `progress` hears how many kernels of how many are done."""
        return build_library(lowered, progress, before_fork)
