"""Composites of one or two operands: activations, softmax, dequantization, linear layers."""

from __future__ import annotations

from collections.abc import Callable
from math import pi, sqrt

from ..ops import Expr, composite
from .control import matmul
from .math import cast, erf, exp, log, maximum, minimum, sigmoid, tanh
from .reduce import reduce_max, reduce_sum

__all__ = ["ACTIVATIONS", "clip", "dequantize", "gelu", "linear", "log_softmax", "relu", "silu",
           "softmax"]  # fmt: skip


@composite("relu", "elementwise")
def relu(x: Expr, /) -> Expr:
    """`x` where it is positive, else 0."""
    return maximum(x, 0)


@composite("gelu", "elementwise")
def gelu(x: Expr, /, *, approximate: str = "none") -> Expr:
    """`x` times the normal distribution function of `x` (Hendrycks and Gimpel, 2016).

    `approximate` "tanh" is their polynomial form, "sigmoid" is `x * sigmoid(1.702 x)`.
    """
    if approximate == "tanh":
        inner = (x + x * x * x * 0.044715) * sqrt(2 / pi)
        return x * 0.5 * (tanh(inner) + 1.0)
    if approximate == "sigmoid":
        return x * sigmoid(x * 1.702)
    if approximate != "none":
        raise ValueError(f"`approximate` cannot be `{approximate}`: none, tanh or sigmoid")
    return x * 0.5 * (erf(x * sqrt(0.5)) + 1.0)


@composite("silu", "elementwise")
def silu(x: Expr, /) -> Expr:
    """`x * sigmoid(x)` (Elfwing et al., 2017), also called swish."""
    return x * sigmoid(x)


@composite("clip", "elementwise")
def clip(x: Expr, /, *, low: float, high: float) -> Expr:
    """`x` held between two bounds."""
    return minimum(maximum(x, low), high)


@composite("softmax")
def softmax(x: Expr, /, *, axis: int = -1) -> Expr:
    """`exp(x)` divided by its sum along `axis`; a row of -inf gives NaN."""
    shifted = exp(x - reduce_max(x, axes=(axis,), keepdims=True))
    return shifted / reduce_sum(shifted, axes=(axis,), keepdims=True)


@composite("log_softmax")
def log_softmax(x: Expr, /, *, axis: int = -1) -> Expr:
    """The logarithm of `softmax`, without leaving the range of the type."""
    shifted = x - reduce_max(x, axes=(axis,), keepdims=True)
    return shifted - log(reduce_sum(exp(shifted), axes=(axis,), keepdims=True))


@composite("dequantize", "elementwise")
def dequantize(x: Expr, scale: Expr, /) -> Expr:
    """Integers as floats of the type of `scale`, times `scale`; symmetric."""
    return cast(x, dtype=scale.dtype) * scale


ACTIVATIONS: dict[str, Callable[[Expr], Expr]] = {
    "none": lambda x: x,
    "relu": lambda x: relu(x),
    "gelu": lambda x: gelu(x),
    "gelu_tanh": lambda x: gelu(x, approximate="tanh"),
    "gelu_sigmoid": lambda x: gelu(x, approximate="sigmoid"),
    "silu": lambda x: silu(x),
    "tanh": lambda x: tanh(x),
    "sigmoid": lambda x: sigmoid(x),
}


@composite("linear")
def linear(
    x: Expr,
    weight: Expr,
    bias: Expr | None = None,
    scale: Expr | None = None,
    /,
    *,
    activation: str = "none",
) -> Expr:
    """`activation((x @ weight) * scale + bias)`: `[..., K]`, `[K, N]`, `[N]`, `[N]` → `[..., N]`.

    The weight may hold integers: they stand for floats, `scale` belongs to them (per column).
    """
    if activation not in ACTIVATIONS:
        raise ValueError(f"`activation` cannot be `{activation}`: {', '.join(ACTIVATIONS)}")
    if len(weight.shape) != 2:
        raise ValueError(f"needs a matrix for weight, not {weight.type}")
    y = matmul(x, weight if weight.dtype is x.dtype else cast(weight, dtype=x.dtype))
    if scale is not None:
        y = y * scale
    if bias is not None:
        y = y + bias
    return ACTIVATIONS[activation](y)
