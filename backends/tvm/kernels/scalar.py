"""Elementwise operators on scalars; written inside a vectorized loop they are vector code.

Transcendental functions of f32 are our own polynomials (`schedule.fastmath`): the compiler's
intrinsics become one call of the C library per element. f16 and bf16 are computed in f32.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from tvm import tirx
from tvm.ir import Expr as Prim

from tunesmith.ir.ops import Attribute
from tunesmith.ir.types import DType

from ..schedule import fastmath

__all__ = ["SCALAR_RULES", "TVM_DTYPE", "cast_to", "immediate"]

TVM_DTYPE = {
    DType.f16: "float16", DType.f32: "float32", DType.f64: "float64", DType.bf16: "bfloat16",
    DType.i8: "int8", DType.i16: "int16", DType.i32: "int32", DType.i64: "int64",
    DType.u8: "uint8", DType.u16: "uint16", DType.u32: "uint32", DType.u64: "uint64",
    DType.bool: "bool",
}  # fmt: skip

Rule = Callable[[Sequence[Prim], Sequence[DType], Mapping[str, Attribute]], Prim]


def immediate(value: bool | int | float, dtype: DType) -> Prim:
    """A constant of an element type."""
    if dtype.is_float:
        if not np.isfinite(value):
            wide = tirx.const(float(value), "float32" if dtype is not DType.f64 else "float64")
            return wide if dtype in (DType.f32, DType.f64) else wide.astype(TVM_DTYPE[dtype])
        return tirx.const(float(value), TVM_DTYPE[dtype])
    return tirx.const(int(value) if dtype is not DType.bool else bool(value), TVM_DTYPE[dtype])


def cast_to(value: Prim, source: DType, dtype: DType) -> Prim:
    """Another element type; to bool by `!= 0`."""
    if source is dtype:
        return value
    if dtype is DType.bool:
        return tirx.NE(value, immediate(0, source))
    if source is DType.bool:
        return tirx.Select(value, immediate(1, dtype), immediate(0, dtype))
    return value.astype(TVM_DTYPE[dtype])


def _wide(function: Callable[[Prim], Prim], exact: Callable[[Prim], Prim]) -> Rule:
    """`function` in f32; f64 by the C library; narrower floats through f32."""

    def rule(xs: Sequence[Prim], types: Sequence[DType], _: Mapping[str, Attribute]) -> Prim:
        if types[0] is DType.f64:
            return exact(xs[0])
        result = function(cast_to(xs[0], types[0], DType.f32))
        return cast_to(result, DType.f32, types[0])

    return rule


def _pair(function: Callable[[Prim, Prim], Prim]) -> Rule:
    return lambda xs, types, _: function(xs[0], xs[1])


def _extreme(greater: bool) -> Rule:
    def rule(xs: Sequence[Prim], types: Sequence[DType], _: Mapping[str, Attribute]) -> Prim:
        x, y = xs
        if not types[0].is_float:
            return tirx.Select(x > y if greater else x < y, x, y)
        wins = x > y if greater else x < y
        return tirx.Select(tirx.any(wins, tirx.NE(x, x)), x, y)  # a NaN in `y` loses no compare

    return rule


def _integer_or(integer: Callable[[Prim, Prim], Prim], real: Callable[[Prim, Prim], Prim]) -> Rule:
    return lambda xs, types, _: (real if types[0].is_float else integer)(xs[0], xs[1])


def _divide(x: Prim, y: Prim) -> Prim:
    safe = tirx.Select(tirx.EQ(y, tirx.const(0, y.ty.dtype)), tirx.const(1, y.ty.dtype), y)
    return tirx.truncdiv(x, safe)


def _modulo(x: Prim, y: Prim) -> Prim:
    safe = tirx.Select(tirx.EQ(y, tirx.const(0, y.ty.dtype)), tirx.const(1, y.ty.dtype), y)
    return tirx.floormod(x, safe)


def _abs(xs: Sequence[Prim], types: Sequence[DType], _: Mapping[str, Attribute]) -> Prim:
    return xs[0] if str(types[0]).startswith("u") else tirx.abs(xs[0])


def _sign(xs: Sequence[Prim], types: Sequence[DType], _: Mapping[str, Attribute]) -> Prim:
    zero, one = immediate(0, types[0]), immediate(1, types[0])
    negative = zero if str(types[0]).startswith("u") else immediate(-1, types[0])
    sign = tirx.Select(xs[0] > zero, one, tirx.Select(xs[0] < zero, negative, zero))
    return tirx.Select(tirx.NE(xs[0], xs[0]), xs[0], sign) if types[0].is_float else sign


def _power(xs: Sequence[Prim], types: Sequence[DType], _: Mapping[str, Attribute]) -> Prim:
    exponent = getattr(xs[1], "value", None)
    if exponent is not None and float(exponent) in (2.0, 3.0):
        square = xs[0] * xs[0]
        return square if float(exponent) == 2.0 else square * xs[0]
    if exponent is not None and float(exponent) == 0.5 and types[0] in (DType.f32, DType.f64):
        return tirx.sqrt(xs[0])
    if types[0] is DType.f64:
        return tirx.power(xs[0], xs[1])
    wide = [cast_to(x, types[0], DType.f32 if types[0].is_float else DType.f64) for x in xs]
    return cast_to(tirx.power(*wide), DType.f32 if types[0].is_float else DType.f64, types[0])


def _cast(xs: Sequence[Prim], types: Sequence[DType], attrs: Mapping[str, Attribute]) -> Prim:
    dtype = attrs["dtype"]
    assert isinstance(dtype, DType)
    return cast_to(xs[0], types[0], dtype)


def _isinf(xs: Sequence[Prim], types: Sequence[DType], _: Mapping[str, Attribute]) -> Prim:
    wide = cast_to(xs[0], types[0], DType.f64 if types[0] is DType.f64 else DType.f32)
    limit = tirx.const(float("inf"), wide.ty.dtype)
    return tirx.any(tirx.EQ(wide, limit), tirx.EQ(wide, -limit))


def _one(value: Prim) -> Prim:
    return tirx.const(1.0, value.ty.dtype)


SCALAR_RULES: dict[str, Rule] = {
    "neg": lambda xs, types, _: (
        immediate(0, types[0]) - xs[0] if types[0].is_integer else xs[0] * immediate(-1.0, types[0])
    ),
    "abs": _abs,
    "sign": _sign,
    "exp": _wide(fastmath.exp, tirx.exp),
    "log": _wide(tirx.log, tirx.log),
    "sqrt": _wide(tirx.sqrt, tirx.sqrt),
    "rsqrt": _wide(lambda x: _one(x) / tirx.sqrt(x), lambda x: _one(x) / tirx.sqrt(x)),
    "reciprocal": _wide(lambda x: _one(x) / x, lambda x: _one(x) / x),
    "tanh": _wide(fastmath.tanh, tirx.tanh),
    "sigmoid": _wide(fastmath.sigmoid, lambda x: _one(x) / (_one(x) + tirx.exp(-x))),
    "erf": _wide(fastmath.erf, tirx.erf),
    "sin": _wide(tirx.sin, tirx.sin),
    "cos": _wide(tirx.cos, tirx.cos),
    "floor": _wide(tirx.floor, tirx.floor),
    "ceil": _wide(tirx.ceil, tirx.ceil),
    "round": _wide(tirx.nearbyint, tirx.nearbyint),
    "isnan": lambda xs, types, _: tirx.NE(xs[0], xs[0]),
    "isinf": _isinf,
    "logical_not": lambda xs, types, _: tirx.Not(xs[0]),
    "bitwise_not": lambda xs, types, _: tirx.bitwise_not(xs[0]),
    "add": lambda xs, types, _: tirx.any(*xs) if types[0] is DType.bool else xs[0] + xs[1],
    "sub": _pair(lambda x, y: x - y),
    "mul": lambda xs, types, _: tirx.all(*xs) if types[0] is DType.bool else xs[0] * xs[1],
    "div": _integer_or(_divide, lambda x, y: x / y),
    "mod": _integer_or(_modulo, lambda x, y: x - tirx.floor(x / y) * y),
    "pow": _power,
    "maximum": _extreme(greater=True),
    "minimum": _extreme(greater=False),
    "equal": _pair(tirx.EQ),
    "not_equal": _pair(tirx.NE),
    "less": _pair(lambda x, y: x < y),
    "less_equal": _pair(lambda x, y: x <= y),
    "greater": _pair(lambda x, y: x > y),
    "greater_equal": _pair(lambda x, y: x >= y),
    "logical_and": _pair(tirx.And),
    "logical_or": _pair(tirx.Or),
    "logical_xor": _pair(tirx.NE),
    "bitwise_and": _pair(tirx.bitwise_and),
    "bitwise_or": _pair(tirx.bitwise_or),
    "bitwise_xor": _pair(tirx.bitwise_xor),
    "where": lambda xs, types, _: tirx.Select(xs[0], xs[1], xs[2]),
    "cast": _cast,
}
