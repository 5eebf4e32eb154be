"""Reshapes that merge rows move below what works on each row, where they meet their inverse."""

from __future__ import annotations

from tunesmith.ir.builder import Builder
from tunesmith.ir.graph import Node, Value
from tunesmith.ir.ops import Expr
from tunesmith.ir.opset.movement import reshape

from .local_rule import RuleTable

__all__ = ["ROW_RULES"]

_ROW_OPERATORS = ("layer_norm", "linear", "matmul", "rms_norm", "softmax")


def _merged(value: Value | None) -> Value | None:
    """The tensor `[..., K]` of which `value` `[rows, K]` merges the leading axes."""
    node = None if value is None else value.producer
    if node is None or node.op is not reshape:
        return None
    x, flat = node.present_operands[0].type.shape, node.result.type.shape
    return node.operands[0] if len(x) > len(flat) == 2 and x[-1] == flat[-1] else None


def sink_reshape(node: Node, build: Builder) -> Expr | None:
    """`f(reshape(x, [rows, K]), vectors)  =>  reshape(f(x, vectors))` if `f` works on each row.

    A product with a matrix counts: `Conv1D` of GPT-2 is `reshape, matmul, add, reshape`.
    """
    if not node.operands or len(node.results) != 1:
        return None
    elementwise = "elementwise" in node.op.traits
    if not elementwise and node.op.name not in _ROW_OPERATORS:
        return None
    sources = [_merged(value) for value in node.operands]
    found = [x for x in sources if x is not None]
    if not found or (not elementwise and (sources[0] is None or len(found) > 1)):
        return None
    if any(x.type.shape != found[0].type.shape for x in found):
        return None
    if not _others_fit(node, sources) or node.result.type.rank != 2:
        return None
    operands = [
        old if new is None else new for old, new in zip(node.operands, sources, strict=True)
    ]
    attributes = {**node.attributes, "axis": -1} if node.op.name == "softmax" else node.attributes
    (result,) = build.emit_values(node.op, operands, attributes)
    return reshape(Expr(build, result), shape=node.result.type.shape)


def _others_fit(node: Node, sources: list[Value | None]) -> bool:
    """Whether the other operands read the same for rows that are not merged."""
    for place, (value, source) in enumerate(zip(node.operands, sources, strict=True)):
        if value is None or source is not None:
            continue
        matrix = place == 1 and node.op.name in ("linear", "matmul") and value.type.rank == 2
        if value.type.rank > 1 and not matrix:
            return False
    return node.op.name != "softmax" or node.attributes["axis"] in (-1, 1)


ROW_RULES: RuleTable = {"*": (sink_reshape,)}
