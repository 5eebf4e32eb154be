"""What a race of two kernels tells: ratios of their times, measured in turns."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

__all__ = ["median_interval"]

_DEVIATIONS = 2.576  # of a normal distribution, that 99 % of it lie within


def median_interval(values: ArrayLike) -> tuple[float, float]:
    """Between which values their true median lies, at 99 %, whatever they are distributed like.

    Half of the values are below the median, each by a toss of a coin: so its ranks are those of a
    binomial distribution, here by its normal approximation. An end that would need more values is
    infinite.

    >>> median_interval([1, 2, 3])
    (-inf, inf)
    >>> median_interval(range(100))
    (37.0, 63.0)
    """
    ranked = np.sort(np.asarray(values, float))
    count = len(ranked)
    low = int(np.floor((count - _DEVIATIONS * count**0.5) / 2))
    high = int(np.ceil((count + _DEVIATIONS * count**0.5) / 2))
    return (
        float(ranked[low]) if 0 <= low < count else -np.inf,
        float(ranked[high]) if high < count else np.inf,
    )
