"""Clipping between two constants, written out."""

from __future__ import annotations

from dataclasses import dataclass

from tunesmith.ir.ops import Expr
from tunesmith.ir.opset.activation import clip
from tunesmith.ir.opset.math import maximum, minimum

from .fuse_pass import FusePass
from .patterns import Match

__all__ = ["FuseClip"]


def lower_last(x: Expr, /, *, low: float, high: float) -> Expr:
    """The upper bound is applied first."""
    return maximum(minimum(x, high), low)


@dataclass(frozen=True, kw_only=True)
class FuseClip(FusePass):
    """`minimum(maximum(x, low), high)  =>  clip(x)`."""

    name = "fuse-clip"
    result = clip
    spellings = (lower_last,)

    def guard(self, match: Match) -> str | None:
        """The bounds are floats in order: otherwise the two spellings differ."""
        low, high = match.attributes["low"], match.attributes["high"]
        if not isinstance(low, float) or not isinstance(high, float):
            return "the bounds are not floats"
        return None if low <= high else "`low` is above `high`"
