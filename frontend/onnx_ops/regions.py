"""Regions of images: aligned to a grid, or read by a convolution whose taps are moved by data."""

# mypy: disable-error-code="no-any-return"
# (operators hand back `Any`: their results are read from their types)

from __future__ import annotations

from collections.abc import Sequence
from itertools import product as pairs

from tunesmith.ir import opset as ops
from tunesmith.ir.dims import Dim, product
from tunesmith.ir.ops import Expr
from tunesmith.ir.types import DType, broadcast

from ..onnx_call import Call, Result, Table
from .building import cast_to, expand_to, index_axis, permute, reshape_to
from .convolution import declared_padding, window

__all__ = ["REGIONS"]


def _amount(size: Dim, dtype: DType) -> Expr:
    return ops.dim_value(size=size, dtype=dtype)


def _column(x: Expr, axis: int, shape: Sequence[Dim]) -> Expr:
    """A vector along one axis of `shape`, as far as it broadcasts."""
    return reshape_to(x, [x.shape[0] if i == axis else 1 for i in range(len(shape))])


def _picked(x: Expr, places: Sequence[Expr], batch: Expr) -> Expr:
    """`[N, H, W, C]` at an image, a row and a column each → `[…, C]`; all three broadcast."""
    shape = broadcast(batch.shape, *(place.shape for place in places))
    columns = [expand_to(cast_to(p, DType.i64), shape) for p in (batch, *places)]
    index = ops.concat(*(reshape_to(c, (*shape, 1)) for c in columns), axis=-1)
    return ops.gather_nd(x, index)


# Regions of interest.


def _roi_align(call: Call) -> Result:
    x, rois, images = call.x(0), call.x(1), call.x(2)
    ratio = call.integer("sampling_ratio", 0)
    if ratio < 1:
        call.fail("a `sampling_ratio` that follows from data is not supported",
                  hint="export with a fixed number of samples")  # fmt: skip
    if len(x.shape) != 4 or len(rois.shape) != 2 or rois.shape[1] != 4 or not x.dtype.is_float:
        call.fail(f"cannot align {rois.type} in {x.type}")
    rows, columns = call.integer("output_height", 1), call.integer("output_width", 1)
    mode = call.text("mode", "avg")
    if mode not in ("avg", "max"):
        call.fail(f"`mode` cannot be `{mode}`: avg or max")
    default = "half_pixel" if call.opset >= 16 else "output_half_pixel"
    half = call.text("coordinate_transformation_mode", default) == "half_pixel"
    scale, count = call.number("spatial_scale", 1.0), rois.shape[0]
    axes = []
    for place, out, size in ((1, rows, x.shape[2]), (0, columns, x.shape[3])):
        start = index_axis(rois, 1, place) * scale - (0.5 if half else 0.0)
        extent = index_axis(rois, 1, place + 2) * scale - (0.5 if half else 0.0) - start
        if not half:
            extent = ops.maximum(extent, 1.0)
        line = (ops.iota(size=out * ratio, dtype=rois.dtype) + 0.5) / float(ratio)
        bins = reshape_to(extent / float(out), (count, 1))
        spot = reshape_to(start, (count, 1)) + reshape_to(line, (1, out * ratio)) * bins
        shape = (count, out * ratio, 1) if place else (count, 1, out * ratio)
        axes.append([reshape_to(v, shape) for v in _corners(spot, size)])
    batch = reshape_to(cast_to(images, DType.i64), (count, 1, 1))
    channels_last = permute(x, (0, 2, 3, 1))
    parts = []
    for (y, dy), (z, dz) in pairs(*[((a[0], a[2]), (a[1], a[3])) for a in axes]):
        weight = reshape_to(dy * dz, (*(dy * dz).shape, 1))
        parts.append(_picked(channels_last, (y, z), batch) * weight)
    split = (count, rows, ratio, columns, ratio, x.shape[1])
    if mode == "max":
        top = ops.maximum(ops.maximum(parts[0], parts[1]), ops.maximum(parts[2], parts[3]))
        found = ops.reduce_max(reshape_to(top, split), axes=(2, 4), keepdims=False)
    else:
        total = parts[0] + parts[1] + parts[2] + parts[3]
        found = ops.reduce_mean(reshape_to(total, split), axes=(2, 4), keepdims=False)
    return permute(found, (0, 3, 1, 2))


