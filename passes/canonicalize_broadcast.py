"""Canonical forms of broadcasting: what an operator repeats by itself is not repeated before."""

from __future__ import annotations

import numpy as np

from tunesmith.ir.builder import Builder
from tunesmith.ir.constants import Constant
from tunesmith.ir.graph import Node, Value, constant, infer_types
from tunesmith.ir.ops import Expr
from tunesmith.ir.opset.movement import expand

from .facts import single
from .local_rule import RuleTable

__all__ = ["BROADCAST_RULES"]

_MASK = 3  # the operand of `attention` that broadcasts


def _expanded(value: Value | None) -> Value | None:
    """What is expanded to give a value."""
    node = None if value is None else value.producer
    return node.operands[0] if node is not None and node.op is expand else None


def _with(node: Node, place: int, value: Value) -> list[Value | None]:
    return [*node.operands[:place], value, *node.operands[place + 1 :]]


def _same_result(node: Node, operands: list[Value | None]) -> bool:
    try:
        return infer_types(node.op, operands, node.attributes) == (node.result.type,)
    except ValueError:
        return False


def drop_expand(node: Node, build: Builder) -> Value | None:
    """`f(expand(x), y)  =>  f(x, y)` where `f` broadcasts `x` anyway."""
    if len(node.operands) < 2:
        return None
    for place, value in enumerate(node.operands):
        x = _expanded(value)
        if x is None:
            continue
        if "elementwise" in node.op.traits or node.op.name == "matmul":
            allowed = _same_result(node, _with(node, place, x))
        else:
            allowed = node.op.name == "attention" and place == _MASK
        if allowed:
            return build.emit_values(node.op, _with(node, place, x), node.attributes)[0]
    return None


def sink_expand(node: Node, build: Builder) -> Expr | None:
    """`f(expand(x), scalar)  =>  expand(f(x, scalar))`: less work, and the readers may drop it."""
    if "elementwise" not in node.op.traits or not node.operands:
        return None
    wide = [i for i, value in enumerate(node.operands) if value is None or value.type.rank]
    if len(wide) != 1:
        return None
    x = _expanded(node.operands[wide[0]])
    if x is None:
        return None
    (inner,) = build.emit_values(node.op, _with(node, wide[0], x), node.attributes)
    return expand(Expr(build, inner), shape=node.result.type.shape)


def constant_rank(node: Node, build: Builder) -> Value | None:
    """`x + constant[1, 1, N]  =>  x + constant[N]`; one element, or `full`, becomes a scalar."""
    if "elementwise" not in node.op.traits or len(node.operands) < 2:
        return None
    for place, value in enumerate(node.operands):
        if value is None or not value.type.rank:
            continue
        if (array := _lower(value)) is None:
            continue
        # the shape must come from the others: try it with a value that is in no graph yet
        trial = Value("", Constant(array).type, None, 0)
        if not _same_result(node, _with(node, place, trial)):
            continue
        new = build.constant(Constant(array), value.name).value
        return build.emit_values(node.op, _with(node, place, new), node.attributes)[0]
    return None


def _lower(value: Value) -> np.ndarray[tuple[int, ...], np.dtype[np.generic]] | None:
    """A known value in the lowest rank that broadcasts alike; `None` if it has that."""
    if value.producer is not None and value.producer.op is constant:
        assert value.constant is not None
        array = value.constant.array
        if array.size == 1:
            return array.reshape(())
        first = next((i for i, size in enumerate(array.shape) if size != 1), 0)
        return array.reshape(array.shape[first:]) if first else None
    number = single(value)
    return None if number is None else np.asarray(number, dtype=value.type.dtype.numpy)


BROADCAST_RULES: RuleTable = {"*": (drop_expand, sink_expand, constant_rank)}
