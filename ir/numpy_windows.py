"""The NumPy meaning of convolution and pooling; see `numpy_rules.py`."""

from __future__ import annotations

from collections.abc import Callable
from math import prod
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from .types import DType

__all__ = ["WINDOW_RULES"]

Array = NDArray[Any]
Sizes = tuple[int, ...]


def _wide(x: Array) -> Array:
    return x.astype(np.float32) if x.dtype in (DType.f16.numpy, DType.bf16.numpy) else x


def _windows(
    x: Array, kernel: Sizes, strides: Sizes, low: Sizes, high: Sizes, dilations: Sizes, fill: Any
) -> Array:
    """A view `[N, C, place…, kernel…]` of the padded input."""
    rank = len(kernel)
    padded = np.pad(x, [(0, 0), (0, 0), *zip(low, high, strict=True)], constant_values=fill)
    spans = tuple(d * (k - 1) + 1 for k, d in zip(kernel, dilations, strict=True))
    view = sliding_window_view(padded, spans, axis=tuple(range(2, 2 + rank)))
    places = tuple(slice(None, None, s) for s in strides)
    inside = tuple(slice(None, None, d) for d in dilations)
    return view[(slice(None), slice(None), *places, *inside)]


def _conv(
    x: Array,
    weight: Array,
    bias: Array | None = None,
    *,
    strides: Sizes,
    low: Sizes,
    high: Sizes,
    dilations: Sizes,
    groups: int,
) -> Array:
    """Convolution as a product of matrices, group by group."""
    kernel = weight.shape[2:]
    rank = len(kernel)
    view = _windows(_wide(x), kernel, strides, low, high, dilations, 0)
    batch, channels, places = x.shape[0], x.shape[1], view.shape[2 : 2 + rank]
    split = view.reshape(batch, groups, channels // groups, *places, *kernel)
    to_columns = (0, 1, *range(3, 3 + rank), 2, *range(3 + rank, 3 + 2 * rank))
    depth = channels // groups * prod(kernel)
    columns = split.transpose(to_columns).reshape(batch, groups, prod(places), depth)
    matrix = _wide(weight).reshape(groups, weight.shape[0] // groups, depth)
    y = np.matmul(columns, matrix.transpose(0, 2, 1))  # [N, groups, places, O / groups]
    y = y.transpose(0, 1, 3, 2).reshape(batch, weight.shape[0], *places)
    if bias is not None:
        y = y + _wide(bias).reshape(-1, *(1,) * rank)
    return np.asarray(y, x.dtype)


def _max_pool(
    x: Array, *, kernel: Sizes, strides: Sizes, low: Sizes, high: Sizes, dilations: Sizes
) -> Array:
    lowest = -np.inf if DType.of(x.dtype).is_float else np.iinfo(x.dtype).min
    view = _windows(_wide(x), kernel, strides, low, high, dilations, lowest)
    return np.asarray(view.max(tuple(range(-len(kernel), 0)))).astype(x.dtype)


def _average_pool(
    x: Array, *, kernel: Sizes, strides: Sizes, low: Sizes, high: Sizes, count_padding: bool
) -> Array:
    folded, ones = tuple(range(-len(kernel), 0)), (1,) * len(kernel)
    wide = _wide(x)
    total = _windows(wide, kernel, strides, low, high, ones, 0).sum(folded)
    inside = np.ones((1, 1, *x.shape[2:]), wide.dtype)
    count = _windows(inside, kernel, strides, low, high, ones, 1 if count_padding else 0)
    return np.asarray(total / count.sum(folded)).astype(x.dtype)


WINDOW_RULES: dict[str, Callable[..., Array]] = {
    "conv": _conv,
    "max_pool": _max_pool,
    "average_pool": _average_pool,
}
