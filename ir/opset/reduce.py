"""Primitives that fold axes: sums, extremes, running sums, the largest few."""

from __future__ import annotations

from ..dims import Dim
from ..ops import op
from ..types import DType, TensorType
from .movement import normal_axis

__all__ = [
    "argmax", "argmin", "cumsum", "reduce_all", "reduce_max", "reduce_mean", "reduce_min",
    "reduce_prod", "reduce_sum", "topk",
]  # fmt: skip


def _reduced(x: TensorType, axes: tuple[int, ...], keepdims: bool) -> TensorType:
    folded = {normal_axis(axis, x.rank) for axis in axes}
    if len(folded) != len(axes):
        raise ValueError(f"`axes` {list(axes)} names an axis twice")
    if keepdims:
        return x.with_shape(1 if i in folded else s for i, s in enumerate(x.shape))
    return x.with_shape(s for i, s in enumerate(x.shape) if i not in folded)


@op("reduce_sum", "pure", "reduce")
def reduce_sum(x: TensorType, /, *, axes: tuple[int, ...], keepdims: bool = False) -> TensorType:
    """The sum over axes; 0 over none. Narrow floats are summed in f32."""
    return _reduced(x, axes, keepdims)


@op("reduce_mean", "pure", "reduce")
def reduce_mean(x: TensorType, /, *, axes: tuple[int, ...], keepdims: bool = False) -> TensorType:
    """The mean over axes. Narrow floats are summed in f32."""
    return _reduced(x, axes, keepdims)


@op("reduce_max", "pure", "reduce")
def reduce_max(x: TensorType, /, *, axes: tuple[int, ...], keepdims: bool = False) -> TensorType:
    """The greatest over axes; NaN wins; the lowest value of the type over none."""
    return _reduced(x, axes, keepdims)


@op("reduce_min", "pure", "reduce")
def reduce_min(x: TensorType, /, *, axes: tuple[int, ...], keepdims: bool = False) -> TensorType:
    """The least over axes; NaN wins; the greatest value of the type over none."""
    return _reduced(x, axes, keepdims)


@op("reduce_prod", "pure", "reduce")
def reduce_prod(x: TensorType, /, *, axes: tuple[int, ...], keepdims: bool = False) -> TensorType:
    """The product over axes; 1 over none."""
    return _reduced(x, axes, keepdims)


@op("reduce_all", "pure", "reduce")
def reduce_all(x: TensorType, /, *, axes: tuple[int, ...], keepdims: bool = False) -> TensorType:
    """Whether all over axes are true."""
    if x.dtype is not DType.bool:
        raise ValueError(f"needs bool, not {x}")
    return _reduced(x, axes, keepdims)


@op("argmax", "pure", "reduce")
def argmax(
    x: TensorType, /, *, axis: int, keepdims: bool = False, last: bool = False
) -> TensorType:
    """The place of the greatest on an axis, the first one, or the `last`, of equals."""
    return _reduced(x, (axis,), keepdims).with_dtype(DType.i64)


@op("argmin", "pure", "reduce")
def argmin(
    x: TensorType, /, *, axis: int, keepdims: bool = False, last: bool = False
) -> TensorType:
    """The place of the least on an axis, the first one, or the `last`, of equals."""
    return _reduced(x, (axis,), keepdims).with_dtype(DType.i64)


@op("cumsum", "pure")
def cumsum(
    x: TensorType, /, *, axis: int, exclusive: bool = False, reverse: bool = False
) -> TensorType:
    """The running sum along an axis; from the end if `reverse`, before it if `exclusive`."""
    normal_axis(axis, x.rank)
    return x


@op("topk", "pure")
def topk(
    x: TensorType, /, *, k: Dim, axis: int = -1, largest: bool = True
) -> tuple[TensorType, TensorType]:
    """The `k` largest or least of an axis in order, and their places; of equals the first."""
    axis = normal_axis(axis, x.rank)
    result = x.with_shape((*x.shape[:axis], k, *x.shape[axis + 1 :]))
    return result, result.with_dtype(DType.i64)
