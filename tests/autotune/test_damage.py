"""A store that is not what we wrote: set aside and rebuilt, or refused; never believed."""

from __future__ import annotations

import shutil
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from tunesmith.autotune.connection import Link
from tunesmith.autotune.database import open_database
from tunesmith.autotune.records import Record
from tunesmith.autotune.schema import STEPS
from tunesmith.autotune.wal import lost_transactions
from tunesmith.ir.diagnostics import TuneError

from .crash import no_file_beyond
from .making import DEVICE, OTHER, VERSIONS, record, workload

RECORDS = [record(i, workload=workload(rows=1 + i % 3)) for i in range(30)]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A closed store with `RECORDS`."""
    path = tmp_path / "tune.db"
    with open_database(path) as database:
        database.take(RECORDS)
    return path


def asides(store: Path) -> list[Path]:
    return sorted(p for p in store.parent.iterdir() if ".damaged-" in p.name)


def spoil(store: Path, *statements: str) -> None:
    """Change a store behind our back."""
    with closing(sqlite3.connect(store, isolation_level=None)) as connection:
        for statement in statements:
            assert connection.execute(statement).rowcount != 0


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE tunesmith_trials SET seconds = '[1e-9]' WHERE trial = 4",
        "UPDATE tunesmith_trials SET checked = 1 - checked WHERE trial = 4",
        "UPDATE tunesmith_trials SET checked = 'yes' WHERE trial = 4",
        "UPDATE tunesmith_trials SET workload_id = workload_id % 3 + 1 WHERE trial = 4",
        "UPDATE tunesmith_trials SET knobs = '{\"tile_m\":7}' WHERE trial = 4",
        "UPDATE tunesmith_trials SET knobs = '[[[' WHERE trial = 4",
        "UPDATE tunesmith_trials SET measured_by = CAST(x'FF41' AS TEXT) WHERE trial = 4",
        "UPDATE tunesmith_trials SET verdict = 'fine' WHERE trial = 4",
        "UPDATE tunesmith_trials SET trial = 1000 WHERE trial = 4",
    ],
)
def test_a_row_that_was_changed_is_found_and_left_behind(store: Path, statement: str) -> None:
    spoil(store, statement)
    told: list[str] = []
    with open_database(store, tell=told.append) as database:
        assert database.records() == [r for r in RECORDS if r.trial != 4]
        assert len(told) == 1
        assert f"rebuilt: {len(RECORDS) - 1} records kept, 1 lost" in told[0]
        [aside] = asides(store)
        assert f"set aside as `{aside.name}`" in told[0]
        database.add(RECORDS[4])
        assert sorted(r.trial for r in database.records()) == list(range(30))
    with open_database(store, tell=told.append):
        assert len(told) == 1, "what was rebuilt is whole"
    with closing(sqlite3.connect(aside)) as connection:  # the evidence is as it was
        assert connection.execute("SELECT count(*) FROM tunesmith_trials").fetchone() == (30,)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE tunesmith_workloads SET text = text || ' ' WHERE id = 2",
        "UPDATE tunesmith_workloads SET features = '{}' WHERE id = 2",
        "UPDATE tunesmith_workloads SET template = 'conv' WHERE id = 2",
    ],
)
def test_a_workload_that_was_changed_takes_its_trials_along(store: Path, statement: str) -> None:
    spoil(store, statement)
    told: list[str] = []
    with open_database(store, tell=told.append) as database:
        assert database.trials(workload(rows=2), DEVICE, VERSIONS) == []
        assert database.records() == [r for r in RECORDS if r.workload != workload(rows=2)]
    assert "20 records kept, 10 lost" in told[0]


def test_a_device_that_was_changed_takes_its_trials_along(store: Path) -> None:
    spoil(store, f"UPDATE tunesmith_devices SET text = '{OTHER.text}'")
    told: list[str] = []
    with open_database(store, tell=told.append) as database:
        assert database.trials(workload(rows=2), OTHER, VERSIONS) == []
        assert database.trials(workload(rows=2), DEVICE, VERSIONS) == []
    assert "0 records kept, 30 lost" in told[0]


@pytest.mark.parametrize(
    "statement",
    [
        "DROP TABLE tunesmith_store",
        "DELETE FROM tunesmith_store WHERE name = 'version'",
        "UPDATE tunesmith_store SET value = 'x' WHERE name = 'version'",
        "UPDATE tunesmith_store SET value = '7' WHERE name = 'version'",
        "ALTER TABLE tunesmith_trials ADD COLUMN more TEXT",
        "CREATE INDEX extra ON tunesmith_trials (seed)",
    ],
)
def test_a_schema_that_was_changed_is_rebuilt(store: Path, statement: str) -> None:
    spoil(store, statement)
    told: list[str] = []
    with open_database(store, tell=told.append) as database:
        assert database.records() == RECORDS
    assert "30 records kept, 0 lost" in told[0]


def test_a_broken_header_is_repaired_only_if_the_mark_is_ours(store: Path, tmp_path: Path) -> None:
    data = bytearray(store.read_bytes())
    data[0] ^= 1  # no longer "SQLite format 3"
    store.write_bytes(data)
    told: list[str] = []
    with open_database(store, tell=told.append):
        assert len(told) == 1
    assert asides(store)[0].read_bytes() == data

    foreign = tmp_path / "model.onnx"
    foreign.write_bytes(b"\x08\x07\x12\x04test" * 100)
    with pytest.raises(TuneError, match="not a tuning store"):
        open_database(foreign)
    assert foreign.read_bytes() == b"\x08\x07\x12\x04test" * 100
    assert len(asides(store)) == 1


def test_the_database_of_another_program_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "places.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE places (url TEXT)")
    before = path.read_bytes()
    with pytest.raises(TuneError, match="not a tuning store"):
        open_database(path)
    assert path.read_bytes() == before


@contextmanager
def left_by_a_kill(store: Path) -> Iterator[Path]:
    """Copies of the files as they are while a log is in use: what a kill would leave."""
    keep = Link(store)
    copy = store.with_name("killed.db")
    with open_database(store) as database, keep.engine.connect() as open_connection:
        open_connection.execute(sa.text("SELECT 1 FROM tunesmith_trials")).fetchall()
        for number in range(8):
            database.add(record(100 + number))
        shutil.copyfile(store, copy)
        shutil.copyfile(f"{store}-wal", f"{copy}-wal")
    yield copy


def test_what_a_kill_leaves_in_the_log_is_read(store: Path) -> None:
    with left_by_a_kill(store) as killed:
        assert Path(f"{killed}-wal").stat().st_size > 0
        assert lost_transactions(Path(f"{killed}-wal")) == 0
        told: list[str] = []
        with open_database(killed, tell=told.append) as database:
            assert len(database.records()) == len(RECORDS) + 8
        assert told == []


@pytest.mark.parametrize("part", [0, 0.2, 0.5])
def test_a_damaged_log_does_not_lose_records_in_silence(store: Path, part: float) -> None:
    with left_by_a_kill(store) as killed:
        log = Path(f"{killed}-wal")
        data = bytearray(log.read_bytes())
        data[int(part * len(data)) + 10] ^= 4
        log.write_bytes(data)
        told: list[str] = []
        with open_database(killed, tell=told.append) as database:
            kept = database.records()
        assert "log is damaged" in told[0]
        assert kept[: len(RECORDS)] == RECORDS
        [one, *more] = [p for p in asides(killed) if p.name.endswith("-wal")]
        assert one.read_bytes() == data
        assert more == []


def test_a_torn_log_is_no_damage(store: Path) -> None:
    with left_by_a_kill(store) as killed:
        log = Path(f"{killed}-wal")
        whole = log.read_bytes()
        for cut in (5000, 1, 24, 4096):
            log.write_bytes(whole[:-cut])
            assert lost_transactions(log) == 0


def _second(connection: Connection) -> None:
    """A step that only this test knows."""
    connection.execute(sa.text("ALTER TABLE tunesmith_trials ADD COLUMN watts TEXT"))


def _failing(connection: Connection) -> None:
    connection.execute(sa.text("ALTER TABLE tunesmith_trials ADD COLUMN volts TEXT"))
    connection.execute(sa.text("ALTER TABLE missing ADD COLUMN volts TEXT"))


def test_an_old_store_is_migrated_and_a_newer_one_refused(store: Path) -> None:
    with open_database(store, steps=(*STEPS, _second)) as database:
        assert database.records() == RECORDS
        database.add(record(100))
    with closing(sqlite3.connect(store)) as connection:
        assert connection.execute("SELECT watts FROM tunesmith_trials").fetchall()
    with open_database(store, steps=(*STEPS, _second)) as database:
        assert len(database.records()) == len(RECORDS) + 1
    before = store.read_bytes()
    with pytest.raises(TuneError, match="schema 2, and this tunesmith knows 1"):
        open_database(store)
    assert store.read_bytes() == before
    assert asides(store) == []


def test_a_migration_that_fails_leaves_the_old_store(store: Path) -> None:
    with pytest.raises(TuneError, match="no such table"):
        open_database(store, steps=(*STEPS, _second, _failing))
    told: list[str] = []
    with open_database(store, tell=told.append) as database:
        assert database.records() == RECORDS
    assert told == []


def test_two_processes_see_one_rebuild(store: Path) -> None:
    told: list[str] = []
    with open_database(store, tell=told.append) as first:
        with open_database(store, tell=told.append) as second:
            spoil(store, "UPDATE tunesmith_trials SET seconds = '[1]' WHERE trial = 4")
            kept: list[Record] = first.records()
            assert second.records() == kept
            second.add(RECORDS[4])
            assert RECORDS[4] in first.records()
    assert len(told) == 1
    assert len(asides(store)) == 1


def test_a_rebuild_that_is_cut_short_is_done_again(
    store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(store, "UPDATE tunesmith_trials SET seconds = '[1]' WHERE trial = 4")
    before = store.read_bytes()

    def cut(*names: object) -> None:
        raise OSError(5, "cut short")

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", cut)
        with open_database(store) as database, pytest.raises(TuneError, match="cut short"):
            database.records()
    assert store.read_bytes() == before
    told: list[str] = []
    with open_database(store, tell=told.append) as database:
        assert len(database.records()) == len(RECORDS) - 1
    assert len(told) == 1
    assert len(asides(store)) == 2
    assert not [p for p in store.parent.iterdir() if ".rebuild-" in p.name]


def test_without_room_for_a_rebuild_nothing_is_changed(store: Path) -> None:
    spoil(store, "UPDATE tunesmith_trials SET seconds = '[1]' WHERE trial = 4")
    before = store.read_bytes()
    for size in range(34_000, len(before), 8_000):
        with no_file_beyond(size), open_database(store) as database:
            with pytest.raises(TuneError, match=r"disk|too large"):
                database.records()
        assert store.read_bytes() == before
    told: list[str] = []
    with open_database(store, tell=told.append) as database:
        assert len(database.records()) == len(RECORDS) - 1


def test_users_that_never_pause_let_the_exclusive_one_in(store: Path) -> None:
    """Two of them overlap, so that at no moment nobody holds the shared lock."""
    link = Link(store)
    done = threading.Event()
    turns = [0, 0]

    def hold(which: int) -> None:
        while not done.is_set():
            with link.lock(exclusive=False):
                turns[which] += 1
                time.sleep(0.02)

    threads = [threading.Thread(target=hold, args=(which,)) for which in range(2)]
    threads[0].start()
    time.sleep(0.01)
    threads[1].start()
    try:
        for _ in range(5):
            began = time.monotonic()
            with link.lock(exclusive=True) as held:
                assert held
                before = list(turns)
                time.sleep(0.03)
                assert turns == before, "nobody else is in"
            assert time.monotonic() - began < 10
    finally:
        done.set()
        for thread in threads:
            thread.join()
    assert min(turns) > 1
