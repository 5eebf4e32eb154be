"""What the records of the board say: ratios to the best peer, and their means."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from benchmarks.board.records import EngineRecord, RowRecord
from benchmarks.board.rows import FAMILIES
from benchmarks.board.runs import entry_of, is_timed, run_with, runs_of
from benchmarks.peers import DYNAMIC, PEERS, STATIC
from tunesmith import bench

__all__ = [
    "Mean", "Verdict", "best_peer", "is_quiet", "means", "ratio_of",
    "reference_of", "statistics_of", "timed", "verdict",
]  # fmt: skip

EQUAL = 0.06  # an interval around 1 that is narrower says that both are as fast
LEAST_ROUNDS = 5  # fewer tell nothing about the spread
QUIET_CPUS = 0.1  # of a processor, that others may use


@dataclass(frozen=True)
class Verdict:
    """One engine of ours beside a peer: the ratio of the medians, below 1 where we are faster."""

    ours: str
    peer: str
    ratio: float
    low: float  # of the 95 % bootstrap interval over rounds
    high: float
    call: str


@dataclass(frozen=True)
class Mean:
    """The rows of a family with one number of threads."""

    family: str
    threads: int
    ours: str
    rows: int
    mean: float  # geometric
    worst: float
    worst_row: str
    noisy: int  # rows that are too noisy to call


def timed(record: RowRecord, name: str) -> EngineRecord | None:
    """What an engine measured in a row, if it has a time there."""
    entry = entry_of(record, name)
    return entry if is_timed(entry) else None


def _together(
    record: RowRecord, one: str, other: str
) -> tuple[list[list[float]], list[list[float]]] | None:
    """The samples of two engines by the latest run in which both took part, if both have any."""
    run = run_with(record, one, other)
    if run is None:
        return None
    left, right = run["engines"][one], run["engines"][other]
    if not is_timed(left) or not is_timed(right):
        return None
    return left.get("samples_ms", []), right.get("samples_ms", [])


def reference_of(record: RowRecord) -> str:
    """The engine of ours that others are held against: for this size, or else for any."""
    return STATIC if timed(record, STATIC) else DYNAMIC


def ratio_of(record: RowRecord, name: str, reference: str) -> float | None:
    """The median of an engine over that of another one in the same run."""
    both = _together(record, name, reference)
    if both is None:
        return None
    mine, theirs = (bench.statistics(samples).median_ms for samples in both)
    return mine / theirs


def statistics_of(entry: EngineRecord) -> bench.Statistics | None:
    """The latency of an engine, from its samples."""
    samples = [block for block in entry.get("samples_ms", []) if block]
    return bench.statistics(samples) if samples else None


def is_quiet(record: RowRecord) -> bool:
    """Whether little but the engine under measurement ran; unknown counts as quiet."""
    return all(
        quiet is None or (quiet["idle"] <= QUIET_CPUS and quiet["others"] <= QUIET_CPUS)
        for quiet in (run.get("quiet") for run in runs_of(record))
    )


def best_peer(record: RowRecord, ours: str = "") -> str | None:
    """The engine that is not ours and is fastest beside ours, each in a run with it."""
    ours = ours or reference_of(record)
    peers = [name for name, peer in PEERS.items() if not peer.ours]
    ratios = {n: ratio for n in peers if (ratio := ratio_of(record, n, ours)) is not None}
    if not ratios:  # ours has no time: among those that took turns
        entries = {n: record["engines"].get(n) for n in peers}
        found = {n: statistics_of(e) for n, e in entries.items() if e is not None and is_timed(e)}
        ratios = {n: s.median_ms for n, s in found.items() if s is not None}
    return min(ratios, key=ratios.__getitem__) if ratios else None


def verdict(record: RowRecord, ours: str = "", peer: str = "") -> Verdict | None:
    """Compare an engine of ours with a peer: by default the static artifact with the best one."""
    ours = ours or reference_of(record)
    peer = peer or best_peer(record, ours) or ""
    both = _together(record, ours, peer)
    if both is None:
        return None
    mine, other = both
    ratio = bench.statistics(mine).median_ms / bench.statistics(other).median_ms
    if len(mine) != len(other) or len(mine) < 2:  # one of them was too slow for rounds
        call = "slower" if ratio > 1 else "faster"
        return Verdict(ours, peer, ratio, ratio, ratio, f"{call}, not in rounds")
    low, high = bench.ratio_interval(mine, other)
    return Verdict(ours, peer, ratio, low, high, _call(low, high, len(mine)))


def _call(low: float, high: float, rounds: int) -> str:
    """Who is faster, if the spread allows to say so.

    >>> _call(0.8, 0.9, 9), _call(0.98, 1.01, 9), _call(0.8, 1.2, 9)
    ('faster', 'equal', 'too noisy to call')
    """
    if rounds < LEAST_ROUNDS:
        return "too few rounds to call"
    if high < 1 or low > 1:
        return "faster" if high < 1 else "slower"
    return "equal" if high - low <= EQUAL else "too noisy to call"


def means(rows: Iterable[RowRecord], ours: str = "") -> list[Mean]:
    """The geometric mean of each family with each number of threads."""
    groups: dict[tuple[str, int], list[tuple[float, str, str]]] = {}
    for record in rows:
        found = verdict(record, ours)
        if found is not None:
            group = groups.setdefault((record["family"], record["threads"]), [])
            group.append((found.ratio, record["row"], found.call))
    result = []
    for (family, threads), group in sorted(groups.items(), key=lambda item: _order(item[0])):
        worst, where, _ = max(group)
        mean = float(np.exp(np.mean([np.log(ratio) for ratio, _, _ in group])))
        noisy = sum(call.startswith("too") for _, _, call in group)
        result.append(Mean(family, threads, ours, len(group), mean, worst, where, noisy))
    return result


def _order(key: tuple[str, int]) -> tuple[int, int]:
    families: list[str] = [*FAMILIES]
    return families.index(key[0]), key[1]
