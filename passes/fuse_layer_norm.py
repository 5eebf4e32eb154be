"""Layer normalization, written out."""

from __future__ import annotations

from dataclasses import dataclass

from tunesmith.ir.ops import Expr
from tunesmith.ir.opset.math import div, pow_, rsqrt, sqrt
from tunesmith.ir.opset.norm import layer_norm
from tunesmith.ir.opset.reduce import reduce_mean

from .fuse_pass import FusePass
from .patterns import Match

__all__ = ["FuseLayerNorm"]


def _scaled(y: Expr, weight: Expr, bias: Expr | None) -> Expr:
    return y * weight if bias is None else y * weight + bias


def _variance(centered: Expr) -> Expr:
    return reduce_mean(centered * centered, axes=(-1,), keepdims=True)


def divided(x: Expr, weight: Expr, bias: Expr | None = None, /, *, epsilon: float) -> Expr:
    """TorchScript at opset 14: the deviation divides."""
    centered = x - reduce_mean(x, axes=(-1,), keepdims=True)
    return _scaled(div(centered, sqrt(_variance(centered) + epsilon)), weight, bias)


def twice_centered(x: Expr, weight: Expr, bias: Expr | None = None, /, *, epsilon: float) -> Expr:
    """The variance centers `x` by itself."""
    centered = x - reduce_mean(x, axes=(-1,), keepdims=True)
    again = x - reduce_mean(x, axes=(-1,), keepdims=True)
    return _scaled(div(centered, sqrt(_variance(again) + epsilon)), weight, bias)


def powered(x: Expr, weight: Expr, bias: Expr | None = None, /, *, epsilon: float) -> Expr:
    """As exported: a power of 2 that nobody has canonicalized."""
    centered = x - reduce_mean(x, axes=(-1,), keepdims=True)
    variance = reduce_mean(pow_(centered, 2.0), axes=(-1,), keepdims=True)
    return _scaled(div(centered, sqrt(variance + epsilon)), weight, bias)


def weight_first(x: Expr, weight: Expr, bias: Expr | None = None, /, *, epsilon: float) -> Expr:
    """The deviation and the weight are multiplied before the rows are."""
    centered = x - reduce_mean(x, axes=(-1,), keepdims=True)
    return _scaled(centered, rsqrt(_variance(centered) + epsilon) * weight, bias)


@dataclass(frozen=True, kw_only=True)
class FuseLayerNorm(FusePass):
    """`(x - mean(x)) / sqrt(mean((x - mean(x))²) + epsilon) * weight + bias  =>  layer_norm`."""

    name = "fuse-layer-norm"
    result = layer_norm
    spellings = (divided, twice_centered, powered, weight_first)

    def guard(self, match: Match) -> str | None:
        """Weight and bias are vectors over the last axis."""
        row = match["x"].type.shape[-1:]
        if match["weight"].type.shape != row:
            return "`weight` is not a vector over the last axis"
        bias = match.get("bias")
        if bias is not None and bias.type.shape != row:
            return "`bias` is not a vector over the last axis"
        return None
