"""What the tuning store goes through: kills, full disks, corruption.

`make crash-tests` runs all of it and writes `docs/tuning-store.md`; the tests run less of it. Every
record is a function of (writer, number), so what comes back can be compared in full.
"""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import random
import resource
import shutil
import signal
import sqlite3
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

from tunesmith.autotune.database import open_database
from tunesmith.autotune.records import Record
from tunesmith.ir.diagnostics import TuneError

from .making import DEVICE, VERSIONS, record, workload

ROOT = Path(__file__).resolve().parents[2]
WORKLOADS = 5


def expected(writer: int, number: int) -> Record:
    """The record that a writer stores as its n-th; the same each time."""
    chance = random.Random(writer * 1_000_003 + number)
    return record(
        number,
        speedup=0.5 + chance.random(),
        seed=writer,
        workload=workload(rows=1 + (writer + number) % WORKLOADS),
        knobs={"tile_m": chance.randrange(1, 15), "writer": writer, "number": number},
        reason="x" * chance.randrange(300),
    )


# Children come from a server that has imported everything: cheap, and free of our threads.
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(["tests.autotune.crash"])


def write_for_ever(path: Path, writer: int, told: Connection) -> None:
    """Go on where the store says this writer stopped; a number in the pipe acknowledges one."""
    try:
        with open_database(path) as database:
            done = [r.trial for r in database.records() if r.seed == writer]
            number = len(done)
            assert sorted(done) == list(range(number)), "what was stored before has a hole"
            while True:
                database.add(expected(writer, number))
                os.write(told.fileno(), b"%d\n" % number)
                number += 1
    except Exception:
        os.write(told.fileno(), f"!{traceback.format_exc()}".encode())
        raise


