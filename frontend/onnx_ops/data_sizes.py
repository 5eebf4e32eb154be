"""Operators whose results have a size that data decides: NonZero, Compress, Unique, and the like.

Each computes the most that its result can hold and how much of that counts; `ImportBuilder.bind`
makes a symbol of the number, which all after it use as any other.
"""

# mypy: disable-error-code="no-any-return"
# (operators hand back `Any`: their results are read from their types)

from __future__ import annotations

import numpy as np

from tunesmith.ir import opset as ops
from tunesmith.ir.builder import as_tuple
from tunesmith.ir.dims import Dim, product
from tunesmith.ir.ops import Expr
from tunesmith.ir.types import DType

from ..limits import LIMITS
from ..onnx_call import Call, Result, Table
from ..onnx_shapes import at_least
from .building import cast_to, expand_to, index_axis, permute, reshape_to, slice_to

__all__ = ["DATA_SIZES"]

I64 = DType.i64


def _selected(call: Call, flags: Expr) -> Expr:
    """The places of what is true in `bool[N]`: `i64[n]`, with a symbol n from 0 to N."""
    count = ops.reduce_sum(cast_to(flags, I64), axes=(0,))
    found = call.builder.bind(count, flags.shape[0], _hint(call))
    return slice_to(ops.true_places(flags), 0, 0, found)


def _hint(call: Call) -> str:
    """What to call a size of the result."""
    return f"n_{next((name for name in call.outputs if name), call.operator)}"


def _value(size: Dim) -> Expr:
    return ops.dim_value(size=size, dtype=I64)


def _column(x: Expr) -> Expr:
    return reshape_to(x, (x.shape[0], 1))


def _non_zero(call: Call) -> Result:
    """The coordinates of what is not zero: a row for each axis, in order."""
    x = call.x()
    shape = x.shape or (1,)
    settled = call.settled(call.tensor(0))
    if settled.array is not None:
        known = np.stack(np.nonzero(np.atleast_1d(settled.array)))
        return call.constant(known.astype(np.int64))
    node = x.value.producer
    if node is not None and node.op is ops.full and len(shape) == 1:  # an old spelling of a range
        count = shape[0] if node.attributes["value"] else 0
        return reshape_to(ops.iota(size=count, dtype=I64), (1, count))
    flags = x if x.dtype is DType.bool else ops.not_equal(x, 0)
    places = _selected(call, reshape_to(flags, (product(shape),)))
    rows = []
    for axis, size in enumerate(shape):
        inner = product(shape[axis + 1 :])
        row = places if inner == 1 else places / _value(inner)
        row = row if axis == 0 else ops.mod(row, _value(size))
        rows.append(reshape_to(row, (1, *row.shape)))
    return rows[0] if len(rows) == 1 else ops.concat(*rows, axis=0)


def _compress(call: Call) -> Result:
    """Slices of an axis, or elements, where a vector of flags is true; it may be shorter."""
    x = call.x()
    if "axis" not in call.attributes:
        x, axis = reshape_to(x, (x.type.size,)), 0
    else:
        axis = call.axis(call.integer("axis"), len(x.shape))
    length, size = call.tensor(1).type.size, x.shape[axis]
    if at_least(size, length) is False:
        call.fail(f"{length} flags do not fit an axis of {size}")
    if at_least(size, length) is None:  # more flags than elements fail to run
        ops.bind_size(ops.maximum(_value(length), _value(size)), size=size)
    array = call.settled(call.tensor(1)).array
    if array is not None:
        kept = np.flatnonzero(array.reshape(-1)).astype(np.int64)
        return ops.gather(x, call.constant(kept), axis=axis)
    return ops.gather(x, _selected(call, reshape_to(call.x(1), (length,))), axis=axis)


def _sorted_rows(call: Call, table: Expr) -> Expr:
    """The places of the rows of `[N, M]` in rising order: column by column, the last one first."""
    count, columns = table.shape
    if not isinstance(columns, int) or columns > LIMITS.steps:
        call.fail(f"rows of {columns} elements cannot be sorted; the limit is {LIMITS.steps}")
    order = ops.iota(size=count, dtype=I64)
    for column in reversed(range(columns)):
        keys = ops.gather(index_axis(table, 1, column), order)
        _, places = as_tuple(ops.topk.many(keys, k=count, axis=0, largest=False))
        order = ops.gather(order, places)
    return order


