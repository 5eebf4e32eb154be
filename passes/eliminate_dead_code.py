"""Nodes that nobody reads."""

from __future__ import annotations

from dataclasses import dataclass

from tunesmith.ir.graph import Graph
from tunesmith.ir.rewriter import Rewriter

from .base import Pass, PassContext

__all__ = ["EliminateDeadCode"]


@dataclass(frozen=True, kw_only=True)
class EliminateDeadCode(Pass):
    """Erases nodes without effect whose results are not used."""

    name = "eliminate-dead-code"

    def run(self, graph: Graph, context: PassContext) -> bool:
        """Erase from the last node to the first, so that one walk is enough."""
        rewriter = Rewriter(graph)
        for node in list(graph.nodes_reversed):
            if "pure" in node.op.traits and not any(value.users for value in node.results):
                rewriter.erase(node)
        return rewriter.changed
