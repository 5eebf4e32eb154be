"""Slices, gathers, scatters and padding."""

# mypy: disable-error-code="no-any-return"
# (operators hand back `Any`: their results are read from their types)

from __future__ import annotations

import numpy as np

from tunesmith.ir import opset as ops
from tunesmith.ir.dims import Dim, DimExpr, bounds
from tunesmith.ir.ops import Expr
from tunesmith.ir.types import DType

from ..limits import LIMITS
from ..onnx_call import Call, Result, Table
from ..onnx_shapes import at_least, text_of
from .building import expand_to, index_axis, reshape_to, slice_to
from .data_sizes import sliced_by_data

__all__ = ["SLICING"]

FAR = 2**31 - 1  # exporters write this, or more, for "to the end"
_ROUND = {10**n for n in range(6, 19)}  # some write one of these; no axis is meant to be as long


def _bound(call: Call, a: Dim, b: Dim) -> bool:
    """Whether `a >= b`; where it depends on a symbol, the symbol is bounded so that it is."""
    known = at_least(a, b)
    if known is None:
        try:
            call.builder.facts.require(a, b, f"{call.location} reads within an axis")
        except ValueError as error:
            call.fail(
                f"{error}, so its slice has no known size",
                hint="bound these sizes with `dims`, such as dims={'name': (1, 512)}",
            )
    return bool(known)


def _place(call: Call, value: Dim, size: Dim, low: int, high: Dim, *, is_stop: bool = False) -> Dim:
    """An end of a slice, counted from the front, held between `low` and `high`."""
    if isinstance(value, int) and value >= FAR:
        return high
    if isinstance(value, int) and value <= -FAR:
        return low
    if at_least(value, 0) is False:
        value = value + size
        if at_least(value, low) is False:
            return low
        _bound(call, value, low)
    elif at_least(value, 0) is None:
        call.fail(f"whether {value} counts from the end is not known")
    if at_least(value, high):
        return high
    if is_stop and value in _ROUND and bounds(high)[1] is None:
        _bound(call, value, high)
        return high
    return value if _bound(call, high, value) else high


def _sliced(call: Call, x: Expr, axis: int, start: Dim, stop: Dim, step: int) -> Expr:
    size = x.shape[axis]
    if step > 0:
        first = _place(call, start, size, 0, size)
        last = _place(call, stop, size, 0, size, is_stop=True)
        if at_least(first, last):
            last = first
        elif at_least(last, first) is None:
            _bound(call, last, first)
        return slice_to(x, axis, first, last, step)
    first = _place(call, start, size, 0 if size != 0 else -1, size - 1)
    last = -1 if isinstance(stop, int) and stop <= -FAR else _place(call, stop, size, -1, size - 1)
    if at_least(last, first):
        last = first
    return slice_to(x, axis, first, last, step)


def _slice_all(
    call: Call, starts: tuple[Dim, ...], stops: tuple[Dim, ...], axes: tuple[int, ...],
    steps: tuple[int, ...],
) -> Expr:  # fmt: skip
    x = call.x()
    if not len(starts) == len(stops) == len(axes) == len(steps):
        call.fail("its starts, ends, axes and steps are not equally many")
    normal = [call.axis(axis, len(x.shape)) for axis in axes]
    if len(set(normal)) != len(normal):
        call.fail(f"its axes {list(axes)} name one twice")
    for axis, start, stop, step in zip(normal, starts, stops, steps, strict=True):
        if step == 0:
            call.fail("a step of 0 goes nowhere")
        x = _sliced(call, x, axis, start, stop, step)
    return x


def _slice_attributes(call: Call) -> Result:
    starts, stops = call.integer_list("starts") or (), call.integer_list("ends") or ()
    axes = call.integer_list("axes") or tuple(range(len(starts)))
    return _slice_all(call, starts, stops, axes, (1,) * len(starts))


