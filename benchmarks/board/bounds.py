"""The figures that the board has to reach, and which of them it does."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from benchmarks.board.records import RowRecord
from benchmarks.board.runs import entry_of
from benchmarks.board.verdicts import Mean, Verdict, means, ratio_of, timed, verdict
from benchmarks.peers import DYNAMIC, STATIC, TUNED

__all__ = ["Bound", "bounds"]

DYNAMIC_LIMIT = 1.10
# Of each family: the geometric mean, and the worst row.
LIMITS = {"transformer": (0.92, 1.05), "convolution": (1.15, 1.4), "decode": (0.85, 0.85)}
# Tuned: the geometric mean, and the worst row; and how much quicker than untuned.
TUNED_LIMITS = {"transformer": (0.85, 1.0), "convolution": (1.0, None)}
TUNED_GAIN = 1.08
CHANCE, SURE = 0.01, 2.0
BERT_COLD_S, BERT_WARM_S = 30.0, 3.0
LOAD_MS, LOAD_MB = 150.0, 440.0


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
        sure = {record["key"]: verdict(record, TUNED, STATIC) for record in records}
        slower = [key for key, each in sure.items() if each and _is_slower(each)]
        what = "tuned rows that are slower than untuned for sure"
        found.append(Bound(what, 0, len(slower), ", ".join(slower) or f"of {len(ratios)} rows"))
    return found


def _is_slower(found: Verdict) -> bool:
    """Whether it is by more than a hundredth: of many rows, chance alone makes one a bit slower.

    What is so slow that it ran once is, too.
    """
    return (found.call == "slower" and found.low > 1 + CHANCE) or found.ratio > SURE


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
        and not any(timed(record, name) for name in ours)
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
