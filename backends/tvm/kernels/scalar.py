"""Elementwise operators on scalars; written inside a vectorized loop they are vector code.

Transcendental functions of f32 are our own polynomials (`schedule.fastmath`): the compiler's
intrinsics become one call of the C library per element. f16 and bf16 are computed in f32, and
rounded after each operator. bf16 lies in memory as `uint16`, because TVM's own rewriting of bf16
crashes on reinterpreted bits and drops roundings; so every rule here sees f32 or wider.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import tvm_ffi
from tvm import tirx
from tvm.ir import Call
from tvm.ir import Expr as Prim
from tvm.tirx.script import builder as T

from tunesmith.ir.ops import Attribute
from tunesmith.ir.types import DType

from ..schedule import fastmath
from ..schedule.emit import held, widened
from . import integers
from .literals import TVM_DTYPE, immediate

__all__ = ["SCALAR_RULES", "cast_to", "is_nan"]

Rule = Callable[[Sequence[Prim], Sequence[DType], Mapping[str, Attribute]], Prim]


def cast_to(value: Prim, source: DType, dtype: DType) -> Prim:
    """Another element type; to bool by `!= 0`."""
    if source is dtype:
        return value
    if source is DType.bf16:
        return cast_to(_from_bf16(value), DType.f32, dtype)
    if dtype is DType.bool and source is not DType.f16:
        return _unequal(value, immediate(0, source), source)
    if dtype is DType.bool:
        return cast_to(cast_to(value, source, DType.f32), DType.f32, dtype)
    if dtype is DType.bf16:
        return _to_bf16(cast_to(value, source, DType.f32))
    if source is DType.bool:
        return tirx.Select(value, immediate(1, dtype), immediate(0, dtype))
    return value.astype(TVM_DTYPE[dtype])


def _from_bf16(value: Prim) -> Prim:
    if isinstance(value, tirx.IntImm):
        bits = np.asarray(int(value.value), np.uint16)
        return immediate(float(bits.view(DType.bf16.numpy)), DType.f32)
    return widened(value)


def _to_bf16(value: Prim) -> Prim:
    """The upper half of an f32, to the nearest, ties to even."""
    bits = T.reinterpret("uint32", value)
    high = bits >> tirx.const(16, "uint32")
    odd = tirx.bitwise_and(high, tirx.const(1, "uint32"))
    rounded = (bits + (odd + tirx.const(0x7FFF, "uint32"))) >> tirx.const(16, "uint32")
    quiet = tirx.bitwise_or(high, tirx.const(0x40, "uint32"))
    return tirx.Select(is_nan(value), quiet, rounded).astype("uint16")


def is_nan(x: Prim) -> Prim:
    """Whether an f32 or f64 is not a number, by its bits: for NaN, TVM's `x != x` is false."""
    bits, infinity = (64, 0x7FF0 << 48) if str(x.ty.dtype) == "float64" else (32, 0x7F80 << 16)
    field = f"uint{bits}"
    mask = tirx.const((1 << (bits - 1)) - 1, field)
    return tirx.bitwise_and(T.reinterpret(field, x), mask) > tirx.const(infinity, field)


def _unequal(x: Prim, y: Prim, dtype: DType) -> Prim:
    differ = tirx.NE(x, y)
    return tirx.any(differ, is_nan(x), is_nan(y)) if dtype.is_float else differ


def _real(function: Callable[[Prim], Prim], exact: Callable[[Prim], Prim]) -> Rule:
    """`function` in f32, `exact` (the C library's, as a rule) in f64."""
    return lambda xs, types, _: (exact if types[0] is DType.f64 else function)(xs[0])


_WIDE = {DType.f16: DType.f32, DType.bf16: DType.f32, DType.bool: DType.u8}


def _widened(rule: Rule, is_test: bool) -> Rule:
    """The rule in a type that machines have arithmetic for; a test has a bool as its result."""

    def wide_rule(
        xs: Sequence[Prim], types: Sequence[DType], attributes: Mapping[str, Attribute]
    ) -> Prim:
        narrow = types[0]
        wide = _WIDE.get(narrow, narrow)
        xs = [cast_to(x, narrow, wide) for x in xs]
        if narrow is DType.bool:  # in cells: TVM would compare the bools, which it cannot
            xs = [x if isinstance(x, tirx.IntImm) else held(x) for x in xs]
        if wide.is_float:
            xs = [_hidden(x, wide) if _folds(x, xs[:i]) else x for i, x in enumerate(xs)]
        result = rule(xs, [wide] * len(xs), attributes)
        return result if is_test else cast_to(result, wide, narrow)

    return wide_rule


def _folds(x: Prim, others: Sequence[Prim]) -> bool:
    """Whether TVM would fold what is not so for NaN: `0 * x` to 0, `x - x` to 0, `x == x`."""
    if isinstance(x, tirx.FloatImm):
        return float(x.value) == 0.0
    return any(tvm_ffi.structural_equal(x, other) for other in others)


