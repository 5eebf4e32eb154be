"""Resizing along axes: each element is one element of the axis, or a weighted sum of a few."""

# mypy: disable-error-code="no-any-return"
# (operators hand back `Any`: their results are read from their types)

from __future__ import annotations

from fractions import Fraction
from math import ceil, floor

import numpy as np

from tunesmith.ir import opset as ops
from tunesmith.ir.dims import Dim, DimExpr, exact_div, floor_div
from tunesmith.ir.ops import Expr
from tunesmith.ir.types import DType, Shape

from ..onnx_call import Call, Result, Table
from ..onnx_shapes import at_least, text_of
from .building import along, cast_to, permute, reshape_to, settled, slice_to
from .interpolation import (
    Axis,
    Way,
    amount,
    cubic_weights,
    excluding,
    place_of,
    rounded,
    window_of,
)
from .movement import repeated

__all__ = ["RESIZE"]

MODES = ("nearest", "linear", "cubic")
ROUNDINGS = ("simple", "floor", "ceil", "round_prefer_floor", "round_prefer_ceil")
_SHIFTED = ("asymmetric", "half_pixel", "pytorch_half_pixel", "tf_half_pixel_for_nn")


def _resize(call: Call) -> Result:
    way = Way(
        mode=call.text("mode", "nearest"),
        coordinates=call.text("coordinate_transformation_mode", "half_pixel"),
        nearest=call.text("nearest_mode", "round_prefer_floor"),
        cubic=call.number("cubic_coeff_a", -0.75),
        exclude=bool(call.integer("exclude_outside", 0)),
        smooth=bool(call.integer("antialias", 0)),
        outside=call.number("extrapolation_value", 0.0),
    )
    return _resized(call, way, _axes(call, _chosen(call), way.coordinates))


def _upsample(call: Call) -> Result:
    """`Upsample`, and `Resize` of opset 10: places are divided by the factor, and rounded down."""
    mode = call.text("mode", "nearest")
    way = Way("linear" if mode == "bilinear" else mode, "asymmetric", "simple")
    if call.operator == "Upsample" and call.opset < 9:
        given = call.attributes.get("scales")
        factors = [float(item) for item in given.floats] if given is not None else []
    else:
        factors = _factors(call, 1)
    if len(factors) != call.rank() or not all(factor > 0 for factor in factors):
        call.fail(f"{len(factors)} factors do not fit {call.rank()} axes")
    return _resized(call, way, _by_factors(call, factors, list(range(call.rank()))))


def _chosen(call: Call) -> list[int]:
    given = call.integer_list("axes")
    if given is None:
        return list(range(call.rank()))
    return [call.axis(axis, call.rank()) for axis in given]


def _factors(call: Call, index: int) -> list[float]:
    items = call.elements(index, "list of factors").reshape(-1).tolist()
    if not all(isinstance(item, int | float) and item > 0 for item in items):
        call.fail("its factors depend on the sizes of the inputs, or are not positive",
                  hint="fix these sizes with `shapes` or `dims`")  # fmt: skip
    return [float(np.float32(item)) for item in items]


def _axes(call: Call, places: list[int], coordinates: str) -> list[Axis]:
    regions = [(0.0, 1.0)] * len(places)
    if coordinates == "tf_crop_and_resize":
        content = call.elements(1, "region of interest")
        if content.size != 2 * len(places):
            call.fail(f"its region of interest has {content.size} elements, not {2 * len(places)}")
        flat = [float(np.float32(item)) for item in content.reshape(-1).tolist()]
        regions = list(zip(flat[: len(places)], flat[len(places) :], strict=True))
    if call.has(2) and call.shape(2) != (0,):
        factors = _factors(call, 2)
        if len(factors) != len(places):
            call.fail(f"{len(factors)} factors do not fit {len(places)} axes")
        found = _by_factors(call, factors, places, regions)
        if coordinates == "align_corners":
            _check_corners(call, found)
        return found
    sizes = call.sizes(3, "list of sizes")
    if len(sizes) != len(places):
        call.fail(f"{len(sizes)} sizes do not fit {len(places)} axes")
    policy = call.text("keep_aspect_ratio_policy", "stretch")
    if policy != "stretch":
        return _in_proportion(call, sizes, places, policy, regions)
    found = []
    for place, out, region in zip(places, sizes, regions, strict=True):
        size = call.shape()[place]
        found.append(Axis(place, size, out, _quotient(out, size), region))
    return found


