"""Elements read at places that are data: between elements, and beyond the ends of axes."""

# mypy: disable-error-code="no-any-return"
# (operators hand back `Any`: their results are read from their types)

from __future__ import annotations

from itertools import product

from tunesmith.ir import opset as ops
from tunesmith.ir.dims import Dim
from tunesmith.ir.ops import Expr
from tunesmith.ir.types import DType

from ..onnx_call import Call, Result, Table
from .building import cast_to, index_axis, permute, reshape_to
from .interpolation import cubic_weights

__all__ = ["GRID"]

_MODES = {"bilinear": "linear", "bicubic": "cubic", "linear": "linear", "nearest": "nearest",
          "cubic": "cubic"}  # fmt: skip


def _grid_sample(call: Call) -> Result:
    x, grid = call.x(0), cast_to(call.x(1), DType.f64 if call.dtype(1) is DType.f64 else DType.f32)
    mode = _MODES.get(call.text("mode", "linear"))
    beyond = call.text("padding_mode", "zeros")
    count = len(x.shape) - 2
    if mode is None or beyond not in ("zeros", "border", "reflection"):
        call.fail("its `mode` or its `padding_mode` is not known")
    if count < 1 or len(grid.shape) != count + 2 or grid.shape[-1] != count:
        call.fail(f"places {grid.type} are not in {x.type}")
    if mode != "nearest" and not x.dtype.is_float:
        call.fail(f"weighted sums of {x.dtype} are not supported", hint="cast to f32 in front")
    wide = DType.f32 if x.dtype in (DType.f16, DType.bf16) and mode != "nearest" else x.dtype
    corners = bool(call.integer("align_corners", 0))
    places = _places(grid, x.shape[2:], corners)
    channels_last = permute(cast_to(x, wide), (0, *range(2, count + 2), 1))
    taps = [_taps(place, mode) for place in places]
    total: Expr | None = None
    for chosen in product(*taps):
        at = [_Tap(tap, size, corners, beyond) for (tap, _), size in
              zip(chosen, x.shape[2:], strict=True)]  # fmt: skip
        part = _read(channels_last, at, beyond == "zeros")
        for _, weight in chosen:
            if weight is not None:
                part = part * cast_to(reshape_to(weight, (*weight.shape, 1)), wide)
        total = part if total is None else total + part
    assert total is not None
    return cast_to(permute(total, (0, count + 1, *range(1, count + 1))), x.dtype)


def _places(grid: Expr, spatial: tuple[Dim, ...], corners: bool) -> list[Expr]:
    """Where each place lies on each axis, in elements; the last number is that of the first."""
    found = []
    for axis, size in enumerate(spatial):
        raw = index_axis(grid, len(spatial) + 1, len(spatial) - 1 - axis)
        extent = _amount(size, raw.dtype)
        place = (raw + 1.0) * 0.5 * (extent - 1.0) if corners else (
            (raw + 1.0) * extent - 1.0) * 0.5  # fmt: skip
        found.append(place)
    return found


def _amount(size: Dim, dtype: DType) -> Expr:
    return ops.dim_value(size=size, dtype=dtype)


def _reflected(place: Expr, size: Dim, corners: bool) -> Expr:
    """Turned back at the ends of the axis, however often."""
    if corners and size == 1:
        return place * 0.0
    low = 0.0 if corners else -0.5
    span = _amount(size, place.dtype) - (1.0 if corners else 0.0)
    rest = ops.mod(place - low, span * 2.0)
    return ops.where(ops.greater(rest, span), span * 2.0 - rest, rest) + low


def _taps(place: Expr, mode: str) -> list[tuple[Expr, Expr | None]]:
    """The whole places that are read, with their weights."""
    if mode == "nearest":
        return [(ops.round_(place), None)]
    low = ops.floor(place)
    rest = place - low
    weights = [1.0 - rest, rest] if mode == "linear" else cubic_weights(rest, -0.75)
    first = 0 if mode == "linear" else -1
    return [(low + float(first + i), weight) for i, weight in enumerate(weights)]


class _Tap:
    """A whole place on an axis, held inside it, and whether it was inside.

    What is beyond an end is brought back here, so that a sum of neighbors reads as elsewhere.
    """

    def __init__(self, place: Expr, size: Dim, corners: bool, beyond: str) -> None:
        last = _amount(size, place.dtype) - 1.0
        self.inside = ops.logical_and(ops.greater_equal(place, 0.0), ops.less_equal(place, last))
        if beyond == "reflection":
            place = _reflected(place, size, corners)
        self.index = cast_to(ops.minimum(ops.maximum(place, 0.0), last), DType.i64)


def _read(x: Expr, taps: list[_Tap], zeros: bool) -> Expr:
    """`[N, …, C]` at places of its middle axes; zeros where one is outside."""
    columns = [reshape_to(tap.index, (*tap.index.shape, 1)) for tap in taps]
    index = columns[0] if len(columns) == 1 else ops.concat(*columns, axis=-1)
    found = ops.gather_nd(x, index, batch_dims=1)
    if not zeros:
        return found
    inside = taps[0].inside
    for tap in taps[1:]:
        inside = ops.logical_and(inside, tap.inside)
    return ops.where(reshape_to(inside, (*inside.shape, 1)), found, ops.full(
        value=0, shape=(1,) * len(found.shape), dtype=found.dtype))  # fmt: skip


GRID: Table = {"GridSample": ((16, _grid_sample),)}
