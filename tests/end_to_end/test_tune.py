"""`tunesmith tune` and `compile --db` on a small real graph, and records that must not be used."""

from __future__ import annotations

import contextlib
import json
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tunesmith import load
from tunesmith.autotune.database import open_database
from tunesmith.autotune.device import device_of, versions_text
from tunesmith.autotune.local import LocalWorkers
from tunesmith.autotune.measure import Outcome, Task
from tunesmith.autotune.records import Device, Record, Verdict
from tunesmith.autotune.tune import CONFIRMED, Goal, Tuner
from tunesmith.backends.targets import find_target
from tunesmith.backends.tvm.kernels.kernel import Kernel
from tunesmith.driver import compile_model
from tunesmith.ir.target import Target
from tunesmith.oracle import OnnxSession, compare
from tunesmith.places import Here, Profiled
from tunesmith.runtime import Artifact
from tunesmith.tuned_compile import compile_with_records
from tunesmith.tuning import TunePlan, _in_turns, _loses, plan_tuning, tune_model

pytestmark = pytest.mark.tvm


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two products, of [rows, 96] by [96, 160] and back, with an activation between."""
    random = np.random.default_rng(0)
    weights = {
        "w": random.standard_normal((96, 160)).astype("f4"),
        "u": random.standard_normal((160, 96)).astype("f4"),
    }
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"]),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("MatMul", ["b", "u"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes, "two",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["rows", 96])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["rows", 96])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )  # fmt: skip
    path = tmp_path_factory.mktemp("model") / "two.onnx"
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.save_model(made, path)
    return path


@dataclass
class Wishes:
    """Workers that really build and compare, and say that some knobs are twice as quick."""

    real: LocalWorkers
    wanted: dict[str, dict[str, int]] = field(default_factory=dict)

    def measure(
        self, task: Task, candidates: Sequence[Mapping[str, int]], seconds: float
    ) -> Iterator[Outcome]:
        for knobs, outcome in zip(
            candidates, self.real.measure(task, candidates, 0.001), strict=True
        ):
            if not outcome.checked:
                yield outcome
                continue
            first = self.wanted.setdefault(task.name, dict(knobs)) if knobs != task.space.default \
                else {}  # fmt: skip
            ratio = 0.5 if dict(knobs) == first else 1.2
            verdict = Verdict.ok if ratio < 1 else Verdict.slower
            yield Outcome(verdict, (ratio * 1e-3,) * 15, (1e-3,) * 15, checked=True)

    def close(self) -> None:
        self.real.close()


def right(artifact: Artifact, model: Path, rows: int) -> None:
    feeds = {"x": np.random.default_rng(1).standard_normal((rows, 96)).astype("f4")}
    theirs = OnnxSession(model, threads=1).run(feeds)
    for row in compare(load(artifact, threads=1).run(feeds), theirs):
        assert row.passed, row


def in_child(code: str, *arguments: str) -> dict[str, Any]:
    """Run kernels in a process of their own: this one forks builders, and must stay without."""
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


RIGHT = """
import sys; from pathlib import Path
from tests.end_to_end.test_tune import right
from tunesmith.runtime import Artifact
artifact = Artifact.open(sys.argv[1])
for rows in (1, 7, 47, 48, 128, 131): right(artifact, Path(sys.argv[2]), rows)
print("{}")
"""


def tuned_store(model: Path, where: Path) -> Path:
    """A store in which one candidate of each kernel won."""
    plan = plan_tuning(
        lambda **more: compile_model(model, threads=1, **more), at={}, tasks=(), place=Here()
    )
    workers = Wishes(LocalWorkers(plan.lowered.target, plan.sizes, 0))
    goal = Goal(device=device_of(plan.lowered.target), versions=versions_text(), trials=12)
    with open_database(where) as store:
        tuner = Tuner(plan.tasks, workers, store, goal)
        tuner.run()
        tuner.choose()
        workers.close()
        assert 4 <= tuner.measured <= 12
        assert all(state.chosen is not None for state in tuner.states)
    return where


@pytest.fixture(scope="module")
def store(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tuned_store(model, tmp_path_factory.mktemp("store") / "tune.db")


def test_compiling_with_records_uses_them_and_computes_the_same(
    model: Path, store: Path, tmp_path: Path
) -> None:
    with open_database(store) as database:
        artifact = compile_with_records(model, database, threads=1)
    rows = artifact.manifest.report["tuned"]
    assert isinstance(rows, dict)
    kernels = rows["kernels"]
    assert isinstance(kernels, list) and len(kernels) == 2 and rows["tried"] == 2
    table = artifact.manifest.report["kernel_table"]
    assert isinstance(table, list)
    assert [row["tuned"] for row in table if isinstance(row, dict)] == [True, True]
    assert all(row["checked"] for row in kernels if isinstance(row, dict))
    artifact.save(tmp_path / "tuned.tsm")
    in_child(RIGHT, str(tmp_path / "tuned.tsm"), str(model))


def test_the_knobs_of_a_near_shape_are_taken_and_of_a_far_one_not(model: Path, store: Path) -> None:
    for rows, found in ((80, 2), (64, 2), (4000, 0)):
        with open_database(store) as database:
            artifact = compile_with_records(
                model, database, at={"rows": rows}, threads=1,
                workers=lambda lowered, sizes, _: Wishes(LocalWorkers(lowered.target, sizes, 0)),
            )  # fmt: skip
        tuned = artifact.manifest.report["tuned"]
        assert isinstance(tuned, dict) and isinstance(tuned["kernels"], list)
        assert len(tuned["kernels"]) == found, rows


def test_records_of_other_devices_and_versions_are_not_used(model: Path, store: Path) -> None:
    with open_database(store) as database:
        artifact = compile_with_records(model, database, threads=1, target="x86-64-v3")
    tuned = artifact.manifest.report["tuned"]
    assert isinstance(tuned, dict) and tuned["kernels"] == [] and tuned["tried"] == 0


def planted(store: Path, where: Path, **changes: Any) -> Path:
    """A copy of the store in which each winning record is changed."""
    import dataclasses

    with open_database(store) as old, open_database(where) as new:
        for record in every(old):
            new.add(dataclasses.replace(record, **changes))
    return where


def every(database: Any) -> list[Record]:
    seen: list[Record] = []

    from tunesmith.backends.targets import find_target

    features = {"rows": 0, "inner": 96, "cols": 160, "weight_bytes": 4, "at rows": 64}
    device = device_of(find_target("host", 1))
    for record in database.near("gemm/4", device, versions_text(), features, 9):
        seen += database.trials(record.workload, record.device, record.versions, CONFIRMED)
    assert seen
    return seen


def test_a_record_that_nobody_checked_is_not_used(model: Path, store: Path, tmp_path: Path) -> None:
    other = planted(store, tmp_path / "unchecked.db", checked=False)
    with open_database(other) as database:
        artifact = compile_with_records(model, database, threads=1)
    tuned = artifact.manifest.report["tuned"]
    assert isinstance(tuned, dict) and tuned["kernels"] == [] and tuned["tried"] == 2


def test_a_record_with_knobs_that_do_not_fit_is_not_used(
    model: Path, store: Path, tmp_path: Path
) -> None:
    with open_database(store) as old:
        knobs = {**every(old)[0].knobs, "tile_m": 999}
    with open_database(planted(store, tmp_path / "misfit.db", knobs=knobs)) as database:
        artifact = compile_with_records(model, database, threads=1)
    table = artifact.manifest.report["kernel_table"]
    assert isinstance(table, list)
    assert not any(row["tuned"] for row in table if isinstance(row, dict))
    tuned = artifact.manifest.report["tuned"]
    assert isinstance(tuned, dict) and tuned["kernels"] == [], "what is not built is not listed"


def test_a_record_whose_kernel_is_wrong_is_refused(model: Path, store: Path) -> None:
    """A builder whose kernels write nothing stands for a template that has become wrong."""
    from tests.autotune.test_local import HEAD
    from tunesmith.backends.tvm.build import link
    from tunesmith.backends.tvm.standalone import build_variant

    def build(kernel: Kernel, where: Target, path: Path) -> None:
        if kernel.chosen is None or kernel.weight is None or 160 not in (
            kernel.weight.type.shape[:1]
        ):  # fmt: skip
            build_variant(kernel, where, path)
            return
        path.with_suffix(".c").write_text(HEAD + "{ return 0; }")
        link(str(path), [str(path.with_suffix(".c"))])

    warnings: list[str] = []
    with open_database(store) as database:
        artifact = compile_with_records(
            model, database, threads=1, warn=warnings.append, verify=True,
            workers=lambda lowered, sizes, weights: LocalWorkers(
                lowered.target, sizes, weights, build=build
            ),
        )  # fmt: skip
    assert len(warnings) == 1 and "refused" in warnings[0] and "wrong" in warnings[0]
    tuned = artifact.manifest.report["tuned"]
    assert isinstance(tuned, dict) and isinstance(tuned["kernels"], list)
    assert len(tuned["kernels"]) == 1


@dataclass
class Told:
    """A place whose profiles of the whole say that the tuned artifact takes `ratio` of the time."""

    ratio: float
    asked: int = 0

    def profiles(
        self, artifacts: Sequence[Artifact], sizes: Mapping[str, int], turns: int
    ) -> list[list[Profiled]]:
        """See `Place`; which kernels are quicker alternates."""
        self.asked += 1
        names = [str(row["kernel"]) for row in table_of(artifacts[0])]
        untuned: Profiled = (1e-3, [(name, 1e-3 / len(names)) for name in names])
        if len(artifacts) == 1:
            return [[untuned] for _ in range(turns)]
        kernels = [
            (name, 1e-3 / len(names) * (0.5 if row["tuned"] else 1.0))
            for name, row in zip(names, table_of(artifacts[1]), strict=True)
        ]
        return [[untuned, (1e-3 * self.ratio, kernels)] for _ in range(turns)]

    def close(self) -> None:
        """See `Place`."""

    def device(self, target: Target) -> Device:
        """See `Place`."""
        return device_of(target)

    def workers(self, target: Target, sizes: Mapping[str, int], weights: int) -> Wishes:
        """See `Place`."""
        return Wishes(LocalWorkers(target, sizes, weights))

    def target(self, threads: int | None) -> Target:
        """See `Place`."""
        return find_target("host", threads)


def table_of(artifact: Artifact) -> list[dict[str, Any]]:
    table = artifact.manifest.report["kernel_table"]
    assert isinstance(table, list)
    return [row for row in table if isinstance(row, dict)]


@pytest.mark.parametrize(("ratio", "kept"), [(0.8, True), (1.0, False), (1.3, False)])
def test_what_is_not_quicker_as_a_whole_is_not_written(
    model: Path, tmp_path: Path, ratio: float, kept: bool
) -> None:
    """Each kernel won its race alone and inside the model; the whole decides."""
    place = Told(ratio)
    with open_database(tmp_path / "t.db") as database:
        tuned = tune_model(model, database, budget=600, trials=12, threads=1, place=place)
    assert place.asked == 3, "the untuned profile, kernels inside the model, the whole"
    assert len(tuned.used) == (2 if kept else 0)
    assert [row["tuned"] for row in table_of(tuned.artifact)] == [kept, kept]
    assert ("tuned" in tuned.artifact.manifest.report) == kept


# The artifacts are run in turns by a process that knows nothing of how they came to be.
QUICKER = """
import sys; from statistics import median
from tunesmith.places import _profiles
from tunesmith.runtime import Artifact
turns = _profiles([Artifact.open(path) for path in sys.argv[1:3]], {"rows": 64}, 15)
print('{"ratio": %f}' % median(tuned[0] / untuned[0] for untuned, tuned in turns))
"""
_NOISE = 1.25  # of a kernel of some microseconds on a busy machine


@pytest.mark.skipif(find_spec("xgboost") is None, reason="the extra `metaschedule` is missing")
def test_a_whole_run_by_metaschedules_search(model: Path, tmp_path: Path) -> None:
    """The command: trials of both kernels are kept, checked, and searched on from by the next.

    The third searches the kernel that has fewest: where the others go is by what was measured.
    """
    out, store = tmp_path / "m.tsm", tmp_path / "t.db"
    command = [
        sys.executable, "-m", "tunesmith", "tune", str(model), "-o", str(out), "--threads", "1",
        "--trials", "8", "--search", "metaschedule", "--db", str(store), "--json", "-",
    ]  # fmt: skip
    tasks: list[str] = []
    for number in range(3):
        done = subprocess.run([*command, *tasks], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        facts = json.loads(done.stdout)
        assert facts["trials"] == 8
        assert all(k["checked"] for k in facts["kernels"] if k["speedup"] is not None)
        in_child(RIGHT, str(out), str(model))
        with open_database(store) as database:
            tried = [r for r in database.records() if r.seed >= 0]  # the final races have no seed
        points = {(r.workload.sha256, tuple(sorted(r.knobs.items()))) for r in tried}
        assert len(points) == len(tried) == 8 * (number + 1), "it goes on with what was not tried"
        if number == 1:
            counts = Counter(r.workload.sha256 for r in tried)
            few = min(facts["kernels"], key=lambda k: counts[k["workload"]])
            tasks = ["--tasks", few["kernel"]]
    assert len({r.workload.sha256 for r in tried}) == 2


def test_tuning_never_ends_slower_and_says_what_it_did(model: Path, tmp_path: Path) -> None:
    """The whole command, with real measuring, in a process of its own."""
    command = [
        sys.executable, "-m", "tunesmith", "tune", str(model), "-o", str(tmp_path / "m.tsm"),
        "--threads", "1", "--trials", "8", "--db", str(tmp_path / "t.db"), "--json", "-",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert 0 < facts["seconds_to_first_trial"] < facts["seconds_to_first_result"]
    compile_model(model, threads=1).save(tmp_path / "untuned.tsm")
    found = in_child(QUICKER, str(tmp_path / "untuned.tsm"), str(tmp_path / "m.tsm"))
    assert found["ratio"] < _NOISE
    assert facts["trials"] == 8
    assert all(k["checked"] for k in facts["kernels"] if k["speedup"] is not None)
    in_child(RIGHT, str(tmp_path / "m.tsm"), str(model))
    again = subprocess.run([*command, "--dry-run"], capture_output=True, text=True)
    assert again.returncode == 0 and again.stdout.count("gemm/4") == 2


def test_an_interrupt_writes_the_best_so_far_and_the_next_call_goes_on(
    model: Path, tmp_path: Path
) -> None:
    store, path = tmp_path / "t.db", tmp_path / "m.tsm"
    command = [
        sys.executable, "-m", "tunesmith", "tune", str(model), "-o", str(path), "--threads", "1",
        "--budget", "30m", "--db", str(store), "--no-verify",
    ]  # fmt: skip
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        end = time.monotonic() + 120
        while trials_in(store) < 2 and time.monotonic() < end and process.poll() is None:
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        _, words = process.communicate(timeout=120)
    assert process.returncode == 0, words
    assert path.is_file()
    before = trials_in(store)
    assert before >= 2
    done = subprocess.run(
        [*command, "--trials", "2", "--json", "-"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["trials"] <= 2, "what the store has is not measured again"
    assert trials_in(store) >= before


def trials_in(store: Path) -> int:
    if not store.is_file():
        return 0
    with contextlib.closing(sqlite3.connect(store, timeout=30)) as connection:
        try:
            (count,) = connection.execute("select count(*) from tunesmith_trials").fetchone()
        except sqlite3.OperationalError:  # it is being made
            return 0
    return int(count)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["--budget", "soon"], "not a time"), (["--target", "x86-64-v3"], "machine that runs them"),
     (["--tasks", "conv*"], "no kernel to tune"), (["--at", "row=3"], "did you mean `rows`"),
     (["--budget", "1h30"], "not a time"), (["--search", "luck"], "no search `luck`")],
)  # fmt: skip
def test_what_cannot_be_done_is_said(model: Path, arguments: list[str], words: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tunesmith", "tune", str(model), *arguments],
        capture_output=True, text=True, cwd=model.parent,
    )  # fmt: skip
    assert done.returncode in (1, 2)
    assert words in done.stderr


@pytest.mark.parametrize(
    ("ratios", "lost"),
    [
        ([1.02, 1.01, 1.0, 1.03, 1.01], True),
        ([0.99, 1.01, 1.02, 1.03, 1.01], True),
        ([0.99, 1.01, 0.98, 1.03, 1.01], False),
        ([0.97, 0.96, 0.98, 0.99, 1.2], False),
        ([1.0], True),
    ],
)
def test_a_kernel_is_taken_out_if_it_lost_most_turns(ratios: list[float], lost: bool) -> None:
    """A few turns of a noisy machine do not tell a kernel that is a little quicker from others."""
    assert _loses(ratios) == lost


class _Scripted:
    """A place that says what it is told to, and remembers how many turns it was asked for."""

    def __init__(self, turns: Sequence[tuple[float, float]]) -> None:
        self.turns, self.asked = turns, 0

    def profiles(
        self, artifacts: object, sizes: object, turns: int
    ) -> list[list[tuple[float, list[tuple[str, float]]]]]:
        self.asked = turns
        return [
            [(both, [("k", both / 2), ("k", both / 4)]) for both in turn] for turn in self.turns
        ]


def test_artifacts_are_compared_turn_by_turn_because_clocks_change_between_turns() -> None:
    # the tuned one is quicker in every turn, yet its median of all is not
    place = _Scripted([(1.0, 0.9), (1.0, 0.9), (2.0, 1.8), (2.0, 1.8), (2.0, 1.8)])
    plan = TunePlan(None, None, {}, [], 0.01)  # type: ignore[arg-type]  # not looked at
    (untuned, tuned), ratios = _in_turns(plan, None, place)  # type: ignore[arg-type]
    assert untuned == 2.0 and tuned == pytest.approx(1.8)
    assert ratios == {"k": [pytest.approx(0.9)] * 5}
    place = _Scripted([(1.0, 0.9), (1.0, 0.9), (1.0, 0.9), (3.0, 2.7), (1.0, 2.7)])
    (untuned, tuned), _ = _in_turns(plan, None, place)  # type: ignore[arg-type]
    assert untuned == 1.0 and tuned == pytest.approx(0.9)


@pytest.mark.parametrize(("seconds", "turns"), [(0.01, 15), (0.5, 6), (60.0, 5)])
def test_a_long_run_is_compared_in_fewer_turns(seconds: float, turns: int) -> None:
    place = _Scripted([(1.0, 1.0)])
    _in_turns(TunePlan(None, None, {}, [], seconds), None, place)  # type: ignore[arg-type]
    assert place.asked == turns
