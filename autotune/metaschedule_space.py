"""The knobs of a template as a design space of MetaSchedule, and its evolutionary search over them.

A kernel is a small TIR module that carries its workload. The trace of a candidate samples each knob
by one `SampleCategorical` and writes the sample to the root block as `tunesmith.KNOB`, so that
TVM's search, traces and XGBoost model work on knobs; what a trace means is built by our templates,
never by TVM. Building and measuring stay with the tuner's workers, trials with its store: what is
proposed follows from the trials so far, so a search goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import logging
import random
import sys
import types
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from importlib.util import find_spec
from math import log2
from typing import Any

import numpy as np

import tunesmith.backends.tvm  # noqa: F401  # imports TVM, and keeps torch out
from tunesmith.ir.diagnostics import TuneError

from .measure import Task
from .metaschedule import PREFIX, knobs_of, workload_module
from .search import Observation, Point, Space, untried

# Importing them takes 51 s of CPU; no schedule of ours is made with them.
sys.modules.setdefault("tvm.s_tir.tensor_intrin", types.ModuleType("tvm.s_tir.tensor_intrin"))
import tvm  # noqa: E402
from tvm.ir.utils import derived_object  # noqa: E402
from tvm.s_tir import Schedule  # noqa: E402
from tvm.s_tir import meta_schedule as ms  # noqa: E402

__all__ = ["Evolution", "design_space", "features_of", "schedule_of", "with_other_knob"]

_POPULATION, _GENERATIONS = 64, 4
_LEAST, _DRAWS = 8, 200  # unmeasured points to begin with; rounds of drawing without a new one
_MODELLED = 8  # trials from which the cost model is asked
_PROPOSED = 16  # points at a time; those that were tried are left out
_RECENT, _OPTIMISM = 3, 0.8  # rounds and weight in the gradient of MetaSchedule's task scheduler
_FAILED = 1e10  # MetaSchedule's time of a candidate that does not run


def design_space(space: Space) -> ms.space_generator.ScheduleFn:
    """Samples each knob; with the mutator and the check that belong to it."""

    def sampled(schedule: Schedule) -> None:
        _sample(schedule, {name: (values, None) for name, values in space.values.items()})

    return ms.space_generator.ScheduleFn(
        sampled, sch_rules=[], postprocs=[_Fits(space)], mutator_probs={_OneKnob(): 1.0}
    )


def schedule_of(module: tvm.IRModule, space: Space, knobs: Mapping[str, int]) -> Schedule:
    """The schedule whose samples are these knobs."""
    decided = {}
    for name, values in space.values.items():
        options = sorted({*values, knobs[name]})  # what a near shape was best with may be another
        decided[name] = (options, options.index(knobs[name]))
    schedule = Schedule(module)
    _sample(schedule, decided)
    return schedule


def features_of(
    space: Space, work: Mapping[str, int], knobs: Mapping[str, int]
) -> np.ndarray[Any, np.dtype[np.float32]]:
    """What the cost model sees, `[1, features]` f32: places and logarithms of knobs, and sizes."""
    (places,) = space.places([space.point(knobs)])
    sizes = [*(knobs[name] for name in space.names), *(work[name] for name in sorted(work))]
    logarithms = [log2(1 + abs(size)) for size in sizes]
    return np.asarray([[*places, *logarithms]], np.float32)


def _sample(schedule: Schedule, decided: Mapping[str, tuple[Sequence[int], int | None]]) -> None:
    root = schedule.get_sblock("root")
    for name, (options, decision) in decided.items():
        chances = [1.0 / len(options)] * len(options)
        drawn = schedule.sample_categorical(list(options), chances, decision)
        schedule.annotate(root, f"{PREFIX}{name}", drawn)


def with_other_knob(trace: Any, draw: random.Random) -> Any:
    """The trace with another value of one knob; `None` if no knob has another."""
    samples = [i for i in trace.insts if i.kind.name == "SampleCategorical"]
    choices = [(one, [*range(len(one.attrs[0]))]) for one in samples if len(one.attrs[0]) > 1]
    if not choices:
        return None
    instruction, places = draw.choice(choices)
    places.remove(int(trace.decisions[instruction]))
    return trace.with_decision(instruction, draw.choice(places), True)


@derived_object
class _OneKnob(ms.mutator.PyMutator):  # type: ignore[misc]  # TVM has no types
    """Draws one knob again: another of its values."""

    def _initialize_with_tune_context(self, context: ms.TuneContext) -> None:
        pass

    def apply(self, trace: Any, state: int) -> Any:
        return with_other_knob(trace, random.Random(state))

    def clone(self) -> _OneKnob:
        return _OneKnob()


@derived_object
class _Fits(ms.postproc.PyPostproc):  # type: ignore[misc]
    """Refuses knobs that the kernel cannot be written by."""

    def __init__(self, space: Space) -> None:
        super().__init__()
        self.space = space

    def _initialize_with_tune_context(self, context: ms.TuneContext) -> None:
        pass

    def apply(self, schedule: Schedule) -> bool:
        return self.space.fits(knobs_of(schedule.trace))

    def clone(self) -> _Fits:
        return _Fits(self.space)


@derived_object
class _Features(ms.feature_extractor.PyFeatureExtractor):  # type: ignore[misc]
    """Knobs and the sizes of the work, instead of loops: the module has none."""

    def __init__(self, space: Space, work: Mapping[str, int]) -> None:
        super().__init__()
        self.space, self.work = space, dict(work)

    def extract_from(self, context: ms.TuneContext, candidates: Sequence[Any]) -> list[Any]:
        return [
            tvm.runtime.tensor(features_of(self.space, self.work, knobs_of(one.sch.trace)))
            for one in candidates
        ]


@dataclass
class Evolution:
    """MetaSchedule's evolutionary search with its XGBoost model, as a `Searcher` of the tuner.

    Raises:
        TuneError: `xgboost` is not installed.
    """

    task: Task
    seed: str
    hints: Sequence[Mapping[str, int]] = ()
    observed: list[Observation] = field(default_factory=list)
    _proposed: tuple[int, list[dict[str, int]]] | None = None  # after so many trials

    def __post_init__(self) -> None:
        if find_spec("xgboost") is None:
            raise TuneError("MetaSchedule's cost model needs xgboost",
                            hint="pip install 'tunesmith[metaschedule]'")  # fmt: skip

    @property
    def space(self) -> Space:
        """The knobs."""
        return self.task.space

    @property
    def best(self) -> Observation | None:
        """The quickest of what was measured and works."""
        working = [o for o in self.observed if o.ratio is not None]
        return min(working, key=lambda o: o.cost, default=None)

    def observe(self, observation: Observation) -> None:
        """Take in the result of a trial."""
        self.observed.append(observation)

    def propose(
        self, count: int, more_hints: Sequence[Mapping[str, int]] = ()
    ) -> tuple[list[dict[str, int]], float]:
        """The next `count` knobs, and the share of the time that the next round may save."""
        tried = {self.space.point(o.knobs) for o in self.observed}
        tried.add(self.space.point(self.space.default))
        hinted = untried(self.space, [*more_hints, *self.hints], tried)
        if self._proposed is None or self._proposed[0] != len(self.observed):
            self._proposed = len(self.observed), self._evolved(tried)
        points = [self.space.point(knobs) for knobs in self._proposed[1]]
        chosen = [*hinted, *(p for p in points if p not in hinted)][:count]
        return [self.space.knobs(point) for point in chosen], self._gradient() if chosen else 0.0

    @cached_property
    def module(self) -> tvm.IRModule:
        """What stands for the kernel."""
        return workload_module(self.task.workload)

    def _evolved(self, tried: set[Point]) -> list[dict[str, int]]:
        """Points that a fresh search with all trials in its database would measure next."""
        state = hashlib.sha256(f"{self.seed} {len(self.observed)}".encode()).digest()
        seed = 1 + int.from_bytes(state[:4], "big") % (2**31 - 2)
        features = _Features(self.space, self.task.workload.features)
        context = ms.TuneContext(
            self.module, target=tvm.target.Target({"kind": "llvm"}), rand_state=seed, num_threads=1,
            space_generator=design_space(self.space), logger=_silent(),
            search_strategy=ms.search_strategy.EvolutionarySearch(
                population_size=_POPULATION, genetic_num_iters=_GENERATIONS,
                init_min_unmeasured=_LEAST, max_fail_count=_DRAWS,
            ),
        )  # fmt: skip
        model = ms.cost_model.XGBModel(
            extractor=features, num_warmup_samples=_MODELLED, num_tuning_cores=1
        )
        database = ms.database.MemoryDatabase()
        workload = database.commit_workload(self.module)
        default = Observation(self.space.default, 1.0)
        seen = self.observed if any(_is(o, default) for o in self.observed) else [
            default, *self.observed
        ]  # fmt: skip
        candidates, results = [], []
        for one in seen:
            schedule = schedule_of(self.module, self.space, one.knobs)
            times = [_FAILED if one.ratio is None else one.ratio]
            database.commit_tuning_record(
                ms.database.TuningRecord(schedule.trace, workload, times, context.target, None)
            )
            candidates.append(ms.MeasureCandidate(schedule, []))
            results.append(ms.runner.RunnerResult(times, None))
        with _seeded(seed):
            model.update(context, candidates, results)
            spaces = context.generate_design_space()
            context.pre_tuning(_PROPOSED, _PROPOSED, spaces, database, model)
            try:
                found = context.generate_measure_candidates() or []
            finally:
                context.post_tuning()
        knobs = {self.space.point(k): k for k in (knobs_of(one.sch.trace) for one in found)}
        return [k for point, k in knobs.items() if point not in tried]

    def _gradient(self) -> float:
        """MetaSchedule's: what the last rounds brought, and as much as the whole so far took."""
        best: list[float] = [1.0]
        for one in self.observed:
            best.append(min(best[-1], one.ratio if one.ratio is not None else best[-1]))
        recent = (best[max(0, len(best) - 1 - 4 * _RECENT)] - best[-1]) / (4 * _RECENT)
        share = (1 - _OPTIMISM) * recent / best[-1] + _OPTIMISM / len(best)
        return min(1.0, share)


def _is(one: Observation, other: Observation) -> bool:
    return dict(one.knobs) == dict(other.knobs)


def _silent() -> logging.Logger:
    logger = logging.getLogger("tunesmith.metaschedule")
    logger.setLevel(logging.ERROR)
    return logger


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """The cost model draws from NumPy's global generator until it has samples."""
    before = np.random.get_state()
    np.random.seed(seed)
    try:
        yield
    finally:
        np.random.set_state(before)
