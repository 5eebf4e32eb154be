"""The same store on a PostgreSQL server: what SQLite shows, shown again there."""

from __future__ import annotations

import getpass
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql
from sqlalchemy.schema import CreateTable

from tunesmith.autotune import schema
from tunesmith.autotune.database import open_database
from tunesmith.autotune.records import TrialTaken, Verdict
from tunesmith.autotune.selection import Pruning
from tunesmith.ir.diagnostics import TuneError

from .making import DEVICE, OTHER, VERSIONS, record, workload

BINARIES = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), reverse=True)
ROOT = Path(__file__).resolve().parents[2]


def test_the_tables_are_valid_in_its_dialect() -> None:
    """Needs no server: names, types and constraints are those that it knows."""
    tables = [schema.settings, schema.workloads, schema.devices, schema.trials]
    dialect = postgresql.dialect()  # type: ignore[no-untyped-call]  # shipped so
    text = "\n".join(str(CreateTable(t).compile(dialect=dialect)) for t in tables)
    assert "id SERIAL NOT NULL" in text
    assert "seed BIGINT NOT NULL" in text
    assert "UNIQUE (workload_id, device_id, versions, seed, trial)" in text
    assert "FOREIGN KEY(workload_id) REFERENCES tunesmith_workloads (id)" in text


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The URL of a server of our own, on a socket in a folder of its own."""
    pytest.importorskip("psycopg", reason="needs the extra `team`")
    initdb = shutil.which("initdb") or (str(BINARIES[0]) if BINARIES else None)
    if initdb is None:
        pytest.skip("needs a PostgreSQL server's programs")
    user = "nobody" if os.getuid() == 0 else getpass.getuser()  # it refuses to run as root
    folder = Path(tempfile.mkdtemp(prefix="tunesmith-pg-"))
    if os.getuid() == 0:
        shutil.chown(folder, user)
    try:
        subprocess.run(
            [initdb, "-D", folder / "data", "-U", "tester", "--auth=trust", "-E", "UTF8", "-N"],
            check=True,
            capture_output=True,
            user=user,
            cwd=folder,
        )
        process = subprocess.Popen(
            [Path(initdb).with_name("postgres"), "-D", folder / "data", "-k", folder,
             "-c", "listen_addresses=", "-c", "fsync=off"],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, user=user, cwd=folder,
        )  # fmt: skip
        try:
            url = f"postgresql://tester@/postgres?host={folder}"
            _wait_for(url)
            yield url
        finally:
            process.terminate()
            process.wait(60)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _wait_for(url: str) -> None:
    deadline = time.monotonic() + 60
    engine = sa.create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
    while True:
        try:
            with engine.connect():
                return
        except sa.exc.OperationalError:
            assert time.monotonic() < deadline, "the server did not start"
            time.sleep(0.1)
        finally:
            engine.dispose()


@pytest.fixture
def url(server: str) -> str:
    """The server, with nothing of ours in it."""
    engine = sa.create_engine(server.replace("postgresql:", "postgresql+psycopg:"))
    with engine.begin() as connection:
        for table in (schema.trials, schema.workloads, schema.devices, schema.settings):
            connection.execute(sa.text(f"DROP TABLE IF EXISTS {table.name}"))
    engine.dispose()
    return server


def test_what_is_stored_is_found_again(url: str) -> None:
    awkward = record(
        7,
        workload=workload(text="ü 'quoted' \"text\" %s :name\n💾" * 5000),
        seed=-(2**63),
        seconds=(3.141592653589793e-5, 5e-324),
        verdict=Verdict.wrong,
        checked=False,
        versions="v" * 1000,
    )
    others = [record(n, speedup=1 + n, workload=workload(rows=1 + n % 2)) for n in range(6)]
    with open_database(url) as database:
        first = database.add(awkward)
        assert database.add(awkward) == first
        for one in others:
            database.add(one)
        with pytest.raises(TrialTaken):
            database.add(record(1, knobs={"other": 1}, workload=workload(rows=2)))
    with open_database(url, create=False) as database:
        assert database.records() == [awkward, *others]
        assert database.trials(workload(rows=1), DEVICE, VERSIONS) == others[::2]
        assert database.best(workload(rows=1), DEVICE, VERSIONS) == others[4]
        assert database.best(workload(rows=1), OTHER, VERSIONS) is None
        near = database.near("gemm", DEVICE, VERSIONS, workload(rows=5).features)
        assert near == [others[5], others[4]]
        assert database.prune(Pruning(failed=True)) == 1
        assert database.records() == others


def test_it_exchanges_records_with_a_file(url: str, tmp_path: Path) -> None:
    records = [record(n, workload=workload(rows=1 + n % 2)) for n in range(6)]
    with open_database(tmp_path / "mine.db") as mine, open_database(url) as team:
        mine.take(records)
        assert team.merge(mine).new == 6
        assert mine.merge(team).known == 6
        assert team.export(tmp_path / "out.jsonl") == 6
        assert mine.import_(tmp_path / "out.jsonl").known == 6


def test_three_first_users_at_once(url: str) -> None:
    """Each makes the tables if they are missing, and all write one workload."""
    code = """
import sys
from tests.autotune.making import record
from tunesmith.autotune.database import open_database
with open_database(sys.argv[1]) as database:
    for number in range(20):
        database.add(record(number, seed=int(sys.argv[2])))
"""
    writers = [
        subprocess.Popen([sys.executable, "-c", code, url, str(seed)], cwd=ROOT,
                         env=os.environ | {"PYTHONPATH": str(ROOT)})
        for seed in range(3)
    ]  # fmt: skip
    assert [writer.wait(120) for writer in writers] == [0, 0, 0]
    with open_database(url) as database:
        stored = database.trials(record().workload, DEVICE, VERSIONS)
    assert stored == [record(number, seed=seed) for seed in range(3) for number in range(20)]


def test_a_row_that_was_changed_is_refused_until_it_is_pruned(url: str) -> None:
    records = [record(n) for n in range(3)]
    with open_database(url) as database:
        database.take(records)
        engine = sa.create_engine(url.replace("postgresql:", "postgresql+psycopg:"))
        with engine.begin() as connection:
            connection.execute(sa.update(schema.trials).values(seconds="[1e-9]").where(
                schema.trials.c.trial == 1))  # fmt: skip
        engine.dispose()
        with pytest.raises(TuneError, match=r"(?s)row \d+ of .*prune --damaged"):
            database.records()
        assert database.prune(Pruning(damaged=True)) == 1
        assert database.records() == [records[0], records[2]]
