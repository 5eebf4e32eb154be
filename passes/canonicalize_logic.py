"""Canonical forms of tests, flags and choices."""

from __future__ import annotations

from tunesmith.ir.builder import Builder
from tunesmith.ir.dims import bounds
from tunesmith.ir.graph import Node, Value
from tunesmith.ir.ops import Expr
from tunesmith.ir.opset.math import cast, logical_not
from tunesmith.ir.opset.movement import expand, full, reshape
from tunesmith.ir.types import DType, TensorType

from .facts import uniform, value_bounds
from .local_rule import RuleTable

__all__ = ["LOGIC_RULES"]


def _everywhere(value: bool, like: Value, build: Builder) -> Expr:
    with build:
        return full(value=value, shape=like.type.shape, dtype=DType.bool)


def _grown(x: Value, to: TensorType, build: Builder) -> Value | Expr:
    return x if x.type == to else expand(Expr(build, x), shape=to.shape)


def absorb(node: Node, build: Builder) -> Value | Expr | None:
    """`x and true, x or false, x and x  =>  x`; `x and false  =>  false`; `x or true  =>  true`."""
    x, y = node.present_operands
    neutral = node.op.name == "logical_and"
    if x is y:
        return x
    for one, other in ((x, y), (y, x)):
        known = uniform(other)
        if known is not None and bool(known) is neutral:
            return _grown(one, node.result.type, build)
        if known is not None:
            return _everywhere(not neutral, node.result, build)
    return None


def exclusive(node: Node, build: Builder) -> Value | Expr | None:
    """`x xor false  =>  x`; `x xor true  =>  not x`."""
    x, y = node.present_operands
    known = uniform(y)
    if known is None or x.type != node.result.type:
        return None
    return logical_not(Expr(build, x)) if known else x


def decided(node: Node, build: Builder) -> Expr | None:
    """A comparison of integers whose bounds decide it  =>  `true` or `false` everywhere."""
    x, y = node.present_operands
    if x.constant is not None and y.constant is not None:
        return None
    one, other = value_bounds(x), value_bounds(y)
    if one is None or other is None:
        return None
    (low, high), (least, most) = one, other
    below, not_above = bounds(least - high)[0] > 0, bounds(least - high)[0] >= 0
    above, not_below = bounds(low - most)[0] > 0, bounds(low - most)[0] >= 0
    same = low == high == least == most
    verdict = {
        "less": (below, not_below),
        "less_equal": (not_above, above),
        "greater": (above, not_above),
        "greater_equal": (not_below, below),
        "equal": (same, below or above),
        "not_equal": (below or above, same),
    }[node.op.name]
    return _everywhere(verdict[0], node.result, build) if any(verdict) else None


def compare_with_itself(node: Node, build: Builder) -> Expr | None:
    """`x == x, x <= x, x >= x  =>  true`; `x != x, x < x, x > x  =>  false`; not of floats."""
    x, y = node.present_operands
    if x is not y or x.type.dtype.is_float:
        return None
    return _everywhere(node.op.name in ("equal", "less_equal", "greater_equal"), node.result, build)


def never_special(node: Node, build: Builder) -> Expr | None:
    """`isnan(x), isinf(x)  =>  false` for a cast of integers or flags."""
    inner = node.present_operands[0].producer
    if inner is None or inner.op is not cast or inner.present_operands[0].type.dtype.is_float:
        return None
    if node.op.name == "isinf" and inner.result.type.dtype is DType.f16:
        return None
    return _everywhere(False, node.result, build)


def choose(node: Node, build: Builder) -> Value | Expr | None:
    """`where(true, x, y)  =>  x`; `where(false, x, y)  =>  y`; `where(c, x, x)  =>  x`."""
    condition, x, y = node.present_operands
    if x is y:
        return _grown(x, node.result.type, build)
    known = uniform(condition)
    return None if known is None else _grown(x if known else y, node.result.type, build)


def choose_other(node: Node, build: Builder) -> Expr | None:
    """`where(not c, x, y)  =>  where(c, y, x)`."""
    condition, x, y = node.present_operands
    inner = condition.producer
    if inner is None or inner.op is not logical_not:
        return None
    (result,) = build.emit_values(node.op, [inner.operands[0], y, x], {})
    return Expr(build, result)


def choose_flag(node: Node, build: Builder) -> Value | Expr | None:
    """`where(c, true, false)  =>  c`; `where(c, false, true)  =>  not c`."""
    condition, x, y = node.present_operands
    if x.type.dtype is not DType.bool or condition.type != node.result.type:
        return None
    match uniform(x), uniform(y):
        case True, False:
            return condition
        case False, True:
            return logical_not(Expr(build, condition))
    return None


def fold_nothing(node: Node, build: Builder) -> Expr | None:
    """An extreme over axes of size 1  =>  `reshape`."""
    x = node.present_operands[0]
    axes = node.attributes["axes"]
    assert isinstance(axes, tuple)
    if any(x.type.shape[a] != 1 for a in axes if isinstance(a, int)):
        return None
    return reshape(Expr(build, x), shape=node.result.type.shape)


_COMPARE = ("equal", "not_equal", "less", "less_equal", "greater", "greater_equal")

LOGIC_RULES: RuleTable = {
    "logical_and": (absorb,),
    "logical_or": (absorb,),
    "logical_xor": (exclusive,),
    "isnan": (never_special,),
    "isinf": (never_special,),
    "where": (choose, choose_flag, choose_other),
    "reduce_max": (fold_nothing,),
    "reduce_min": (fold_nothing,),
    "reduce_all": (fold_nothing,),
    **{name: (decided, compare_with_itself) for name in _COMPARE},
}
