"""The tuning store: every trial ever measured, durable, and found again by what it was of.

One SQLite file by default, a PostgreSQL server by URL; the code is the same. A hash picks a
workload's row, its whole text decides; each row has a digest, so that what was not written by us is
never handed out. A damaged file is set aside and rebuilt from its intact rows.
"""

from __future__ import annotations

import itertools
import logging
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import platformdirs
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from tunesmith.ir.diagnostics import TuneError

from .connection import Link
from .damage import check, prepare, rebuild
from .exchange import Bad, lines_of, read_lines, write_whole
from .records import Device, Record, TrialTaken, Workload, best_of
from .rows import Outcome, find_device, find_workload, insert, read_record, read_workload
from .schema import STEPS, DamageError, Step, migrate, trials, workloads
from .selection import Pruning, Selection, prune, select

__all__ = ["Database", "Imported", "TrialTaken", "default_url", "open_database"]

T = TypeVar("T")


def default_url() -> str:
    """`TUNESMITH_DB`, or `tune.db` in the user's data folder."""
    chosen = os.environ.get("TUNESMITH_DB")
    return chosen or str(Path(platformdirs.user_data_dir("tunesmith")) / "tune.db")


def open_database(
    url: str | Path | None = None,
    *,
    create: bool = True,
    tell: Callable[[str], None] | None = None,
    steps: Sequence[Step] = STEPS,
) -> Database:
    """Open a store: the default one, a SQLite file by its path, or a server by its URL.

    A file that does not exist is created, unless `create` is off. `tell` gets a line if a damaged
    file was set aside; the log does if it is not given. Raises `TuneError` if the store cannot be
    opened, was written by a newer version, or is not one of ours.
    """
    return Database(Link(url or default_url()), create=create, tell=tell, steps=steps)


