"""What is stored is found again, and nothing else is."""

from __future__ import annotations

import dataclasses
import math
import random
from collections.abc import Iterator
from pathlib import Path

import platformdirs
import pytest

from tunesmith.autotune.database import Database, default_url, open_database
from tunesmith.autotune.records import Device, Record, Verdict, Workload
from tunesmith.ir.diagnostics import TuneError

from .making import DEVICE, OTHER, VERSIONS, record, workload


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Database]:
    """A new store in a file."""
    with open_database(tmp_path / "tune.db") as opened:
        yield opened


def found(store: Database, like: Record, seed: int | None = None) -> list[Record]:
    """The trials that stand where `like` would."""
    return store.trials(like.workload, like.device, like.versions, seed)


def test_a_record_comes_back_as_it_was(store: Database) -> None:
    awkward = record(
        7,
        workload=workload(text="ü 'quoted' \"text\"\n%x; DROP TABLE\t💾"),
        seed=-(2**63),
        seconds=(math.pi * 1e-5, 5e-324),
        baseline=(1e300,),
        knobs={"b": -1, "a": 2**62},
        verdict=Verdict.wrong,
        checked=False,
        reason="max abs 3.2 > 1e-5\nat [0, 1]",
    )
    store.add(awkward)
    with open_database(store.place) as again:
        assert found(again, awkward) == [awkward]
        assert found(again, awkward)[0].workload.features == awkward.workload.features


def test_each_part_of_the_key_separates(store: Database) -> None:
    first = record()
    others = [
        record(workload=workload(rows=129)),
        record(workload=dataclasses.replace(workload(), template="gemm_rows")),
        record(device=OTHER),
        record(versions="tvm 0.28.0"),
    ]
    for one in (first, *others):
        store.add(one)
    for one in (first, *others):
        assert found(store, one) == [one]
    assert found(store, record(workload=workload(rows=130))) == []


def test_trials_come_by_seed_and_number(store: Database) -> None:
    numbers = [(seed, trial) for seed in (0, 3) for trial in range(12)]
    random.Random(1).shuffle(numbers)
    for seed, trial in numbers:
        store.add(record(trial, seed=seed))
    assert [(r.seed, r.trial) for r in found(store, record())] == sorted(numbers)
    assert [r.trial for r in found(store, record(), seed=3)] == list(range(12))


def test_a_trial_is_stored_once(store: Database) -> None:
    first = store.add(record(1))
    assert store.add(record(1)) == first
    assert store.add(record(1, speedup=9.0)) == first, "the first measurement stays"
    with pytest.raises(TuneError, match="other knobs"):
        store.add(record(1, knobs={"tile_m": 99}))
    assert found(store, record()) == [record(1)]


def test_the_best_is_checked_ok_and_faster(store: Database) -> None:
    good = record(4, speedup=1.5)
    store.add(good)
    for number, bad in enumerate(
        [
            record(speedup=8.0, checked=False),
            record(speedup=9.0, verdict=Verdict.wrong),
            record(speedup=7.0, verdict=Verdict.slower),
            record(speedup=6.0, device=OTHER),
            record(speedup=6.0, versions="older"),
            record(speedup=6.0, workload=workload(rows=1)),
            record(speedup=1.2),
        ]
    ):
        store.add(dataclasses.replace(bad, trial=10 + number))
    assert store.best(good.workload, DEVICE, VERSIONS) == good


def test_none_is_best_if_none_is_faster(store: Database) -> None:
    store.add(record(0, speedup=1.0))
    store.add(record(1, speedup=0.5))
    assert store.best(workload(), DEVICE, VERSIONS) is None


def test_near_is_by_ratio(store: Database) -> None:
    rows = [1, 16, 100, 128, 160, 1000, 4000]
    store.take(record(speedup=1.1, workload=workload(rows=size)) for size in rows)
    store.take(record(1, speedup=1 + size / 1000, workload=workload(rows=size)) for size in rows)
    store.add(record(workload=workload(rows=120), device=OTHER))
    store.add(record(workload=workload(rows=121), verdict=Verdict.slower))
    odd = Workload(template="gemm", text="other", features={"rows": 120, "depth": 3})
    store.add(record(workload=odd))
    asked = {"rows": 120, "inner": 768, "cols": 3072}
    near = store.near("gemm", DEVICE, VERSIONS, asked, limit=3)
    expected = sorted(rows, key=lambda size: abs(math.log(size / 120)))[:3]
    assert [r.workload.features["rows"] for r in near] == expected
    assert [r.speedup for r in near] == [max(1.1, 1 + size / 1000) for size in expected]
    assert store.near("conv", DEVICE, VERSIONS, asked) == []


def test_of_two_workloads_with_one_hash_the_text_decides(
    store: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Workload, "sha256", property(lambda self: "0" * 64))
    store.add(record(workload=workload(rows=16)))
    other = record(workload=workload(rows=8))
    assert found(store, other) == []
    with pytest.raises(TuneError, match="one hash"):
        store.add(other)


def test_features_are_no_identity_and_stay_current(store: Database) -> None:
    old = record(workload=Workload(template="gemm", text="t", features={"rows": 1}))
    new = record(1, workload=Workload(template="gemm", text="t", features={"rows": 1, "cols": 2}))
    store.add(old)
    store.add(new)
    assert len(found(store, new)) == 2
    assert len(store.near("gemm", DEVICE, VERSIONS, {"rows": 1, "cols": 2})) == 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"reason": "a\0b"}, "NUL"),
        ({"by": "\ud800"}, "Unicode"),
        ({"seconds": (float("nan"),)}, "not positive"),
        ({"baseline": (0.0,)}, "not positive"),
        ({"seconds": ()}, "nothing was timed"),
        ({"seed": 2**63}, "64 bits"),
        ({"trial": -1}, "negative"),
        ({"seed": 1.0}, "seed"),
        ({"checked": 1}, "neither true nor false"),
        ({"by": 7}, "no text"),
        ({"verdict": "fine"}, "no verdict"),
        ({"knobs": {"a": 1.5}}, "knobs"),
        ({"versions": "v" * 1001}, "1,000"),
    ],
)
def test_what_cannot_be_stored_is_refused_when_it_is_made(
    changes: dict[str, object], words: str
) -> None:
    with pytest.raises(TuneError, match=words):
        record(**changes)  # type: ignore[arg-type]  # wrong on purpose


def test_a_device_is_a_json_object() -> None:
    for text in ("[1]", "{", ""):
        with pytest.raises(TuneError, match="JSON"):
            Device(text=text)


def test_the_default_store_is_named_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNESMITH_DB", "postgresql://h/d")
    assert default_url() == "postgresql://h/d"
    monkeypatch.delenv("TUNESMITH_DB")
    monkeypatch.setattr(platformdirs, "user_data_dir", lambda name: f"/data/{name}")
    assert default_url() == "/data/tunesmith/tune.db"


def test_a_missing_store_is_not_made_for_a_reader(tmp_path: Path) -> None:
    with pytest.raises(TuneError, match="no tuning store"):
        open_database(tmp_path / "typo.db", create=False)
    assert list(tmp_path.iterdir()) == []
