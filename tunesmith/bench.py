"""Measure engines against each other: interleaved blocks in one process, and a ratio."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Measurement", "Statistics", "interleave", "ratio_interval", "statistics"]

Samples = list[list[float]]  # milliseconds: one list for each round

WARM_UP_SECONDS = 0.2
MIN_SECONDS = 3.0  # of timed runs, for each engine
MIN_RUNS = 10
ROUNDS = 9
GAP_SECONDS = 0.12  # idle workers of ONNX Runtime were seen to spin for up to 100 ms
CV_LIMIT = 0.025  # beyond it the machine is too noisy to claim small differences


@dataclass(frozen=True)
class Statistics:
    """The latency of one engine, in milliseconds."""

    median_ms: float
    p90_ms: float
    p95_ms: float
    p99_ms: float
    min_ms: float
    mean_ms: float
    cv: float  # of the medians of the rounds
    n: int


@dataclass(frozen=True)
class Measurement:
    """All engines, with every sample; the first engine is ours."""

    samples: Mapping[str, Samples]

    @property
    def statistics(self) -> dict[str, Statistics]:
        """The latency of each engine."""
        return {name: statistics(rounds) for name, rounds in self.samples.items()}

    @property
    def best_peer(self) -> str | None:
        """The fastest engine besides the first."""
        names = list(self.samples)[1:]
        known = self.statistics
        return min(names, key=lambda n: known[n].median_ms) if names else None

    @property
    def ratio(self) -> float | None:
        """Our median over that of the best peer: below 1 is faster."""
        peer = self.best_peer
        if peer is None:
            return None
        known = self.statistics
        return known[next(iter(known))].median_ms / known[peer].median_ms

    @property
    def interval(self) -> tuple[float, float] | None:
        """The 95 % bootstrap interval of `ratio`."""
        peer = self.best_peer
        if peer is None:
            return None
        return ratio_interval(next(iter(self.samples.values())), self.samples[peer])


def statistics(rounds: Samples) -> Statistics:
    """Summarize samples.

    >>> statistics([[1.0, 2.0, 3.0], [2.0, 2.0, 2.0]]).median_ms
    2.0
    """
    flat = np.concatenate([np.asarray(r) for r in rounds])
    medians = np.asarray([np.median(r) for r in rounds])
    p90, p95, p99 = np.percentile(flat, [90, 95, 99])
    return Statistics(
        median_ms=float(np.median(flat)), p90_ms=float(p90), p95_ms=float(p95), p99_ms=float(p99),
        min_ms=float(flat.min()), mean_ms=float(flat.mean()),
        cv=float(medians.std() / medians.mean()), n=len(flat),
    )  # fmt: skip


def ratio_interval(
    ours: Samples, theirs: Samples, *, trials: int = 2000, seed: int = 0
) -> tuple[float, float]:
    """The 95 % interval of the ratio of medians.

    Rounds are drawn as pairs: what disturbs the machine for a second disturbs both engines.
    """
    left, right = (np.asarray([np.median(r) for r in side]) for side in (ours, theirs))
    draws = np.random.default_rng(seed).integers(0, len(left), (trials, len(left)))
    ratios: NDArray[np.float64] = np.median(left[draws], axis=1) / np.median(right[draws], axis=1)
    low, high = np.percentile(ratios, [2.5, 97.5])
    return float(low), float(high)


def interleave(
    engines: Mapping[str, Callable[[], object]],
    *,
    rounds: int = ROUNDS,
    min_seconds: float = MIN_SECONDS,
    min_runs: int = MIN_RUNS,
    warm_up_seconds: float = WARM_UP_SECONDS,
    clock: Callable[[], int] = time.perf_counter_ns,
) -> Measurement:
    """Time engines in turns: each round gives every engine a block, in an order that rotates.

    A block starts with a pause and one run that is not timed, so that no engine pays for the
    caches, or for the spinning workers, of the one before it. `clock` gives nanoseconds: that of
    the thread leaves out what other processes take of the machine, for one thread only.
    """
    runs = {
        name: _runs_of_block(run, rounds, min_seconds, min_runs, warm_up_seconds)
        for name, run in engines.items()
    }
    samples: dict[str, Samples] = {name: [] for name in engines}
    names = list(engines)
    for turn in range(rounds):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            time.sleep(GAP_SECONDS)
            engines[name]()
            samples[name].append(_time(engines[name], runs[name], clock))
    return Measurement(samples)


def _runs_of_block(
    run: Callable[[], object],
    rounds: int,
    min_seconds: float,
    min_runs: int,
    warm_up_seconds: float,
) -> int:
    """Warm up, and find how many runs a block needs."""
    start = time.perf_counter()
    run()
    took = [time.perf_counter() - start]
    while sum(took) < warm_up_seconds or len(took) < 2:
        took.extend(t / 1e3 for t in _time(run, 1))
    each = float(np.median(took[1:]))
    wanted = max(min_runs, min_seconds / max(each, 1e-7))
    return min(20_000, max(1, -int(-wanted // rounds)))


def _time(
    run: Callable[[], object], runs: int, clock: Callable[[], int] = time.perf_counter_ns
) -> list[float]:
    times = []
    for _ in range(runs):
        start = clock()
        run()
        times.append((clock() - start) / 1e6)
    return times
