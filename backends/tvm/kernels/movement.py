"""Operators that move elements: where the element of the result comes from."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Protocol

from tvm import tirx
from tvm.ir import Expr as Prim

from tunesmith.ir.dims import Dim, DimExpr, bounds
from tunesmith.ir.graph import Node, Value
from tunesmith.ir.types import DType, TensorType

from ..index import Index, Sizes, int64
from .literals import immediate
from .scalar import cast_to

if TYPE_CHECKING:
    from tunesmith.ir.ops import Attribute

__all__ = ["MOVEMENT_RULES", "is_guarded", "may_be_empty", "wrapped"]


class Reader(Protocol):
    """What a rule needs of the evaluator."""

    sizes: Sizes

    def read(self, value: Value, index: Index) -> Prim:
        """The element of `value` at `index`."""
        ...

    def guarded(self, condition: Prim, yes: Callable[[], Prim], no: Callable[[], Prim]) -> Prim:
        """One of two elements; the other is not read."""
        ...

    def chosen(self, condition: Prim, yes: Prim, no: Prim) -> Prim:
        """One of two elements, both of which may be read."""
        ...


Rule = Callable[[Reader, Node, Index], Prim]


def _integer(value: Attribute) -> int:
    assert isinstance(value, int)
    return value


def _dim(value: Attribute) -> Dim:
    assert isinstance(value, int | DimExpr)
    return value


def _operand(node: Node, index: int = 0) -> Value:
    value = node.operands[index]
    assert value is not None
    return value


def may_be_empty(type: TensorType) -> bool:
    """Whether a tensor may have no elements, so that not even a held index is safe to read."""
    return any(bounds(size)[0] < 1 for size in type.shape)


_GUARDED = frozenset({"concat", "pad", "gather", "gather_elements", "gather_nd"})


def is_guarded(node: Node) -> bool:
    """Whether elements are read under a condition only, because a tensor may have none.

    Such a read cannot be in a vectorized loop: TVM would take its neighbours apart, wrongly.
    """
    read = node.present_operands[:1] if "gather" in node.op.name else node.present_operands
    return node.op.name in _GUARDED and any(may_be_empty(v.type) for v in read)


def _reshape(reader: Reader, node: Node, index: Index) -> Prim:
    x = _operand(node)
    return reader.read(x, index.reshape_to(x.type.shape))


def _transpose(reader: Reader, node: Node, index: Index) -> Prim:
    x = _operand(node)
    perm = node.attributes["perm"]
    assert isinstance(perm, tuple)
    parts = index.axes()
    source: list[Prim] = [int64(0)] * x.type.rank
    for to, came_from in enumerate(perm):
        source[_integer(came_from)] = parts[to]
    return reader.read(x, Index.of(x.type.shape, source, reader.sizes))


def _expand(reader: Reader, node: Node, index: Index) -> Prim:
    x = _operand(node)
    return reader.read(x, index.broadcast_to(x.type.shape))


def _slice(reader: Reader, node: Node, index: Index) -> Prim:
    x = _operand(node)
    axis = _integer(node.attributes["axis"]) % x.type.rank
    step = _integer(node.attributes["step"])
    parts = index.axes()
    start = reader.sizes.expr(_dim(node.attributes["start"]))
    parts[axis] = start + (parts[axis] if step == 1 else parts[axis] * int64(step))
    return reader.read(x, Index.of(x.type.shape, parts, reader.sizes))


def _concat(reader: Reader, node: Node, index: Index) -> Prim:
    operands = node.present_operands
    axis = _integer(node.attributes["axis"]) % operands[0].type.rank
    parts = index.axes()

    def pick(position: int, start: Dim) -> Prim:
        x = operands[position]
        shifted = list(parts)
        if position:
            shifted[axis] = parts[axis] - reader.sizes.expr(start)
            if not any(may_be_empty(v.type) for v in operands):
                shifted[axis] = tirx.max(shifted[axis], int64(0))

        def here() -> Prim:
            return reader.read(x, Index.of(x.type.shape, shifted, reader.sizes))

        if position == len(operands) - 1:
            return here()
        end = start + x.type.shape[axis]
        inside = parts[axis] < reader.sizes.expr(end)
        if any(may_be_empty(v.type) for v in operands):
            return reader.guarded(inside, here, lambda: pick(position + 1, end))
        shifted[axis] = tirx.min(shifted[axis], reader.sizes.expr(x.type.shape[axis] - 1))
        mine = here()
        return reader.chosen(inside, mine, pick(position + 1, end))

    return pick(0, 0)


def _pad(reader: Reader, node: Node, index: Index) -> Prim:
    x = _operand(node)
    low = node.attributes["low"]
    assert isinstance(low, tuple)
    parts = [p - int64(_integer(a)) for p, a in zip(index.axes(), low, strict=True)]
    inside: list[Prim] = []
    for part, size in zip(parts, x.type.shape, strict=True):
        inside += [part >= int64(0), part < reader.sizes.expr(size)]
    value = node.attributes["value"]
    assert isinstance(value, int | float)
    if not may_be_empty(x.type):
        held = [
            tirx.max(tirx.min(p, reader.sizes.expr(s - 1)), int64(0))
            for p, s in zip(parts, x.type.shape, strict=True)
        ]
        element = reader.read(x, Index.of(x.type.shape, held, reader.sizes))
        return reader.chosen(tirx.all(*inside), element, immediate(value, x.type.dtype))
    return reader.guarded(
        tirx.all(*inside),
        lambda: reader.read(x, Index.of(x.type.shape, parts, reader.sizes)),
        lambda: immediate(value, x.type.dtype),
    )


def wrapped(sizes: Sizes, position: Prim, dtype: DType, size: Dim) -> Prim:
    """An index from data: below 0 it counts from the end; outside it is held at the border."""
    extent = sizes.expr(size)
    if dtype is DType.u64:  # what is too large for an i64 would be negative in it
        position = tirx.min(position, cast_to(extent, DType.i64, DType.u64))
    wide = cast_to(position, dtype, DType.i64)
    if not dtype.value.startswith("u"):
        wide = tirx.Select(wide < int64(0), wide + extent, wide)
    return tirx.max(tirx.min(wide, extent - int64(1)), int64(0))


def _picked(reader: Reader, x: Value, parts: list[Prim]) -> Prim:
    """The element at places that come from data; 0 if there is none that could be read."""

    def read() -> Prim:
        return reader.read(x, Index.of(x.type.shape, parts, reader.sizes))

    if not may_be_empty(x.type):
        return read()
    some = reader.sizes.expr(x.type.size) > int64(0)
    return reader.guarded(some, read, lambda: immediate(0, x.type.dtype))


def _gather(reader: Reader, node: Node, index: Index) -> Prim:
    x, places = _operand(node, 0), _operand(node, 1)
    axis = _integer(node.attributes["axis"]) % x.type.rank
    parts = index.axes()
    inner = parts[axis : axis + places.type.rank]
    place = reader.read(places, Index.of(places.type.shape, inner, reader.sizes))
    at = wrapped(reader.sizes, place, places.type.dtype, x.type.shape[axis])
    return _picked(reader, x, [*parts[:axis], at, *parts[axis + places.type.rank :]])


def _gather_elements(reader: Reader, node: Node, index: Index) -> Prim:
    x, places = _operand(node, 0), _operand(node, 1)
    axis = _integer(node.attributes["axis"]) % x.type.rank
    parts = index.axes()
    place = reader.read(places, index)
    parts[axis] = wrapped(reader.sizes, place, places.type.dtype, x.type.shape[axis])
    return _picked(reader, x, parts)


def _gather_nd(reader: Reader, node: Node, index: Index) -> Prim:
    x, places = _operand(node, 0), _operand(node, 1)
    batch = _integer(node.attributes["batch_dims"])
    depth = _integer(places.type.shape[-1])
    parts = index.axes()
    outer = parts[: places.type.rank - 1]
    source = list(outer[:batch])
    for k in range(depth):
        at = Index.of(places.type.shape, [*outer, int64(k)], reader.sizes)
        place = reader.read(places, at)
        size = x.type.shape[batch + k]
        source.append(wrapped(reader.sizes, place, places.type.dtype, size))
    source += parts[places.type.rank - 1 :]
    return _picked(reader, x, source)


def _where(reader: Reader, node: Node, index: Index) -> Prim:
    condition, yes, no = (
        reader.read(v, index.broadcast_to(v.type.shape)) for v in node.present_operands
    )
    return reader.chosen(condition, yes, no)


def _full(reader: Reader, node: Node, index: Index) -> Prim:
    value = node.attributes["value"]
    assert isinstance(value, bool | int | float)
    return immediate(value, node.result.type.dtype)


def _iota(reader: Reader, node: Node, index: Index) -> Prim:
    return cast_to(index.flat(), DType.i64, node.result.type.dtype)


def _dim_value(reader: Reader, node: Node, index: Index) -> Prim:
    size = reader.sizes.expr(_dim(node.attributes["size"]))
    return cast_to(size, DType.i64, node.result.type.dtype)


def _rotary(reader: Reader, node: Node, index: Index) -> Prim:
    """`x * cos + turned * sin`, with the turned element read straight from `x`; in f32 at least."""
    x, cos, sin = node.present_operands
    dtype = x.type.dtype
    wide = DType.f32 if dtype in (DType.f16, DType.bf16) else dtype
    parts = index.axes()
    width = _integer(x.type.shape[-1])
    column = parts[-1]
    if node.attributes["interleaved"]:
        low = tirx.EQ(tirx.floormod(column, int64(2)), int64(0))
        other = tirx.Select(low, column + int64(1), column - int64(1))
    else:
        low = column < int64(width // 2)
        other = tirx.Select(low, column + int64(width // 2), column - int64(width // 2))
    plain = Index.of(x.type.shape, parts, reader.sizes)
    turned = Index.of(x.type.shape, [*parts[:-1], other], reader.sizes)

    def read(value: Value, at: Index) -> Prim:
        return cast_to(reader.read(value, at.broadcast_to(value.type.shape)), dtype, wide)

    partner = read(x, turned)
    signed = reader.chosen(low, partner * immediate(-1, wide), partner)
    return cast_to(read(x, plain) * read(cos, plain) + signed * read(sin, plain), wide, dtype)


MOVEMENT_RULES: dict[str, Rule] = {
    "reshape": _reshape,
    "transpose": _transpose,
    "expand": _expand,
    "slice": _slice,
    "concat": _concat,
    "pad": _pad,
    "gather": _gather,
    "gather_elements": _gather_elements,
    "gather_nd": _gather_nd,
    "where": _where,
    "full": _full,
    "iota": _iota,
    "dim_value": _dim_value,
    "rotary": _rotary,
}
