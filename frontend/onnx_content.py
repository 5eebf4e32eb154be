"""Tensors of sizes that import knows: arrays of numbers and of polynomials of symbols."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from tunesmith.ir.builder import Builder
from tunesmith.ir.dims import Dim, DimExpr, exact_div, floor_div
from tunesmith.ir.ops import Expr
from tunesmith.ir.opset import cast, concat, dim_value, reshape
from tunesmith.ir.types import DType

from .onnx_shapes import at_least, same

__all__ = ["Content", "Item", "Ratio", "Unknown", "as_content", "emit_content", "of_items"]


@dataclass(frozen=True)
class Ratio:
    """A size divided by a number, while a shape is worked out in floating point."""

    numerator: Dim
    denominator: int


Item = bool | int | float | DimExpr | Ratio
Content = NDArray[np.object_]


class Unknown(Exception):
    """An element depends on sizes in a way that has no name."""


def of_items(items: Sequence[Item], shape: Sequence[int]) -> Content:
    """An array of elements."""
    content = np.empty(len(items), object)
    content[:] = items
    return content.reshape(tuple(shape))


def as_content(array: NDArray[np.generic]) -> Content:
    """The elements of a constant as Python numbers."""
    return of_items(array.reshape(-1).tolist(), array.shape)


def emit_content(builder: Builder, content: Content, dtype: DType) -> Expr:
    """Write known elements as data: each is rounded once, when it is an element of its type."""
    items = [_settled(item) for item in content.reshape(-1).tolist()]
    if all(isinstance(item, bool | int | float) for item in items):
        with np.errstate(over="ignore"):  # what a type cannot hold is infinite in it
            return builder.constant(np.array(items, dtype.numpy).reshape(content.shape))
    with builder:
        exprs = [_emit_item(builder, item, dtype) for item in items]
        if content.ndim == 0:
            return exprs[0]
        parts = [reshape(expr, shape=(1,)) for expr in exprs]
        flat = concat(*parts, axis=0) if len(parts) > 1 else parts[0]
        shape = tuple(content.shape)
        found = flat if content.ndim == 1 else reshape(flat, shape=shape)
        assert isinstance(found, Expr)
        return found


def _settled(item: Item) -> Item:
    """A quotient of two numbers as the number that it is."""
    if isinstance(item, Ratio) and isinstance(item.numerator, int):
        return item.numerator / item.denominator
    return item


def _emit_item(builder: Builder, item: Item, dtype: DType) -> Expr:
    if isinstance(item, DimExpr):
        found = dim_value(size=item, dtype=dtype)
    elif isinstance(item, Ratio):
        wide = DType.f32 if dtype in (DType.f16, DType.bf16) else dtype  # which hold few sizes
        found = dim_value(size=item.numerator, dtype=wide) / item.denominator
        found = found if wide is dtype else cast(found, dtype=dtype)
    else:
        found = builder.constant(np.asarray(item, dtype.numpy))
    assert isinstance(found, Expr)
    return found


# Arithmetic on elements.


def _ratio(item: Item) -> tuple[Dim, int]:
    if isinstance(item, Ratio):
        return item.numerator, item.denominator
    if isinstance(item, float):
        exact = Fraction(item).limit_denominator(4096)
        if float(exact) != item:
            raise Unknown
        return exact.numerator, exact.denominator
    return (int(item), 1) if isinstance(item, bool) else (item, 1)


def _normal(numerator: Dim, denominator: int) -> Item:
    if denominator < 0:
        numerator, denominator = numerator * -1, -denominator
    exact = exact_div(numerator, denominator)
    return Ratio(numerator, denominator) if exact is None else exact


def add(a: Item, b: Item) -> Item:
    """`a + b`."""
    (x, p), (y, q) = _ratio(a), _ratio(b)
    return _normal(x * q + y * p, p * q)


def sub(a: Item, b: Item) -> Item:
    """`a - b`."""
    (x, p), (y, q) = _ratio(a), _ratio(b)
    return _normal(x * q - y * p, p * q)


def mul(a: Item, b: Item) -> Item:
    """`a * b`."""
    (x, p), (y, q) = _ratio(a), _ratio(b)
    return _normal(x * y, p * q)


def neg(a: Item) -> Item:
    """`-a`."""
    return sub(0, a)


def true_div(a: Item, b: Item) -> Item:
    """`a / b` of floats."""
    (x, p), (y, q) = _ratio(a), _ratio(b)
    if isinstance(y, int):
        if y == 0:
            raise Unknown
        return _normal(x * q, p * y)
    exact = exact_div(x * q, y * p)
    if exact is None:
        raise Unknown
    return exact


def int_div(a: Item, b: Item) -> Item:
    """`a / b` of integers, rounded towards zero."""
    x, y = _integer(a), _integer(b)
    if y == 0:
        raise ValueError("a constant is divided by zero")
    if isinstance(x, int) and isinstance(y, int):
        return abs(x) // abs(y) * (1 if (x < 0) == (y < 0) else -1)
    exact = exact_div(x, y)
    if exact is not None:
        return exact
    if isinstance(y, int) and y > 0 and at_least(x, 0):
        return floor_div(x, y)
    raise Unknown


def modulo(a: Item, b: Item) -> Item:
    """`a mod b` of integers, with the sign of `b`."""
    x, y = _integer(a), _integer(b)
    if y == 0:
        raise ValueError("a constant is divided by zero")
    if isinstance(x, int) and isinstance(y, int):
        return x % y
    if exact_div(x, y) is not None:
        return 0
    if isinstance(y, int) and y > 0:
        return x - floor_div(x, y) * y
    raise Unknown


def _integer(a: Item) -> Dim:
    if isinstance(a, float | Ratio):
        raise Unknown
    return int(a) if isinstance(a, bool) else a


def floor(a: Item) -> Item:
    """The greatest integer that is not above `a`."""
    x, p = _ratio(a)
    return floor_div(x, p)


def ceil(a: Item) -> Item:
    """The least integer that is not below `a`."""
    x, p = _ratio(a)
    return floor_div(x * -1, p) * -1


def truncate(a: Item) -> Item:
    """`a` rounded towards zero."""
    if isinstance(a, bool | int | float):
        return int(a)
    x, p = _ratio(a)
    if p == 1:
        return x
    if at_least(x, 0):
        return floor_div(x, p)
    raise Unknown


def greater_equal(a: Item, b: Item) -> bool:
    """Whether `a >= b`, if that is so for all sizes or for none."""
    if isinstance(a, bool | int | float) and isinstance(b, bool | int | float):
        return a >= b
    (x, p), (y, q) = _ratio(a), _ratio(b)
    return _decided(at_least(x * q, y * p))


def equal(a: Item, b: Item) -> bool:
    """Whether `a == b`, if that is so for all sizes or for none."""
    if isinstance(a, bool | int | float) and isinstance(b, bool | int | float):
        return a == b
    (x, p), (y, q) = _ratio(a), _ratio(b)
    return _decided(same(x * q, y * p))


def _decided(found: bool | None) -> bool:
    if found is None:
        raise Unknown
    return found


def minimum(a: Item, b: Item) -> Item:
    """The lesser, if it is always the same one."""
    return a if _ordered(a, b) else b


def maximum(a: Item, b: Item) -> Item:
    """The greater, if it is always the same one."""
    return b if _ordered(a, b) else a


def _ordered(a: Item, b: Item) -> bool:
    try:
        return greater_equal(b, a)
    except Unknown:
        return not greater_equal(a, b)


def each(function: Callable[..., Item], *operands: Content) -> Content:
    """`function` on the elements of broadcast operands."""
    shape = np.broadcast_shapes(*(x.shape for x in operands))
    wide = [np.broadcast_to(x, shape).reshape(-1).tolist() for x in operands]
    return of_items([function(*items) for items in zip(*wide, strict=True)], shape)
