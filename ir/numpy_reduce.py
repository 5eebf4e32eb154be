"""The NumPy meaning of the primitives that fold axes; see `numpy_rules.py`."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .types import DType

__all__ = ["REDUCE_RULES"]

Array = NDArray[Any]
Axes = tuple[int, ...]


def _wide(x: Array) -> Array:
    return x.astype(np.float32) if x.dtype in (DType.f16.numpy, DType.bf16.numpy) else x


def _sum(x: Array, *, axes: Axes, keepdims: bool) -> Array:
    wide = _wide(x)
    return np.asarray(np.sum(wide, axes, wide.dtype, keepdims=keepdims)).astype(x.dtype)


def _mean(x: Array, *, axes: Axes, keepdims: bool) -> Array:
    wide = _wide(x)
    if np.issubdtype(x.dtype, np.floating) or wide is not x:
        return np.asarray(np.mean(wide, axes, keepdims=keepdims)).astype(x.dtype)
    total = np.sum(x, axes, np.int64, keepdims=keepdims)
    count = prod(x.shape[axis] for axis in axes)
    return np.asarray(np.sign(total) * (np.abs(total) // count)).astype(x.dtype)


def _prod(x: Array, *, axes: Axes, keepdims: bool) -> Array:
    wide = _wide(x)
    return np.asarray(np.prod(wide, axes, wide.dtype, keepdims=keepdims)).astype(x.dtype)


def _lowest(dtype: np.dtype[Any]) -> Any:
    if dtype == np.bool_:
        return False
    kind = DType.of(dtype)
    return -np.inf if kind.is_float else np.iinfo(dtype).min


def _highest(dtype: np.dtype[Any]) -> Any:
    if dtype == np.bool_:
        return True
    kind = DType.of(dtype)
    return np.inf if kind.is_float else np.iinfo(dtype).max


def _max(x: Array, *, axes: Axes, keepdims: bool) -> Array:
    wide = _wide(x)
    result = np.max(wide, axes, keepdims=keepdims, initial=_lowest(wide.dtype))
    return np.asarray(result).astype(x.dtype)


def _min(x: Array, *, axes: Axes, keepdims: bool) -> Array:
    wide = _wide(x)
    result = np.min(wide, axes, keepdims=keepdims, initial=_highest(wide.dtype))
    return np.asarray(result).astype(x.dtype)


def _all(x: Array, *, axes: Axes, keepdims: bool) -> Array:
    return np.asarray(np.all(x, axes, keepdims=keepdims))


def _place(find: Callable[..., Array], x: Array, axis: int, keepdims: bool, last: bool) -> Array:
    wide = _wide(x)
    if not last:
        return np.asarray(find(wide, axis, keepdims=keepdims)).astype(np.int64)
    backwards = np.asarray(find(np.flip(wide, axis), axis, keepdims=keepdims))
    return np.asarray(x.shape[axis] - 1 - backwards, np.int64)


def _argmax(x: Array, *, axis: int, keepdims: bool, last: bool) -> Array:
    return _place(np.argmax, x, axis, keepdims, last)


def _argmin(x: Array, *, axis: int, keepdims: bool, last: bool) -> Array:
    return _place(np.argmin, x, axis, keepdims, last)


def _cumsum(x: Array, *, axis: int, exclusive: bool, reverse: bool) -> Array:
    wide = np.flip(_wide(x), axis) if reverse else _wide(x)
    total = np.cumsum(wide, axis, wide.dtype)
    if exclusive:
        total = np.roll(total, 1, axis)
        first: list[Any] = [slice(None)] * x.ndim
        first[axis] = slice(0, 1)
        total[tuple(first)] = 0
    return (np.flip(total, axis) if reverse else total).astype(x.dtype)


def _topk(x: Array, *, k: int, axis: int, largest: bool) -> tuple[Array, Array]:
    wide = _wide(x)
    if largest:  # a stable order of the reversed axis, reversed: the first of equals comes first
        order = np.argsort(np.flip(wide, axis), axis, kind="stable")
        places = x.shape[axis] - 1 - np.flip(order, axis)
    else:
        places = np.argsort(wide, axis, kind="stable")
    places = np.take(places, np.arange(k), axis).astype(np.int64)
    return np.take_along_axis(x, places, axis), places


REDUCE_RULES: dict[str, Callable[..., Array | tuple[Array, ...]]] = {
    "reduce_sum": _sum,
    "reduce_mean": _mean,
    "reduce_max": _max,
    "reduce_min": _min,
    "reduce_prod": _prod,
    "reduce_all": _all,
    "argmax": _argmax,
    "argmin": _argmin,
    "cumsum": _cumsum,
    "topk": _topk,
}
