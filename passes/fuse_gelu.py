"""GELU, written out: by the error function, by tanh, by the logistic function."""

from __future__ import annotations

from dataclasses import dataclass
from math import pi, sqrt

from tunesmith.ir.ops import Expr
from tunesmith.ir.opset.activation import gelu
from tunesmith.ir.opset.math import erf, pow_, tanh

from .fuse_pass import FusePass

__all__ = ["FuseGelu"]


def _erf(x: Expr, divide: bool) -> Expr:
    return erf(x / sqrt(2.0) if divide else x * sqrt(0.5)) + 1.0


def erf_half_last(x: Expr, /, *, approximate: str = "none") -> Expr:
    """TorchScript: `x * (1 + erf(x / √2)) * 0.5`."""
    return x * _erf(x, True) * 0.5


def erf_half_first(x: Expr, /, *, approximate: str = "none") -> Expr:
    """`x * 0.5 * (1 + erf(x / √2))`."""
    return x * 0.5 * _erf(x, True)


def erf_half_inside(x: Expr, /, *, approximate: str = "none") -> Expr:
    """The dynamo exporter: `x * (0.5 * (1 + erf(x / √2)))`."""
    return x * (_erf(x, True) * 0.5)


def erf_product_half_last(x: Expr, /, *, approximate: str = "none") -> Expr:
    """`x * (1 + erf(x * √½)) * 0.5`."""
    return x * _erf(x, False) * 0.5


def erf_product_half_inside(x: Expr, /, *, approximate: str = "none") -> Expr:
    """`x * (0.5 * (1 + erf(x * √½)))`."""
    return x * (_erf(x, False) * 0.5)


def _tanh(x: Expr, cube: Expr) -> Expr:
    return tanh((x + cube * 0.044715) * sqrt(2 / pi)) + 1.0


def tanh_power(x: Expr, /, *, approximate: str = "tanh") -> Expr:
    """GPT-2 (`NewGELU`): the cube is a power."""
    return x * 0.5 * _tanh(x, pow_(x, 3.0))


def tanh_power_half_last(x: Expr, /, *, approximate: str = "tanh") -> Expr:
    """The cube is a power, the half comes last."""
    return x * _tanh(x, pow_(x, 3.0)) * 0.5


def tanh_power_half_inside(x: Expr, /, *, approximate: str = "tanh") -> Expr:
    """The cube is a power, the half is multiplied first."""
    return x * (_tanh(x, pow_(x, 3.0)) * 0.5)


def tanh_product_half_last(x: Expr, /, *, approximate: str = "tanh") -> Expr:
    """The cube is `x * (x * x)`, the half comes last."""
    return x * _tanh(x, x * (x * x)) * 0.5


def tanh_product_half_inside(x: Expr, /, *, approximate: str = "tanh") -> Expr:
    """The cube is `x * (x * x)`, the half is multiplied first."""
    return x * (_tanh(x, x * (x * x)) * 0.5)


def tanh_factored(x: Expr, /, *, approximate: str = "tanh") -> Expr:
    """`x` is taken out of the polynomial (Gelu-fast): `x * √(2/π) * (1 + 0.044715 x x)`."""
    return x * 0.5 * (tanh(x * sqrt(2 / pi) * (x * 0.044715 * x + 1.0)) + 1.0)


@dataclass(frozen=True, kw_only=True)
class FuseGelu(FusePass):
    """`x * 0.5 * (1 + erf(x / √2))  =>  gelu(x)`, and the tanh and sigmoid forms of it."""

    name = "fuse-gelu"
    result = gelu
    spellings = (
        erf_half_last, erf_half_first, erf_half_inside, erf_product_half_last,
        erf_product_half_inside, tanh_power, tanh_power_half_last, tanh_power_half_inside,
        tanh_product_half_last, tanh_product_half_inside, tanh_factored,
    )  # fmt: skip
    choices = {"approximate": ("none", "tanh", "sigmoid")}  # noqa: RUF012  # never written to
