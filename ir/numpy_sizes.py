"""The NumPy meaning of the primitives about sizes that depend on data; see `numpy_rules.py`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["SIZE_RULES"]

Array = NDArray[Any]


def _bind_size(count: Array, *, size: int) -> Array:
    if int(count) != size:
        raise ValueError(f"a size of {size} elements depends on data, and that gives {int(count)}")
    return count


def _corners(boxes: Array, center: bool) -> tuple[Array, Array]:
    """The lower and the upper ends of boxes, `[..., 2]` each."""
    first, second = boxes[..., :2], boxes[..., 2:]
    if center:
        return first - second / np.float32(2), first + second / np.float32(2)
    return np.minimum(first, second), np.maximum(first, second)


def _suppress(
    boxes: Array, scores: Array, most: Array, overlap: Array, lowest: Array, *, center: bool
) -> Array:
    low, high = _corners(boxes, center)
    area = np.prod(high - low, axis=-1)
    kept = np.zeros(scores.shape, bool)
    for row in range(scores.shape[0]):
        for i in range(scores.shape[1]):
            if not scores[row, i] > lowest or kept[row].sum() >= most:
                continue
            before = np.flatnonzero(kept[row])
            sides = np.minimum(high[row, i], high[row, before])
            sides = np.maximum(sides - np.maximum(low[row, i], low[row, before]), 0)
            shared = np.prod(sides, axis=-1)
            union = area[row, i] + area[row, before] - shared
            kept[row, i] = not np.any((shared > 0) & (shared / union > overlap))
    return kept


SIZE_RULES: dict[str, Callable[..., Array]] = {"bind_size": _bind_size, "suppress": _suppress}
