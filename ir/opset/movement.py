"""Primitives that move elements and never change them, and those that make them from nothing."""

from __future__ import annotations

from ..dims import Dim, DimExpr, bounds, floor_div
from ..graph import constant
from ..ops import op
from ..types import DType, Shape, TensorType, broadcast

__all__ = [
    "concat", "constant", "dim_value", "expand", "full", "gather", "gather_elements", "gather_nd",
    "iota", "pad", "reshape", "scatter_nd", "slice_", "transpose",
]  # fmt: skip


def normal_axis(axis: int, rank: int) -> int:
    """`axis` counted from the front; `ValueError` if there is none such."""
    if not -rank <= axis < max(rank, 1):
        raise ValueError(f"axis {axis} is not one of {rank}")
    return axis % rank if rank else 0


@op("reshape", "pure", "movement")
def reshape(x: TensorType, /, *, shape: Shape) -> TensorType:
    """The same elements in row-major order, in another shape of the same size."""
    result = x.with_shape(shape)
    if result.size != x.size:
        raise ValueError(f"{x} has {x.size} elements, [{', '.join(map(str, shape))}] {result.size}")
    return result


@op("transpose", "pure", "movement")
def transpose(x: TensorType, /, *, perm: tuple[int, ...]) -> TensorType:
    """Permute the axes: axis i of the result is axis `perm[i]` of `x`."""
    if sorted(perm) != list(range(x.rank)):
        raise ValueError(f"`perm` {list(perm)} does not permute {x.rank} axes")
    return x.with_shape(x.shape[i] for i in perm)


@op("expand", "pure", "movement")
def expand(x: TensorType, /, *, shape: Shape) -> TensorType:
    """Repeat axes of size 1, and add leading ones, up to `shape`."""
    if len(shape) < x.rank or broadcast(x.shape, shape) != tuple(shape):
        raise ValueError(f"{x} does not expand to [{', '.join(map(str, shape))}]")
    return x.with_shape(shape)


@op("slice", "pure", "movement")
def slice_(x: TensorType, /, *, axis: int, start: Dim, stop: Dim, step: int = 1) -> TensorType:
    """Every `step`-th element of one axis from `start` up to `stop` (not included).

    Both count from the front and lie within the axis. A negative step walks down from `start`;
    `stop` -1 then means that element 0 is included.
    """
    axis = normal_axis(axis, x.rank)
    if step == 0:
        raise ValueError("a step of 0 goes nowhere")
    if step > 0:
        length = floor_div(stop - start + (step - 1), step)
    else:
        length = floor_div(start - stop + (-step - 1), -step)
    if bounds(length)[0] < 0 and isinstance(length, int):
        length = 0
    size = x.shape[axis]
    if isinstance(size, int) and isinstance(start, int) and isinstance(stop, int):
        low, high = (start, stop) if step > 0 else (stop + 1, start + 1)
        if length and not (0 <= low <= size and 0 <= high <= size):
            raise ValueError(f"[{start}, {stop}) is not inside axis {axis} of {x}")
    return x.with_shape((*x.shape[:axis], length, *x.shape[axis + 1 :]))


@op("concat", "pure", "movement")
def concat(*xs: TensorType, axis: int) -> TensorType:
    """Join along one axis; the others agree."""
    if not xs:
        raise ValueError("needs an operand")
    first = xs[0]
    axis = normal_axis(axis, first.rank)
    total: Dim = 0
    for x in xs:
        if x.dtype is not first.dtype or x.rank != first.rank:
            raise ValueError(f"{x} cannot stand beside {first}")
        if any(x.shape[i] != first.shape[i] for i in range(first.rank) if i != axis):
            raise ValueError(f"{x} and {first} differ in an axis other than {axis}")
        total = total + x.shape[axis]
    return first.with_shape((*first.shape[:axis], total, *first.shape[axis + 1 :]))


@op("pad", "pure", "movement")
def pad(
    x: TensorType, /, *, low: tuple[int, ...], high: tuple[int, ...], value: float = 0.0
) -> TensorType:
    """Add `low[i]` elements before and `high[i]` after axis i; negative numbers crop."""
    if len(low) != x.rank or len(high) != x.rank:
        raise ValueError(f"needs {x.rank} sizes before and after, not {len(low)} and {len(high)}")
    return x.with_shape(s + a + b for s, a, b in zip(x.shape, low, high, strict=True))


@op("gather", "pure")
def gather(x: TensorType, indices: TensorType, /, *, axis: int = 0) -> TensorType:
    """Slices of `x` along `axis`, one for each index; an index below 0 counts from the end."""
    if not indices.dtype.is_integer:
        raise ValueError(f"needs integer indices, not {indices}")
    axis = normal_axis(axis, x.rank)
    return x.with_shape((*x.shape[:axis], *indices.shape, *x.shape[axis + 1 :]))


@op("gather_elements", "pure")
def gather_elements(x: TensorType, indices: TensorType, /, *, axis: int = 0) -> TensorType:
    """Element by element, the one of `x` at the same place but for `axis`, given by `indices`."""
    if not indices.dtype.is_integer or indices.rank != x.rank:
        raise ValueError(f"needs integer indices of rank {x.rank}, not {indices}")
    normal_axis(axis, x.rank)
    return x.with_shape(indices.shape)


@op("gather_nd", "pure")
def gather_nd(x: TensorType, indices: TensorType, /, *, batch_dims: int = 0) -> TensorType:
    """Slices of `x` at the places that the last axis of `indices` spells out (ONNX GatherND)."""
    depth = indices.shape[-1] if indices.rank else 0
    if not indices.dtype.is_integer or not isinstance(depth, int):
        raise ValueError(f"needs integer indices with a known last axis, not {indices}")
    if batch_dims + depth > x.rank or batch_dims >= indices.rank:
        raise ValueError(f"{indices} with {batch_dims} batch axes does not index {x}")
    return x.with_shape((*indices.shape[:-1], *x.shape[batch_dims + depth :]))


@op("scatter_nd", "pure")
def scatter_nd(
    x: TensorType, indices: TensorType, updates: TensorType, /, *, reduction: str = "none"
) -> TensorType:
    """`x` with `updates` at the places of `indices`; `reduction` none, add, mul, min or max."""
    if reduction not in ("none", "add", "mul", "min", "max"):
        raise ValueError(f"`reduction` cannot be `{reduction}`")
    if not indices.dtype.is_integer or updates.dtype is not x.dtype:
        raise ValueError(f"cannot write {updates} at {indices} into {x}")
    return x


@op("full", "pure", "source")
def full(*, value: bool | int | float, shape: Shape, dtype: DType) -> TensorType:
    """One value everywhere."""
    return TensorType(dtype, tuple(shape))


@op("iota", "pure", "source")
def iota(*, size: Dim, dtype: DType) -> TensorType:
    """0, 1, 2, … `size - 1`."""
    return TensorType(dtype, (size,))


@op("dim_value", "pure", "source")
def dim_value(*, size: Dim, dtype: DType) -> TensorType:
    """A size as a rank-0 tensor."""
    assert isinstance(size, int | DimExpr)
    return TensorType(dtype, ())