def _slice(call: Call) -> Result:
    ends = [call.settled(call.tensor(i)) for i in (1, 2)]
    count = ends[0].type.size
    if not isinstance(count, int) or ends[1].type.size != count:
        call.fail(f"its starts {ends[0].type} and its ends {ends[1].type} are not equally many")
    axes = call.integers(3, "list of axes") if call.has(3) else tuple(range(count))
    steps = call.integers(4, "step") if call.has(4) else (1,) * count
    if any(end.content is None for end in ends):
        return sliced_by_data(call, axes, steps)
    return _slice_all(call, call.sizes(1, "start"), call.sizes(2, "end"), axes, steps)


def _check_places(call: Call, index: int, size: Dim) -> None:
    """Refuse constant indices that are past the end; a range as indices bounds its length."""
    array = call.tensor(index).array
    if array is None and isinstance(size, int):
        node = call.x(index).value.producer
        while node is not None and node.op in (ops.reshape, ops.expand, ops.cast):
            node = None if node.operands[0] is None else node.operands[0].producer
        length = node.attributes["size"] if node is not None and node.op is ops.iota else 0
        if isinstance(length, DimExpr) and at_least(size, length) is None:
            try:
                why = f"{call.location} reads one place of {size} for each"
                call.builder.facts.require(size, length, why)
            except ValueError:
                return
    if array is None or not array.size or array.size > 1 << 20 or not isinstance(size, int):
        return
    low, high = int(np.min(array)), int(np.max(array))
    if low < -size or high >= size:
        call.fail(f"index {low if low < -size else high} is not one of {size}")


def _gather(call: Call) -> Result:
    x = call.x()
    axis = call.axis(call.integer("axis", 0), len(x.shape))
    size = x.shape[axis]
    _check_places(call, 1, size)
    known = call.known(1)
    if known is not None and known.ndim == 0 and isinstance(known.item(), int | DimExpr):
        place: Dim = known.item()
        place = place + size if at_least(place, 0) is False else place
        if at_least(place, 0) and at_least(size - 1, place):
            return index_axis(x, axis, place)
    return ops.gather(x, call.x(1), axis=axis)


def _gather_elements(call: Call) -> Result:
    axis = call.axis(call.integer("axis", 0), call.rank())
    _check_places(call, 1, call.shape()[axis])
    return ops.gather_elements(call.x(0), call.x(1), axis=axis)


def _gather_nd(call: Call) -> Result:
    return ops.gather_nd(call.x(0), call.x(1), batch_dims=call.integer("batch_dims", 0))


def _scatter_nd(call: Call) -> Result:
    reduction = call.text("reduction", "none")
    return ops.scatter_nd(call.x(0), call.x(1), call.x(2), reduction=reduction)


def _scatter_elements(call: Call) -> Result:
    """`scatter_nd` with every place spelled out."""
    x, places, updates = call.x(0), call.x(1), call.x(2)
    axis = call.axis(call.integer("axis", 0), len(x.shape))
    shape = places.shape
    _check_places(call, 1, x.shape[axis])
    columns = []
    for i, size in enumerate(shape):
        if i == axis:
            wide = ops.cast(places, dtype=DType.i64) if places.dtype is not DType.i64 else places
            limit = ops.dim_value(size=x.shape[axis], dtype=DType.i64)
            column = ops.where(ops.less(wide, 0), wide + limit, wide)
        else:
            line = [size if j == i else 1 for j in range(len(shape))]
            column = expand_to(reshape_to(ops.iota(size=size, dtype=DType.i64), line), shape)
        columns.append(reshape_to(column, (*shape, 1)))
    index = columns[0] if len(columns) == 1 else ops.concat(*columns, axis=-1)
    reduction = call.text("reduction", "none")
    return ops.scatter_nd(x, index, updates, reduction=reduction)


def _pad_attributes(call: Call) -> Result:
    return _padded(call, call.integer_list("pads") or (), call.number("value", 0.0), None)


def _pad(call: Call) -> Result:
    value: float | Expr = 0.0
    if call.has(2):
        known = call.scalar(2)
        value = reshape_to(call.x(2), ()) if known is None else known
    axes = call.integers(3, "list of axes") if call.has(3) else None
    return _padded(call, call.integers(1, "amount of padding"), value, axes)


