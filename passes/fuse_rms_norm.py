"""Root mean square normalization, written out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tunesmith.ir.builder import Builder
from tunesmith.ir.graph import Value
from tunesmith.ir.ops import Expr
from tunesmith.ir.opset.math import div, pow_, reciprocal, rsqrt, sqrt
from tunesmith.ir.opset.norm import rms_norm
from tunesmith.ir.opset.reduce import reduce_mean

from .fuse_pass import FusePass
from .patterns import Match

__all__ = ["FuseRmsNorm"]


def _mean_square(x: Expr) -> Expr:
    return reduce_mean(x * x, axes=(-1,), keepdims=True)


def scaled_first(x: Expr, weight: Expr, /, *, epsilon: float) -> Expr:
    """The weight comes before the division."""
    return x * weight * rsqrt(_mean_square(x) + epsilon)


def scale_apart(x: Expr, weight: Expr, /, *, epsilon: float) -> Expr:
    """The weight and the root are multiplied first."""
    return x * (rsqrt(_mean_square(x) + epsilon) * weight)


def divided(x: Expr, weight: Expr, /, *, epsilon: float) -> Expr:
    """The root divides."""
    return div(x, sqrt(_mean_square(x) + epsilon)) * weight


def powered(x: Expr, weight: Expr, /, *, epsilon: float) -> Expr:
    """The dynamo exporter at opset 18, before canonicalization."""
    mean_square = reduce_mean(pow_(x, 2.0), axes=(-1,), keepdims=True)
    return x * reciprocal(sqrt(mean_square + epsilon)) * weight


def weightless(x: Expr, /, *, epsilon: float) -> Expr:
    """No weight: as if it were ones."""
    return x * rsqrt(_mean_square(x) + epsilon)


def weightless_divided(x: Expr, /, *, epsilon: float) -> Expr:
    """No weight, and the root divides."""
    return div(x, sqrt(_mean_square(x) + epsilon))


@dataclass(frozen=True, kw_only=True)
class FuseRmsNorm(FusePass):
    """`x * rsqrt(mean(x * x) + epsilon) * weight  =>  rms_norm(x, weight)`.

    Without a weight, ones stand in for it. A half-precision model that normalizes in f32 keeps its
    casts around the norm: squares of halves overflow.
    """

    name = "fuse-rms-norm"
    result = rms_norm
    spellings = (scaled_first, scale_apart, divided, powered, weightless, weightless_divided)

    def guard(self, match: Match) -> str | None:
        """The weight is a vector over the last axis, whose size must be known to write ones."""
        row = match["x"].type.shape[-1:]
        weight = match.get("weight")
        if weight is None:
            return None if isinstance(row[0], int) else "the size of a row is not known"
        return None if weight.type.shape == row else "`weight` is not a vector over the last axis"

    def operands(self, match: Match, build: Builder) -> list[Value | None]:
        """`x` and the weight, or ones."""
        x, weight = match["x"], match.get("weight")
        if weight is None:
            row = x.type.shape[-1]
            assert isinstance(row, int)
            weight = build.constant(np.ones(row, dtype=x.type.dtype.numpy), "ones").value
        return [x, weight]
