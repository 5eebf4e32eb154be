"""`python -m benchmarks.metaschedule`: our tuner beside stock MetaSchedule, at equal wall time.

Both tune five operators for one thread, `--budget` each. The best kernels then race in one process,
in turns and on the same data, and both results are compared with NumPy's in float64. Figures go to
`docs/tuning-metaschedule.json`, table and curves to `docs/tuning.md`.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from math import exp, log
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np

from benchmarks.metaschedule_report import Row, write
from benchmarks.metaschedule_stock import COST_MODEL, Found, Stock, aligned, build, search
from benchmarks.metaschedule_subjects import SUBJECTS, Array, Subject
from benchmarks.spine_facts import commit, gather, now
from tunesmith.autotune.database import open_database
from tunesmith.autotune.device import device_of, versions_text, workload_of
from tunesmith.autotune.local import LocalWorkers
from tunesmith.autotune.measure import Task
from tunesmith.autotune.records import Verdict
from tunesmith.autotune.search import Space
from tunesmith.autotune.tune import Goal, Tuner
from tunesmith.backends.targets import find_target
from tunesmith.backends.tvm.kernels.kernel import Kernel
from tunesmith.backends.tvm.launch import launch_of, weights_of
from tunesmith.backends.tvm.standalone import Variant, Workbench, build_variant, with_knobs
from tunesmith.children import answer_of_child
from tunesmith.cli_tune import parse_budget
from tunesmith.ir.target import Target

__all__ = ["main"]

_RACE = 3.0  # seconds, at the end
_RTOL = 1e-4  # of the greatest element: sums are of up to 768 products


def main(arguments: Sequence[str] | None = None) -> int:
    """Compare and write; 1 if a result is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.metaschedule", description=(__doc__ or "").partition("\n")[0]
    )
    add = parser.add_argument
    add("--budget", default="2m", help="of each of the two, for each operator")
    add("--tasks", nargs="+", default=["*"], metavar="GLOB", help="such as 'gemm*'")
    add("--batch", type=int, default=16,
        help="candidates of stock MetaSchedule between two looks at the clock")  # fmt: skip
    chosen = parser.parse_args(arguments)
    budget = parse_budget(chosen.budget)
    os.environ["TVM_NUM_THREADS"] = "1"
    target = find_target("host", threads=1)
    rows: list[Row] = []
    for subject in SUBJECTS:
        if any(fnmatchcase(subject.name, glob) for glob in chosen.tasks):
            row = compare(subject, target, budget, chosen.batch)
            print(f"{subject.name}: ours {row['ours'] * 1e3:.3g} ms, "
                  f"stock {row['stock'] * 1e3:.3g} ms", flush=True)  # fmt: skip
            rows.append(row)
    mean = exp(fmean(log(row["stock"] / row["ours"]) for row in rows))
    print(f"ours is {mean:.2f}x as fast in the geometric mean")
    facts = {"date": now(), "commit": commit(), "budget": budget, "batch": chosen.batch,
             "cost model": COST_MODEL,
             "machine": gather(), "mean": mean, "rows": rows}  # fmt: skip
    if len(rows) == len(SUBJECTS):
        write(facts)
    return int(any(max(row["errors"].values()) > _RTOL for row in rows))


def compare(subject: Subject, target: Target, budget: float, batch: int) -> Row:
    """Tune an operator by both, and race what they found.

    Ours has as long as theirs took: the first batch of stock MetaSchedule may be longer than the
    budget.
    """
    data = subject.data()
    before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="tunesmith-metaschedule-") as text:
        folder = Path(text)
        found = search(subject.module(), target, budget, folder / "stock", batch=batch)
        if found.module is None:
            raise SystemExit(f"{subject.name}: stock MetaSchedule found nothing in {budget:g} s")
        kernel = subject.kernel(data, target)
        tuned, curve, trials = tune(subject, kernel, target, max(budget, found.took), folder)
        race = _race(subject, data, kernel, tuned, found, target, folder)
    return {
        "name": subject.name, **race, "knobs": tuned.knobs.numbers() if tuned.knobs else {},
        "trials": {"ours": trials, "stock": found.trials}, "failed": found.failed,
        "seconds": found.took,
        "curves": {"ours": curve, "stock": found.curve},
        "load": [round(before, 2), round(os.getloadavg()[0], 2)],
    }  # fmt: skip


