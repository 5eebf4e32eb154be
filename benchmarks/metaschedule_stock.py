"""Stock MetaSchedule with workers that work: TVM's rules, search and cost model, our processes.

TVM's own workers import TVM anew for each batch and time out on every candidate, so candidates are
built and run in processes forked from this one, which has TVM in memory and runs no kernel. The
search is driven a batch at a time, with the clock checked between.
"""

from __future__ import annotations

import os
import signal
import sys
import time
import types
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import tvm

from tunesmith.backends.tvm.build import link, tvm_target
from tunesmith.children import ask_child
from tunesmith.ir.diagnostics import CompilerError
from tunesmith.ir.target import Target
from tunesmith.runtime.processes import die_with_parent

__all__ = ["COST_MODEL", "Found", "Stock", "build", "search"]

# The stock int8 intrinsics take 51 s to import and are not registered right; f32 needs none.
sys.modules.setdefault("tvm.s_tir.tensor_intrin", types.ModuleType("tvm.s_tir.tensor_intrin"))
from tvm.s_tir import meta_schedule as ms  # noqa: E402

COST_MODEL = "xgboost" if find_spec("xgboost") is not None else "random"
_BUILD, _RUN = 30.0, 20.0  # seconds that one candidate may take
_MEASURE = 0.15  # seconds of timing one
_FAILED = 1e10  # MetaSchedule's time of a candidate that does not run


@dataclass
class Found:
    """What a search found: seconds of a call of the best, its module, and the way there."""

    seconds: float = float("inf")
    module: Any = None
    shapes: list[tuple[int, ...]] = field(default_factory=list)  # of the arguments, as rewritten
    curve: list[tuple[float, float]] = field(default_factory=list)  # elapsed, best so far
    trials: int = 0
    failed: int = 0
    rounds: int = 0  # batches that were finished
    took: float = 0.0  # seconds, all together


@dataclass
class Stock:
    """A library of `build` with arguments, run like a variant of a `Workbench`."""

    function: Callable[..., None]
    arguments: Sequence[Any]

    @classmethod
    def load(cls, path: Path, arrays: Sequence[Any]) -> Stock:
        """Load it; arrays begin where a cache line does."""
        function = tvm.runtime.load_module(str(path))["main"]
        return cls(function, [tvm.runtime.from_dlpack(array) for array in arrays])

    def run(self, number: int = 0) -> None:
        """Call it once."""
        self.function(*self.arguments)


