"""Which knobs to try next: those of which most is expected, after all that was measured.

The search is a function of its seed and of the trials so far, in their order. So a search that was
killed goes on as if nothing had happened, and a test needs neither a machine nor a clock.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from math import exp, log
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from .gaussian import SIGNAL, Process, expected_improvement, fit

__all__ = ["Observation", "Point", "Search", "Searcher", "Space", "first_gain", "untried"]

Point = tuple[int, ...]

_WORST = 0.5  # log ratio that counts for whatever is slower still, or fails
_DISTRUST = (
    0.015  # by which each knob that is changed is expected to lose: analysis is a good start
)
_RANDOM, _AROUND = 128, 4  # points anywhere; best points whose neighbours are looked at
_REJECTED = 20  # draws for each random point, of which many do not fit


@dataclass(frozen=True)
class Space:
    """The knobs of one kernel: values in order, a default, and which combinations fit."""

    values: Mapping[str, Sequence[int]]
    default: Mapping[str, int]
    fits: Callable[[Mapping[str, int]], bool]

    @property
    def names(self) -> tuple[str, ...]:
        """The knobs, in the order of a point."""
        return tuple(self.values)

    def point(self, knobs: Mapping[str, int]) -> Point:
        """The values of knobs in order."""
        return tuple(knobs[name] for name in self.names)

    def knobs(self, point: Point) -> dict[str, int]:
        """The knobs of a point by their names."""
        return dict(zip(self.names, point, strict=True))

    def places(self, points: Sequence[Point]) -> NDArray[np.float64]:
        """Where points lie: each knob between 0 and 1, by the order of its values."""
        table = [
            {value: i / max(1, len(values) - 1) for i, value in enumerate(values)}
            for values in self.values.values()
        ]
        rows = [[table[k].get(value, 0.5) for k, value in enumerate(point)] for point in points]
        return np.asarray(rows, np.float64).reshape(len(points), len(self.values))


@dataclass(frozen=True)
class Observation:
    """What was measured: `ratio` of the seconds to those of the default; `None` if it failed."""

    knobs: Mapping[str, int]
    ratio: float | None

    @property
    def cost(self) -> float:
        """The logarithm that the search sees."""
        return _WORST if self.ratio is None else min(_WORST, log(self.ratio))


class Searcher(Protocol):
    """What the tuner asks for the next trials of one kernel: `Search`, or another."""

    observed: list[Observation]

    @property
    def best(self) -> Observation | None:
        """The quickest of what was measured and works."""
        ...

    def observe(self, observation: Observation) -> None:
        """Take in the result of a trial."""
        ...

    def propose(
        self, count: int, more_hints: Sequence[Mapping[str, int]] = ()
    ) -> tuple[list[dict[str, int]], float]:
        """The next knobs, and the share of the time they may save; a function of the trials."""
        ...


def first_gain() -> float:
    """The share of a kernel's time that trials are expected to save before there is any.

    It is what the process says of one changed knob, far from the default.
    """
    anywhere = expected_improvement(np.array([_DISTRUST]), np.array([SIGNAL]), 0.0)
    return 1.0 - exp(-float(anywhere[0]))


def untried(
    space: Space, hints: Sequence[Mapping[str, int]], tried: Container[Point]
) -> list[Point]:
    """The hints that fit and were not tried, in order."""
    chosen: dict[Point, None] = {}
    for hint in hints:
        fitting = {*hint} == {*space.names} and space.fits(hint)
        if fitting and (point := space.point(hint)) not in tried:
            chosen[point] = None
    return list(chosen)


@dataclass
class Search:
    """The search for one kernel; `hints` are knobs that were good for one like it."""

    space: Space
    seed: str
    hints: Sequence[Mapping[str, int]] = ()
    observed: list[Observation] = field(default_factory=list)
    _fitting: dict[Point, bool] = field(default_factory=dict, repr=False)

    def observe(self, observation: Observation) -> None:
        """Take in the result of a trial."""
        self.observed.append(observation)

    @property
    def best(self) -> Observation | None:
        """The quickest of what was measured and works."""
        working = [o for o in self.observed if o.ratio is not None]
        return min(working, key=lambda o: o.cost, default=None)

    def propose(
        self, count: int, more_hints: Sequence[Mapping[str, int]] = ()
    ) -> tuple[list[dict[str, int]], float]:
        """The next `count` knobs, or fewer if there are no more; and what is expected of them.

        The second is the share of the kernel's time that the best of them is expected to save.
        `more_hints` come before the others.
        """
        space, tried = self.space, {self.space.point(o.knobs): o.cost for o in self.observed}
        default = space.point(space.default)
        tried.setdefault(default, 0.0)
        chosen = untried(space, [*more_hints, *self.hints], tried)
        gain = _DISTRUST if chosen else 0.0  # a hint is worth a trial whatever the model says
        pool = sorted(self._pool(tried, default) - {*chosen})
        while pool and len(chosen) < count:
            best = min(tried.values())
            known = {**tried, **dict.fromkeys(chosen, best)}  # those chosen, as if no better
            mean, deviation = self._model(known, default).predict(
                space.places(pool), self._prior(pool, default)
            )
            improvement = expected_improvement(mean, deviation, best)
            place = int(np.argmax(improvement))
            gain = max(gain, float(improvement[place]))
            chosen.append(pool.pop(place))
        return [space.knobs(point) for point in chosen[:count]], 1.0 - exp(-gain)

    def _prior(self, points: Sequence[Point], default: Point) -> NDArray[np.float64]:
        changed = [sum(a != b for a, b in zip(p, default, strict=True)) for p in points]
        return _DISTRUST * np.asarray(changed, np.float64)

    def _model(self, known: Mapping[Point, float], default: Point) -> Process:
        points = list(known)
        costs = np.asarray(list(known.values()), np.float64)
        return fit(self.space.places(points), costs - self._prior(points, default))

    def _pool(self, tried: Mapping[Point, float], default: Point) -> set[Point]:
        """Neighbours of the best points, by one knob or two, and points from anywhere.

        Those from anywhere are mostly the same each time, of which it is known whether they fit;
        new ones come with the number of trials.
        """
        values = list(self.space.values.values())
        state = hashlib.sha256(f"{self.seed} {len(tried)}".encode()).digest()
        draw = random.Random(state)
        pool: set[Point] = set()
        ranked = sorted(tried, key=lambda p: (tried[p], p))[:_AROUND]
        for base in dict.fromkeys([*ranked, default]):
            for knob, choices in enumerate(values):
                near = {(*base[:knob], value, *base[knob + 1 :]) for value in choices}
                pool |= near
            for _ in range(_RANDOM // 2):
                one, other = draw.randrange(len(values)), draw.randrange(len(values))
                pair = list(base)
                pair[one], pair[other] = draw.choice(values[one]), draw.choice(values[other])
                pool.add(tuple(pair))
        pool = {p for p in pool if p not in tried and self._fits(p)}
        enough, anywhere = len(pool) + _RANDOM, random.Random(self.seed)
        for _ in range(_RANDOM * _REJECTED * (1 + len(tried) // 16)):
            if len(pool) >= enough:
                break
            point = tuple(anywhere.choice(choices) for choices in values)
            if point not in tried and self._fits(point):
                pool.add(point)
        return pool

    def _fits(self, point: Point) -> bool:
        if point not in self._fitting:
            self._fitting[point] = self.space.fits(self.space.knobs(point))
        return self._fitting[point]