def _unique(call: Call) -> Result:
    """The different elements, or slices of an axis; where each is first; which each is; how many.

    Equal ones stand beside each other once they are sorted, in the order that they came in: the
    first of a run is the first of all. A run has a number, and each element that of its run.
    """
    x = call.x()
    if "axis" not in call.attributes:
        x, axis = reshape_to(x, (x.type.size,)), 0
    else:
        axis = call.axis(call.integer("axis"), len(x.shape))
    count = x.shape[axis]
    front = [axis, *(i for i in range(len(x.shape)) if i != axis)]
    table = permute(x, front)
    table = reshape_to(table, (count, product(table.shape[1:])))
    if table.dtype is DType.bool:
        table = cast_to(table, DType.u8)
    order = _sorted_rows(call, table)
    ranked = ops.gather(table, order, axis=0)
    line = ops.iota(size=count, dtype=I64)
    before = ops.gather(ranked, ops.maximum(line - 1, 0), axis=0)
    differs = ops.reduce_sum(cast_to(ops.not_equal(ranked, before), I64), axes=(1,))
    starts = ops.logical_or(ops.greater(differs, 0), ops.equal(line, 0))
    blank = ops.full(value=0, shape=(count,), dtype=I64)

    def scattered(places: Expr, values: Expr, reduction: str = "none") -> Expr:
        return ops.scatter_nd(blank, _column(places), values, reduction=reduction)

    runs = ops.cumsum(cast_to(starts, I64), axis=0) - 1
    run = scattered(order, runs)  # of each element, in its own place
    if not call.integer("sorted", 1):  # runs are numbered by where they begin
        first = cast_to(scattered(order, cast_to(starts, I64)), DType.bool)
        numbers = ops.cumsum(cast_to(first, I64), axis=0) - 1
        heads = ops.gather(order, ops.true_places(starts))  # where each run begins
        run = ops.gather(numbers, ops.gather(heads, run))
        places = _selected(call, first)
    else:
        places = ops.gather(order, _selected(call, starts))
    size = places.shape[0]
    ones = ops.full(value=1, shape=(count,), dtype=I64)
    counts = slice_to(scattered(run, ones, "add"), 0, 0, size)
    return ops.gather(x, places, axis=axis), places, run, counts


def _suppression(call: Call) -> Result:
    """Boxes that do not overlap a better one of their class: `[n, (batch, class, box)]`."""
    boxes, scores = call.x(0), call.x(1)
    batch, classes, count = scores.shape
    best, order = as_tuple(ops.topk.many(scores, k=count, axis=2, largest=True))
    index = reshape_to(order, (batch, classes * count, 1))
    rows = (batch * classes, count)
    ranked = reshape_to(ops.gather_nd(boxes, index, batch_dims=1), (*rows, 4))

    def limit(place: int, absent: float, dtype: DType) -> Expr:
        if not call.has(place):
            return call.scalar_of(absent, dtype)
        return reshape_to(call.x(place), ())

    flags = ops.suppress(
        ranked, reshape_to(best, rows), limit(2, 0, I64), limit(3, 0.0, DType.f32),
        limit(4, float("-inf"), DType.f32), center=bool(call.integer("center_point_box", 0)),
    )  # fmt: skip
    places = _selected(call, reshape_to(flags, (product(rows),)))
    columns = [
        places / _value(classes * count),
        ops.mod(places / _value(count), _value(classes)),
        ops.gather(reshape_to(order, (product(rows),)), places),
    ]
    return ops.concat(*map(_column, columns), axis=1)


def numbers_from(call: Call, start: Expr, limit: Expr, delta: Expr) -> Expr:
    """`start`, `start + delta`, … below `limit`: how many depends on data."""
    f64 = DType.f64
    steps = ops.ceil(cast_to(limit - start, f64) / cast_to(delta, f64))
    still = ops.equal(delta, 0)
    count = cast_to(ops.where(still, 0.0, ops.maximum(steps, 0.0)), I64)
    count = ops.where(still, -1, count)  # is no size, and so refused when it runs
    line = ops.iota(size=call.builder.bind_checked(count, None, _hint(call)), dtype=start.dtype)
    return line * expand_to(delta, line.shape) + start


def sliced_by_data(call: Call, axes: tuple[int, ...], steps: tuple[int, ...]) -> Expr:
    """Slices whose ends depend on data: held to the axis as ONNX does, so any number is right."""
    x = call.x()
    normal = [call.axis(axis, len(x.shape)) for axis in axes]
    if len(set(normal)) != len(normal) or len(steps) != len(normal) or 0 in steps:
        call.fail(f"its axes {list(axes)} and steps {list(steps)} name one twice, or go nowhere")
    count = call.tensor(1).type.size
    starts, stops = (cast_to(reshape_to(call.x(i), (count,)), I64) for i in (1, 2))
    for place, (axis, step) in enumerate(zip(normal, steps, strict=True)):
        size = _value(x.shape[axis])
        low, high = (0, size) if step > 0 else (-1, size - 1)

        def end(ends: Expr, low: int, high: Expr, size: Expr = size, place: int = place) -> Expr:
            value = index_axis(ends, 0, place)
            value = ops.where(ops.less(value, 0), value + size, value)
            return ops.minimum(ops.maximum(value, low), high)

        first, last = end(starts, 0, high), end(stops, low, high)
        span = ops.maximum(last - first if step > 0 else first - last, 0)
        length = (span + (abs(step) - 1)) / abs(step)
        found = call.builder.bind(length, x.shape[axis], _hint(call), chosen=True)
        places = ops.iota(size=found, dtype=I64) * step + first
        x = ops.gather(x, places, axis=axis)
    return x


DATA_SIZES: Table = {
    "Compress": ((9, _compress),),
    "NonMaxSuppression": ((10, _suppression),),
    "NonZero": ((9, _non_zero),),
    "Unique": ((11, _unique),),
}
