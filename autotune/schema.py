"""The tables of the tuning store, and the steps from each version of them to the next.

A step is never edited once it was released: a store of any age is brought up to date by the steps
that it lacks, all in one transaction. The tables below are those after the last step.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from tunesmith.ir.diagnostics import TuneError

__all__ = [
    "STEPS",
    "DamageError",
    "Step",
    "devices",
    "migrate",
    "settings",
    "trials",
    "version",
    "workloads",
]

Step = Callable[[Connection], None]

_metadata = sa.MetaData()
# Names are prefixed: a team's server may hold other tables.
settings = sa.Table(
    "tunesmith_store",
    _metadata,
    sa.Column("name", sa.String(64), primary_key=True),
    sa.Column("value", sa.Text, nullable=False),
)
workloads = sa.Table(
    "tunesmith_workloads",
    _metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("sha256", sa.String(64), nullable=False, unique=True),
    sa.Column("template", sa.Text, nullable=False),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("features", sa.Text, nullable=False),  # canonical JSON
    sa.Column("digest", sa.String(64), nullable=False),
)
devices = sa.Table(
    "tunesmith_devices",
    _metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("sha256", sa.String(64), nullable=False, unique=True),
    sa.Column("text", sa.Text, nullable=False),
)
trials = sa.Table(
    "tunesmith_trials",
    _metadata,
    sa.Column("id", sa.Integer, primary_key=True),
    sa.Column("workload_id", sa.ForeignKey(workloads.c.id), nullable=False),
    sa.Column("device_id", sa.ForeignKey(devices.c.id), nullable=False),
    sa.Column("versions", sa.Text, nullable=False),
    sa.Column("knobs", sa.Text, nullable=False),  # canonical JSON, as the times are
    sa.Column("seed", sa.BigInteger, nullable=False),
    sa.Column("trial", sa.BigInteger, nullable=False),
    sa.Column("verdict", sa.String(32), nullable=False),
    sa.Column("checked", sa.SmallInteger, nullable=False),  # 0 or 1
    sa.Column("seconds", sa.Text, nullable=False),
    sa.Column("baseline", sa.Text, nullable=False),
    sa.Column("reason", sa.Text, nullable=False),
    sa.Column("measured_by", sa.Text, nullable=False),
    sa.Column("measured_at", sa.Text, nullable=False),
    sa.Column("digest", sa.String(64), nullable=False),
    sa.UniqueConstraint("workload_id", "device_id", "versions", "seed", "trial"),
)


class DamageError(Exception):
    """What a store holds is not what was written: `Database` repairs it, or says so.

    `inode` is the number of the file in which it was found, or 0.
    """

    def __init__(self, message: str, inode: int = 0) -> None:
        super().__init__(message)
        self.inode = inode


def _first(connection: Connection) -> None:
    """Version 1: all the tables."""
    _metadata.create_all(connection)


STEPS: tuple[Step, ...] = (_first,)


def version(connection: Connection) -> int:
    """The version of the schema of an open store; 0 if there are no tables yet.

    Raises `DamageError` if the tables are not those that the last step left.
    """
    if not sa.inspect(connection).has_table(settings.name):
        _damage_if(_definitions(connection) != "", "the table of versions is missing")
        return 0
    rows = {row.name: row.value for row in connection.execute(sa.select(settings))}
    text = rows.get("version", "")
    _damage_if(rows.get("digest") != _digest(connection, text), "the schema is not what it was")
    return int(text)


def migrate(connection: Connection, steps: Sequence[Step] = STEPS) -> None:
    """Bring a store up to date within the transaction of the caller.

    Raises `TuneError` if the store is newer than we are, `DamageError` if it is damaged.
    """
    if connection.dialect.name == "postgresql":  # two first users: one creates, the other waits
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(0x74756E65)))
    found = version(connection)
    if found > len(steps):
        raise TuneError(
            f"the store has schema {found}, and this tunesmith knows {len(steps)}",
            hint="install the tunesmith that wrote it, or choose another store with `--db`",
        )
    for step in steps[found:]:
        step(connection)
    if found < len(steps):
        text = str(len(steps))
        connection.execute(sa.delete(settings))
        connection.execute(sa.insert(settings).values(name="version", value=text))
        digest = _digest(connection, text)
        connection.execute(sa.insert(settings).values(name="digest", value=digest))


def _digest(connection: Connection, text: str) -> str:
    return hashlib.sha256(f"{text}\n{_definitions(connection)}".encode()).hexdigest()


def _definitions(connection: Connection) -> str:
    """The text of our tables' definitions; a server guards its own, and has none here."""
    if connection.dialect.name != "sqlite":
        return ""
    ours = "tbl_name LIKE 'tunesmith!_%' ESCAPE '!'"
    query = f"SELECT name, sql FROM sqlite_master WHERE {ours} ORDER BY name"
    return "\n".join(f"{name} {sql}" for name, sql in connection.exec_driver_sql(query).fetchall())


def _damage_if(fact: bool, message: str) -> None:
    if fact:
        raise DamageError(message)
