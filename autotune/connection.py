"""Transactions on a tuning store: SQLite by path, PostgreSQL by URL; each error in our words.

Every transaction opens its own connection: nothing is held that a forked worker could inherit, and
a file that was set aside and rebuilt by another process is never written to again.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.pool import NullPool

from tunesmith.ir.diagnostics import TuneError

from .schema import DamageError

__all__ = ["APPLICATION_ID", "BUSY_SECONDS", "Link"]

APPLICATION_ID = 0x74756E73  # "tuns", in the header of a SQLite file: that it is ours
BUSY_SECONDS = 30
_FULL = "free some space, or choose another store with `--db`; what was stored before is intact"
_FORMS = "a store is a path, `sqlite:///PATH` or `postgresql://USER@HOST/DATABASE`"
T = TypeVar("T")


class Link:
    """How to reach a store; holds no open connection.

    `place` is what a message calls it: the path, or the URL without its password. `path` is None
    for a server. Raises `TuneError` if the URL is of no kind that is supported.
    """

    def __init__(self, url: str | Path) -> None:
        text = str(url)
        if "://" not in text:
            parsed = sa.URL.create("sqlite", database=text)
        else:
            parsed = _parse(text)
        self.path: Path | None = None
        self.place = parsed.render_as_string(hide_password=True)
        if parsed.drivername.partition("+")[0] == "sqlite":
            if parsed.database in (None, "", ":memory:"):
                raise TuneError("a store in memory would be forgotten at once", hint=_FORMS)
            self.path = Path(str(parsed.database)).expanduser().absolute().resolve()
            self.place = str(self.path)
            parsed = sa.URL.create("sqlite+pysqlite", database=self.place)
            arguments: dict[str, object] = {"timeout": BUSY_SECONDS, "isolation_level": None}
        else:
            parsed = parsed.set(drivername="postgresql+psycopg")
            arguments = {"connect_timeout": BUSY_SECONDS}
        try:
            self.engine = sa.create_engine(parsed, poolclass=NullPool, connect_args=arguments)
        except ModuleNotFoundError:
            raise TuneError(
                "PostgreSQL needs psycopg", where=self.place, hint="pip install 'tunesmith[team]'"
            ) from None
        if self.path is not None:
            sa.event.listen(self.engine, "connect", _set_up)
            sa.event.listen(self.engine, "begin", _begin)

    def run(self, work: Callable[[Connection], T], *, write: bool) -> T:
        """Do `work` in one transaction; what it wrote is on the disk when this returns.

        Raises `TuneError` if the store cannot be reached or written, `DamageError` if it is
        damaged.
        """
        with self.lock(exclusive=False):
            inode = 0 if self.path is None else self.inode()
            try:
                with self.told(), self.engine.connect() as connection:
                    connection = connection.execution_options(tunesmith_write=write)
                    with connection.begin():
                        return work(connection)
            except DamageError as damage:
                damage.inode = inode
                raise

    def inode(self) -> int:
        """Of the file that the name means now; it stays so while the lock is held."""
        with self.told():
            return os.stat(self.place).st_ino

    def compact(self) -> None:
        """Give unused room of a file back to the disk; a server sees to that itself."""
        if self.path is None:
            return
        with self.lock(exclusive=False), self.told():
            connection = self.engine.raw_connection()
            try:
                connection.cursor().execute("VACUUM")
            finally:
                connection.close()

    @contextlib.contextmanager
    def lock(self, *, exclusive: bool, wait: bool = True) -> Iterator[bool]:
        """Keep the file in its place: shared while it is used, exclusive while it is replaced.

        SQLite's own locks order the transactions; this one is about which file the name means.
        Yields whether it is held, which without `wait` it may not be.
        """
        if self.path is None:
            yield True
            return
        kind = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
        with self._open("-lock") as room:
            # All queue at the gate, and who waits for the room keeps it shut behind himself: users
            # that come and go without a pause would otherwise never let the exclusive one in.
            with self._open("-gate") as gate:
                held = self._take(gate, fcntl.LOCK_EX, wait) and self._take(room, kind, wait)
            yield held

    @contextlib.contextmanager
    def _open(self, suffix: str) -> Iterator[int]:
        """A file beside the store that is only locked; closing it, or dying, lets the lock go."""
        with self.told():
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            descriptor = os.open(f"{self.path}{suffix}", flags, 0o666)
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def _take(self, descriptor: int, kind: int, wait: bool) -> bool:
        deadline = time.monotonic() + BUSY_SECONDS
        while True:
            try:
                fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
                return True
            except BlockingIOError:
                if not wait:
                    return False
                if time.monotonic() > deadline:
                    raise TuneError(
                        f"another process has held the store for {BUSY_SECONDS} s",
                        where=self.place,
                        hint="wait for it, or end it",
                    ) from None
                time.sleep(0.001)

    @contextlib.contextmanager
    def told(self) -> Iterator[None]:
        """Say in our words what the database or the disk did not do."""
        try:
            yield
        except (sa.exc.SQLAlchemyError, sqlite3.Error) as error:
            raise self._explain(error) from error
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise TuneError(f"the store cannot be used: {reason}", where=self.place) from error

    def _explain(self, error: Exception) -> Exception:
        cause = getattr(error, "orig", None) or error
        code = getattr(cause, "sqlite_errorcode", 0) or 0
        line = (str(cause).strip().splitlines() or [type(cause).__name__])[0]
        message, hint = f"the database refused: {line}", None
        match code & 0xFF:
            case 11 | 26:  # SQLITE_CORRUPT, SQLITE_NOTADB
                return DamageError(line)
            case 13:  # SQLITE_FULL
                message, hint = "the disk is full: nothing of this transaction was stored", _FULL
            case 10:  # SQLITE_IOERR
                message, hint = f"the disk refused: {line}; nothing was stored", _FULL
            case 5 | 6:  # SQLITE_BUSY, SQLITE_LOCKED
                message = f"another process has held the store for {BUSY_SECONDS} s"
                hint = "wait for it, or end it"
            case 8 | 14 | 3:  # SQLITE_READONLY, SQLITE_CANTOPEN, SQLITE_PERM
                message = f"the store cannot be opened for writing: {line}"
                hint = "its folder must be writable too; choose another store with `--db`"
            case _ if self.path is None and isinstance(error, sa.exc.OperationalError):
                message, hint = f"the server cannot be used: {line}", _FORMS
        return TuneError(message, where=self.place, hint=hint)


def _parse(text: str) -> sa.URL:
    try:
        parsed = sa.make_url(text)
    except sa.exc.ArgumentError:
        raise TuneError("the URL of the store cannot be read", hint=_FORMS) from None
    known = ("sqlite", "sqlite+pysqlite", "postgresql", "postgresql+psycopg")
    if parsed.drivername not in known:
        raise TuneError(f"a store on `{parsed.drivername}` is not supported", hint=_FORMS)
    return parsed


def _set_up(connection: object, record: object) -> None:
    cursor = connection.cursor()  # type: ignore[attr-defined]  # of the driver, without a type
    # What is no UTF-8 was not written by us: read as something else, its digest does not fit.
    connection.text_factory = lambda data: data.decode(errors="replace")  # type: ignore[attr-defined]
    for pragma in ("synchronous=FULL", "foreign_keys=ON", "trusted_schema=OFF",
                   "cell_size_check=ON"):  # fmt: skip
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin(connection: Connection) -> None:
    """A writer takes its lock at once: one that reads first and writes later could be refused."""
    write = connection.get_execution_options().get("tunesmith_write")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")
