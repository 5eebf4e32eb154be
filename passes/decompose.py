"""Composites as what they mean."""

from __future__ import annotations

from dataclasses import dataclass

from tunesmith.ir.builder import Builder, trace
from tunesmith.ir.graph import Graph
from tunesmith.ir.rewriter import Rewriter

from .base import Pass, PassContext

__all__ = ["Decompose"]


@dataclass(frozen=True, kw_only=True)
class Decompose(Pass):
    """`composite(x)  =>  its decomposition`, for each composite that is not in `keep`."""

    name = "decompose"
    keep: tuple[str, ...] = ()

    def run(self, graph: Graph, context: PassContext) -> bool:
        """Inline until only primitives, and what is kept, are left."""
        rewriter = Rewriter(graph)
        work = list(graph.nodes)
        while work:
            node = work.pop()
            if not node.op.is_composite or node.op.name in self.keep:
                continue
            types = [None if value is None else value.type for value in node.operands]
            before = node.previous
            build = Builder(graph, node)
            results = build.inline(trace(node.op, types, node.attributes), node.operands)
            walk = node.previous
            while walk is not before and walk is not None:
                work.append(walk)
                walk = walk.previous
            rewriter.replace_node(node, results)
        return rewriter.changed