def _corners(spot: Expr, size: Dim) -> tuple[Expr, Expr, Expr, Expr]:
    """Two neighbors on an axis and their weights, which are 0 far outside."""
    last = _amount(size, spot.dtype) - 1.0
    far = ops.logical_or(ops.less(spot, -1.0), ops.greater(spot, last + 1.0))
    held = ops.minimum(ops.maximum(spot, 0.0), last)
    low = ops.floor(held)
    rest = held - low
    high = ops.minimum(low + 1.0, last)
    return low, high, ops.where(far, 0.0, 1.0 - rest), ops.where(far, 0.0, rest)


# Deformable convolution (Dai et al., 2017; Zhu et al., 2019).


def _deform_conv(call: Call) -> Result:
    x, weight, offset = call.x(0), call.x(1), call.x(2)
    if len(x.shape) != 4 or len(weight.shape) != 4 or not weight.type.is_static:
        call.fail(f"cannot convolve {x.type} with {weight.type}: two axes are supported")
    outputs, _, *kernel = (int(str(size)) for size in weight.shape)
    groups, shares = call.integer("group", 1), call.integer("offset_group", 1)
    batch, channels, *spatial = x.shape
    taps, sizes = kernel[0] * kernel[1], offset.shape[2:]
    if not isinstance(channels, int) or channels % shares or channels % groups or outputs % groups:
        call.fail(f"{channels} channels do not split into {groups} and {shares} groups")
    strides, dilations = window(call, 2)
    low, _ = declared_padding(call, tuple(spatial), (kernel[0], kernel[1]), strides, dilations)
    moved = reshape_to(offset, (batch, shares, taps, 2, *sizes))
    shape: tuple[Dim, ...] = (batch, shares, taps, *sizes)
    axes = []
    for axis in range(2):
        line = _column(ops.iota(size=sizes[axis], dtype=x.dtype) * float(strides[axis]), 3 + axis,
                       shape) - float(low[axis])  # fmt: skip
        number = ops.iota(size=taps, dtype=DType.i64)
        inner = ops.mod(number, kernel[1]) if axis else ops.div(number, kernel[1])
        tap = _column(cast_to(inner * dilations[axis], x.dtype), 2, shape)
        spot = line + tap + index_axis(moved, 3, axis)
        below = ops.floor(spot)
        rest = spot - below
        axes.append([(below, 1.0 - rest), (below + 1.0, rest)])
    each = channels // shares
    grouped = permute(reshape_to(x, (batch, shares, each, *spatial)), (0, 1, 3, 4, 2))
    images = reshape_to(grouped, (batch * shares, *spatial, each))
    flat = (batch * shares, taps, *sizes)
    number = _column(ops.iota(size=batch * shares, dtype=DType.i64), 0, flat)
    total: Expr | None = None
    for chosen in pairs(*axes):
        part = None
        held = []
        for (place, factor), size in zip(chosen, spatial, strict=True):
            last = _amount(size, x.dtype) - 1.0
            inside = ops.logical_and(ops.greater_equal(place, 0.0), ops.less_equal(place, last))
            kept = ops.where(inside, factor, 0.0)
            part = kept if part is None else part * kept
            index = cast_to(ops.minimum(ops.maximum(place, 0.0), last), DType.i64)
            held.append(reshape_to(index, flat))
        assert part is not None
        found = _picked(images, held, number) * reshape_to(part, (*flat, 1))
        total = found if total is None else total + found
    assert total is not None
    if call.has(4):
        total = total * reshape_to(call.x(4), (*flat, 1))
    area = product(sizes)
    split = reshape_to(total, (batch, shares, taps, area, each))
    columns = reshape_to(
        permute(split, (0, 1, 4, 2, 3)), (batch, groups, channels // groups * taps, area)
    )
    matrix = reshape_to(weight, (groups, outputs // groups, channels // groups * taps))
    y: Expr = reshape_to(ops.matmul(matrix, columns), (batch, outputs, *sizes))
    return y + reshape_to(call.x(3), (outputs, 1, 1)) if call.has(3) else y


REGIONS: Table = {
    "DeformConv": ((19, _deform_conv),),
    "RoiAlign": ((10, _roi_align),),
}
