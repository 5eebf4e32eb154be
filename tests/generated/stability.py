"""Models that round to one side or the other: `Less` of a sum and the same sum in another order.

An answer that differs from a voter's is not wrong if the voter differs from itself in the same
places where inputs move by a few units in the last place: the model has no answer there.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from tests.conformance.suite import Array, Case, DataSet
from tests.generated.vote import Answer

__all__ = ["MOVES", "UNITS", "moved", "unstable"]

MOVES = 16  # sets of inputs
UNITS = 4  # in the last place, by which an element moves at most


def moved(case: Case) -> list[Case]:
    """The case as it is, then with inputs that are nearly the same, at random and seeded."""
    return [case, *(replace(case, name=f"{case.name}.{number}", data_sets=_nearby(case, number))
                    for number in range(MOVES))]  # fmt: skip


def _nearby(case: Case, seed: int) -> Callable[[], Sequence[DataSet]]:
    def load() -> Sequence[DataSet]:
        random = np.random.default_rng(seed)
        ((given, wanted),) = case.data_sets()
        return [([_shaken(np.asarray(array), random) for array in given], wanted)]

    return load


def _shaken(array: Array, random: np.random.Generator) -> Array:
    if array.dtype.kind != "f":
        return array
    steps = random.integers(-UNITS, UNITS + 1, array.shape)
    floats = array.astype(np.float64)
    with np.errstate(all="ignore"):
        near = floats + np.spacing(np.abs(array)).astype(np.float64) * steps
    return np.where(np.isfinite(near), near, floats).astype(array.dtype)


def unstable(ours: Sequence[Array], voter: Sequence[Answer], rtol: float, atol: float) -> str:
    """How unstable the outputs are that differ; nothing, if an element differs that never moved.

    `voter` is what one engine gives for each case of `moved`.
    """
    if not voter or voter[0].column != "ran":
        return ""
    still, others = voter[0].outputs, [answer for answer in voter[1:] if answer.column == "ran"]
    told = []
    for number, (have, want) in enumerate(zip(ours, still, strict=True)):
        if have.shape != want.shape or have.dtype != want.dtype:
            return ""
        off = _differing(have, want, rtol, atol)
        by_itself = np.zeros(want.shape, bool)
        for other in others:
            by_itself |= _differing(other.outputs[number], want, rtol, atol)
        if (off & ~by_itself).any():
            return ""
        if off.any():
            told.append(f"output {number}: {off.sum()} of {want.size} elements differ, each also "
                        f"where inputs move by {UNITS} units in the last place")  # fmt: skip
    return "; ".join(told)


def _differing(have: Array, want: Array, rtol: float, atol: float) -> NDArray[np.bool_]:
    if want.dtype.kind != "f":
        return np.asarray(have != want)
    wide = (have.astype(np.float64), want.astype(np.float64))
    with np.errstate(all="ignore"):
        return np.asarray(~np.isclose(*wide, rtol, atol, equal_nan=True))
