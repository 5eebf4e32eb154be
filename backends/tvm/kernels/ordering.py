"""Which of two elements stands first, where NaNs have a place too."""

from __future__ import annotations

from collections.abc import Callable

from tvm import tirx
from tvm.ir import Expr as Prim

from tunesmith.ir.types import DType

from .scalar import is_nan

__all__ = ["Test", "order"]

Test = Callable[[Prim, Prim], Prim]


def order(greatest: bool, dtype: DType, nan_first: bool) -> tuple[Test, Test]:
    """Whether one element stands before another, and whether before it or beside it.

    All NaNs stand at one end. Neither test is the negation of the other: TVM knows no NaN.
    """

    def before(x: Prim, y: Prim) -> Prim:
        wins = x > y if greatest else x < y
        if not dtype.is_float:
            return wins
        odd, even = (x, y) if nan_first else (y, x)
        return tirx.any(wins, tirx.all(is_nan(odd), tirx.Not(is_nan(even))))

    def beside(x: Prim, y: Prim) -> Prim:
        wins = x >= y if greatest else x <= y
        return tirx.any(wins, is_nan(x if nan_first else y)) if dtype.is_float else wins

    return before, beside
