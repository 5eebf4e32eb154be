"""Real kernels built and raced in processes of this machine, and candidates that misbehave."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest

from tests.backends.running import pin, target
from tunesmith.autotune.device import device_of, versions_text, workload_of
from tunesmith.autotune.local import LocalWorkers
from tunesmith.autotune.measure import Outcome, Task
from tunesmith.autotune.records import Verdict
from tunesmith.autotune.search import Space
from tunesmith.backends.tvm.build import link
from tunesmith.backends.tvm.compile import TvmBackend
from tunesmith.backends.tvm.kernels.kernel import Kernel
from tunesmith.backends.tvm.launch import launch_of, weights_of
from tunesmith.backends.tvm.standalone import Workbench, build_variant
from tunesmith.ir.diagnostics import BuildError, TuneError
from tunesmith.ir.graph import Graph
from tunesmith.ir.target import Target
from tunesmith.ir.text import parse_graph
from tunesmith.runtime.cpu import physical_cores

pytestmark = pytest.mark.tvm

WINDOW = "low = [{0}, {0}], high = [{0}, {0}], dilations = [1, 1]"
KERNELS = {
    "gemm": ("%x: f32[S, 40], %w: f32[40, 100], %b: f32[100]", "%y = linear(%x, %w, %b)"),
    "gemms": ("%x: f32[S, 40], %w: f32[40, 96], %u: f32[40, 47], %b: f32[47]",
              "%y = linear(%x, %w) %z = linear(%x, %u, %b)"),
    "gated": ("%x: f32[S, 40], %w: f32[40, 97], %u: f32[40, 97]",
              "%g = linear(%x, %w) %s = silu(%g) %l = linear(%x, %u) %y = mul(%s, %l)"),
    "few rows": ("%x: f32[3, 40], %w: f32[40, 17]", "%y = linear(%x, %w)"),
    "conv": ("%x: f32[B, 5, 13, 11], %w: f32[19, 5, 3, 3]",
             f"%y = conv(%x, %w) {{strides = [1, 1], {WINDOW.format(1)}, groups = 1}}"),
    "odd pointwise": ("%x: f32[1, 4, 7, 7], %w: f32[9, 4, 1, 1]",
                      f"%y = conv(%x, %w) {{strides = [1, 1], {WINDOW.format(0)}, groups = 1}}"),
    "depthwise": ("%x: f32[1, 9, 13, 37], %w: f32[9, 1, 3, 3]", 
                  f"%y = conv(%x, %w) {{strides = [1, 1], {WINDOW.format(0)}, groups = 9}}"),
    "pool": ("%x: f32[1, 9, 14, 37]", 
             f"%y = max_pool(%x) {{kernel = [2, 2], strides = [2, 2], {WINDOW.format(0)}}}"),
    "attention": ("%q: f32[1, 3, S, 16], %k: f32[1, 3, S, 16], %v: f32[1, 3, S, 16]",
                  "%y = attention(%q, %k, %v) {scale = 0.25}"),
    "matmul": ("%x: f32[2, S, 33], %z: f32[2, 33, 29]", "%y = matmul(%x, %z)"),
    "norm": ("%x: f32[S, 405], %w: f32[405], %b: f32[405]",
             "%y = layer_norm(%x, %w, %b) {epsilon = 1e-05}"),
    "softmax": ("%x: f32[S, 3, 229]", "%y = softmax(%x)"),
    "fold": ("%x: f32[B, S, 341]", "%y = reduce_max(%x) {axes = [2], keepdims = false}"),
    "short fold": ("%x: f32[S, 9]", "%y = reduce_sum(%x) {axes = [1], keepdims = false}"),
    "elements": ("%x: f32[S, 501], %z: f32[S, 501]", "%a = gelu(%x) %y = mul(%a, %z)"),
    "narrow rows": ("%x: f32[S, 3, 7], %z: f32[7]", "%y = add(%x, %z)"),
    "halves": ("%x: f16[S, 501]", "%y = add(%x, %x)"),
    "brain halves": ("%x: bf16[S, 501]", "%y = add(%x, %x)"),
    "gemm to f16": ("%x: f32[S, 600], %w: f16[600, 100]",
                    "%a = linear(%x, %w) %y = cast(%a) {dtype = f16}"),
    "gemm to bf16": ("%x: f32[S, 600], %w: bf16[600, 100]",
                     "%a = linear(%x, %w) %y = cast(%a) {dtype = bf16}"),
    "gemm by bf16": ("%x: f32[S, 40], %w: bf16[40, 100]", "%y = linear(%x, %w)"),
    "turned": ("%x: f32[S, 9, 64]", "%y = transpose(%x) {perm = [1, 0, 2]}"),
}  # fmt: skip
SIZES = {"S": 37, "B": 2}

HEAD = "int __tvm_ffi_kernel(void* s, void* a, int n, void* r) "
BODIES = {
    "writes behind": """{
        float* y = *(float**)*(void**)((char*)a + 16 * (n - 1) + 8);
        for (int i = 0; i < 40000; i++) y[i] = 0; return 0; }""",
    "hangs": "{ for (volatile int i = 0;; i++) {} }",
    "segfaults": "{ *(volatile int*)8 = 1; return 0; }",
    "aborts": "{ __builtin_trap(); }",
    "writes nothing": "{ return 0; }",
}
DEADLINE = 2.0
LATE = 3.0  # seconds after the deadline, at most


def graph_of(name: str) -> Graph:
    inputs, body = KERNELS[name]
    results = "%y, %z" if "%z =" in body else "%y"
    graph = parse_graph(f"graph @g({inputs}) {{ {body} return {results} }}")
    random = np.random.default_rng(0)
    weights = {
        value.name: random.standard_normal([int(str(d)) for d in value.type.shape]).astype(
            value.type.dtype.numpy
        )
        for value in graph.inputs
        if value.name in ("w", "u")
    }
    return pin(graph, {}, weights)


def task_of(name: str) -> Task:
    lowered = TvmBackend().lower(graph_of(name), target())
    (kernel,) = lowered.tunable.values()
    assert isinstance(kernel, Kernel) and kernel.template is not None
    template = kernel.template

    def fits(knobs: Mapping[str, int]) -> bool:
        return template.knobs(knobs) is not None

    space = Space(template.values(), template.default.numbers(), fits)
    work = workload_of(template.title, kernel.key, template.features, SIZES)
    return Task(kernel.name, work, space, 0.001, 1, kernel)


def points(task: Task, count: int) -> list[dict[str, int]]:
    """Different knobs that fit, by one or several changes of the default."""
    random = np.random.default_rng(1)
    found: dict[tuple[int, ...], dict[str, int]] = {}
    for _ in range(10_000):
        knobs = dict(task.space.default)
        changed = random.integers(1, min(3, len(knobs)) + 1)
        names = random.choice(list(knobs), changed, replace=False)
        for name in names:
            knobs[str(name)] = int(random.choice(task.space.values[str(name)]))
        if knobs != task.space.default and task.space.fits(knobs):
            found.setdefault(task.space.point(knobs), knobs)
        if len(found) == count:
            break
    return list(found.values())


def planted(body: str, only: Mapping[str, int]) -> object:
    """A builder that writes `body` for some knobs, and the kernel for all others."""

    def build(kernel: Kernel, where: Target, path: Path) -> None:
        if kernel.chosen is None or kernel.chosen.numbers() != dict(only):
            build_variant(kernel, where, path)
            return
        source = path.with_suffix(".c")
        source.write_text(HEAD + BODIES[body])
        link(str(path), [str(source)])

    return build


@pytest.fixture
def workers() -> Iterator[LocalWorkers]:
    made = LocalWorkers(target(), SIZES, 0)
    yield made
    made.close()


@pytest.mark.parametrize("name", KERNELS)
def test_all_knobs_compute_the_same(name: str, workers: LocalWorkers) -> None:
    task = task_of(name)
    tried = points(task, 5)
    assert tried, "there is something to choose"
    outcomes = list(workers.measure(task, tried, 0.001))
    for knobs, outcome in zip(tried, outcomes, strict=True):
        assert outcome.verdict in (Verdict.ok, Verdict.slower), (knobs, outcome.reason)
        assert outcome.checked
        assert len(outcome.seconds) == len(outcome.baseline) >= 7
        assert outcome.ratio is not None and outcome.ratio > 0


def test_the_default_beside_itself_is_as_quick(workers: LocalWorkers) -> None:
    task = task_of("gemm")
    (outcome,) = workers.measure(task, [task.space.default], 0.3)
    assert outcome.ratio == pytest.approx(1.0, abs=0.25)


def test_knobs_that_do_not_fit_are_not_built(workers: LocalWorkers) -> None:
    task = task_of("gemm")
    (outcome,) = workers.measure(task, [{**task.space.default, "tile_m": 999}], 0.01)
    assert outcome.verdict is Verdict.build_failed
    assert not outcome.checked


def misbehave(body: str) -> tuple[list[Outcome], float]:
    """The outcomes of a candidate that misbehaves and of one after it; and the wall time."""
    task = task_of("gemm")
    bad, good = points(task, 2)
    made = LocalWorkers(
        target(),
        SIZES,
        0,
        run_deadline=DEADLINE,
        build=planted(body, bad),  # type: ignore[arg-type]
    )
    try:
        list(made.measure(task, [good], 0.01))  # the processes are there
        start = time.monotonic()
        outcomes = list(made.measure(task, [bad, good], 0.01))
        return outcomes, time.monotonic() - start
    finally:
        made.close()


@pytest.mark.parametrize(
    ("body", "verdict"),
    [("hangs", Verdict.timeout), ("segfaults", Verdict.crashed), ("aborts", Verdict.crashed),
     ("writes nothing", Verdict.wrong)],
)  # fmt: skip
def test_tuning_goes_on_after_a_candidate_that(body: str, verdict: Verdict) -> None:
    (bad, good), took = misbehave(body)
    assert bad.verdict is verdict, bad.reason
    assert bad.reason
    assert good.verdict in (Verdict.ok, Verdict.slower)
    assert took < DEADLINE + LATE


def test_a_builder_that_hangs_or_dies_is_one_failed_trial() -> None:
    task = task_of("gemm")
    hanging, dying, good = points(task, 3)

    def build(kernel: Kernel, where: Target, path: Path) -> None:
        if kernel.chosen is not None and kernel.chosen.numbers() == hanging:
            time.sleep(1000)
        if kernel.chosen is not None and kernel.chosen.numbers() == dying:
            os.kill(os.getpid(), signal.SIGABRT)
        build_variant(kernel, where, path)

    made = LocalWorkers(target(), SIZES, 0, build_deadline=10.0, build=build)
    try:
        outcomes = list(made.measure(task, [hanging, dying, good], 0.01))
    finally:
        made.close()
    assert [o.verdict for o in outcomes[:2]] == [Verdict.timeout, Verdict.build_failed]
    assert "signal 6" in outcomes[1].reason
    assert outcomes[2].verdict in (Verdict.ok, Verdict.slower)


def test_a_kernel_that_cannot_be_built_as_it_is_ends_tuning() -> None:
    """Every candidate is held against it: without it each would fail, one by one."""
    task = task_of("gemm")
    tried = points(task, 2)

    def build(kernel: Kernel, where: Target, path: Path) -> None:
        if kernel.chosen is None:
            raise BuildError("no registers are left")
        build_variant(kernel, where, path)

    made = LocalWorkers(target(), SIZES, 0, build=build)
    try:
        with pytest.raises(TuneError, match=r"as it is could not be built: .*no registers") as told:
            list(made.measure(task, tried, 0.01))
    finally:
        made.close()
    assert told.value.where == task.name


def test_knobs_by_analysis_are_the_kernel_as_it_is(workers: LocalWorkers) -> None:
    """One build serves both, whichever way they are named."""
    task = task_of("gemm")
    base, (default, other) = workers.builders.all_of(
        task, [dict(task.space.default), points(task, 1)[0]]
    )
    assert default is base and other.path != base.path and workers.builders.count == 2


def test_the_kernel_as_it_is_is_measured_before_others_are_built(workers: LocalWorkers) -> None:
    task = task_of("gemm")
    outcomes = workers.measure(task, [dict(task.space.default), *points(task, 2)], 0.01)
    first = next(outcomes)
    assert first.checked and workers.builders.count == 1
    assert [o.checked for o in outcomes] == [True, True] and workers.builders.count == 3


def test_workers_end_with_their_parent() -> None:
    """The parent is killed while a candidate hangs: nobody is left five seconds later."""
    code = (
        "import sys, threading, time; from tests.autotune.test_local import *\n"
        "def told():\n"
        "    time.sleep(0.5)\n"
        "    kids = open(f'/proc/self/task/{os.getpid()}/children').read().split()\n"
        "    print(json.dumps(kids), flush=True)\n"
        "task = task_of('gemm'); (bad,) = points(task, 1)\n"
        "made = LocalWorkers(target(), SIZES, 0, run_deadline=600, build=planted('hangs', bad))\n"
        "list(made.measure(task, [task.space.default], 0.01))\n"
        "threading.Thread(target=told).start()\n"
        "list(made.measure(task, [bad], 0.01))\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        pids = [int(pid) for pid in json.loads(child.stdout.readline())]
        assert pids, "there is a runner"
        child.kill()
    end = time.monotonic() + 5
    while time.monotonic() < end and any(Path(f"/proc/{pid}").exists() for pid in pids):
        time.sleep(0.05)
    left = [p for p in pids if Path(f"/proc/{p}/stat").exists()
            and Path(f"/proc/{p}/stat").read_text().split()[2] != "Z"]  # fmt: skip
    assert not left


def test_the_workload_names_its_own_sizes_only() -> None:
    task = task_of("gemm")
    assert task.workload.text.endswith('at {"S":37}')
    assert task.workload.features["at S"] == 37
    assert task_of("few rows").workload.text.endswith("at {}")


def test_the_device_tells_machines_apart() -> None:
    one = target()
    facts = json.loads(device_of(one).text)
    assert facts["cores"] == 1 and facts["isa"] == one.machine.isa and facts["cpu"]
    assert device_of(target("x86-64-v3")) != device_of(one)
    assert "tvm" in versions_text()


@pytest.mark.skipif(physical_cores() < 2, reason="there is one core")
def test_what_measures_stays_on_a_core(workers: LocalWorkers) -> None:
    """One thread, one core of several; what builds is free."""
    list(workers.measure(task_of("gemm"), points(task_of("gemm"), 1), 0.01))
    assert workers.runners.runner is not None
    chosen = os.sched_getaffinity(workers.runners.runner[1].pid)
    assert len(chosen) == 1 and chosen < os.sched_getaffinity(0)


def test_variants_write_to_the_same_memory(tmp_path: Path) -> None:
    """Or one of them may win by the pages that its results got."""
    kernel = task_of("gemm").kernel
    assert isinstance(kernel, Kernel)
    path = tmp_path / "kernel.so"
    build_variant(kernel, target(), path)
    launch, weights = launch_of(kernel, SIZES, 0), weights_of(kernel)
    bench = Workbench(launch)
    one, other = (bench.load(path, launch, lambda name: weights[name]()) for _ in range(2))
    assert one.results and all(a is b for a, b in zip(one.results, other.results, strict=True))
