"""Runs of one row that were made at different times: kept beside each other, never compared.

A ratio means something only between engines that took turns. So each run stays whole, with the
engine of ours that the others were held against, as long as it tells what no later run does.
"""

from __future__ import annotations

from benchmarks.board.records import EngineRecord, RowRecord
from benchmarks.peers import PEERS

__all__ = ["entry_of", "is_timed", "merge", "run_with", "runs_of"]

_ANCHOR = "onnxruntime"  # the run that has it is the one whose milliseconds stand in the table


def runs_of(record: RowRecord) -> list[RowRecord]:
    """All runs of a row, the latest first."""
    return sorted((record, *record.get("others", [])), key=lambda run: -run.get("number", 0))


def is_timed(entry: EngineRecord | None) -> bool:
    """Whether an engine has a time, and with it outputs that are right."""
    return entry is not None and entry["state"] in ("timed", "slow")


def run_with(record: RowRecord, *names: str) -> RowRecord | None:
    """The latest run in which all these engines took part, with whatever result."""
    return next((run for run in runs_of(record) if _took_part(run) >= {*names}), None)


def entry_of(record: RowRecord, name: str) -> EngineRecord | None:
    """What is known of an engine: by the latest run that it took part in, or why it never did."""
    run = run_with(record, name)
    if run is None:
        run = next((run for run in runs_of(record) if name in run["engines"]), None)
    return None if run is None else run["engines"][name]


def merge(old: RowRecord | None, new: RowRecord) -> RowRecord:
    """A row with one more run; runs of the past go when later ones tell all that they tell.

    The result is the run that the row is shown by, the latest with ONNX Runtime in it or else the
    latest, with the rest in `others`. A row that means another model or size by now has no past.
    """
    if old is None or _subject(old) != _subject(new):
        return new
    past = runs_of(old)
    kept, told = [new.copy()], _told(new)
    kept[0]["number"] = past[0].get("number", 0) + 1
    for run in past:
        if not _told(run) <= told:
            kept.append(run.copy())
            told |= _told(run)
    for run in kept:
        run.pop("others", None)
    shown = next((run for run in kept if _ANCHOR in _took_part(run)), kept[0])
    if rest := [run for run in kept if run is not shown]:
        shown["others"] = rest
    return shown


def _took_part(run: RowRecord) -> set[str]:
    return {name for name, entry in run["engines"].items() if entry["state"] != "missing"}


def _subject(run: RowRecord) -> tuple[str, ...]:
    return run["model"], run["size"], run["inputs"], run["precision"]


def _told(run: RowRecord) -> set[frozenset[str]]:
    """The engines that took part, and which of them were held against one of ours."""
    names = _took_part(run)
    pairs = {frozenset((a, b)) for a in names if PEERS[a].ours for b in names}
    return pairs | {frozenset((name,)) for name in names}
