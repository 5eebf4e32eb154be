"""Operators that say by data or constants where along an axis elements come from."""

# mypy: disable-error-code="no-any-return"
# (operators hand back `Any`: their results are read from their types)

from __future__ import annotations

from tunesmith.ir import opset as ops
from tunesmith.ir.dims import Dim
from tunesmith.ir.ops import Expr
from tunesmith.ir.types import DType

from ..onnx_call import Call, Result, Table
from .building import cast_to, permute, reshape_to

__all__ = ["PLACES"]


def _line(size: Dim) -> Expr:
    return reshape_to(ops.iota(size=size, dtype=DType.i64), (1, size))


def _rows(x: Expr, index: Expr, batch: int, axis: int) -> Expr:
    """Slices of one axis at places `[batch, place]` that each batch has of its own."""
    rank = len(x.shape)
    front = [batch, axis, *(i for i in range(rank) if i not in (batch, axis))]
    found = ops.gather_nd(permute(x, front), reshape_to(index, (*index.shape, 1)), batch_dims=1)
    return permute(found, sorted(range(rank), key=lambda i: front[i]))


def _reverse_sequence(call: Call) -> Result:
    x, rank = call.x(), call.rank()
    batch = call.axis(call.integer("batch_axis", 1), rank)
    time = call.axis(call.integer("time_axis", 0), rank)
    if batch == time:
        call.fail(f"its axes are both {batch}")
    lengths = reshape_to(cast_to(call.x(1), DType.i64), (x.shape[batch], 1))
    line = _line(x.shape[time])
    index = ops.where(ops.less(line, lengths), lengths - 1 - line, line)
    return _rows(x, index, batch, time)


def _tensor_scatter(call: Call) -> Result:
    """A cache with some of its rows replaced, from a place of each batch on."""
    past, update = call.x(0), call.x(1)
    axis = call.axis(call.integer("axis", -2), len(past.shape))
    mode = call.text("mode", "linear")
    if axis == 0 or mode not in ("linear", "circular"):
        call.fail(f"`mode` cannot be `{mode}`, or its axis is that of batches")
    batch, size, rows = past.shape[0], past.shape[axis], update.shape[axis]
    place = _line(size)
    if call.has(2):
        place = place - reshape_to(cast_to(call.x(2), DType.i64), (batch, 1))
    else:
        place = ops.expand(place, shape=(batch, size))
    if mode == "circular":
        place = ops.mod(place, ops.dim_value(size=size, dtype=DType.i64))
    count = ops.dim_value(size=rows, dtype=DType.i64)
    inside = ops.logical_and(ops.greater_equal(place, 0), ops.less(place, count))
    held = ops.minimum(ops.maximum(place, 0), count - 1)
    shape = [batch if i == 0 else size if i == axis else 1 for i in range(len(past.shape))]
    return ops.where(reshape_to(inside, shape), _rows(update, held, 0, axis), past)


PLACES: Table = {
    "ReverseSequence": ((10, _reverse_sequence),),
    "TensorScatter": ((24, _tensor_scatter),),
}
