"""What is done about a store that is not what we wrote: recognize, set aside, rebuild.

Only a file that carries our mark is ever touched. It is copied beside itself with a suffix, its
intact rows go to a new file, and that takes its place in one step; nothing is deleted.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from sqlalchemy.engine import Connection

from tunesmith.ir.diagnostics import TuneError

from .connection import APPLICATION_ID, BUSY_SECONDS, Link
from .records import Device, Record, Workload
from .rows import Row, insert, read_device, read_record, read_workload
from .schema import DamageError, Step, devices, migrate, trials, version, workloads
from .wal import lost_transactions

__all__ = ["check", "prepare", "rebuild"]

_MARK = slice(68, 72)  # of the header of a SQLite file: a big-endian number


def prepare(link: Link, *, create: bool) -> None:
    """Make a file that carries our mark, if there is none; look at what a kill left.

    Raises `TuneError` if there is none and it may not, or cannot, be made; `DamageError` if the log
    that a killed process left has lost transactions.
    """
    if link.path is None:
        return
    with link.told():
        if not _is_empty(link.path):
            _check_log(link)
            return
        if not create:
            raise TuneError(
                "there is no tuning store", where=link.place, hint="`tunesmith tune` fills one"
            )
        link.path.parent.mkdir(parents=True, exist_ok=True)
        with link.lock(exclusive=True):
            if _is_empty(link.path):
                _begin_file(link.path)


def _check_log(link: Link) -> None:
    """Look at a log that nobody writes to; one that is in use was looked at when it was opened."""
    log = Path(f"{link.path}-wal")
    if not log.exists():
        return
    with link.lock(exclusive=True, wait=False) as held:
        lost = lost_transactions(log) if held else 0
        if lost:
            raise DamageError(f"its log is damaged: {lost} transactions or more", link.inode())


def _is_empty(path: Path) -> bool:
    return not path.exists() or path.stat().st_size == 0


def _begin_file(path: Path) -> None:
    """A file with our mark, before anything that could be lost is in it."""
    connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
    with contextlib.closing(connection):
        connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
        connection.execute("PRAGMA journal_mode=WAL")


def check(connection: Connection, link: Link) -> int:
    """Look at the whole store once, when it is opened; the version of its schema.

    Raises `DamageError` if its tables or indices contradict each other, `TuneError` if the file is
    not ours.
    """
    if link.path is not None:
        mark = connection.exec_driver_sql("PRAGMA application_id").scalar_one()
        if mark != APPLICATION_ID:
            raise _not_ours(link)
        found = str(connection.exec_driver_sql("PRAGMA integrity_check(1)").scalar_one())
        if found != "ok":
            raise DamageError(found)
    return version(connection)


def rebuild(link: Link, damage: DamageError, steps: Sequence[Step]) -> str | None:
    """Set a damaged file aside and put its intact rows into a new one; a line that says so.

    None if another process has done so already. Raises `TuneError` if the file is not ours, if it
    is on a server, or if there is no room for the copy: then nothing was changed.
    """
    if link.path is None:
        raise TuneError(
            f"the store is damaged: {damage}",
            where=link.place,
            hint="`tunesmith db prune --damaged` deletes rows that are not what was written",
        ) from damage
    path = link.path
    with link.told(), link.lock(exclusive=True):
        if not path.exists() or path.stat().st_ino != damage.inode:
            return None
        # Opening and closing a file drops this process's locks on it. None can be held: we are
        # alone, and no connection outlives its transaction.
        if int.from_bytes(path.read_bytes()[_MARK], "big") != APPLICATION_ID:
            raise _not_ours(link)
        aside = _set_aside(path)
        fresh = path.with_name(f".{path.name}.rebuild-{os.getpid()}")
        try:
            kept, lost = _salvage(path, fresh, steps)
            for suffix in ("-wal", "-shm"):
                Path(f"{path}{suffix}").unlink(missing_ok=True)
            os.replace(fresh, path)
            _sync(path.parent)
        finally:
            for suffix in ("", "-wal", "-shm", "-journal"):
                Path(f"{fresh}{suffix}").unlink(missing_ok=True)
    return (
        f"{path}: the store was damaged ({damage}); it was set aside as `{aside.name}` and "
        f"rebuilt: {kept} records kept, {lost}"
    )


def _not_ours(link: Link) -> TuneError:
    return TuneError(
        "the file is not a tuning store of ours",
        where=link.place,
        hint="choose another path with `--db`; this file was left as it is",
    )


def _set_aside(path: Path) -> Path:
    """Copies of the file and of its log, on the disk before this returns."""
    stem = f"{path.name}.damaged-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
    names = (path.with_name(f"{stem}{(n and f'-{n}') or ''}") for n in range(10_000))
    aside = next(name for name in names if not name.exists())
    for suffix in ("-wal", ""):
        source = Path(f"{path}{suffix}")
        if source.exists():
            shutil.copyfile(source, f"{aside}{suffix}")
            _sync(Path(f"{aside}{suffix}"))
    _sync(path.parent)
    return aside


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _salvage(path: Path, fresh: Path, steps: Sequence[Step]) -> tuple[int, str]:
    """Copy every row that is what was written; how many, and words on the rest."""
    _begin_file(fresh)
    records, lost = _intact(path)
    target = Link(fresh)
    with target.told(), target.engine.connect() as connection:
        connection = connection.execution_options(tunesmith_write=True)
        with connection.begin():
            migrate(connection, steps)
            for record in records:
                insert(connection, record)
    return len(records), lost


def _intact(path: Path) -> tuple[list[Record], str]:
    source = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
    with contextlib.closing(source):
        source.text_factory = lambda data: data.decode(errors="replace")
        works: dict[object, Workload] = {}
        machines: dict[object, Device] = {}
        records: list[Record] = []
        bad = 0
        scans = {t.name: _Scan(source, t.name) for t in (workloads, devices, trials)}
        for row in scans[workloads.name]:
            with contextlib.suppress(DamageError):
                works[row["id"]] = read_workload(row)
        for row in scans[devices.name]:
            with contextlib.suppress(DamageError):
                machines[row["id"]] = read_device(row)
        for row in scans[trials.name]:
            work, device = works.get(row["workload_id"]), machines.get(row["device_id"])
            try:
                if work is None or device is None:
                    raise DamageError("what the row is of was lost")
                records.append(read_record(row, work, device))
            except DamageError:
                bad += 1
    lost = f"{bad} lost"
    if any(scan.broken for scan in scans.values()):
        lost += ", and those that could not be read"
    return records, lost


class _Scan:
    """The readable rows of a table: from the front to the first fault, then from the back."""

    def __init__(self, source: sqlite3.Connection, table: str) -> None:
        self.source = source
        self.table = table
        self.broken = False

    def __iter__(self) -> Iterator[Row]:
        seen: set[object] = set()
        for order in ("ASC", "DESC"):
            try:
                # Without its indices, which may be what is damaged.
                cursor = self.source.execute(
                    f"SELECT * FROM {self.table} NOT INDEXED ORDER BY rowid {order}"
                )
                names = [column[0] for column in cursor.description]
                for values in cursor:
                    row: Mapping[str, object] = dict(zip(names, values, strict=True))
                    if row.get("id") not in seen:
                        seen.add(row.get("id"))
                        yield row
                if order == "ASC":
                    return
            except sqlite3.Error:
                self.broken = True