def _hidden(x: Prim, dtype: DType) -> Prim:
    """The same number behind its bits, where TVM's simplifier does not look."""
    plain = TVM_DTYPE[dtype]
    return T.reinterpret(plain, T.reinterpret(f"uint{8 * dtype.bytes}", x))


def _exact(
    integer: Callable[[Prim, Prim, DType], Prim], real: Callable[[Prim, Prim], Prim]
) -> Rule:
    """One function for integers, another for real numbers."""

    def rule(xs: Sequence[Prim], types: Sequence[DType], _: Mapping[str, Attribute]) -> Prim:
        return real(xs[0], xs[1]) if types[0].is_float else integer(xs[0], xs[1], types[0])

    return rule


def _pair(function: Callable[[Prim, Prim], Prim]) -> Rule:
    return lambda xs, types, _: function(xs[0], xs[1])


def _extreme(greater: bool) -> Rule:
    def rule(xs: Sequence[Prim], types: Sequence[DType], _: Mapping[str, Attribute]) -> Prim:
        x, y = xs
        if not types[0].is_float:
            return tirx.Select(x > y if greater else x < y, x, y)
        if _is_number(y):  # which wins where both are equal, as zeros of two signs are
            wins = y >= x if greater else y <= x
            return tirx.Select(wins, y, x)
        wins = x > y if greater else x < y  # a NaN loses every comparison, so one in `y` stays
        return tirx.Select(wins if _is_number(x) else tirx.any(wins, is_nan(x)), x, y)

    return rule


def _is_number(x: Prim) -> bool:
    """Whether it is a constant other than NaN; of two values, one comparison then decides."""
    while isinstance(x, Call) and x.op.name == "tirx.reinterpret":
        (x,) = x.args
    return isinstance(x, tirx.FloatImm) and not math.isnan(float(x.value))


def _float_modulo(x: Prim, y: Prim) -> Prim:
    """`x - y * floor(x / y)` in f64, where it is exact for f32 up to quotients of 2^29."""
    narrow = str(x.ty.dtype) != "float64"
    a, b = (held(v.astype("float64")) if narrow else v for v in (x, y))
    zero, infinity = tirx.const(0.0, "float64"), tirx.const(float("inf"), "float64")
    rest = held(a - tirx.floor(a / b) * b)
    opposite = tirx.any(tirx.all(rest < zero, b > zero), tirx.all(rest > zero, b < zero))
    rest = tirx.Select(opposite, rest + b, rest)  # the quotient was rounded up to an integer
    ends = tirx.any(tirx.EQ(b, infinity), tirx.EQ(b, -infinity))
    inside = tirx.all(a < infinity, a > -infinity)
    same = tirx.any(tirx.EQ(a, zero), tirx.all(a > zero, b > zero), tirx.all(a < zero, b < zero))
    rest = tirx.Select(tirx.all(ends, inside), tirx.Select(same, a, b), rest)
    return rest.astype(x.ty.dtype) if narrow else rest


def _round(x: Prim) -> Prim:
    """To the nearest, ties to even, by `floor`: TVM makes no vector of `nearbyint`."""
    half, one, two = (tirx.const(v, x.ty.dtype) for v in (0.5, 1.0, 2.0))
    low = held(tirx.floor(x))
    rest = held(x - low)
    even = tirx.EQ(tirx.floor(low / two) * two, low)
    up = tirx.any(rest > half, tirx.all(tirx.EQ(rest, half), tirx.Not(even)))
    return tirx.Select(up, low + one, low)


def _negate(xs: Sequence[Prim], types: Sequence[DType], _: Mapping[str, Attribute]) -> Prim:
    if types[0].is_float:
        return xs[0] * immediate(-1.0, types[0])
    return integers.negate(xs[0], types[0])


def _is_unsigned(dtype: DType) -> bool:
    return dtype.value.startswith("u")


def _abs(xs: Sequence[Prim], types: Sequence[DType], _: Mapping[str, Attribute]) -> Prim:
    if types[0].is_float:
        return tirx.abs(xs[0])
    if _is_unsigned(types[0]):
        return xs[0]
    negative = xs[0] < immediate(0, types[0])
    return tirx.Select(negative, integers.negate(xs[0], types[0]), xs[0])


def _sign(xs: Sequence[Prim], types: Sequence[DType], _: Mapping[str, Attribute]) -> Prim:
    zero, one = immediate(0, types[0]), immediate(1, types[0])
    if _is_unsigned(types[0]):
        return tirx.Select(tirx.EQ(xs[0], zero), zero, one)
    sign = tirx.Select(xs[0] > zero, one, tirx.Select(xs[0] < zero, immediate(-1, types[0]), zero))
    return tirx.Select(is_nan(xs[0]), xs[0], sign) if types[0].is_float else sign


