"""`tunesmith db`: what goes in comes out, by every way there is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tunesmith.autotune.database import open_database
from tunesmith.autotune.records import Record, Verdict

from ..autotune.making import OTHER, record, workload
from .conftest import Cli

RECORDS = [
    record(0, speedup=1.0),
    record(1, speedup=1.75),
    record(2, verdict=Verdict.crashed, seconds=(), checked=False, reason="signal 11\nmore"),
    record(0, speedup=1.25, workload=workload(rows=16)),
    record(0, speedup=3.5, device=OTHER, at="2026-11-23T00:00:00Z"),
]


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """A store with `RECORDS`."""
    return fill(tmp_path / "tune.db", RECORDS)


def fill(path: Path, records: list[Record]) -> Path:
    with open_database(path) as database:
        database.take(records)
    return path


def stored(path: Path) -> list[Record]:
    with open_database(path, create=False) as database:
        return database.records()


def test_list_shows_each_workload_on_each_device(cli: Cli, store: Path) -> None:
    result = cli("db", "list", "--db", store)
    assert result.code == 0, result.err
    head, *rows = result.out.splitlines()
    assert head.split() == [
        "workload", "template", "features", "device", "trials", "checked", "best", "last",
    ]  # fmt: skip
    assert len(rows) == 3
    first = next(r for r in rows if r.startswith(workload().sha256[:12]) and "cascade" in r)
    assert "rows=128" in first
    assert "1.75x" in first
    assert "3" in first.split()
    assert "5 trials of 3 workloads" in result.err


def test_list_as_json(cli: Cli, store: Path) -> None:
    facts = json.loads(cli("db", "list", "--db", store, "--json", "-").out)
    assert facts["store"] == str(store)
    first = facts["workloads"][0]
    assert first["trials"] == {"ok": 2, "crashed": 1}
    assert first["best"]["speedup"] == RECORDS[1].speedup
    assert first["best"]["knobs"] == dict(RECORDS[1].knobs)


@pytest.mark.parametrize(
    ("option", "count"),
    [
        (("--device", "zen4 x4"), 1),
        (("--device", OTHER.sha256[:8]), 1),
        (("--template", "conv"), 0),
        (("--versions", RECORDS[0].versions), 3),
    ],
)
def test_list_only_what_is_asked(
    cli: Cli, store: Path, option: tuple[str, str], count: int
) -> None:
    facts = json.loads(cli("db", "list", "--db", store, *option, "--json", "-").out)
    assert len(facts["workloads"]) == count


def test_show_by_the_beginning_of_a_hash(cli: Cli, store: Path) -> None:
    result = cli("db", "show", "--db", store, workload().sha256[:6])
    assert result.code == 0, result.err
    assert workload().sha256 in result.out
    assert workload().text in result.out
    assert result.out.count("tile_n=") == 4
    assert "signal 11" in result.out
    assert "more" not in result.out
    assert cli("db", "show", "--db", store, "xyz").code == 1
    assert "may be" in cli("db", "show", "--db", store, "").err


def test_export_and_import_give_the_same_records(cli: Cli, store: Path, tmp_path: Path) -> None:
    file, other = tmp_path / "out.jsonl", tmp_path / "other.db"
    assert "5 records" in cli("db", "export", "--db", store, file).out
    assert "new       5" in cli("db", "import", "--db", other, file).out
    assert stored(other) == RECORDS
    again = cli("db", "import", "--db", other, file)
    assert "known     5" in again.out
    assert stored(other) == RECORDS


@pytest.mark.tvm
def test_export_and_import_in_the_form_of_metaschedule(
    cli: Cli, store: Path, tmp_path: Path
) -> None:
    folder, other = tmp_path / "out", tmp_path / "other.db"
    result = cli("db", "export", "--db", store, folder, "--format", "metaschedule")
    assert "5 records" in result.out, result.err
    names = ["database_tuning_record.json", "database_workload.json"]
    assert sorted(p.name for p in folder.iterdir()) == names
    result = cli("db", "import", "--db", other, folder, "--format", "metaschedule")
    assert "new       5" in result.out, result.err
    assert stored(other) == RECORDS
    names_only = cli("db", "import", "--db", other, tmp_path, "--format", "metaschedule")
    assert "there is no `database_workload.json`" in names_only.err


def test_a_torn_file_loses_only_what_was_torn(cli: Cli, store: Path, tmp_path: Path) -> None:
    file, other = tmp_path / "out.jsonl", tmp_path / "other.db"
    cli("db", "export", "--db", store, file)
    whole = file.read_bytes()
    lines = whole.splitlines(keepends=True)
    lines[2] = lines[2].replace(b'"seed":0', b'"seed":1')  # a digit that was not written so
    file.write_bytes(b"\n" + b"".join(lines)[:-30])
    result = cli("db", "import", "--db", other, file)
    assert result.code == 1
    assert f"{file}:4: not stored: ValueError: its digest is another" in result.err
    assert "bad       2 lines" in result.out
    assert stored(other) == RECORDS[1:4]


def test_merge_keeps_what_is_there(cli: Cli, store: Path, tmp_path: Path) -> None:
    mine = [record(1, speedup=1.1), record(9)]
    target = fill(tmp_path / "mine.db", mine)
    result = cli("db", "merge", "--db", target, store)
    assert result.code == 0, result.err
    assert "new       4" in result.out
    assert "left out  1" in result.out
    assert stored(target) == [*mine, *(r for r in RECORDS if r is not RECORDS[1])]
    assert stored(store) == RECORDS
    assert "into itself" in cli("db", "merge", "--db", store, store).err


@pytest.mark.parametrize(
    ("options", "left"),
    [
        (["--failed"], [0, 1, 3, 4]),
        (["--keep", "1"], [1, 3, 4]),
        (["--keep", "0"], []),
        (["--versions", "other"], []),
        (["--versions", RECORDS[0].versions], [0, 1, 2, 3, 4]),
        (["--before", "2026-11-22T12:00:00Z"], [4]),
        (["--before", "2026-11-22"], [0, 1, 2, 3, 4]),
        (["--before", "2026-11-22T07:00:00-01:00"], [4]),
        (["--before", "2026-11-22T07:00:00+01:00"], [0, 1, 2, 3, 4]),
        (["--damaged"], [0, 1, 2, 3, 4]),
    ],
)
def test_prune(cli: Cli, store: Path, options: list[str], left: list[int]) -> None:
    result = cli("db", "prune", "--db", store, *options)
    assert result.code == 0, result.err
    assert f"deleted   {len(RECORDS) - len(left)} trials" in result.out
    assert stored(store) == [RECORDS[i] for i in left]
    assert not [p for p in store.parent.iterdir() if ".damaged-" in p.name]


def test_prune_wants_to_be_told(cli: Cli, store: Path) -> None:
    result = cli("db", "prune", "--db", store)
    assert result.code == 1
    assert "hint: say `--failed`" in result.err
    result = cli("db", "prune", "--db", store, "--before", "yesterday")
    assert result.code == 1
    assert "`yesterday` is no time" in result.err
    assert stored(store) == RECORDS


def test_a_reader_makes_no_store(cli: Cli, tmp_path: Path) -> None:
    missing = tmp_path / "typo.db"
    for command in (
        ["list"],
        ["show", "a"],
        ["export", str(tmp_path / "o")],
        ["prune", "--failed"],
    ):
        result = cli("db", *command, "--db", missing)
        assert result.code == 1
        assert f"{missing}: there is no tuning store" in result.err
    assert not missing.exists()


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("mysql://h/d", "`mysql` is not supported"),
        ("sqlite://", "in memory"),
        ("sqlite:///:memory:", "in memory"),
        ("://", "cannot be read"),
        ("postgresql://nobody:secret@127.0.0.1:1/none", "the server cannot be used"),
    ],
)
def test_an_unusable_url_is_explained(cli: Cli, url: str, words: str) -> None:
    if url.startswith("postgresql"):
        pytest.importorskip("psycopg")
    result = cli("db", "list", "--db", url)
    assert result.code == 1
    assert words in result.err
    assert "secret" not in result.err


def test_the_store_of_the_environment(
    cli: Cli, store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNESMITH_DB", str(store))
    assert "5 trials" in cli("db", "list").err
