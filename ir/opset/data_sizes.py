"""Sizes that depend on data: the operator that binds one, and operators that give what it counts.

Results have the greatest size that they can have; how much of it counts is a number beside it. A
`bind_size` makes a symbol of that number, and a slice to that symbol is the result.
"""

# mypy: disable-error-code="no-any-return"
# (operators hand back `Any`: their results are read from their types)

from __future__ import annotations

from ..dims import Dim, DimExpr
from ..ops import Expr, composite, op
from ..types import DType, TensorType
from .math import where
from .movement import dim_value, full, iota, reshape, scatter_nd, slice_
from .reduce import cumsum

__all__ = ["bind_size", "suppress", "true_places"]


@op("bind_size", "binds")
def bind_size(count: TensorType, /, *, size: Dim) -> TensorType:
    """`count`, which from here on is the value of `size`: of a symbol, or it must be equal.

    A symbol that neither an input nor a node above determines gets the value; any other size must
    have it already, else running fails. Never dead, and never moved: uses name the symbol only.
    """
    if count.dtype is not DType.i64 or count.rank:
        raise ValueError(f"needs one number of i64, not {count}")
    assert isinstance(size, int | DimExpr)
    return count


@composite("true_places")
def true_places(flags: Expr, /) -> Expr:
    """The places of what is true in `bool[N]`, in order, then zeros: `i64[N]`."""
    (size,) = flags.shape
    ends = cumsum(where(flags, full(value=1, shape=(size,), dtype=DType.i64), 0), axis=0)
    beyond = dim_value(size=size, dtype=DType.i64)
    targets = reshape(where(flags, ends - 1, beyond), shape=(size, 1))
    blank = full(value=0, shape=(size + 1,), dtype=DType.i64)
    found = scatter_nd(blank, targets, iota(size=size, dtype=DType.i64))
    return slice_(found, axis=0, start=0, stop=size)


@op("suppress", "pure")
def suppress(
    boxes: TensorType, scores: TensorType, most: TensorType, overlap: TensorType,
    lowest: TensorType, /, *, center: bool = False,
) -> TensorType:  # fmt: skip
    """Which boxes remain of rows of boxes that stand by falling score: non-maximum suppression.

    A box of `f32[R, N, 4]` remains if its score (`f32[R, N]`) is above `lowest`, fewer than `most`
    (i64) remain before it, and it shares no more than `overlap` of the union with one of these.
    Corners are (y, x, y, x), in any order; or `center`: (x, y, width, height).
    """
    rows, count = scores.shape if scores.rank == 2 else (0, 0)
    if boxes.shape != (rows, count, 4) or boxes.dtype is not DType.f32:
        raise ValueError(f"{boxes} and {scores} are no rows of boxes and their scores")
    scalars = (scores.dtype, most.dtype, overlap.dtype, lowest.dtype)
    if scalars != (DType.f32, DType.i64, DType.f32, DType.f32):
        raise ValueError("scores and limits are f32, the number of boxes is i64")
    if most.rank or overlap.rank or lowest.rank:
        raise ValueError("limits are single numbers")
    return scores.with_dtype(DType.bool)
