"""A Gaussian process over knobs: what is expected of a point nobody has measured, and how surely.

Rasmussen and Williams, "Gaussian Processes for Machine Learning", 2006, chapters 2 and 5; expected
improvement by Jones, Schonlau and Welch, "Efficient Global Optimization", 1998.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import erf, pi
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["SIGNAL", "Process", "expected_improvement", "fit"]

Floats = NDArray[np.floating[Any]]

SIGNAL = 0.12  # standard deviation of log ratios over the space, before anything is known
_NOISE = 0.01  # of a measured median
_LENGTHS = (0.2, 0.4, 0.8, 1.6)  # over which a knob, from its least value to its greatest, matters


@dataclass(frozen=True)
class Process:
    """The process after some points were measured."""

    points: Floats  # [n, d]
    length: float
    factor: Floats  # [n, n], the Cholesky factor of their covariance
    weights: Floats  # [n], that inverse times the residuals

    def predict(self, points: Floats, prior: Floats) -> tuple[Floats, Floats]:
        """Mean and standard deviation at `points[m, d]`, of which `prior[m]` was expected."""
        if not len(self.points):
            return prior, np.full(len(points), SIGNAL)
        cross = _covariance(points, self.points, self.length)
        solved = np.linalg.solve(self.factor, cross.T)
        variance = np.maximum(SIGNAL**2 - (solved**2).sum(0), 1e-12)
        return prior + cross @ self.weights, np.sqrt(variance)


def fit(points: Floats, residuals: Floats) -> Process:
    """The process through `residuals[n]` at `points[n, d]`: measured less expected.

    Of some lengths, that under which the measurements are most likely.
    """
    best: tuple[float, Process] | None = None
    for length in _LENGTHS:
        covariance = _covariance(points, points, length) + np.eye(len(points)) * _NOISE**2
        factor: Floats = np.linalg.cholesky(covariance)
        half: Floats = np.linalg.solve(factor, residuals)
        weights: Floats = np.linalg.solve(factor.T, half)
        likelihood = -0.5 * float(half @ half) - float(np.log(np.diag(factor)).sum())
        if best is None or likelihood > best[0]:
            best = (likelihood, Process(points, length, factor, weights))
    assert best is not None
    return best[1]


def expected_improvement(mean: Floats, deviation: Floats, best: float) -> Floats:
    """By how much each point is expected to be below `best`, counting only where it is.

    >>> round(float(expected_improvement(np.array([0.0]), np.array([1e-9]), 0.5)[0]), 6)
    0.5
    """
    z = (best - mean) / deviation
    density = np.exp(-0.5 * z**2) / np.sqrt(2 * pi)
    below = 0.5 * (1 + np.vectorize(erf, otypes=[float])(z / np.sqrt(2)))
    result: Floats = np.maximum(deviation * (z * below + density), 0.0)
    return result


def _covariance(one: Floats, other: Floats, length: float) -> Floats:
    """Matérn 5/2: knobs are steps, not smooth curves."""
    squares = ((one[:, None, :] - other[None, :, :]) ** 2).sum(-1)
    distance = np.sqrt(5.0 * squares) / length
    result: Floats = SIGNAL**2 * (1 + distance + distance**2 / 3) * np.exp(-distance)
    return result
