"""The NumPy meaning of each primitive: a table from its name to a function of arrays.

A function takes the operands by position and the attributes, sizes known, by name. Narrow floats
are computed in f32 and rounded once, as every machine that we know does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .constants import Constant
from .numpy_movement import MOVEMENT_RULES
from .numpy_reduce import REDUCE_RULES
from .numpy_sizes import SIZE_RULES
from .numpy_windows import WINDOW_RULES
from .types import DType

__all__ = ["NUMPY_RULES", "Rule"]

Array = NDArray[Any]
Rule = Callable[..., Array | tuple[Array, ...]]

_NARROW = (DType.f16.numpy, DType.bf16.numpy)


def _wide(x: Array) -> Array:
    return x.astype(np.float32) if x.dtype in _NARROW else x


def _numeric(function: Callable[..., Array]) -> Rule:
    """A rule whose result has the element type of the operands."""

    def rule(*xs: Array) -> Array:
        return np.asarray(function(*map(_wide, xs))).astype(xs[0].dtype, copy=False)

    return rule


def _logical(function: Callable[..., Array]) -> Rule:
    """A rule whose result is bool."""

    def rule(*xs: Array) -> Array:
        return np.asarray(function(*map(_wide, xs))).astype(np.bool_, copy=False)

    return rule


# Rational forms of the error function (Cody 1969) with the coefficients of Cephes (Moshier 1989).
_T = (9.60497373987051638749e0, 9.00260197203842689217e1, 2.23200534594684319226e3,
      7.00332514112805075473e3, 5.55923013010394962768e4)  # fmt: skip
_U = (1.0, 3.35617141647503099647e1, 5.21357949780152679795e2, 4.59432382970980127987e3,
      2.26290000613890934246e4, 4.92673942608635921086e4)  # fmt: skip
_P = (2.46196981473530512524e-10, 5.64189564831068821977e-1, 7.46321056442269912687e0,
      4.86371970985681366614e1, 1.96520832956077098242e2, 5.26445194995477358631e2,
      9.34528527171957607540e2, 1.02755188689515710272e3, 5.57535335369399327526e2)  # fmt: skip
_Q = (1.0, 1.32281951154744992508e1, 8.67072140885989742329e1, 3.54937778887819891062e2,
      9.75708501743205489753e2, 1.82390916687909736289e3, 2.24633760818710981792e3,
      1.65666309194161350182e3, 5.57535340817727675546e2)  # fmt: skip


def _erf(x: Array) -> Array:
    wide = x.astype(np.float64)
    size = np.minimum(np.abs(wide), 6.5)  # beyond, erf is 1 in f64
    square = size * size
    inner = size * np.polyval(_T, square) / np.polyval(_U, square)
    outer = 1.0 - np.exp(-square) * np.polyval(_P, size) / np.polyval(_Q, size)
    return np.copysign(np.where(size <= 1.0, inner, outer), wide).astype(x.dtype)


def _sigmoid(x: Array) -> Array:
    return np.asarray(1 / (1 + np.exp(-x)), x.dtype)


def _div(x: Array, y: Array) -> Array:
    if not np.issubdtype(x.dtype, np.integer):
        return np.asarray(np.divide(x, y))
    down = np.floor_divide(x, y)
    inexact = (x - down * y != 0) & ((x < 0) != (y < 0))
    return np.asarray(down + inexact.astype(x.dtype))


def _pow(x: Array, y: Array) -> Array:
    if not np.issubdtype(x.dtype, np.integer):
        return np.asarray(np.power(x, y))
    if np.issubdtype(x.dtype, np.unsignedinteger):
        return np.asarray(np.power(x, y))
    whole = np.power(x, np.maximum(y, 0))
    sign = np.where(np.bitwise_and(y, 1), x, np.ones_like(x))
    below = np.where(np.abs(x) == 1, sign, np.zeros_like(x))  # 1 / x**-y, towards zero
    return np.asarray(np.where(y < 0, below, whole))


def _cast(x: Array, *, dtype: DType) -> Array:
    if dtype is DType.bool:
        return np.asarray(x != 0)
    return x.astype(dtype.numpy)


def _bitcast(x: Array, *, dtype: DType) -> Array:
    return np.asarray(x, order="C").view(dtype.numpy)


def _where(condition: Array, x: Array, y: Array) -> Array:
    return np.where(condition, x, y)


def _constant(*, value: Constant) -> Array:
    return value.array


def _full(*, value: float, shape: tuple[int, ...], dtype: DType) -> Array:
    return np.full(shape, np.asarray(value).astype(dtype.numpy))


def _iota(*, size: int, dtype: DType) -> Array:
    return np.arange(size).astype(dtype.numpy)


def _dim_value(*, size: int, dtype: DType) -> Array:
    return np.asarray(size).astype(dtype.numpy)


NUMPY_RULES: dict[str, Rule] = {
    "neg": _numeric(np.negative),
    "abs": _numeric(np.abs),
    "sign": _numeric(np.sign),
    "exp": _numeric(np.exp),
    "log": _numeric(np.log),
    "sqrt": _numeric(np.sqrt),
    "rsqrt": _numeric(lambda x: 1 / np.sqrt(x)),
    "reciprocal": _numeric(lambda x: 1 / x),
    "tanh": _numeric(np.tanh),
    "sigmoid": _numeric(_sigmoid),
    "erf": _numeric(_erf),
    "sin": _numeric(np.sin),
    "cos": _numeric(np.cos),
    "floor": _numeric(np.floor),
    "ceil": _numeric(np.ceil),
    "round": _numeric(np.rint),
    "isnan": _logical(np.isnan),
    "isinf": _logical(np.isinf),
    "logical_not": _logical(np.logical_not),
    "bitwise_not": _numeric(np.invert),
    "add": _numeric(np.add),
    "sub": _numeric(np.subtract),
    "mul": _numeric(np.multiply),
    "div": _numeric(_div),
    "mod": _numeric(np.mod),
    "pow": _numeric(_pow),
    "maximum": _numeric(np.maximum),
    "minimum": _numeric(np.minimum),
    "equal": _logical(np.equal),
    "not_equal": _logical(np.not_equal),
    "less": _logical(np.less),
    "less_equal": _logical(np.less_equal),
    "greater": _logical(np.greater),
    "greater_equal": _logical(np.greater_equal),
    "logical_and": _logical(np.logical_and),
    "logical_or": _logical(np.logical_or),
    "logical_xor": _logical(np.logical_xor),
    "bitwise_and": _numeric(np.bitwise_and),
    "bitwise_or": _numeric(np.bitwise_or),
    "bitwise_xor": _numeric(np.bitwise_xor),
    "where": _where,
    "cast": _cast,
    "bitcast": _bitcast,
    "constant": _constant,
    "full": _full,
    "iota": _iota,
    "dim_value": _dim_value,
    "matmul": _numeric(np.matmul),
    **MOVEMENT_RULES,
    **REDUCE_RULES,
    **SIZE_RULES,
    **WINDOW_RULES,
}