def _check_corners(call: Call, axes: list[Axis]) -> None:
    """The text of ONNX takes the distance of corners from the size, its tests from size x factor.

    ONNX Runtime and PyTorch do as the text says; where the two differ, neither is right.
    """
    for axis in axes:
        if isinstance(axis.size, int) and isinstance(axis.out, int) and axis.factor is not None:
            off = abs(axis.size * axis.factor - axis.out)
            if off > 1e-4 * max(axis.out, 1):
                call.fail(
                    f"corners cannot be aligned: {axis.size} x {axis.factor:g} is no whole size",
                    hint="export it with sizes instead of factors",
                )


def _quotient(out: Dim, size: Dim) -> float | None:
    """The factor between two sizes in single precision; `None` if it depends on symbols."""
    if isinstance(out, int) and isinstance(size, int):
        return float(np.float32(out) / np.float32(size)) if size else 1.0
    up, down = exact_div(out, size), exact_div(size, out)
    if isinstance(up, int):
        return float(up)
    return float(np.float32(1) / np.float32(down)) if isinstance(down, int) and down else None


def _by_factors(
    call: Call, factors: list[float], places: list[int],
    regions: list[tuple[float, float]] | None = None,
) -> list[Axis]:  # fmt: skip
    found = []
    for i, (place, factor) in enumerate(zip(places, factors, strict=True)):
        size = call.shape()[place]
        region = regions[i] if regions else (0.0, 1.0)
        cropped = region[1] - region[0]
        exact = Fraction(factor)
        if isinstance(size, int):
            out: Dim = floor(float(np.float32(size) * np.float32(cropped) * np.float32(factor)))
        elif cropped == 1.0 and exact.denominator <= 4096:
            out = floor_div(size * exact.numerator, exact.denominator)
        else:
            call.fail(f"an axis of {size} elements by a factor of {factor} has no known size",
                      hint="fix it with `shapes` or `dims`")  # fmt: skip
        found.append(Axis(place, size, out, factor, region))
    return found


def _in_proportion(
    call: Call, sizes: tuple[Dim, ...], places: list[int], policy: str,
    regions: list[tuple[float, float]],
) -> list[Axis]:  # fmt: skip
    """All axes by one factor, so that none is above, or none below, the size it is given."""
    known = [call.shape()[place] for place in places]
    factors = [
        float(np.float32(out) / np.float32(size))
        for out, size in zip(sizes, known, strict=True)
        if isinstance(out, int) and isinstance(size, int)
    ]
    if len(factors) != len(places) or policy not in ("not_larger", "not_smaller"):
        call.fail(f"`{policy}` needs known sizes, not {text_of(known)}")
    factor = min(factors) if policy == "not_larger" else max(factors)
    return [
        Axis(place, size, floor(factor * int(str(size)) + 0.5), factor, region)
        for place, size, region in zip(places, known, regions, strict=True)
    ]


def _resized(call: Call, way: Way, axes: list[Axis]) -> Expr:
    x = call.x()
    if way.mode not in MODES:
        call.fail(f"`mode` cannot be `{way.mode}`: {', '.join(MODES)}")
    if way.nearest not in ROUNDINGS:
        call.fail(f"`nearest_mode` cannot be `{way.nearest}`: {', '.join(ROUNDINGS[1:])}")
    if way.mode != "nearest" and not x.dtype.is_float:
        call.fail(f"weighted sums of {x.dtype} are not supported", hint="cast to f32 in front")
    wide = DType.f32 if x.dtype in (DType.f16, DType.bf16) and way.mode != "nearest" else x.dtype
    y = cast_to(x, wide)
    inside: list[Expr] = []
    if all(axis.size == axis.out and axis.region == (0.0, 1.0) for axis in axes):
        return x  # whatever the factors: ONNX Runtime copies as well
    for axis in axes:
        crops = way.coordinates == "tf_crop_and_resize"
        whole = not crops or axis.region == (0.0, 1.0)
        if axis.size == axis.out and axis.factor == 1.0 and whole:
            continue
        if axis.size == 0 and axis.out != 0:
            call.fail("an axis without elements cannot grow")
        if crops:
            place = settled(place_of(call, axis, way.coordinates))
            last = amount(axis.size) - 1.0
            kept = ops.logical_and(ops.greater_equal(place, 0.0), ops.less_equal(place, last))
            inside.append(along(settled(kept), axis.place, len(x.shape)))
        y = _one(call, y, axis, way)
    y = cast_to(y, x.dtype)
    for kept in inside:
        y = ops.where(kept, y, call.scalar_of(way.outside, y.dtype))
    return y


