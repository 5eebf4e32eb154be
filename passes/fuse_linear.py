"""Linear layers: a product with a weight, and what is done to its result."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tunesmith.ir.builder import Builder
from tunesmith.ir.constants import Constant
from tunesmith.ir.graph import Value
from tunesmith.ir.ops import Expr
from tunesmith.ir.opset.activation import ACTIVATIONS, dequantize, linear
from tunesmith.ir.opset.control import matmul
from tunesmith.ir.opset.math import cast
from tunesmith.ir.types import DType

from .fuse_pass import FusePass
from .patterns import ANY, Match

__all__ = ["FuseLinear"]


def product(x: Expr, weight: Expr, /) -> Expr:
    """A product with a constant matrix."""
    return matmul(x, weight)


def integers(x: Expr, weight: Expr, /) -> Expr:
    """The matrix is stored as integers that need no scale, or as narrower floats."""
    return matmul(x, cast(weight, dtype=ANY))


def dequantized(x: Expr, weight: Expr, scale: Expr, /) -> Expr:
    """The matrix is stored as integers, with a scale for each column."""
    return matmul(x, dequantize(weight, scale))


def multiplied(x: Expr, weight: Expr, scale: Expr, /) -> Expr:
    """The same before it is a `dequantize`."""
    return matmul(x, cast(weight, dtype=ANY) * scale)


def scaled(x: Expr, weight: Expr, scale: Expr, /) -> Expr:
    """The scale of integers, applied to the product."""
    return linear(x, weight) * scale


def biased(x: Expr, weight: Expr, bias: Expr, scale: Expr | None = None, /) -> Expr:
    """A bias for each column."""
    return linear(x, weight, None, scale) + bias


def activated(
    x: Expr,
    weight: Expr,
    bias: Expr | None = None,
    scale: Expr | None = None,
    /,
    *,
    activation: str,
) -> Expr:
    """An activation that is the only reader."""
    return ACTIVATIONS[activation](linear(x, weight, bias, scale))


@dataclass(frozen=True, kw_only=True)
class FuseLinear(FusePass):
    """`activation((x @ weight) * scale + bias)  =>  linear(x, weight, bias, scale)`."""

    name = "fuse-linear"
    result = linear
    from_decomposition = False
    spellings = (product, integers, dequantized, multiplied, scaled, biased, activated)
    choices = {"activation": tuple(a for a in ACTIVATIONS if a != "none")}  # noqa: RUF012  # never written to

    def guard(self, match: Match) -> str | None:
        """The weight is a constant matrix, floats no wider than `x` or scaled integers; the rest
        vectors.
        """
        x, weight = match["x"].type, match["weight"]
        if weight.constant is None or weight.type.rank != 2:
            return "`weight` is not a constant matrix"
        narrow = x.dtype is DType.f32 and weight.type.dtype in (DType.f16, DType.bf16)
        if not weight.type.dtype.is_integer and weight.type.dtype is not x.dtype and not narrow:
            return f"`weight` holds {weight.type.dtype}, `x` {x.dtype}"
        columns = weight.type.shape[1]
        bias, scale = match.get("bias"), match.get("scale")
        if bias is not None and bias.type.shape != (columns,):
            residual = bias.constant is None
            return "" if residual else f"`bias` is {bias.type}, not a vector of {columns} elements"
        if scale is None:
            return None
        if not weight.type.dtype.is_integer:
            return "`scale` belongs to an integer `weight`" if scale.constant is not None else ""
        if scale.constant is None or scale.type.shape not in ((), (1,), (columns,), (1, columns)):
            return f"`scale` is {scale.type}, not one constant for each of {columns} columns"
        return None

    def operands(self, match: Match, build: Builder) -> list[Value | None]:
        """The scale becomes a vector over the columns."""
        found = super().operands(match, build)
        columns = match["weight"].type.shape[1]
        scale = match.get("scale")
        if scale is not None and scale.type.shape != (columns,):
            assert scale.constant is not None and isinstance(columns, int)
            array = np.broadcast_to(scale.constant.array.reshape(-1), (columns,)).copy()
            found[3] = build.constant(Constant(array), scale.name).value
        return found
