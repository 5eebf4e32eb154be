"""Where the elements of a resized axis lie, and how they are made of those around that place."""

# mypy: disable-error-code="no-any-return"
# (operators hand back `Any`: their results are read from their types)

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tunesmith.ir import opset as ops
from tunesmith.ir.dims import Dim
from tunesmith.ir.ops import Expr
from tunesmith.ir.types import DType

from ..onnx_call import Call
from ..onnx_shapes import at_least

__all__ = [
    "Axis",
    "Way",
    "amount",
    "cubic_weights",
    "excluding",
    "place_of",
    "rounded",
    "window_of",
]


@dataclass(frozen=True)
class Axis:
    """One axis to resize: from how many elements to how many, and by which factor.

    `factor` is `None` where it is the quotient of sizes that are known at run time.
    """

    place: int
    size: Dim
    out: Dim
    factor: float | None
    region: tuple[float, float] = (0.0, 1.0)


@dataclass(frozen=True)
class Way:
    """How elements are found, as the attributes say it."""

    mode: str
    coordinates: str
    nearest: str
    cubic: float = -0.75
    exclude: bool = False
    smooth: bool = False
    outside: float = 0.0


def amount(size: Dim) -> Expr:
    return ops.dim_value(size=size, dtype=DType.f32)


def place_of(call: Call, axis: Axis, coordinates: str) -> Expr:
    """Where each element of the result lies on the axis, in single precision as elsewhere.

    Corners are those of whole sizes, although ONNX's own words would take `size * factor`: it is
    what frameworks mean, and what ONNX Runtime does.
    """
    line: Expr = ops.iota(size=axis.out, dtype=DType.f32)
    size, out = amount(axis.size), amount(axis.out)
    factor = out / size if axis.factor is None else call.scalar_of(axis.factor, DType.f32)
    single = axis.out == 1
    if not single and at_least(axis.out, 2) is None and coordinates in _AT_ONE:
        call.fail(f"whether {axis.out} is 1 is not known, and `{coordinates}` asks",
                  hint="bound it with `dims`")  # fmt: skip
    match coordinates:
        case "asymmetric":
            return line / factor
        case "half_pixel":
            return (line + 0.5) / factor - 0.5
        case "tf_half_pixel_for_nn":
            return (line + 0.5) / factor
        case "half_pixel_symmetric":
            middle = size / 2.0 * (1.0 - out / (size * factor))
            return middle + (line + 0.5) / factor - 0.5
        case "pytorch_half_pixel":
            return line * 0.0 if single else (line + 0.5) / factor - 0.5
        case "align_corners":
            return line * 0.0 if single else line * (size - 1.0) / (out - 1.0)
        case "tf_crop_and_resize":
            start, end = axis.region
            if single:
                return line * 0.0 + (size - 1.0) * (0.5 * (start + end))
            return (size - 1.0) * start + line * (end - start) * (size - 1.0) / (out - 1.0)
    call.fail(f"`coordinate_transformation_mode` cannot be `{coordinates}`")


_AT_ONE = ("pytorch_half_pixel", "align_corners", "tf_crop_and_resize")


def rounded(nearest: str, factor: float | None) -> Callable[[Expr], Expr]:
    """How a place between two elements becomes one of them."""

    def found(place: Expr) -> Expr:
        low: Expr = ops.floor(place)
        if nearest == "floor" or (nearest == "simple" and (factor or 1.0) >= 1.0):
            return low
        if nearest in ("ceil", "simple"):
            return ops.ceil(place)
        test = ops.greater if nearest == "round_prefer_floor" else ops.greater_equal
        return ops.where(test(place - low, 0.5), low + 1.0, low)

    return found


def cubic_weights(rest: Expr, a: float) -> list[Expr]:
    """Weights of the four neighbors (Keys, 1981)."""

    def near(d: Expr) -> Expr:
        return ((d * (a + 2.0)) - (a + 3.0)) * d * d + 1.0

    def far(d: Expr) -> Expr:
        return ((d * a - 5.0 * a) * d + 8.0 * a) * d - 4.0 * a

    return [far(rest + 1.0), near(rest), near(1.0 - rest), far(2.0 - rest)]


def excluding(taps: list[Expr], weights: list[Expr], size: Expr) -> list[Expr]:
    """Weights of the taps inside the axis, so that they make one again."""
    kept = []
    for tap, weight in zip(taps, weights, strict=True):
        inside = ops.logical_and(ops.greater_equal(tap, 0.0), ops.less(tap, size))
        kept.append(ops.where(inside, weight, 0.0))
    total = kept[0]
    for weight in kept[1:]:
        total = total + weight
    return [weight / total for weight in kept]


def window_of(distance: np.ndarray[tuple[int], np.dtype[np.float64]], way: Way,
            ) -> np.ndarray[tuple[int], np.dtype[np.float64]]:  # fmt: skip
    if way.mode == "linear":
        return np.clip(1.0 - distance, 0.0, 1.0)
    a, d = way.cubic, distance
    near = ((a + 2) * d - (a + 3)) * d * d + 1
    far = ((a * d - 5 * a) * d + 8 * a) * d - 4 * a
    return np.where(d < 1, near, np.where(d < 2, far, 0.0))
