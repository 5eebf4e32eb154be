"""All of a store, or a part of it: read and checked row by row, counted, thinned out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from tunesmith.ir.diagnostics import TuneError

from .records import Device, Record, Verdict, Workload, best_of
from .rows import Row, read_device, read_record, read_workload
from .schema import DamageError, devices, trials, workloads

__all__ = ["Pruning", "Selection", "Summary", "prune", "select", "summarize"]

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which records; what is None does not matter.

    `workload` is the beginning of a hash, `device` the beginning of a hash or the whole name.
    """

    template: str | None = None
    workload: str | None = None
    device: str | None = None
    versions: str | None = None

    def takes_workload(self, work: Workload) -> bool:
        """Whether records of this workload may be meant."""
        return self.template in (None, work.template) and work.sha256.startswith(
            self.workload or ""
        )

    def takes_device(self, device: Device) -> bool:
        """Whether records of this device may be meant."""
        return self.device in (None, device.name) or device.sha256.startswith(self.device or "")


@dataclass(frozen=True, kw_only=True)
class Pruning:
    """Which trials go: those for which any of these says so.

    `failed`: those that are neither ok nor slower; `keep`: all but the best so many of each
    workload, device and versions; `versions`: those of any other versions; `before`: those that are
    known to be measured before this ISO 8601 time, UTC if it names no zone; `damaged`: rows that
    are not what was written. Raises `TuneError` if nothing or nonsense is asked for.
    """

    failed: bool = False
    keep: int | None = None
    versions: str | None = None
    before: str | None = None
    damaged: bool = False

    def __post_init__(self) -> None:
        if self.keep is not None and self.keep < 0:
            raise TuneError("a negative number of trials cannot be kept")
        if self.before is not None and _moment(self.before) is None:
            raise TuneError(
                f"`{self.before}` is no time",
                hint="a time is written `2026-11-22` or `2026-11-22T07:00:00Z`",
            )
        wishes = (self.keep, self.versions, self.before, self.failed or None, self.damaged or None)
        if all(wish is None for wish in wishes):
            raise TuneError(
                "nothing was said about which trials go",
                hint="say `--failed`, `--keep`, `--versions`, `--before` or `--damaged`",
            )


@dataclass(frozen=True, kw_only=True)
class Summary:
    """What the store has on one workload on one device with one set of versions."""

    workload: Workload
    device: Device
    versions: str
    verdicts: Counter[Verdict]
    checked: int
    best: Record | None
    last: str  # the latest time at which one was measured, ISO 8601


def select(
    connection: Connection, chosen: Selection, damaged: list[tuple[sa.Table, int]] | None = None
) -> list[tuple[int, Record]]:
    """The records that are meant, with the numbers of their rows, in the order they were stored.

    Raises `DamageError` at a row that is not what was written, or notes it in `damaged`.
    """

    def intact(table: sa.Table, row: Row, read: Callable[[Row], T]) -> T | None:
        try:
            return read(row)
        except DamageError:
            if damaged is None:
                raise
            damaged.append((table, int(row["id"])))
            return None

    works = {
        row["id"]: intact(workloads, row, read_workload)
        for row in connection.execute(sa.select(workloads)).mappings()
    }
    machines = {
        row["id"]: intact(devices, row, read_device)
        for row in connection.execute(sa.select(devices)).mappings()
    }

    def read_trial(row: Row) -> Record | None:
        work, device = works.get(row["workload_id"]), machines.get(row["device_id"])
        if work is None or device is None:
            raise DamageError(f"row {row['id']} of `{trials.name}` has lost what it is of")
        if not (chosen.takes_workload(work) and chosen.takes_device(device)):
            return None
        return read_record(row, work, device)

    query = sa.select(trials).order_by(trials.c.id)
    if chosen.versions is not None:
        query = query.where(trials.c.versions == chosen.versions)
    result = []
    for row in connection.execute(query).mappings():
        record = intact(trials, row, read_trial)
        if record is not None:
            result.append((int(row["id"]), record))
    return result


def summarize(records: Iterable[Record]) -> list[Summary]:
    """One summary for each workload, device and versions, in the order they first appear."""
    return [
        Summary(
            workload=group[0].workload,
            device=group[0].device,
            versions=group[0].versions,
            verdicts=Counter(r.verdict for r in group),
            checked=sum(r.checked for r in group),
            best=best_of(group),
            last=max(r.at for r in group),
        )
        for group in _groups(records)
    ]


def _groups(records: Iterable[Record]) -> list[list[Record]]:
    groups: dict[tuple[Workload, Device, str], list[Record]] = {}
    for record in records:
        key = record.workload, record.device, record.versions
        groups.setdefault(key, []).append(record)
    return list(groups.values())


def prune(connection: Connection, pruning: Pruning) -> int:
    """Delete the trials that go, and what nothing is left of; how many trials went."""
    damaged: list[tuple[sa.Table, int]] | None = [] if pruning.damaged else None
    numbered = select(connection, Selection(), damaged)
    numbers = {id(record): number for number, record in numbered}
    going = [r for _, r in numbered if _goes(r, pruning)]
    if pruning.keep is not None:
        for group in _groups(r for _, r in numbered):
            ranked = sorted(group, key=_rank, reverse=True)
            going += ranked[pruning.keep :]
    rows = {numbers[id(record)] for record in going}
    rows |= {number for table, number in damaged or [] if table is trials}
    _delete(connection, trials, sorted(rows))
    for table in (workloads, devices):
        lost = [number for owner, number in damaged or [] if owner is table]
        _delete(connection, table, lost)
    connection.execute(sa.delete(workloads).where(~_is_used(workloads, trials.c.workload_id)))
    connection.execute(sa.delete(devices).where(~_is_used(devices, trials.c.device_id)))
    return len(rows)


def _goes(record: Record, pruning: Pruning) -> bool:
    failed = record.verdict not in (Verdict.ok, Verdict.slower)
    return (
        (pruning.failed and failed)
        or (pruning.versions is not None and record.versions != pruning.versions)
        or (pruning.before is not None and _is_older(record.at, pruning.before))
    )


def _is_older(at: str, limit: str) -> bool:
    left, right = _moment(at), _moment(limit)
    return left is not None and right is not None and left < right


def _moment(text: str) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def _rank(record: Record) -> tuple[bool, float]:
    """What may be used first, then what was fast."""
    return record.checked and record.verdict == Verdict.ok, record.speedup


def _is_used(table: sa.Table, reference: sa.Column[int]) -> sa.Exists:
    return sa.exists().where(reference == table.c.id)


def _delete(connection: Connection, table: sa.Table, rows: Sequence[int]) -> None:
    for start in range(0, len(rows), 500):  # a statement has a limited number of parameters
        part = rows[start : start + 500]
        connection.execute(sa.delete(table).where(table.c.id.in_(part)))
