"""Composites that take over the memory of an operand: what they write, they write in its place."""

from __future__ import annotations

from ..dims import Dim
from ..ops import Expr, composite
from .movement import concat, normal_axis, slice_

__all__ = ["write_slice"]


@composite("write_slice", "in_place")
def write_slice(x: Expr, update: Expr, /, *, axis: int, start: Dim) -> Expr:
    """`x` with `update` instead of its elements from `start` on along `axis`; of the type of `x`.

    The result has the memory of `x`, which nothing else may read: the verifier holds a graph to
    that. `start` plus the length of `update` is at most the size of the axis; where sizes are
    symbols, whoever runs the graph sees to it.
    """
    place = normal_axis(axis, len(x.shape))
    stop = start + update.shape[place]
    before = slice_(x, axis=place, start=0, stop=start)
    behind = slice_(x, axis=place, start=stop, stop=x.shape[place])
    return concat(before, update, behind, axis=place)
