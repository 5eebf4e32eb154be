"""Records as rows, and rows as records: what the hash picked, the text decides."""

from __future__ import annotations

import enum
import json
from collections.abc import Mapping
from hashlib import sha256
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, RowMapping

from tunesmith.ir.diagnostics import TuneError

from .records import Device, Record, Verdict, Workload, canonical
from .schema import DamageError, devices, trials, workloads

__all__ = [
    "Outcome",
    "Row",
    "find_device",
    "find_workload",
    "insert",
    "read_device",
    "read_record",
    "read_workload",
]

# Columns by name, from SQLAlchemy or from `sqlite3`; what is in them is checked when they are read.
Row = RowMapping | Mapping[str, Any]
_BAD = (TuneError, ValueError, TypeError, AttributeError, LookupError)


class Outcome(enum.Enum):
    """What became of a record that was to be stored; in all cases but `new` the first one stays."""

    new = "nothing stood in its place"
    known = "the same record was there"
    again = "the same trial was there, measured another time"
    taken = "another trial has its number"


def insert(connection: Connection, record: Record) -> tuple[int, Outcome]:
    """The row of a record, and what was there before; a trial that is stored stays as it is."""
    work = _add_workload(connection, record.workload)
    device = _add_device(connection, record.device)
    same = sa.select(trials).where(
        trials.c.workload_id == work,
        trials.c.device_id == device,
        trials.c.versions == record.versions,
        trials.c.seed == record.seed,
        trials.c.trial == record.trial,
    )
    values = {
        "workload_id": work,
        "device_id": device,
        "versions": record.versions,
        "knobs": canonical(record.knobs),
        "seed": record.seed,
        "trial": record.trial,
        "verdict": record.verdict.value,
        "checked": int(record.checked),
        "seconds": canonical(record.seconds),
        "baseline": canonical(record.baseline),
        "reason": record.reason,
        "measured_by": record.by,
        "measured_at": record.at,
        "digest": record.digest,
    }
    row, new = _insert_once(connection, trials, same, values)
    number = int(row["id"])
    if new:
        return number, Outcome.new
    stored = read_record(row, record.workload, record.device)
    if stored == record:
        return number, Outcome.known
    return number, Outcome.again if stored.knobs == record.knobs else Outcome.taken


def _add_workload(connection: Connection, work: Workload) -> int:
    features = canonical(work.features)
    digest = _features_digest(work, features)
    same = sa.select(workloads).where(workloads.c.sha256 == work.sha256)
    values = {"sha256": work.sha256, "template": work.template, "text": work.text,
              "features": features, "digest": digest}  # fmt: skip
    row, new = _insert_once(connection, workloads, same, values)
    if new:
        return int(row["id"])
    stored = read_workload(row)
    if stored != work:
        raise TuneError(
            "two workloads have one hash: the second cannot be stored",
            where=f"workload {work.sha256[:12]}",
        )
    if stored.features != work.features:  # the template may have learned to say more
        change = sa.update(workloads).where(workloads.c.id == row["id"])
        connection.execute(change.values(features=features, digest=digest))
    return int(row["id"])


def _add_device(connection: Connection, device: Device) -> int:
    same = sa.select(devices).where(devices.c.sha256 == device.sha256)
    values = {"sha256": device.sha256, "text": device.text}
    row, new = _insert_once(connection, devices, same, values)
    if not new and read_device(row) != device:
        raise TuneError("two devices have one hash: the second cannot be stored")
    return int(row["id"])


def _insert_once(
    connection: Connection,
    table: sa.Table,
    same: sa.Select[tuple[object, ...]],
    values: Mapping[str, object],
) -> tuple[Row, bool]:
    """The row that is there, or a new one; of two writers on a server, the second reads."""
    found = connection.execute(same).mappings().one_or_none()
    if found is not None:
        return found, False
    try:
        with connection.begin_nested():
            connection.execute(sa.insert(table).values(**values))
    except sa.exc.IntegrityError:
        return connection.execute(same).mappings().one(), False
    return connection.execute(same).mappings().one(), True


def find_workload(connection: Connection, work: Workload) -> int | None:
    """The row of a workload, compared in full."""
    query = sa.select(workloads).where(workloads.c.sha256 == work.sha256)
    row = connection.execute(query).mappings().one_or_none()
    return int(row["id"]) if row is not None and read_workload(row) == work else None


def find_device(connection: Connection, device: Device) -> int | None:
    """The row of a device, compared in full."""
    query = sa.select(devices).where(devices.c.sha256 == device.sha256)
    row = connection.execute(query).mappings().one_or_none()
    return int(row["id"]) if row is not None and read_device(row) == device else None


def read_workload(row: Row) -> Workload:
    """A workload from its row; raises `DamageError` if it is not what was written."""
    try:
        features = json.loads(row["features"])
        work = Workload(template=row["template"], text=row["text"], features=features)
        intact = (work.sha256, _features_digest(work, row["features"])) == (
            row["sha256"],
            row["digest"],
        )
    except _BAD:
        intact = False
    if not intact:
        raise DamageError(f"row {row['id']} of `{workloads.name}` is not what was written")
    return work


def read_device(row: Row) -> Device:
    """A device from its row; raises `DamageError` if it is not what was written."""
    try:
        device = Device(text=row["text"])
        intact = device.sha256 == row["sha256"]
    except _BAD:
        intact = False
    if not intact:
        raise DamageError(f"row {row['id']} of `{devices.name}` is not what was written")
    return device


def read_record(row: Row, work: Workload, device: Device) -> Record:
    """A record from its row; raises `DamageError` if it is not what was written.

    The digest covers every field and both hashes, so a row that came to stand under another
    workload is found as well.
    """
    try:
        record = Record(
            workload=work,
            device=device,
            versions=row["versions"],
            knobs=json.loads(row["knobs"]),
            seed=row["seed"],
            trial=row["trial"],
            verdict=Verdict(row["verdict"]),
            checked={0: False, 1: True}[row["checked"]],
            seconds=tuple(json.loads(row["seconds"])),
            baseline=tuple(json.loads(row["baseline"])),
            reason=row["reason"],
            by=row["measured_by"],
            at=row["measured_at"],
        )
        intact = record.digest == row["digest"]
    except _BAD:
        intact = False
    if not intact:
        raise DamageError(f"row {row['id']} of `{trials.name}` is not what was written")
    return record


def _features_digest(work: Workload, features: str) -> str:
    return sha256(canonical([work.sha256, features]).encode()).hexdigest()