@dataclass
class Kills:
    """What became of the records of writers that were killed."""

    kills: int = 0
    acknowledged: int = 0
    stored: int = 0
    lost: int = 0
    wrong: int = 0
    holes: int = 0
    told: list[str] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)
    seconds: float = 0.0

    def add(self, other: Kills) -> None:
        """Count another run as well."""
        for name in ("kills", "acknowledged", "stored", "lost", "wrong", "holes", "seconds"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.told += other.told
        self.failures += other.failures


def kill_writers(folder: Path, kills: int, writers: int = 3, seed: int = 0) -> Kills:
    """Keep several writers at one store, and kill one after the other at a random moment."""
    chance = random.Random(seed)
    result = Kills()
    path = folder / "killed.db"
    acknowledged: dict[int, int] = dict.fromkeys(range(writers), 0)
    began = time.perf_counter()
    running = {writer: _Writer(path, writer) for writer in range(writers)}
    try:
        while result.kills < kills:
            writer = chance.randrange(writers)
            child = running[writer]
            if not child.wait_for_first(60):
                result.failures.append(child.end())
                break
            time.sleep(chance.random() * 0.1)
            words = child.end()
            if words:
                result.failures.append(words)
            acknowledged[writer] = max(acknowledged[writer], child.count())
            result.kills += 1
            running[writer] = _Writer(path, writer)
    finally:
        for writer, child in running.items():
            words = child.end()
            if words:
                result.failures.append(words)
            acknowledged[writer] = max(acknowledged[writer], child.count())
    result.seconds = time.perf_counter() - began
    with open_database(path, tell=result.told.append) as database:
        stored = database.records()
    numbers = {writer: {r.trial for r in stored if r.seed == writer} for writer in running}
    result.acknowledged = sum(acknowledged.values())
    result.stored = len(stored)
    for writer, count in acknowledged.items():
        result.lost += len(set(range(count)) - numbers[writer])
        result.holes += numbers[writer] != set(range(len(numbers[writer])))
    result.wrong = sum(r != expected(r.seed, r.trial) for r in stored)
    return result


def rebuild_under_writers(folder: Path, rounds: int, writers: int = 3) -> Kills:
    """Damage a row while several write, and let a reader rebuild the file under their hands."""
    result = Kills()
    path = folder / "rebuilt.db"
    running = {writer: _Writer(path, writer) for writer in range(writers)}
    gone: set[tuple[int, int]] = set()
    try:
        for writer, child in running.items():
            if not child.wait_for_first(60):
                result.failures.append(f"{writer}: {child.end()}")
        for turn in range(rounds):
            time.sleep(0.1)
            writer = turn % writers
            with contextlib.closing(sqlite3.connect(path, timeout=30)) as connection:
                change = "UPDATE tunesmith_trials SET seconds = '[1]' WHERE seed = ? AND trial = ?"
                # Not the first record: what this writer acknowledged last is the interesting one.
                [[last]] = connection.execute(
                    "SELECT max(trial) FROM tunesmith_trials WHERE seed = ?", (writer,)
                )
                connection.execute(change, (writer, last))
                connection.commit()
            gone.add((writer, last))
            with open_database(path, tell=result.told.append) as database:
                database.records()
    finally:
        acknowledged = {}
        for writer, child in running.items():
            words = child.end()
            result.failures += [words] if words else []
            acknowledged[writer] = child.count()
    with open_database(path, tell=result.told.append) as database:
        stored = database.records()
    result.acknowledged = sum(acknowledged.values())
    result.stored = len(stored)
    promised = {(w, n) for w, count in acknowledged.items() for n in range(count)} - gone
    result.lost = len(promised - {(r.seed, r.trial) for r in stored})
    result.wrong = sum(r != expected(r.seed, r.trial) for r in stored)
    return result


class _Writer:
    """A process that writes, and the acknowledgements that came out of it."""

    def __init__(self, path: Path, writer: int) -> None:
        self.pipe, end = _FORKS.Pipe(duplex=False)
        self.process = _FORKS.Process(target=write_for_ever, args=(path, writer, end))
        self.process.start()
        end.close()
        self.text = b""

    def wait_for_first(self, seconds: float) -> bool:
        """Wait until it has stored something."""
        return self.pipe.poll(seconds) and self._read() and not self.text.startswith(b"!")

    def end(self) -> str:
        """Kill it; what it complained about if it had ended before."""
        self.process.kill()
        self.process.join()
        while self._read():
            pass
        self.pipe.close()
        words = self.text.partition(b"!")[2].decode()
        return "" if self.process.exitcode == -signal.SIGKILL else words or "it ended by itself"

    def _read(self) -> bool:
        try:
            part = os.read(self.pipe.fileno(), 1 << 16)
        except OSError:  # closed: it was read before
            part = b""
        self.text += part
        return bool(part)

    def count(self) -> int:
        """How many records of this writer are acknowledged, counted from the first one ever."""
        whole = self.text.partition(b"!")[0]
        numbers = whole[: whole.rfind(b"\n") + 1].split()
        return int(numbers[-1]) + 1 if numbers else 0


@dataclass
class Full:
    """What became of a store when the disk was full."""

    steps: int = 0
    refused: int = 0
    passed: int = 0
    lost: int = 0
    wrong: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    unexplained: list[str] = field(default_factory=list)


@contextlib.contextmanager
def no_file_beyond(size: int) -> Iterator[None]:
    """No file of this process may grow beyond `size` bytes: a disk that is full."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def fill_disks(folder: Path, sizes: range, first: int = 40, more: int = 40) -> Full:
    """Add to a store that is there, and to one that is only now made, under ever larger limits."""
    result = Full()
    base = folder / "base.db"
    before = [expected(0, n) for n in range(first)]
    with open_database(base) as database:
        database.take(before)
    for size in sizes:
        for kind, held in (("old", before), ("new", [])):
            path = folder / f"{kind}-{size}.db"
            if held:
                shutil.copyfile(base, path)
            acknowledged: list[Record] = []
            result.steps += 1
            try:
                with no_file_beyond(size), open_database(path) as database:
                    _add(database, len(held), more, acknowledged)
                result.passed += 1
            except TuneError as error:
                result.refused += 1
                result.errors[error.message.partition(":")[0]] += 1
            except Exception as error:
                result.unexplained.append(f"{path.name}: {type(error).__name__}: {error}")
            _look(path, [*held, *acknowledged], result)
    return result


def fill_small_disk(folder: Path) -> Full:
    """Fill a file system until it refuses, once by one record at a time and once by an import."""
    result = Full()
    path = folder / "small.db"
    acknowledged: list[Record] = []
    for bulk in (False, True):
        result.steps += 1
        try:
            with open_database(path) as database:
                if bulk:
                    database.take(expected(1, n) for n in range(100_000))
                else:
                    _add(database, 0, 100_000, acknowledged)
            result.passed += 1
        except TuneError as error:
            result.refused += 1
            result.errors[error.message.partition(":")[0]] += 1
        except Exception as error:
            result.unexplained.append(f"{type(error).__name__}: {error}")
    _look(path, acknowledged, result)
    return result


def _add(database: object, start: int, count: int, acknowledged: list[Record]) -> None:
    for number in range(start, start + count):
        one = expected(0, number)
        database.add(one)  # type: ignore[attr-defined]  # a Database
        acknowledged.append(one)


def _look(path: Path, promised: list[Record], result: Full) -> None:
    """Compare what is there, now that there is room, with what was promised."""
    try:
        with open_database(path, tell=result.unexplained.append) as database:
            stored = database.records()
    except Exception as error:
        result.unexplained.append(f"{path.name}: afterwards: {type(error).__name__}: {error}")
        return
    result.lost += sum(one not in stored for one in promised)
    result.wrong += sum(one != expected(one.seed, one.trial) for one in stored)


@dataclass
class Corruptions:
    """What became of stores that were damaged."""

    count: int = 0
    crashes: int = 0
    wrong: int = 0
    silent: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    kept: int = 0
    of: int = 0
    problems: list[str] = field(default_factory=list)


def read_all(path: Path, answer: Path) -> None:
    """Open a store, read all of it, add to it, read again; what happened, as JSON in a file."""
    told: list[str] = []
    facts: dict[str, object] = {"told": told}
    try:
        with open_database(path, tell=told.append) as database:
            facts["digests"] = [r.digest for r in database.records()]
            new = expected(9, 0)
            database.add(new)
            assert database.trials(new.workload, DEVICE, VERSIONS, seed=9) == [new]
    except TuneError as error:
        facts["error"] = str(error)
    answer.write_text(json.dumps(facts), encoding="utf-8")


def corrupt(folder: Path, count: int, records: int = 200, seed: int = 0) -> Corruptions:
    """Damage copies of a store, each in another way, and use each in a process of its own."""
    result = Corruptions()
    base = folder / "whole.db"
    written = [expected(n % 3, n // 3) for n in range(records)]
    with open_database(base) as database:
        database.take(written)
    known = {r.digest for r in written}
    for number in range(count):
        chance = random.Random(seed * 7919 + number)
        path = folder / f"corrupt-{number}.db"
        data = bytearray(base.read_bytes())
        kind = _damage(data, chance)
        path.write_bytes(data)
        answer = path.with_suffix(".json")
        child = _FORKS.Process(target=read_all, args=(path, answer))
        child.start()
        child.join()
        result.count += 1
        result.kinds[kind] += 1
        result.of += records
        if child.exitcode != 0:
            result.crashes += 1
            result.problems.append(f"{number} {kind}: status {child.exitcode}")
            continue
        facts = json.loads(answer.read_text(encoding="utf-8"))
        found = facts.get("digests", [])
        outcome = "named error" if "error" in facts else "rebuilt" if facts["told"] else "unharmed"
        result.outcomes[outcome] += 1
        result.kept += len(found)
        result.wrong += len(set(found) - known) + len(found) - len(set(found))
        if outcome == "unharmed" and set(found) != known:
            result.silent += 1
            result.problems.append(f"{number} {kind}: {len(found)} of {records}, and not a word")
    return result


def _damage(data: bytearray, chance: random.Random) -> str:
    """Damage a file in one of seven ways; which one."""
    size, page = len(data), 4096
    at = chance.randrange(size)
    kind = chance.choice(
        ["bit", "byte", "run", "zeros", "swapped pages", "cut off", "garbage behind"]
    )
    pages = size // page
    if kind == "bit":
        data[at] ^= 1 << chance.randrange(8)
    elif kind == "byte":
        data[at] = chance.randrange(256)
    elif kind == "run":
        data[at : at + 64] = chance.randbytes(len(data[at : at + 64]))
    elif kind == "zeros":
        start = chance.randrange(pages) * page
        data[start : start + page] = bytes(page)
    elif kind == "swapped pages":
        one, two = (n * page for n in chance.sample(range(pages), 2))
        left, right = data[one : one + page], data[two : two + page]
        data[one : one + page], data[two : two + page] = right, left
    elif kind == "cut off":
        del data[chance.randrange(100, size) :]
    else:
        data += chance.randbytes(chance.randrange(1, 3 * page))
    return kind