class Database:
    """An open store; safe to use from several processes and threads at once.

    Every method raises `TuneError` if the disk is full, the store is busy for half a minute or
    cannot be reached; what was stored before stays.
    """

    def __init__(
        self,
        link: Link,
        *,
        create: bool = True,
        tell: Callable[[str], None] | None = None,
        steps: Sequence[Step] = STEPS,
    ) -> None:
        self._link = link
        self._tell = tell or logging.getLogger("tunesmith.autotune").warning
        self._steps = steps
        self._mend(lambda: prepare(link, create=create))
        if self._run(lambda connection: check(connection, link), write=False) != len(steps):
            self._run(lambda connection: migrate(connection, steps), write=True)

    @property
    def place(self) -> str:
        """The path, or the URL without its password."""
        return self._link.place

    def __enter__(self) -> Database:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the store; nothing is pending, for every transaction ended when it returned."""
        self._link.engine.dispose()

    def _run(self, work: Callable[[Connection], T], *, write: bool) -> T:
        """One transaction; if the file turns out to be damaged, rebuild it and try once more."""
        return self._mend(lambda: self._link.run(work, write=write))

    def _mend(self, action: Callable[[], T]) -> T:
        try:
            return action()
        except DamageError as damage:
            found = damage
        try:
            line = rebuild(self._link, found, self._steps)
            if line is not None:
                self._tell(line)
            return action()
        except DamageError as damage:
            raise TuneError(f"the store is damaged: {damage}", where=self.place) from damage

    def add(self, record: Record) -> int:
        """Store a trial, and return the number of its row; it is durable when this returns.

        A trial that is there already (the same workload, device, versions, seed and number) is not
        stored twice; if its knobs are others, `TrialTaken` is raised and the first one stays.
        """
        row, outcome = self._run(lambda connection: insert(connection, record), write=True)
        if outcome is Outcome.taken:
            raise TrialTaken(
                f"trial {record.trial} of seed {record.seed} is stored with other knobs",
                where=f"workload {record.workload.sha256[:12]}",
                hint="two tuners that run at once each need a seed of their own",
            )
        return row

    def trials(
        self, workload: Workload, device: Device, versions: str, seed: int | None = None
    ) -> list[Record]:
        """The trials of a workload, by seed and number; of one seed if it is given."""
        return self._run(
            lambda connection: _trials(connection, workload, device, versions, seed), write=False
        )

    def best(self, workload: Workload, device: Device, versions: str) -> Record | None:
        """The trial to use: checked, ok, and of the greatest speedup above 1; or None."""
        return best_of(self.trials(workload, device, versions))

    def near(
        self,
        template: str,
        device: Device,
        versions: str,
        features: Mapping[str, int],
        limit: int = 4,
    ) -> list[Record]:
        """The best records of the nearest workloads, nearest first, at most `limit`.

        Only workloads with the same names of features are near at all; the distance is Euclidean
        in the logarithm of each. A workload that has exactly these features comes first.
        """

        def work(connection: Connection) -> list[Record]:
            query = sa.select(workloads).where(workloads.c.template == template)
            candidates = [
                read_workload(row)
                for row in connection.execute(query.order_by(workloads.c.id)).mappings()
            ]
            candidates = [w for w in candidates if w.features.keys() == features.keys()]
            found: list[Record] = []
            for candidate in sorted(candidates, key=lambda w: _distance(w.features, features)):
                if len(found) >= limit:
                    break
                best = best_of(_trials(connection, candidate, device, versions, None))
                found += [best] if best is not None else []
            return found

        return self._run(work, write=False)

    def records(self, chosen: Selection = Selection()) -> list[Record]:  # noqa: B008  # frozen
        """All records, or those that are meant, in the order they were stored."""
        return self._run(
            lambda connection: [record for _, record in select(connection, chosen)], write=False
        )

    def export(self, file: Path, chosen: Selection = Selection()) -> int:  # noqa: B008  # frozen
        """Write records as JSON lines to a file, which appears when it is complete; how many.

        Raises `OSError` if the file cannot be written.
        """
        records = self.records(chosen)
        write_whole(file, lines_of(records))
        return len(records)

    def import_(self, file: Path) -> Imported:
        """Add the records of a file of JSON lines; lines that are none are told, not stored.

        Raises `OSError` if the file cannot be read.
        """
        with file.open("rb") as lines:
            return self.take(read_lines(lines))

    def merge(self, other: Database) -> Imported:
        """Add the records of another store, which stays as it is."""
        return self.take(other.records())

    def take(self, items: Iterable[Record | Bad]) -> Imported:
        """Add records, a batch a transaction, so that tuners can write in between.

        Where the place of a record is taken the stored one stays.
        """
        outcomes: Counter[Outcome] = Counter()
        bad = []
        for batch in _batches(items, 500):
            bad += [item for item in batch if isinstance(item, Bad)]
            records = [item for item in batch if isinstance(item, Record)]
            outcomes.update(self._insert(records))
        return Imported(
            new=outcomes[Outcome.new],
            known=outcomes[Outcome.known],
            other=outcomes[Outcome.again] + outcomes[Outcome.taken],
            bad=tuple(bad),
        )

    def _insert(self, records: Sequence[Record]) -> list[Outcome]:
        def work(connection: Connection) -> list[Outcome]:
            return [insert(connection, record)[1] for record in records]

        return self._run(work, write=True)

    def prune(self, pruning: Pruning) -> int:
        """Delete trials; how many. A file gives the room back to the disk."""
        gone = self._run(lambda connection: prune(connection, pruning), write=True)
        self._mend(self._link.compact)
        return gone


@dataclass(frozen=True, kw_only=True)
class Imported:
    """How many records were new, how many known, and in how many cases another one stays."""

    new: int
    known: int
    other: int
    bad: tuple[Bad, ...]


def _batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, size)):
        yield batch


def _trials(
    connection: Connection, work: Workload, device: Device, versions: str, seed: int | None
) -> list[Record]:
    work_id, device_id = find_workload(connection, work), find_device(connection, device)
    if work_id is None or device_id is None:
        return []
    query = sa.select(trials).where(
        trials.c.workload_id == work_id,
        trials.c.device_id == device_id,
        trials.c.versions == versions,
    )
    if seed is not None:
        query = query.where(trials.c.seed == seed)
    rows = connection.execute(query.order_by(trials.c.seed, trials.c.trial)).mappings()
    return [read_record(row, work, device) for row in rows]


def _distance(left: Mapping[str, int], right: Mapping[str, int]) -> float:
    """Of two sizes, what counts is their ratio; `asinh` is a logarithm that takes 0 as well."""
    return math.dist(*([math.asinh(sizes[name]) for name in left] for sizes in (left, right)))