def _one(call: Call, x: Expr, axis: Axis, way: Way) -> Expr:
    if way.smooth and way.mode != "nearest":
        return _smoothed(call, x, axis, way)
    if way.mode == "nearest":
        moved = _moved(call, x, axis, way)
        if moved is not None:
            return moved
    place = settled(place_of(call, axis, way.coordinates))
    if way.mode == "nearest":
        return _picked(x, axis, rounded(way.nearest, axis.factor)(place))
    low = settled(ops.floor(place))
    rest = place - low
    weights = [1.0 - rest, rest] if way.mode == "linear" else cubic_weights(rest, way.cubic)
    first = 0 if way.mode == "linear" else -1
    taps = [low + float(first + i) if first + i else low for i in range(len(weights))]
    if way.exclude:
        weights = excluding(taps, weights, amount(axis.size))
    total: Expr | None = None
    for tap, weight in zip(taps, weights, strict=True):
        factor = along(settled(cast_to(weight, x.dtype)), axis.place, len(x.shape))
        part = _picked(x, axis, tap) * factor
        total = part if total is None else total + part
    assert total is not None
    return total


def _picked(x: Expr, axis: Axis, place: Expr) -> Expr:
    """Elements at whole places of an axis; beyond its ends, the last ones."""
    index: Expr = cast_to(place, DType.i64)
    last = ops.dim_value(size=axis.size - 1, dtype=DType.i64)
    index = ops.minimum(ops.maximum(index, 0), last)
    return ops.gather(x, settled(index), axis=axis.place)


def _moved(call: Call, x: Expr, axis: Axis, way: Way) -> Expr | None:
    """Each element so many times, or every so-manieth: no index has to be computed."""
    if way.coordinates not in _SHIFTED or axis.factor is None:
        return None
    exact = Fraction(axis.factor)
    if exact.denominator != 1 and exact.numerator != 1:
        return None
    if way.coordinates == "pytorch_half_pixel" and at_least(axis.out, 2) is not True:
        return None
    probe = Axis(axis.place, 1 << 20, exact.numerator + 1, axis.factor)
    place = settled(place_of(call, probe, way.coordinates))
    whole = settled(rounded(way.nearest, axis.factor)(place)).value.constant
    if whole is None:
        return None
    starts = whole.array.astype(np.int64).tolist()[:-1]
    if exact.denominator == 1 and not any(starts) and axis.out == axis.size * exact.numerator:
        return repeated(x, axis.place, exact.numerator)
    step = exact.denominator
    if exact.numerator == 1 and 0 <= starts[0] < step and axis.size == axis.out * step:
        return slice_to(x, axis.place, starts[0], axis.size, step)
    return None


def _smoothed(call: Call, x: Expr, axis: Axis, way: Way) -> Expr:
    """With a window that widens as the axis shrinks: a product by a matrix that is known."""
    if isinstance(axis.size, DimExpr) or isinstance(axis.out, DimExpr) or axis.factor is None:
        call.fail(f"`antialias` needs a known size, not {axis.size}", hint="fix it with `dims`")
    if axis.size * axis.out > 1 << 22:
        call.fail(f"`antialias` from {axis.size} to {axis.out} elements is not supported")
    constant = settled(place_of(call, axis, way.coordinates)).value.constant
    assert constant is not None
    scale = min(axis.factor, 1.0)
    support = (1 if way.mode == "linear" else 2) / scale
    matrix = np.zeros((axis.size, axis.out))
    for column, place in enumerate(constant.array.astype(np.float64).tolist()):
        taps = np.arange(floor(place - support), ceil(place + support) + 1)
        weights = window_of(np.abs((taps - place) * scale), way)
        if way.exclude:
            weights = np.where((taps >= 0) & (taps < axis.size), weights, 0.0)
        np.add.at(matrix[:, column], np.clip(taps, 0, axis.size - 1), weights / weights.sum())
    rank = len(x.shape)
    last = [i for i in range(rank) if i != axis.place] + [axis.place]
    back = sorted(range(rank), key=lambda i: last[i])
    rows = permute(x, last)
    flat = rows if rank > 1 else reshape_to(rows, (1, axis.size))
    found = ops.matmul(flat, call.constant(matrix.astype(x.dtype.numpy)))
    shape: Shape = (*rows.shape[:-1], axis.out)
    return permute(reshape_to(found, shape), back)


RESIZE: Table = {
    "Resize": ((10, _upsample), (11, _resize)),
    "Upsample": ((7, _upsample),),
}
