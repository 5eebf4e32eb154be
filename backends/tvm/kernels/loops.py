"""Loop nests shared by kernels that are not products: whole vectors, then what is left."""

from __future__ import annotations

from collections.abc import Callable

from tvm import tirx
from tvm.ir import Expr as Prim
from tvm.tirx.script import builder as T

from tunesmith.ir.dims import Dim, DimExpr, bounds

from ..index import Sizes, int64
from ..schedule import emit
from ..schedule.emit import vector_loop

__all__ = ["columns", "for_each", "is_large"]

_SMALL = 16384  # elements; below, waking the other threads costs more than it brings


def is_large(size: Dim) -> bool:
    """Whether work on so many elements should be shared out."""
    high = bounds(size)[1]
    return high is None or high > _SMALL


def columns(
    count: Dim | Prim,
    lanes: int,
    sizes: Sizes,
    body: Callable[[Prim], None],
    start: Prim | None = None,
) -> None:
    """Run `body(column)` for `count` columns from `start`: in vectors of `lanes`, then singly."""

    def at(column: Prim) -> Prim:
        return column if start is None else start + column

    known = count if isinstance(count, int) else None
    total = sizes.expr(count) if isinstance(count, int | DimExpr) else count
    if lanes == 1:
        with T.serial(total) as column:
            body(at(column))
        return
    whole = int64(known // lanes) if known is not None else tirx.floordiv(total, int64(lanes))
    rest = int64(known % lanes) if known is not None else tirx.floormod(total, int64(lanes))
    if known is None or known >= lanes:
        with T.serial(whole) as block, vector_loop(lanes) as lane:
            body(at(block * int64(lanes) + lane))
    if known is None or known % lanes:
        with T.serial(rest) as column:
            body(at(whole * int64(lanes) + column))


def for_each(count: Dim, sizes: Sizes, parallel: bool, body: Callable[[Prim], None]) -> None:
    """Run `body(i)` for i below `count`, shared out over the threads if it is large."""
    if count == 1:
        body(int64(0))
        return
    with emit.loop(sizes.expr(count), parallel=parallel) as i:
        body(i)