def build(module: Any, target: Target, path: Path, *, strip: bool) -> None:
    """A library of a schedule's module; stripped, it takes weights in the layout that it chose."""
    if strip:
        module = tvm.s_tir.transform.RemoveWeightLayoutRewriteBlock(skip_tensor_rewrite=True)(
            module
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    made = path.with_suffix(".o")
    tvm.compile(module, target=tvm_target(target)).mod.write_to_file(str(made))
    link(str(path), [str(made)])


def search(
    module: Any, target: Target, budget: float, folder: Path, *, batch: int, seed: int = 1
) -> Found:
    """Evolutionary search by the stock rules for `budget` seconds, `batch` candidates at a time.

    The first batch is finished and counts, however long it takes.
    """
    began = time.monotonic()
    cores = len(os.sched_getaffinity(0))
    on = tvm_target(target)
    space = ms.space_generator.PostOrderApply(
        sch_rules=ms.schedule_rule.ScheduleRule.create("llvm"),
        postprocs=ms.postproc.Postproc.create("llvm"),
        mutator_probs=ms.mutator.Mutator.create("llvm"),
    )
    context = ms.TuneContext(
        module, target=on, space_generator=space, search_strategy="evolutionary",
        rand_state=seed, num_threads=cores,
    )  # fmt: skip
    np.random.seed(seed)  # the cost model draws from it until it has samples
    model = ms.cost_model.XGBModel(num_tuning_cores=cores) if COST_MODEL == "xgboost" \
        else ms.cost_model.RandomModel(seed=seed)  # fmt: skip
    database = ms.database.MemoryDatabase()
    workload = database.commit_workload(module)
    context.pre_tuning(1_000_000, batch, context.generate_design_space(), database, model)
    found = Found()
    try:
        while time.monotonic() - began < budget:
            candidates = context.generate_measure_candidates()
            if candidates is None:
                break
            modules = [c.sch.mod for c in candidates]
            paths = _build_all(modules, target, folder / str(found.rounds), cores)
            results = []
            for candidate, path in zip(candidates, paths, strict=True):
                shapes = [tuple(map(int, a.shape)) for a in candidate.args_info]
                seconds = _measure(path, shapes) if path is not None else None
                if found.rounds and time.monotonic() - began > budget:
                    return found  # what is measured too late does not count
                found.trials += 1
                found.failed += seconds is None
                if seconds is not None and seconds < found.seconds:
                    found.seconds, found.module, found.shapes = seconds, candidate.sch.mod, shapes
                    found.curve.append((time.monotonic() - began, seconds))
                error = None if seconds is not None else "failed"
                results.append(ms.runner.RunnerResult([seconds] if seconds else None, error))
                record = ms.database.TuningRecord(
                    candidate.sch.trace, workload, [seconds or _FAILED], on, candidate.args_info
                )
                database.commit_tuning_record(record)
            context.notify_runner_results(candidates, results)
            model.update(context, candidates, results)
            found.rounds += 1
    finally:
        context.post_tuning()
        found.took = time.monotonic() - began
    return found


def _measure(path: Path, shapes: Sequence[tuple[int, ...]]) -> float | None:
    """The median seconds of a call, in a process of its own."""

    def work() -> dict[str, Any]:
        os.environ["TVM_NUM_THREADS"] = "1"
        random = np.random.default_rng(0)
        one = Stock.load(path, [aligned(random.standard_normal(s)) for s in shapes])
        one.run()
        start = time.perf_counter()
        one.run()
        calls = max(1, int(2e-4 / max(time.perf_counter() - start, 1e-7)))
        times: list[float] = []
        end = time.perf_counter() + _MEASURE
        while len(times) < 5 or time.perf_counter() < end:
            start = time.perf_counter()
            for _ in range(calls):
                one.run()
            times.append((time.perf_counter() - start) / calls)
        return {"seconds": median(times)}

    try:
        answer = ask_child(work, _RUN)
    except CompilerError:
        return None
    return answer.get("seconds")


def aligned(array: Any) -> Any:
    """A copy as f32 that begins where a cache line does."""
    memory = np.empty(array.size * 4 + 64, np.uint8)
    start = -memory.ctypes.data % 64
    copy = memory[start : start + array.size * 4].view(np.float32).reshape(array.shape)
    copy[...] = array
    return copy


def _build_all(
    modules: Sequence[Any], target: Target, folder: Path, cores: int
) -> list[Path | None]:
    """Build each in a process of its own, as many at a time as there are cores."""
    done: dict[int, Path | None] = {}
    running: dict[int, tuple[int, Path, float]] = {}
    waiting = list(enumerate(modules))
    while waiting or running:
        while waiting and len(running) < cores:
            place, module = waiting.pop(0)
            path = folder / str(place) / "kernel.so"
            child = os.fork()
            if child == 0:
                status = 1
                try:
                    die_with_parent()
                    with suppress(Exception):  # a candidate that cannot be built is a failed one
                        build(module, target, path, strip=True)
                        status = 0
                finally:
                    os._exit(status)
            running[child] = place, path, time.monotonic() + _BUILD
        for child, (place, path, deadline) in list(running.items()):
            ended, status = os.waitpid(child, os.WNOHANG)
            if not ended and time.monotonic() > deadline:
                os.kill(child, signal.SIGKILL)
                ended, status = os.waitpid(child, 0)
            if ended:
                del running[child]
                done[place] = path if status == 0 else None
        time.sleep(0.002)
    return [done[place] for place in range(len(modules))]
