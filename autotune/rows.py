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


# Made once: making a statement costs more than running it.
_WORKLOAD = sa.select(workloads).where(workloads.c.sha256 == sa.bindparam("sha256"))
_DEVICE = sa.select(devices).where(devices.c.sha256 == sa.bindparam("sha256"))
_KEY = ("workload_id", "device_id", "versions", "seed", "trial")
_TRIAL = sa.select(trials).where(*(trials.c[name] == sa.bindparam(name) for name in _KEY))
_INSERT = {table: sa.insert(table) for table in (workloads, devices, trials)}


def insert(connection: Connection, record: Record) -> tuple[int, Outcome]:
    """The row of a record, and what was there before; a trial that is stored stays as it is."""
    values = {
        "workload_id": _add_workload(connection, record.workload),
        "device_id": _add_device(connection, record.device),
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
    number, row = _insert_once(connection, trials, _TRIAL, _KEY, values)
    if row is None:
        return number, Outcome.new
    stored = read_record(row, record.workload, record.device)
    if stored == record:
        return number, Outcome.known
    return number, Outcome.again if stored.knobs == record.knobs else Outcome.taken


def _add_workload(connection: Connection, work: Workload) -> int:
    features = canonical(work.features)
    digest = _features_digest(work, features)
    values = {"sha256": work.sha256, "template": work.template, "text": work.text,
              "features": features, "digest": digest}  # fmt: skip
    number, row = _insert_once(connection, workloads, _WORKLOAD, ("sha256",), values)
    if row is None:
        return number
    stored = read_workload(row)
    if stored != work:
        raise TuneError(
            "two workloads have one hash: the second cannot be stored",
            where=f"workload {work.sha256[:12]}",
        )
    if stored.features != work.features:  # the template may have learned to say more
        change = sa.update(workloads).where(workloads.c.id == number)
        connection.execute(change.values(features=features, digest=digest))
    return number


def _add_device(connection: Connection, device: Device) -> int:
    values = {"sha256": device.sha256, "text": device.text}
    number, row = _insert_once(connection, devices, _DEVICE, ("sha256",), values)
    if row is not None and read_device(row) != device:
        raise TuneError("two devices have one hash: the second cannot be stored")
    return number


def _insert_once(
    connection: Connection,
    table: sa.Table,
    same: sa.Select[tuple[object, ...]],
    key: tuple[str, ...],
    values: Mapping[str, object],
) -> tuple[int, Row | None]:
    """The number of the row, and the row if it was there; of two writers on a server one reads."""
    wanted = {name: values[name] for name in key}
    found = connection.execute(same, wanted).mappings().one_or_none()
    if found is None:
        try:
            with connection.begin_nested():
                added = connection.execute(_INSERT[table], values).inserted_primary_key
                assert added is not None  # every table has one
                return int(added[0]), None
        except sa.exc.IntegrityError:
            found = connection.execute(same, wanted).mappings().one()
    return int(found["id"]), found


def find_workload(connection: Connection, work: Workload) -> int | None:
    """The row of a workload, compared in full."""
    row = connection.execute(_WORKLOAD, {"sha256": work.sha256}).mappings().one_or_none()
    return int(row["id"]) if row is not None and read_workload(row) == work else None


def find_device(connection: Connection, device: Device) -> int | None:
    """The row of a device, compared in full."""
    row = connection.execute(_DEVICE, {"sha256": device.sha256}).mappings().one_or_none()
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
