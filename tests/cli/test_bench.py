"""Measuring: blocks interleave, summaries follow from the samples, intervals hold the ratio."""

from __future__ import annotations

import time

from tunesmith.bench import Measurement, interleave, ratio_interval, statistics


def test_engines_take_turns() -> None:
    calls: list[str] = []

    def engine(name: str, seconds: float) -> None:
        calls.append(name)
        time.sleep(seconds)

    measured = interleave(
        {"a": lambda: engine("a", 0.001), "b": lambda: engine("b", 0.002)},
        rounds=4,
        min_seconds=0.02,
        min_runs=8,
        warm_up_seconds=0.004,
    )
    assert all(len(rounds) == 4 for rounds in measured.samples.values())
    turns = [a for a, b in zip(calls, [*calls[1:], ""], strict=True) if a != b]
    assert len(turns) >= 5, "the engines alternate"
    assert measured.statistics["a"].n >= 8
    assert measured.best_peer == "b"
    assert measured.ratio is not None
    assert measured.ratio < 1


def test_statistics_of_known_samples() -> None:
    stats = statistics([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    assert (stats.median_ms, stats.min_ms, stats.n) == (3.5, 1.0, 6)
    assert stats.mean_ms == 3.5
    assert stats.p90_ms <= stats.p95_ms <= stats.p99_ms <= 6


def test_the_interval_holds_the_ratio_and_is_reproducible() -> None:
    ours = [[1.0 + 0.01 * i] for i in range(9)]
    theirs = [[2.0 + 0.02 * i] for i in range(9)]
    low, high = ratio_interval(ours, theirs)
    assert low <= 0.5 <= high
    assert (low, high) == ratio_interval(ours, theirs)


def test_one_engine_has_no_ratio() -> None:
    measured = Measurement({"a": [[1.0], [1.0]]})
    assert measured.ratio is None
    assert measured.interval is None


def test_the_best_peer_counts() -> None:
    measured = Measurement({"a": [[2.0]], "slow": [[8.0]], "fast": [[4.0]]})
    assert measured.best_peer == "fast"
    assert measured.ratio == 0.5
