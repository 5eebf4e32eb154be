"""Knobs as a design space of MetaSchedule: traces mean knobs, the search finds, kernels run."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from math import log
from pathlib import Path

import pytest

pytest.importorskip("xgboost", reason="needs the metaschedule extra")

import tvm
from tvm.s_tir import Schedule
from tvm.s_tir import meta_schedule as ms

from tests.autotune.making import DEVICE, VERSIONS, workload
from tests.autotune.test_local import SIZES, task_of
from tests.backends.running import target
from tunesmith.autotune import metaschedule_space
from tunesmith.autotune.database import open_database
from tunesmith.autotune.device import device_of, versions_text
from tunesmith.autotune.local import LocalWorkers
from tunesmith.autotune.measure import Outcome, Task
from tunesmith.autotune.metaschedule import knobs_of, workload_module
from tunesmith.autotune.metaschedule_space import (
    Evolution,
    design_space,
    schedule_of,
    with_other_knob,
)
from tunesmith.autotune.records import Record, Verdict
from tunesmith.autotune.search import Observation, Space
from tunesmith.autotune.tune import Goal, Tuner
from tunesmith.ir.diagnostics import TuneError

pytestmark = pytest.mark.tvm

VALUES = {"rows": (1, 2, 4, 6, 8, 12, 16), "cols": (16, 32, 48, 64, 96), "ahead": (0, 1, 2, 4)}
DEFAULT = {"rows": 4, "cols": 32, "ahead": 0}
BEST = {"rows": 12, "cols": 64, "ahead": 2}


def fits(knobs: Mapping[str, int]) -> bool:
    """Registers: a third of the points does not fit."""
    return knobs["rows"] * knobs["cols"] <= 768


def seconds(knobs: Mapping[str, int]) -> float:
    """A surface with one valley, at `BEST`; 1 at the default is not reached by much else."""
    return sum(
        abs(VALUES[name].index(value) - VALUES[name].index(BEST[name]))
        for name, value in knobs.items()
    ) * 0.1 + 0.4  # fmt: skip


def made(values: Mapping[str, Sequence[int]] = VALUES) -> Task:
    return Task("fake", workload(), Space(values, DEFAULT, fits), 1.0, 1)


class Surface:
    """Workers without a machine: the surface says how quick knobs are."""

    def __init__(self) -> None:
        self.tried: list[dict[str, int]] = []

    def measure(
        self, task: Task, candidates: Sequence[Mapping[str, int]], budget: float
    ) -> Iterator[Outcome]:
        for knobs in candidates:
            assert task.space.fits(knobs)
            self.tried.append(dict(knobs))
            own, base = seconds(knobs), seconds(DEFAULT)
            verdict = Verdict.ok if own < base else Verdict.slower
            yield Outcome(verdict, (own,) * 60, (base,) * 60, checked=True)

    def close(self) -> None:
        pass


def searched(path: Path, trials: int, surface: Surface | None = None) -> Tuner:
    goal = Goal(device=DEVICE, versions=VERSIONS, trials=trials)
    with open_database(str(path)) as store:
        tuner = Tuner([made()], surface or Surface(), store, goal, search=Evolution)
        tuner.run()
        tuner.choose()
    return tuner


def test_traces_give_back_the_knobs() -> None:
    task = made()
    module = workload_module(task.workload)
    (drawn,) = design_space(task.space).generate_design_space(module)
    work = ms.database.Workload(module)
    assert len({*knobs_of(drawn.trace)}) == len(VALUES)
    for knobs in (DEFAULT, BEST, knobs_of(drawn.trace)):
        trace = schedule_of(module, task.space, knobs).trace
        record = ms.database.TuningRecord(trace, work, [1.0], tvm.target.Target("llvm"), None)
        text = json.dumps(record.as_json())  # as a `JSONDatabase` keeps it
        read = ms.database.TuningRecord.from_json(json.loads(text), work).trace
        again = Schedule(module)
        read.apply_to_schedule(again, remove_postproc=False)
        assert knobs_of(read) == knobs_of(again.trace) == knobs
        annotations = again.get(again.get_sblock("root")).annotations
        assert {str(k): int(v) for k, v in annotations.items()} == {
            f"tunesmith.{k}": v for k, v in knobs.items()
        }


def test_the_module_carries_the_workload() -> None:
    task = made()
    attributes = workload_module(task.workload)["main"].attrs
    assert json.loads(str(attributes["tunesmith.workload"]))["text"] == task.workload.text


def test_the_mutator_changes_one_knob() -> None:
    task = made()
    module = workload_module(task.workload)
    start = schedule_of(module, task.space, DEFAULT)
    seen = set()
    for state in range(1, 60):
        found = knobs_of(with_other_knob(start.trace, random.Random(state)))
        (changed,) = (name for name in found if found[name] != DEFAULT[name])
        assert found[changed] in VALUES[changed]
        seen.add((changed, found[changed]))
    assert len(seen) > 10


def test_the_check_refuses_what_does_not_fit() -> None:
    task = made()
    module = workload_module(task.workload)
    check = metaschedule_space._Fits(task.space)
    assert check.apply(schedule_of(module, task.space, BEST))
    assert not check.apply(schedule_of(module, task.space, {**BEST, "cols": 96}))


def test_the_best_of_a_surface_is_found(tmp_path: Path) -> None:
    surface = Surface()
    tuner = searched(tmp_path / "db", 48, surface)
    (state,) = tuner.states
    assert state.chosen is not None and dict(state.chosen.knobs) == BEST
    # of 112 that fit; a draw without replacement has it among 48 with 43 %
    assert surface.tried.index(BEST) < 40
    assert surface.tried[0] == DEFAULT


def test_a_search_that_was_cut_goes_on_as_if_it_had_not_been(tmp_path: Path) -> None:
    def trials(path: Path) -> list[Record]:
        with open_database(str(path)) as store:
            return store.trials(made().workload, DEVICE, VERSIONS, 0)

    searched(tmp_path / "whole", 20)
    searched(tmp_path / "cut", 6)
    searched(tmp_path / "cut", 14)
    whole, cut = trials(tmp_path / "whole"), trials(tmp_path / "cut")
    assert len(whole) == 20
    assert [dict(r.knobs) for r in whole] == [dict(r.knobs) for r in cut]


def test_failures_are_not_tried_again() -> None:
    search = Evolution(made(), "seed")
    search.observe(Observation(DEFAULT, 1.0))
    seen: list[dict[str, int]] = [DEFAULT]
    for _ in range(5):
        proposed, gain = search.propose(4)
        assert 0.0 < gain <= 1.0
        for knobs in proposed:
            assert knobs not in seen and fits(knobs)
            seen.append(knobs)
            search.observe(Observation(knobs, None))


def test_hints_come_first() -> None:
    hints = [{"rows": 2}, {**BEST, "cols": 96}, BEST]
    proposed, _ = Evolution(made(), "seed", hints).propose(4)
    assert proposed[0] == BEST


def test_xgboost_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metaschedule_space, "find_spec", lambda name: None)
    with pytest.raises(TuneError, match="xgboost"):
        Evolution(made(), "seed")


def test_a_kernel_is_tuned_by_it(tmp_path: Path) -> None:
    task = task_of("gemm")
    workers = LocalWorkers(target(), SIZES, 0)
    goal = Goal(device=device_of(target()), versions=versions_text(), trials=8)
    try:
        with open_database(str(tmp_path / "db")) as store:
            tuner = Tuner([task], workers, store, goal, search=Evolution)
            tuner.run()
            records = store.trials(task.workload, goal.device, goal.versions, goal.seed)
    finally:
        workers.close()
    assert len(records) == 8
    assert len({tuple(sorted(r.knobs.items())) for r in records}) == 8
    assert all(r.checked and r.verdict in (Verdict.ok, Verdict.slower) for r in records), records
    best = tuner.states[0].search.best
    assert best is not None and best.cost <= log(1.5)
