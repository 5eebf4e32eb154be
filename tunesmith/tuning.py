"""`tunesmith tune`: from a model to an artifact whose kernels were chosen by measuring.

The model is compiled as it is and profiled; its kernels are tuned where most time goes; the winners
are put in, and the two artifacts run in turns: what is slower inside the model is taken out.
"""

from __future__ import annotations

import fnmatch
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from tunesmith.driver import Progress, compile_model
from tunesmith.ir.diagnostics import TuneError
from tunesmith.places import RUNS_OF_A_TURN, Here, Place
from tunesmith.random_inputs import check_sizes, sizes_of, sizes_to_bench
from tunesmith.runtime import Artifact
from tunesmith.runtime.manifest import Json, Manifest
from tunesmith.searches import find_search

if TYPE_CHECKING:
    from tunesmith.autotune.measure import Task, Workers
    from tunesmith.autotune.records import Record
    from tunesmith.autotune.tune import Store, Tuner
    from tunesmith.backends.base import Lowered, TuningRecords

__all__ = ["TunePlan", "Tuned", "plan_tuning", "tune_model"]

_PASSES = 3  # of taking out what loses
_TURNS, _LEAST_TURNS = 15, 5  # of the two artifacts that are compared: fewer
_COMPARING = 20.0  # seconds, if they took longer than this
_MOST = 0.7  # of the turns have to be lost, by a kernel that won alone


@dataclass
class TunePlan:
    """A model that is compiled untuned, and the kernels that can be tuned, the longest first."""

    artifact: Artifact
    lowered: Lowered
    sizes: dict[str, int]
    tasks: list[Task]
    seconds: float  # of one run, untuned


@dataclass
class Tuned:
    """What came of it: the artifact to keep, and how its kernels and the whole became quicker."""

    artifact: Artifact
    plan: TunePlan
    tuner: Tuner
    whole: tuple[float, float]  # seconds of a run, untuned and tuned, in turns
    used: dict[str, Record] = field(default_factory=dict)  # by the kernel's name
    dropped: list[str] = field(default_factory=list)  # kernels that won alone, not in the model
    ready: float = 0.0  # seconds until the first trial began: its kernel was built next
    first: float | None = None  # seconds until the first trial was measured, if there was one


def plan_tuning(
    compiled: Callable[..., Artifact],
    *,
    at: Mapping[str, int],
    tasks: Sequence[str],
    place: Place,
    progress: Progress | None = None,
) -> TunePlan:
    """Compile untuned, profile, and list the kernels that have knobs.

    `compiled` is `compile_model` with all that the user asked for; `at` are the sizes to tune at,
    by default those of `bench`; `tasks` are patterns of kernel names, all if there are none;
    `place` is where the artifact runs.

    Raises:
        TuneError: no kernel is left to tune.
    """
    from tunesmith.autotune.device import workload_of
    from tunesmith.autotune.measure import Task
    from tunesmith.autotune.search import Space
    from tunesmith.backends.tvm.kernels.kernel import Kernel

    seen: list[Lowered] = []
    artifact = compiled(progress=progress, observe=seen.append)
    (lowered,) = seen
    manifest = artifact.manifest
    check_sizes(at, manifest.symbols)
    sizes = sizes_of(manifest.inputs, {}, {**sizes_to_bench(manifest.symbols), **at})
    if progress is not None:
        progress("profile")
    (((whole, kernels),),) = place.profiles([artifact], sizes, 1)
    spent: dict[str, list[float]] = {}
    for name, seconds in kernels:
        spent.setdefault(name, []).append(seconds)
    found: list[Task] = []
    for name, kernel in lowered.tunable.items():
        assert isinstance(kernel, Kernel) and kernel.template is not None
        template = kernel.template
        times = spent.get(name, [])
        if tasks and not any(fnmatch.fnmatch(name, glob) for glob in tasks):
            continue
        if not times:
            continue

        def fits(knobs: Mapping[str, int], kernel: Kernel = kernel) -> bool:
            return kernel.template is not None and kernel.template.knobs(knobs) is not None

        space = Space(template.values(), template.default.numbers(), fits)
        work = workload_of(template.title, kernel.workload, template.features, sizes)
        found.append(Task(name, work, space, sum(times), len(times), kernel))
    if not found:
        wanted = f" that matches {', '.join(tasks)}" if tasks else ""
        raise TuneError(f"there is no kernel to tune{wanted}", where=manifest.name,
                        hint="`tunesmith tune --dry-run` lists them")  # fmt: skip
    found.sort(key=lambda task: -task.seconds)
    return TunePlan(artifact, lowered, sizes, found, whole)