def _padded(
    call: Call, pads: tuple[int, ...], value: float | Expr, axes: tuple[int, ...] | None
) -> Expr:
    x = call.x()
    rank = len(x.shape)
    chosen = [call.axis(a, rank) for a in axes] if axes is not None else list(range(rank))
    if len(pads) != 2 * len(chosen):
        call.fail(f"{len(pads)} amounts of padding do not fit {len(chosen)} axes")
    low, high = [0] * rank, [0] * rank
    for i, axis in enumerate(chosen):
        low[axis], high[axis] = pads[i], pads[len(chosen) + i]
    if not any(low) and not any(high):
        return x
    mode = call.text("mode", "constant")
    if mode == "constant":
        _check_budget(call, x, low, high)
        ends = {"low": tuple(low), "high": tuple(high)}
        if isinstance(value, float | int):
            return ops.pad(x, **ends, value=float(value))
        inside = ops.pad(ops.full(value=True, shape=x.shape, dtype=DType.bool), **ends, value=0.0)
        return ops.where(inside, ops.pad(x, **ends, value=0.0), value)
    for axis in range(rank):
        if low[axis] or high[axis]:
            x = _mirrored(call, x, axis, low[axis], high[axis], mode)
    return x


def _check_budget(call: Call, x: Expr, low: list[int], high: list[int]) -> None:
    if max(map(abs, [*low, *high]), default=0) >= LIMITS.padding:
        call.fail(f"it pads {text_of(x.shape)} by {max(*low, *high)} elements")


def _mirrored(call: Call, x: Expr, axis: int, low: int, high: int, mode: str) -> Expr:
    """Padding with elements of the axis itself, as a gather of known places."""
    size = x.shape[axis]
    if isinstance(size, DimExpr) and min(low, high) >= 0:
        return _mirrored_open(call, x, axis, low, high, mode)
    if not isinstance(size, int) or size < 1:
        call.fail(f"padding by `{mode}` needs a known size, not {size}", hint="fix it with `dims`")
    if max(low, high) > 1 << 16:
        call.fail(f"it pads by {max(low, high)} elements")
    places = np.arange(-low, size + high)
    if mode == "edge":
        places = np.clip(places, 0, size - 1)
    elif mode == "wrap":
        places = places % size
    elif mode == "reflect" and size > 1:
        period = 2 * (size - 1)
        places = places % period
        places = np.where(places >= size, period - places, places)
    else:
        call.fail(f"padding by `{mode}` is not supported", hint="constant, edge, reflect or wrap")
    return ops.gather(x, call.constant(places.astype(np.int64)), axis=axis)


def _mirrored_open(call: Call, x: Expr, axis: int, low: int, high: int, mode: str) -> Expr:
    """The same of an axis whose size is open, but enough for what is repeated: slices beside it."""
    size = x.shape[axis]
    least = {"edge": 1, "reflect": max(low, high) + 1, "wrap": max(low, high, 1)}.get(mode)
    if least is None:
        call.fail(f"padding by `{mode}` is not supported", hint="constant, edge, reflect or wrap")
    _bound(call, size, least)

    def part(start: Dim, stop: Dim, step: int) -> Expr:
        return ops.slice_(x, axis=axis, start=start, stop=stop, step=step)

    def edge(place: Dim, count: int) -> Expr:
        shape = (*x.shape[:axis], count, *x.shape[axis + 1 :])
        return expand_to(part(place, place + 1, 1), shape)

    match mode:
        case "edge":
            before, after = edge(0, low), edge(size - 1, high)
        case "wrap":
            before, after = part(size - low, size, 1), part(0, high, 1)
        case _:
            before, after = part(low, 0, -1), part(size - 2, size - 2 - high, -1)
    parts = [before] * bool(low) + [x] + [after] * bool(high)
    return ops.concat(*parts, axis=axis)


SLICING: Table = {
    "Gather": ((1, _gather),),
    "GatherElements": ((11, _gather_elements),),
    "GatherND": ((11, _gather_nd),),
    "Pad": ((2, _pad_attributes), (11, _pad)),
    "Scatter": ((9, _scatter_elements),),
    "ScatterElements": ((11, _scatter_elements),),
    "ScatterND": ((11, _scatter_nd),),
    "Slice": ((1, _slice_attributes), (10, _slice)),
}
