"""Composites that normalize rows."""

from __future__ import annotations

from ..ops import Expr, composite
from .math import rsqrt
from .reduce import reduce_mean

__all__ = ["layer_norm", "rms_norm"]


@composite("layer_norm")
def layer_norm(
    x: Expr, weight: Expr, bias: Expr | None = None, /, *, epsilon: float = 1e-5
) -> Expr:
    """Shift each row to mean 0, divide it by its deviation, scale and shift (Ba et al., 2016).

    Rows are the last axis; `weight` and `bias` are `[row]`; `epsilon` stands inside the root.
    """
    centered = x - reduce_mean(x, axes=(-1,), keepdims=True)
    variance = reduce_mean(centered * centered, axes=(-1,), keepdims=True)
    y = centered * rsqrt(variance + epsilon) * weight
    return y if bias is None else y + bias


@composite("rms_norm")
def rms_norm(x: Expr, weight: Expr, /, *, epsilon: float = 1e-6) -> Expr:
    """Divide each row by its root mean square, then scale it by `weight` (Zhang 2019)."""
    mean_square = reduce_mean(x * x, axes=(-1,), keepdims=True)
    return x * rsqrt(mean_square + epsilon) * weight