def tune(
    subject: Subject, kernel: Kernel, target: Target, budget: float, folder: Path
) -> tuple[Kernel, list[tuple[float, float]], int]:
    """Our tuner on our kernel: the kernel to use, its seconds so far over time, and the trials.

    A kernel without knobs is taken as it is.
    """
    template = kernel.template
    if template is None:
        return kernel, [], 0

    def fits(knobs: Mapping[str, int]) -> bool:
        return template.knobs(knobs) is not None

    space = Space(template.values(), template.default.numbers(), fits)
    work = workload_of(template.title, kernel.key, template.features, {})
    task = Task(subject.name, work, space, 1.0, 1, kernel)
    goal = Goal(device=device_of(target), versions=versions_text(), seconds=budget)
    workers = LocalWorkers(target, {}, 0)
    curve: list[tuple[float, float]] = []
    began = time.monotonic()

    def told(tuner: Tuner) -> None:
        (state,) = tuner.states
        last = state.records[-1]
        if last.verdict not in (Verdict.ok, Verdict.slower) or not last.seconds:
            return
        seconds = min(median(last.seconds), median(last.baseline))
        if not curve or seconds < curve[-1][1]:
            curve.append((time.monotonic() - began, seconds))

    try:
        with open_database(str(folder / "ours.db")) as store:
            tuner = Tuner([task], workers, store, goal, told=told)
            tuner.run()
            tuner.choose()
    finally:
        workers.close()
    (state,) = tuner.states
    knobs = template.knobs(dict(state.chosen.knobs)) if state.chosen is not None else None
    return with_knobs(kernel, knobs), curve, tuner.measured


def _race(
    subject: Subject,
    data: Mapping[str, Array],
    kernel: Kernel,
    tuned: Kernel,
    found: Found,
    target: Target,
    folder: Path,
) -> dict[str, Any]:
    """Seconds of a call of each in turns, and how far the results are from those in float64.

    The timed library of stock MetaSchedule takes weights in the layout that it chose; that its
    results are right is seen by the same schedule with the change of the layout in it.
    """
    for name, one in (("default", kernel), ("ours", tuned)):
        (folder / name).mkdir()
        build_variant(one, target, folder / name / "kernel.so")
    build(found.module, target, folder / "timed" / "kernel.so", strip=True)
    build(found.module, target, folder / "whole" / "kernel.so", strip=False)
    exact = subject.exact(*(data[name].astype(np.float64) for name in subject.shapes))

    def error(result: Array) -> float:
        difference = np.abs(np.asarray(result, np.float64).reshape(exact.shape) - exact)
        return float(difference.max() / np.abs(exact).max())

    def work() -> dict[str, Any]:
        bench = Workbench(launch_of(tuned, {}, 0))
        for value, array in zip(tuned.reads, bench.inputs, strict=True):
            if array is not None:
                array[...] = data[value.name].reshape(-1)

        def load(name: str, one: Kernel) -> Variant:
            weights = weights_of(one)
            path = folder / name / "kernel.so"
            return bench.load(path, launch_of(one, {}, 0), lambda weight: weights[weight]())

        ours, default = load("ours", tuned), load("default", kernel)
        ours.run()
        arrays = [aligned(data[name]) for name in subject.shapes]
        result = aligned(np.zeros(subject.result))
        Stock.load(folder / "whole/kernel.so", [*arrays, result]).run()
        errors = {"ours": error(ours.results[0]), "stock": error(result)}
        random = np.random.default_rng(0)
        for place, shape in enumerate(found.shapes[:-1]):
            if shape != arrays[place].shape:
                arrays[place] = aligned(random.standard_normal(shape))
        stock = Stock.load(folder / "timed/kernel.so", [*arrays, result])
        far = float("inf")
        theirs, own = bench.race(stock, ours, seconds=_RACE, hopeless=far)  # type: ignore[arg-type]
        untuned, beside = bench.race(default, ours, seconds=_RACE / 3, hopeless=far)
        base = median(own) * median(np.divide(untuned, beside).tolist())  # another race: by ratio
        return {"ours": median(own), "stock": median(theirs), "default": base,
                "ratio": median(np.divide(theirs, own).tolist()), "errors": errors}  # fmt: skip

    return answer_of_child(work, 120.0)


if __name__ == "__main__":
    sys.exit(main())
