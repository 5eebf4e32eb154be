"""The backend: legalize, lower, build."""

from __future__ import annotations

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

    def lower(self, graph: Graph, target: Target) -> Lowered:
        """Give every node a kernel; the graph is changed in place."""
        legalize(graph)
        return lower_graph(graph, target)

    def build(self, lowered: Lowered, records: TuningRecords | None = None) -> Library:
        """Generate and link the code."""
        if records:
            raise NotImplementedError("tuning records are not read yet")
        return build_library(lowered)
