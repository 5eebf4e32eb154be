"""The NumPy meaning of the primitives that move elements; see `numpy_rules.py`."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .types import DType

__all__ = ["MOVEMENT_RULES"]

Array = NDArray[Any]


def _reshape(x: Array, *, shape: tuple[int, ...]) -> Array:
    return x.reshape(shape)


def _transpose(x: Array, *, perm: tuple[int, ...]) -> Array:
    return x.transpose(perm)


def _expand(x: Array, *, shape: tuple[int, ...]) -> Array:
    return np.broadcast_to(x, shape)


def _slice(x: Array, *, axis: int, start: int, stop: int, step: int) -> Array:
    end = None if step < 0 and stop < 0 else stop
    places: list[slice] = [slice(None)] * x.ndim
    places[axis] = slice(start, end, step)
    return x[tuple(places)]


def _concat(*xs: Array, axis: int) -> Array:
    return np.concatenate(xs, axis)


def _pad(x: Array, *, low: tuple[int, ...], high: tuple[int, ...], value: float) -> Array:
    sizes = zip(x.shape, low, high, strict=True)
    kept = tuple(slice(max(-a, 0), n - max(-b, 0)) for n, a, b in sizes)
    widths = [(max(a, 0), max(b, 0)) for a, b in zip(low, high, strict=True)]
    return np.pad(x[kept], widths, constant_values=np.asarray(value).astype(x.dtype))


def _gather(x: Array, indices: Array, *, axis: int) -> Array:
    return np.take(x, indices, axis)


def _gather_elements(x: Array, indices: Array, *, axis: int) -> Array:
    axis %= max(x.ndim, 1)
    kept = tuple(slice(None if i == axis else n) for i, n in enumerate(indices.shape))
    return np.take_along_axis(x[kept], indices.astype(np.int64), axis)


def _gather_nd(x: Array, indices: Array, *, batch_dims: int) -> Array:
    depth = indices.shape[-1]
    batch = x.shape[:batch_dims]
    flat = x.reshape(prod(batch), *x.shape[batch_dims:])
    places = indices.astype(np.int64).reshape(prod(batch), -1, depth)
    rows = np.arange(prod(batch))[:, None]
    found: Array = flat[(rows, *(places[..., i] for i in range(depth)))]
    return found.reshape(*indices.shape[:-1], *x.shape[batch_dims + depth :])


_AT = {"add": np.add, "mul": np.multiply, "min": np.minimum, "max": np.maximum}


def _scatter_nd(x: Array, indices: Array, updates: Array, *, reduction: str) -> Array:
    narrow = x.dtype in (DType.f16.numpy, DType.bf16.numpy) and reduction != "none"
    result = x.astype(np.float32) if narrow else x.copy()
    places = tuple(np.moveaxis(indices.astype(np.int64), -1, 0))
    if reduction == "none":
        result[places] = updates
    else:
        _AT[reduction].at(result, places, updates.astype(result.dtype))
    return result.astype(x.dtype)


MOVEMENT_RULES: dict[str, Callable[..., Array]] = {
    "reshape": _reshape,
    "transpose": _transpose,
    "expand": _expand,
    "slice": _slice,
    "concat": _concat,
    "pad": _pad,
    "gather": _gather,
    "gather_elements": _gather_elements,
    "gather_nd": _gather_nd,
    "scatter_nd": _scatter_nd,
}
