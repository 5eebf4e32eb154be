"""What the records of the board say: ratios to the best peer, their means, and the bounds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from benchmarks.board.records import EngineRecord, RowRecord
from benchmarks.board.rows import FAMILIES
from benchmarks.board.runs import entry_of, is_timed, run_with, runs_of
from benchmarks.peers import DYNAMIC, PEERS, STATIC, TUNED
from tunesmith import bench

__all__ = [
    "Bound", "Mean", "Verdict", "best_peer", "bounds", "is_quiet", "means", "ratio_of",
    "reference_of", "statistics_of", "verdict",
]  # fmt: skip

EQUAL = 0.06  # an interval around 1 that is narrower says that both are as fast
LEAST_ROUNDS = 5  # fewer tell nothing about the spread
QUIET_CPUS = 0.1  # of a processor, that others may use
DYNAMIC_LIMIT = 1.10
# Of each family: the geometric mean, and the worst row.
LIMITS = {"transformer": (0.92, 1.05), "convolution": (1.15, 1.4), "decode": (0.85, 0.85)}
# Tuned: the geometric mean, and the worst row; and how much quicker than untuned.
TUNED_LIMITS = {"transformer": (0.85, 1.0), "convolution": (1.0, None)}
TUNED_GAIN = 1.08
BERT_COLD_S, BERT_WARM_S = 30.0, 3.0
LOAD_MS, LOAD_MB = 150.0, 440.0


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


@dataclass(frozen=True)
class Bound:
    """A figure that must be reached; `passed` is None where nothing was measured."""

    what: str
    limit: float
    found: float | None
    where: str = ""

    @property
    def passed(self) -> bool | None:
        """Whether it was reached."""
        return None if self.found is None else self.found <= self.limit


def _timed(record: RowRecord, name: str) -> EngineRecord | None:
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
    return STATIC if _timed(record, STATIC) else DYNAMIC


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


def bounds(rows: Mapping[str, RowRecord]) -> list[Bound]:
    """Every figure that the issue asks for and that the board can judge, at its worst."""
    records = list(rows.values())
    found = []
    for family, limits in LIMITS.items():
        lost = _lost(records, family)
        found += _of_family(f"{family} rows", _means_of(records, family), limits, lost)
    found += _tuned(records)
    found.append(_worst(records, "dynamic artifact over the static one", DYNAMIC_LIMIT, _dynamic))
    for what, limit, key in (
        ("compile of BERT-base, cold cache, s", BERT_COLD_S, "build_s"),
        ("compile of BERT-base, warm cache, s", BERT_WARM_S, "rebuild_s"),
    ):
        found.append(_worst(records, what, limit, partial(_bert, key)))
    what = f"load of an artifact, ms for {LOAD_MB:.0f} MB"
    found.append(_worst(records, what, LOAD_MS, _loading))
    return found


def _means_of(records: Iterable[RowRecord], family: str, ours: str = "") -> list[Mean]:
    return [m for m in means(records, ours) if m.family == family]


def _of_family(
    rows: str, group: Sequence[Mean], limits: tuple[float, float | None], lost: str
) -> list[Bound]:
    """The geometric mean and the worst row, at the number of threads where they are worst.

    `lost` names rows without a time, if there are any: then neither is reached.
    """
    most = max(group, key=lambda m: m.mean, default=None)
    last = max(group, key=lambda m: m.worst, default=None)
    mean, worst = (most.mean, last.worst) if most and last else (None, None)
    places = [
        f"{_threads(most.threads)}, {most.rows} rows" if most else "",
        f"{last.worst_row}, {_threads(last.threads)}" if last else "",
    ]
    whats = [f"{rows}, geometric mean of ours over the best peer", f"{rows}, the worst one"]
    return [
        Bound(what, limit, float("inf") if lost else value, lost or place)
        for what, limit, value, place in zip(whats, limits, (mean, worst), places, strict=True)
        if limit is not None
    ]


def _tuned(records: Sequence[RowRecord]) -> list[Bound]:
    """The bounds of tuned artifacts, over the rows that were tuned; none if no row was."""
    found = []
    for family, limits in TUNED_LIMITS.items():
        group = _means_of(records, family, TUNED)
        lost = _lost(records, family, (TUNED,), "unsupported")  # it was never tuned
        if group or lost:
            found += _of_family(f"tuned {family} rows", group, limits, lost)
    ratios = [r for record in records if (r := ratio_of(record, TUNED, STATIC)) is not None]
    if ratios:
        gain = float(np.exp(np.mean(np.log(ratios))))
        what = "tuned over untuned, geometric mean"
        found.append(Bound(what, 1 / TUNED_GAIN, gain, f"{len(ratios)} rows"))
    return found


def _lost(
    records: Iterable[RowRecord],
    family: str,
    ours: Sequence[str] = (DYNAMIC, STATIC),
    excused: str = "",
) -> str:
    """The rows where ours were asked for and have no time: they may not drop out in silence.

    Only an engine whose state is `excused` may, and then also where there was nothing to run.
    """

    def asked(record: RowRecord) -> bool:
        entries = [entry for name in ours if (entry := entry_of(record, name)) is not None]
        return any(entry["state"] != excused for entry in entries)

    lost = [
        record["key"]
        for record in records
        if record["family"] == family
        and ((record["error"] and not excused) or asked(record))
        and not any(_timed(record, name) for name in ours)
    ]
    return f"no time: {', '.join(lost)}" if lost else ""


def _worst(records: Iterable[RowRecord], what: str, limit: float, figure: object) -> Bound:
    assert callable(figure)
    known = [(value, record["key"]) for record in records if (value := figure(record)) is not None]
    value, where = max(known, default=(None, ""))
    return Bound(what, limit, value, where)


def _dynamic(record: RowRecord) -> float | None:
    found = verdict(record, DYNAMIC, STATIC)
    return found.ratio if found else None


def _bert(key: str, record: RowRecord) -> float | None:
    if not record["row"].startswith("bert-base/"):
        return None
    entries = [entry_of(record, name) for name in (DYNAMIC, STATIC)]
    known = [entry.get(key) for entry in entries if entry is not None]
    return max((v for v in known if isinstance(v, float)), default=None)


def _loading(record: RowRecord) -> float | None:
    """Loads are compared by size where a file is large enough for its size to matter."""
    entries = [entry_of(record, name) for name in (DYNAMIC, STATIC)]
    known = [
        ms * LOAD_MB / size
        for entry in entries
        if entry is not None and (size := entry.get("file_mb") or 0) > 200
        if (ms := entry.get("load_ms")) is not None
    ]
    return max(known, default=None)


def _threads(count: int) -> str:
    return f"{count} thread{'s' if count > 1 else ''}"