def _power(xs: Sequence[Prim], types: Sequence[DType], _: Mapping[str, Attribute]) -> Prim:
    x, y = xs
    if not types[0].is_float:
        return integers.power(x, y, types[0])
    exponent = float(y.value) if isinstance(y, tirx.FloatImm) else None
    if exponent in (2.0, 3.0):
        return x * x if exponent == 2.0 else x * x * x
    if exponent == 0.5:
        infinite = tirx.EQ(x, immediate(float("-inf"), types[0]))  # whose root would be NaN
        root = tirx.sqrt(x) + immediate(0.0, types[0])  # and that of -0 would be -0
        return tirx.Select(infinite, immediate(float("inf"), types[0]), root)
    return tirx.power(x, y)


def _cast(xs: Sequence[Prim], types: Sequence[DType], attrs: Mapping[str, Attribute]) -> Prim:
    dtype = attrs["dtype"]
    assert isinstance(dtype, DType)
    return cast_to(xs[0], types[0], dtype)


def _bitcast(xs: Sequence[Prim], types: Sequence[DType], attrs: Mapping[str, Attribute]) -> Prim:
    dtype = attrs["dtype"]
    assert isinstance(dtype, DType)
    if TVM_DTYPE[dtype] == TVM_DTYPE[types[0]]:
        return xs[0]
    return T.reinterpret(TVM_DTYPE[dtype], held(xs[0]))


def _isinf(xs: Sequence[Prim], types: Sequence[DType], _: Mapping[str, Attribute]) -> Prim:
    high, low = (immediate(float(limit), types[0]) for limit in ("inf", "-inf"))
    return tirx.any(tirx.EQ(xs[0], high), tirx.EQ(xs[0], low))


def _one(value: Prim) -> Prim:
    return tirx.const(1.0, value.ty.dtype)


_NUMERIC: dict[str, Rule] = {
    "neg": _negate,
    "abs": _abs,
    "sign": _sign,
    "exp": _real(fastmath.exp, tirx.exp),
    "log": _real(fastmath.log, tirx.log),
    "sqrt": _real(tirx.sqrt, tirx.sqrt),
    "rsqrt": _real(lambda x: _one(x) / tirx.sqrt(x), lambda x: _one(x) / tirx.sqrt(x)),
    "reciprocal": _real(lambda x: _one(x) / x, lambda x: _one(x) / x),
    "tanh": _real(fastmath.tanh, tirx.tanh),
    "sigmoid": _real(fastmath.sigmoid, lambda x: _one(x) / (_one(x) + tirx.exp(-x))),
    "erf": _real(fastmath.erf, tirx.erf),
    "sin": _real(tirx.sin, tirx.sin),
    "cos": _real(tirx.cos, tirx.cos),
    "floor": _real(tirx.floor, tirx.floor),
    "ceil": _real(tirx.ceil, tirx.ceil),
    "round": _real(_round, _round),
    "add": _exact(integers.add, lambda x, y: x + y),
    "sub": _exact(integers.subtract, lambda x, y: x - y),
    "mul": _exact(integers.multiply, lambda x, y: x * y),
    "div": _exact(integers.divide, lambda x, y: x / y),
    "mod": _exact(integers.modulo, _float_modulo),
    "pow": _power,
    "maximum": _extreme(greater=True),
    "minimum": _extreme(greater=False),
}

_TESTS: dict[str, Rule] = {
    "isnan": lambda xs, types, _: is_nan(xs[0]),
    "isinf": _isinf,
    "equal": _pair(tirx.EQ),
    "not_equal": lambda xs, types, _: _unequal(xs[0], xs[1], types[0]),
    "less": _pair(lambda x, y: x < y),
    "less_equal": _pair(lambda x, y: x <= y),
    "greater": _pair(lambda x, y: x > y),
    "greater_equal": _pair(lambda x, y: x >= y),
    "logical_xor": _pair(tirx.NE),
}

SCALAR_RULES: dict[str, Rule] = {
    **{name: _widened(rule, is_test=False) for name, rule in _NUMERIC.items()},
    **{name: _widened(rule, is_test=True) for name, rule in _TESTS.items()},
    "logical_not": lambda xs, types, _: tirx.Not(xs[0]),
    "logical_and": _pair(tirx.And),
    "logical_or": _pair(tirx.Or),
    "cast": _cast,
    "bitcast": _bitcast,
    "bitwise_not": lambda xs, types, _: tirx.bitwise_not(xs[0]),
    "bitwise_and": _pair(tirx.bitwise_and),
    "bitwise_or": _pair(tirx.bitwise_or),
    "bitwise_xor": _pair(tirx.bitwise_xor),
}
