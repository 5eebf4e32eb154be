"""Nodes whose operands are all known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tunesmith.ir.dims import evaluate_dim
from tunesmith.ir.graph import Graph, Node, Value
from tunesmith.ir.interpreter import evaluate_node
from tunesmith.ir.limits import LIMITS
from tunesmith.ir.rewriter import Rewriter

from .base import Pass, PassContext

__all__ = ["FoldConstants"]

_SMALL = 64 << 10
_VIEWS = ("reshape", "transpose", "slice")  # of a constant: another layout, not more bytes


@dataclass(frozen=True, kw_only=True)
class FoldConstants(Pass):
    """`f(constants)  =>  constant`, unless the constants would grow.

    A result is kept within the context's budget, and above 64 KiB within the bytes of the operands:
    int8 weights stay int8, and `dequantize` stands however small it is. All results together are at
    most twice the constants of the model, or a limit. Another layout of a weight is a view, and
    always folds.
    """

    name = "fold-constants"

    def run(self, graph: Graph, context: PassContext) -> bool:
        """Fold in order, so that one walk is enough."""
        rewriter = Rewriter(graph)
        if context.fold_left is None:
            constants = [v.constant for node in graph.nodes for v in node.results]
            held = sum(c.nbytes for c in constants if c is not None)
            context.fold_left = max(LIMITS.folded_total, 2 * held)
        for node in list(graph.nodes):
            if not _foldable(node, context.fold_budget):
                continue
            size = 0 if node.op.name in _VIEWS else _bytes(node.results)
            if size <= context.fold_left:
                context.fold_left -= size
                _fold(node, rewriter)
        return rewriter.changed


def _foldable(node: Node, budget: int) -> bool:
    if "pure" not in node.op.traits or node.op.name in ("constant", "dequantize"):
        return False
    if not all(value.type.is_static for value in node.results):
        return False
    constants = [value.constant for value in node.present_operands]
    if any(constant is None for constant in constants):
        return False
    if node.op.name == "dim_value" and not isinstance(node.attributes["size"], int):
        return False
    if node.op.name in _VIEWS:
        return True
    size = _bytes(node.results)
    given = sum(constant.nbytes for constant in constants if constant is not None)
    return size <= budget and (size <= _SMALL or size <= given)


def _bytes(values: Sequence[Value]) -> int:
    return sum(evaluate_dim(v.type.size, {}) * v.type.dtype.bytes for v in values)


def _fold(node: Node, rewriter: Rewriter) -> None:
    producers = [v.producer for v in node.present_operands if v.producer is not None]
    build = rewriter.before(node)
    results = [
        build.constant(array, value.name)
        for array, value in zip(_arrays(node), node.results, strict=True)
    ]
    rewriter.replace_node(node, results)
    rewriter.erase_dead(producers)


def _arrays(node: Node) -> list[NDArray[np.generic]]:
    """What a node gives, by the interpreter; a view where only the layout changes."""
    operands = [
        None if v is None or v.constant is None else v.constant.array for v in node.operands
    ]
    if node.op.name == "transpose" and operands[0] is not None:
        perm = node.attributes["perm"]
        assert isinstance(perm, tuple)
        return [operands[0].transpose([int(i) for i in perm if isinstance(i, int)])]
    return evaluate_node(node.op, operands, node.attributes)
