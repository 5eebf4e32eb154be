"""Canonical forms of arithmetic: every rule gives the same bits, or says where it does not."""

from __future__ import annotations

from math import copysign, frexp

from tunesmith.ir.builder import Builder
from tunesmith.ir.graph import Node, Value
from tunesmith.ir.ops import OPS, Expr
from tunesmith.ir.opset.math import cast, mul, rsqrt, sqrt
from tunesmith.ir.types import DType

from .facts import single, widens
from .local_rule import RuleTable

__all__ = ["MATH_RULES"]

# Readers to whom 0.0 and -0.0 are the same.
_SIGN_BLIND = {
    "abs", "cos", "equal", "exp", "greater", "greater_equal", "isinf", "isnan", "less",
    "less_equal", "log_softmax", "not_equal", "sigmoid", "softmax",
}  # fmt: skip

_MIRRORED = {
    "less": "greater",
    "less_equal": "greater_equal",
    "greater": "less",
    "greater_equal": "less_equal",
}


def _binary(node: Node) -> tuple[Value, Value]:
    x, y = node.present_operands
    return x, y


def constant_right(node: Node, build: Builder) -> Value | None:
    """`c + x  =>  x + c`, for every commutative operator."""
    if len(node.operands) != 2 or "commutative" not in node.op.traits:
        return None
    x, y = _binary(node)
    if x.constant is None or y.constant is not None:
        return None
    return build.emit_values(node.op, [y, x], {})[0]


def comparison_right(node: Node, build: Builder) -> Expr | None:
    """`c < x  =>  x > c`."""
    x, y = _binary(node)
    if x.constant is None or y.constant is not None:
        return None
    mirrored = OPS[_MIRRORED[node.op.name]]
    return mirrored(Expr(build, y), Expr(build, x))


def add_zero(node: Node, build: Builder) -> Value | None:
    """`x + 0  =>  x`; of floats, if 0 is -0.0 or no reader sees the sign of a zero."""
    x, y = _binary(node)
    zero = single(y)
    if zero is None or zero != 0 or x.type != node.result.type or x.type.dtype is DType.bool:
        return None
    if x.type.dtype.is_float and copysign(1.0, float(zero)) > 0:
        readers = node.result.user_nodes
        if not all(reader.op.name in _SIGN_BLIND for reader in readers):
            return None
    return x


def sub_zero(node: Node, build: Builder) -> Value | None:
    """`x - 0  =>  x`, which keeps -0.0."""
    x, y = _binary(node)
    zero = single(y)
    if zero is None or zero != 0 or x.type != node.result.type:
        return None
    return x if not x.type.dtype.is_float or copysign(1.0, float(zero)) > 0 else None


def times_one(node: Node, build: Builder) -> Value | None:
    """`x * 1, x / 1, pow(x, 1)  =>  x`."""
    x, y = _binary(node)
    return x if single(y) == 1 and x.type == node.result.type else None


def divide_by_power_of_two(node: Node, build: Builder) -> Expr | None:
    """`x / c  =>  x * (1 / c)` where `1 / c` is exact."""
    x, y = _binary(node)
    divisor = None if y.constant is None else y.constant.scalar
    if divisor is None or not x.type.dtype.is_float or divisor in (0, 1) or y.type.rank:
        return None
    mantissa, exponent = frexp(abs(float(divisor)))
    if mantissa != 0.5 or not -10 <= exponent <= 10:
        return None
    return Expr(build, x) * (1.0 / float(divisor))


def square(node: Node, build: Builder) -> Expr | None:
    """`pow(x, 2)  =>  x * x`."""
    x, y = _binary(node)
    if single(y) != 2 or x.type != node.result.type:
        return None
    return mul(Expr(build, x), Expr(build, x))


def power_to_root(node: Node, build: Builder) -> Expr | None:
    """`pow(x, 0.5)  =>  sqrt(x)`; they differ at -inf only (and in the sign of a zero)."""
    x, y = _binary(node)
    if single(y) != 0.5 or x.type != node.result.type or not x.type.dtype.is_float:
        return None
    return sqrt(Expr(build, x))


def _root(value: Value) -> Value | None:
    """What a root that nobody else reads is taken of."""
    node = value.producer
    if node is None or node.op is not sqrt or len(value.users) != 1:
        return None
    return node.operands[0]


def reciprocal_of_root(node: Node, build: Builder) -> Expr | None:
    """`reciprocal(sqrt(x))  =>  rsqrt(x)`, if nobody else reads the root."""
    x = _root(node.present_operands[0])
    return None if x is None else rsqrt(Expr(build, x))


def one_over_root(node: Node, build: Builder) -> Expr | None:
    """`1 / sqrt(x)  =>  rsqrt(x)`, if nobody else reads the root."""
    one, y = _binary(node)
    x = _root(y)
    if x is None or single(one) != 1 or y.type != node.result.type:
        return None
    return rsqrt(Expr(build, x))


def double_negation(node: Node, build: Builder) -> Value | None:
    """`neg(neg(x))  =>  x`, and of `logical_not`, `bitwise_not`."""
    inner = node.present_operands[0].producer
    if inner is None or inner.op is not node.op:
        return None
    return inner.operands[0]


def same_cast(node: Node, build: Builder) -> Value | None:
    """`cast(x) to the type it has  =>  x`."""
    x = node.present_operands[0]
    return x if x.type.dtype is node.result.type.dtype else None


def cast_of_cast(node: Node, build: Builder) -> Expr | None:
    """`cast(cast(x))  =>  cast(x)` if the type in between holds every value of `x`."""
    inner = node.present_operands[0].producer
    if inner is None or inner.op is not cast:
        return None
    x = inner.present_operands[0]
    if not widens(x.type.dtype, inner.result.type.dtype):
        return None
    return cast(Expr(build, x), dtype=node.result.type.dtype)


def cast_of_comparison_with_zero(node: Node, build: Builder) -> Expr | None:
    """`not_equal(cast(flag), 0)  =>  flag`."""
    x, y = _binary(node)
    inner = x.producer
    if inner is None or inner.op is not cast or single(y) != 0:
        return None
    if x.type.shape != node.result.type.shape:
        return None
    flag = inner.present_operands[0]
    return Expr(build, flag) if flag.type.dtype is DType.bool else None


MATH_RULES: RuleTable = {
    "*": (constant_right,),
    "add": (add_zero,),
    "sub": (sub_zero,),
    "mul": (times_one,),
    "div": (times_one, one_over_root, divide_by_power_of_two),
    "pow": (times_one, square, power_to_root),
    "reciprocal": (reciprocal_of_root,),
    "neg": (double_negation,),
    "logical_not": (double_negation,),
    "bitwise_not": (double_negation,),
    "cast": (same_cast, cast_of_cast),
    "not_equal": (cast_of_comparison_with_zero,),
    "less": (comparison_right,),
    "less_equal": (comparison_right,),
    "greater": (comparison_right,),
    "greater_equal": (comparison_right,),
}