def tune_model(
    source: str | Path,
    store: Store,
    *,
    budget: float,
    trials: int | None = None,
    seed: int = 0,
    search: str = "gaussian",
    at: Mapping[str, int] | None = None,
    tasks: Sequence[str] = (),
    verify: bool = False,
    progress: Progress | None = None,
    told: Callable[[Tuner], None] = lambda tuner: None,
    workers: Callable[[TunePlan], Workers] | None = None,
    place: Place | None = None,
    **options: Any,
) -> Tuned:
    """Tune a model for `budget` seconds and compile it with what was found.

    `search` is a name of `SEARCHES`, `options` are those of `compile_model`; `place` is where
    kernels and artifacts are measured, by default this machine, and `workers` makes others than its
    own. An interrupt (Ctrl-C) ends the search, not the work: the best so far becomes the artifact,
    and the store has every trial.

    Raises:
        CompilerError: one of its kinds.
    """
    from tunesmith.autotune.device import versions_text
    from tunesmith.autotune.tune import Goal, Tuner

    where = place or Here()

    def compiled(**more: Any) -> Artifact:
        return compile_model(source, **options, **more)

    start = time.perf_counter()
    plan = plan_tuning(compiled, at=at or {}, tasks=tasks, place=where, progress=progress)
    if progress is not None:
        progress("tune")
    goal = Goal(
        device=where.device(plan.lowered.target), versions=versions_text(), trials=trials,
        seed=seed, seconds=budget - (time.perf_counter() - start),
    )  # fmt: skip
    those = workers(plan) if workers is not None else _workers_of(where, plan)
    try:
        interrupt = threading.Event()
        first: list[float] = []

        def heard(tuner: Tuner) -> None:
            if not first:
                first.append(time.perf_counter() - start)
            told(tuner)

        tuner = Tuner(plan.tasks, those, store, goal, told=heard, search=find_search(search),
                      stopped=interrupt.is_set)  # fmt: skip
        ready = time.perf_counter() - start
        with suppress(KeyboardInterrupt), _remembered(interrupt):
            tuner.run()
        with suppress(KeyboardInterrupt):
            tuner.choose()
    finally:
        those.close()
    tuned = Tuned(plan.artifact, plan, tuner, (plan.seconds, plan.seconds), ready=ready,
                  first=first[0] if first else None)  # fmt: skip
    with suppress(KeyboardInterrupt):  # then it is the untuned artifact
        _finish(tuned, compiled, where, verify=verify, progress=progress)
    return tuned


@contextmanager
def _remembered(interrupt: threading.Event) -> Iterator[None]:
    """Set `interrupt` at Ctrl-C: the exception alone may be lost in a finalizer or a callback."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def note(number: int, frame: object) -> None:
        interrupt.set()
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _workers_of(place: Place, plan: TunePlan) -> Workers:
    weights = plan.artifact.manifest.report["weights"]
    assert isinstance(weights, int)
    return place.workers(plan.lowered.target, plan.sizes, weights)


def _finish(
    tuned: Tuned,
    compiled: Callable[..., Artifact],
    place: Place,
    *,
    verify: bool,
    progress: Progress | None,
) -> None:
    """Put the winners in, take out those that lose inside the model, and compare the whole.

    What decides about the whole is measured after everything else was decided.
    """
    plan, tuner = tuned.plan, tuned.tuner
    chosen = {s.task.name: s.chosen for s in tuner.states if s.chosen is not None}
    for last in (False,) * (_PASSES - 1) + (True,):
        if not chosen:
            break
        knobs = _records(plan, chosen)
        artifact = compiled(progress=progress, records=lambda _, knobs=knobs: knobs)
        if progress is not None:
            progress("compare")
        _, ratios = _in_turns(plan, artifact, place)
        losing = [name for name in chosen if _loses(ratios.get(name, [1.0]))]
        if losing and not last:
            tuner.drop(losing)
            tuned.dropped += losing
            chosen = {name: record for name, record in chosen.items() if name not in losing}
            continue
        whole, _ = _in_turns(plan, artifact, place)
        tuned.whole = whole
        if whole[1] < whole[0]:
            if verify:
                artifact = compiled(progress=progress, verify=True,
                                    records=lambda _, knobs=knobs: knobs)  # fmt: skip
            artifact.manifest = _with_report(artifact.manifest, chosen, whole)
            tuned.artifact, tuned.used = artifact, chosen
            return
        break
    if verify:
        tuned.artifact = compiled(progress=progress, verify=True)


def _records(plan: TunePlan, chosen: Mapping[str, Record]) -> TuningRecords:
    from tunesmith.autotune.choices import Chosen
    from tunesmith.backends.tvm.kernels.kernel import Kernel

    found: dict[tuple[str, str], Mapping[str, int]] = {}
    for name, record in chosen.items():
        kernel = plan.lowered.tunable[name]
        assert isinstance(kernel, Kernel)
        found[record.workload.template, kernel.workload] = record.knobs
    return Chosen(found)


def _with_report(
    manifest: Manifest, chosen: Mapping[str, Record], whole: tuple[float, float]
) -> Manifest:
    rows: list[Json] = [
        {"kernel": name, "template": record.workload.template, "knobs": {**record.knobs},
         "speedup": round(record.speedup, 4), "checked": record.checked,
         "workload": record.workload.sha256}
        for name, record in chosen.items()
    ]  # fmt: skip
    facts: dict[str, Json] = {"seconds_untuned": whole[0], "seconds": whole[1], "kernels": rows}
    return replace(manifest, report={**manifest.report, "tuned": facts})


def _in_turns(
    plan: TunePlan, tuned: Artifact, place: Place
) -> tuple[tuple[float, float], dict[str, list[float]]]:
    """Run both artifacts in turns: seconds of the whole, and of each kernel tuned to untuned.

    What the machine does meanwhile slows down both of a turn, so seconds of the tuned one are
    those of the untuned one by the median of what turns say.
    """
    fitting = int(_COMPARING / (2 * RUNS_OF_A_TURN * plan.seconds))
    turns = max(_LEAST_TURNS, min(_TURNS, fitting))
    pairs = place.profiles([plan.artifact, tuned], plan.sizes, turns)
    untuned = median(a[0] for a, _ in pairs)
    whole = (untuned, untuned * median(b[0] / a[0] for a, b in pairs))
    ratios: dict[str, list[float]] = {}  # of each turn
    for (_, before), (_, after) in pairs:
        sums: dict[str, list[float]] = {}
        for (name, old), (_, new) in zip(before, after, strict=True):
            total = sums.setdefault(name, [0.0, 0.0])
            total[0] += old
            total[1] += new
        for name, (old, new) in sums.items():
            ratios.setdefault(name, []).append(new / old if old else 1.0)
    return whole, ratios


def _loses(ratios: Sequence[float]) -> bool:
    """Whether a kernel that won alone is slower inside the model in most of the turns.

    One of which it cannot be told stays: whether it pays shows in the whole.
    """
    return sum(ratio >= 1.0 for ratio in ratios) > _MOST * len(ratios)
