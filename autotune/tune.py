"""The tuner: it gives time to the kernel where most is expected, and keeps whatever it learns.

Trials come in rounds of a fixed size. What a round tries follows from the rounds before it alone,
and each trial is in the store before the next begins; so a tuner that was killed goes on with the
trial after the last, and ends as if it had not been.
"""

from __future__ import annotations

import getpass
import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence, Set
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Protocol

import numpy as np

from tunesmith.backends.races import median_interval

from .measure import Outcome, Task, Workers
from .records import Device, Record, TrialTaken, Verdict, Workload
from .search import Observation, Search, Searcher, first_gain, untried

__all__ = [
    "CONFIRMED",
    "DROPPED",
    "Goal",
    "Searching",
    "State",
    "Store",
    "Tuner",
    "gaussian",
]

# In place of a seed: races of the best candidates, by which knobs are chosen; and those among the
# winners that were not quicker inside a model.
CONFIRMED, DROPPED = -1, -2
_ROUND = 4  # trials
_SECONDS, _FINAL_SECONDS = 0.3, 1.2  # of racing one candidate: in the search, and at its end
_FINALISTS, _HINTS = 3, 4
_FOR_NEAR = 0.25  # of the budget, at most, is for kernels that the search does not come to
_EXHAUSTED = 0.0005  # of the model's time: less than that is not worth another round
_WORTH_TELLING, _TOLD = 0.985, 2  # a ratio that others should hear of; how many in one round
_PATIENCE = 10  # rounds without a better candidate, after which a kernel is left alone


class Store(Protocol):
    """Where trials are kept: `Database`."""

    def add(self, record: Record) -> int:
        """Keep a record; it is durable when this returns."""
        ...

    def trials(
        self, workload: Workload, device: Device, versions: str, seed: int | None = None
    ) -> list[Record]:
        """The records of a workload, by number."""
        ...

    def near(
        self,
        template: str,
        device: Device,
        versions: str,
        features: Mapping[str, int],
        limit: int = 4,
    ) -> list[Record]:
        """The best records of workloads of which the features are nearest."""
        ...


@dataclass(frozen=True, kw_only=True)
class Goal:
    """When to stop, and what the trials are of."""

    device: Device
    versions: str
    seconds: float = float("inf")
    trials: int | None = None  # of all kernels together
    seed: int = 0


@dataclass
class State:
    """One kernel while it is tuned."""

    task: Task
    search: Searcher
    rounds: int = 0
    idle: int = 0  # rounds since the best became better
    gain: float = 0.0  # seconds of a run that the next round is expected to save
    records: list[Record] = field(default_factory=list)
    chosen: Record | None = None
    hints: Sequence[Mapping[str, int]] = ()  # knobs of near shapes, the best first

    @property
    def ratio(self) -> float:
        """The best so far, as a share of the default's time."""
        best = self.search.best
        return 1.0 if best is None or best.ratio is None else min(1.0, best.ratio)


# What makes the search of a task, of its seed and of knobs that were good for others like it.
Searching = Callable[[Task, str, Sequence[Mapping[str, int]]], Searcher]


def gaussian(task: Task, seed: str, hints: Sequence[Mapping[str, int]]) -> Searcher:
    """The search by expected improvement."""
    return Search(task.space, seed, hints)


class Tuner:
    """Tunes the kernels of one model; `told` hears of every trial."""

    def __init__(
        self,
        tasks: Sequence[Task],
        workers: Workers,
        store: Store,
        goal: Goal,
        *,
        told: Callable[[Tuner], None] = lambda tuner: None,
        search: Searching = gaussian,
        clock: Callable[[], float] = time.monotonic,
        stopped: Callable[[], bool] = lambda: False,
    ) -> None:
        self.stopped = stopped
        self.workers, self.store, self.goal, self.told, self.clock = (
            workers, store, goal, told, clock,
        )  # fmt: skip
        self.search = search
        self.began = clock()
        self.measured = 0  # trials of this run; those of earlier ones are in the states
        self.spent = 0.0  # seconds that they took
        self.curve: list[tuple[float, float]] = []  # seconds; how many times as quick as at first
        own = {task.workload.sha256 for task in tasks}  # no hints: they change while we tune
        self.states = [self._resumed(task, own) for task in tasks]
        self.whole = sum(task.seconds for task in tasks)

    @property
    def expected(self) -> float:
        """Seconds of a run that the next round of each kernel is expected to save."""
        return sum(state.gain for state in self.states)

    @property
    def left(self) -> float:
        """Seconds of the budget, less what the last races will take."""
        each = self.spent / max(1, self.measured) + _FINAL_SECONDS
        races = _FINALISTS * sum(state.ratio < 1.0 for state in self.states)
        borrowed = sum(bool(self._borrowed(state, _quick)) for state in self.states)
        for_borrowed = min(each * borrowed, _FOR_NEAR * self.goal.seconds)
        return self.goal.seconds - (self.clock() - self.began) - each * races - for_borrowed

    def run(self) -> None:
        """Tune until time, trials or ideas are used up. An interrupt loses nothing that is done."""
        while self._may_go_on():
            state = max(self.states, key=lambda s: s.gain)
            if state.gain < _EXHAUSTED * self.whole:
                break
            self._round(state)

    def choose(self, seconds: float = _FINAL_SECONDS) -> None:
        """Race the best candidates of each kernel once more; who does not clearly win is not used.

        What was chosen before, with the same finalists, is not raced again. While there is time
        left, kernels that the search did not come to race what was best for near shapes, or what
        was chosen here for a kernel of the same template.
        """
        for state in sorted(self.states, key=lambda s: (not s.search.observed, -s.task.seconds)):
            finalists = self._borrowed(state, _is_chosen) or _finalists(state)
            if not finalists:
                continue
            late = self.stopped() or self.clock() - self.began > self.goal.seconds
            if late and not state.search.observed:
                break
            known = {tuple(sorted(r.knobs.items())): r for r in self._of(state, CONFIRMED)}
            lost = [dict(r.knobs) for r in self._of(state, DROPPED)]
            finalists = [knobs for knobs in finalists if knobs not in lost]
            new = [k for k in finalists if tuple(sorted(k.items())) not in known]
            raced = [known[key] for k in finalists
                     if (key := tuple(sorted(k.items()))) in known]  # fmt: skip
            outcomes = self.workers.measure(state.task, new, seconds)
            for number, (knobs, outcome) in enumerate(zip(new, outcomes, strict=True)):
                if outcome.verdict is Verdict.ok and not _clearly_quicker(outcome):
                    outcome = Outcome(Verdict.slower, outcome.seconds, outcome.baseline,
                                      checked=outcome.checked)  # fmt: skip
                raced.append(self._keep(state, knobs, outcome, CONFIRMED, len(known) + number))
            state.chosen = _quickest(raced)
            self.told(self)

    def drop(self, names: Sequence[str]) -> None:
        """Remember that the choices of these kernels lost inside a model: nobody uses them."""
        for state in self.states:
            if state.task.name in names and state.chosen is not None:
                record = state.chosen
                outcome = Outcome(Verdict.slower, record.seconds, record.baseline,
                                  checked=record.checked)  # fmt: skip
                number = len(self._of(state, DROPPED))
                self._keep(state, record.knobs, outcome, DROPPED, number)
                state.chosen = None

    def _of(self, state: State, seed: int) -> list[Record]:
        goal = self.goal
        return self.store.trials(state.task.workload, goal.device, goal.versions, seed)

    def _may_go_on(self) -> bool:
        return (
            not self.stopped()
            and self.left > 0
            and (self.goal.trials is None or self.measured < self.goal.trials)
        )

    def _expect(self, state: State) -> None:
        """What may be expected of the next round of a kernel, by its own trials."""
        if not state.rounds:  # not the search, which takes its time: it knows of no trial yet
            alternatives = any(len(values) > 1 for values in state.task.space.values.values())
            state.gain = state.task.seconds * first_gain() if alternatives else 0.0
            return
        some, share = state.search.propose(1)
        patient = some and state.idle < _PATIENCE
        state.gain = state.task.seconds * state.ratio * share if patient else 0.0

    def _learnt(self, state: State, counts: Callable[[State], bool]) -> list[dict[str, int]]:
        """What was good for others of its template that count, the best first."""
        return [
            {**state.task.space.default, **_changes(other)}
            for other in sorted(self.states, key=lambda s: s.ratio)
            if other is not state and counts(other)
            and other.task.workload.template == state.task.workload.template
        ]  # fmt: skip

    def _borrowed(self, state: State, counts: Callable[[State], bool]) -> list[dict[str, int]]:
        """Knobs of the nearest shape, or else of a kernel here, for one that was not searched."""
        if state.search.observed:
            return []
        space = state.task.space
        hints = [*state.hints, *self._learnt(state, counts)]
        return [space.knobs(p) for p in untried(space, hints, {space.point(space.default)})[:1]]

    def _plan(self, state: State) -> list[dict[str, int]]:
        """What the next round of a kernel tries: also what was good for others of its template."""
        planned, _ = state.search.propose(_ROUND, self._learnt(state, _quick)[:_TOLD])
        if not state.rounds:  # trial 0: the default beside itself, which shows how noisy it is
            planned = [dict(state.task.space.default), *planned][:_ROUND]
        first, known = state.rounds * _ROUND, {r.trial: r for r in state.records}
        # what the store has counts, also where the search would have chosen otherwise
        return [
            dict(known[n].knobs) if n in known else knobs for n, knobs in enumerate(planned, first)
        ]

    def _round(self, state: State) -> None:
        first, known = state.rounds * _ROUND, {r.trial: r for r in state.records}
        planned = self._plan(state)
        missing = [(n, k) for n, k in enumerate(planned, first) if n not in known]
        if self.goal.trials is not None:
            missing = missing[: self.goal.trials - self.measured]
        start = self.clock()
        outcomes = self.workers.measure(state.task, [k for _, k in missing], _SECONDS)
        for (trial, knobs), outcome in zip(missing, outcomes, strict=True):
            known[trial] = self._keep(state, knobs, outcome, self.goal.seed, trial)
            state.records.append(known[trial])
            self.measured += 1
            self.spent, start = self.spent + self.clock() - start, self.clock()
            self.told(self)
        if all(n in known for n, _ in enumerate(planned, first)):
            self._take(state, [known[n] for n, _ in enumerate(planned, first)])
            self._expect(state)
        now = sum(s.task.seconds * s.ratio for s in self.states)
        self.curve.append((self.clock() - self.began, self.whole / now))

    def _take(self, state: State, records: Sequence[Record]) -> None:
        """Learn from a whole round."""
        before = state.ratio
        for record in records:
            state.search.observe(Observation(dict(record.knobs), _ratio(record)))
        state.rounds += 1
        state.idle = 0 if state.ratio < before - 0.002 else state.idle + 1
        if state.rounds == 1 and records and _ratio(records[0]) is None:
            state.idle = _PATIENCE  # not even the default can be measured

    def _keep(
        self, state: State, knobs: Mapping[str, int], outcome: Outcome, seed: int, trial: int
    ) -> Record:
        record = Record(
            workload=state.task.workload, device=self.goal.device, versions=self.goal.versions,
            knobs=dict(knobs), seed=seed, trial=trial, verdict=outcome.verdict,
            checked=outcome.checked, seconds=outcome.seconds, baseline=outcome.baseline,
            reason=outcome.reason, by=_who(), at=datetime.now(UTC).isoformat(timespec="seconds"),
        )  # fmt: skip
        try:
            self.store.add(record)
        except TrialTaken:  # another tuner was quicker
            stored = self.store.trials(record.workload, record.device, record.versions, seed)
            if seed >= 0:  # its trial counts, here as well
                return next(other for other in stored if other.trial == trial)
            return self._keep(state, knobs, outcome, seed, 1 + max(r.trial for r in stored))
        return record

    def _resumed(self, task: Task, own: Set[str]) -> State:
        """A kernel as earlier runs left it: whole rounds are taken in, a torn one goes on."""
        goal = self.goal
        hints = [
            dict(record.knobs)
            for record in self.store.near(
                task.workload.template, goal.device, goal.versions, task.workload.features,
                _HINTS + len(own),
            )
            if record.workload.sha256 not in own
        ][:_HINTS]  # fmt: skip
        search = self.search(task, f"{goal.seed} {task.workload.sha256}", hints)
        state = State(task, search, hints=hints)
        state.records = self.store.trials(task.workload, goal.device, goal.versions, goal.seed)
        known = {record.trial: record for record in state.records}
        while True:
            numbers = range(state.rounds * _ROUND, (state.rounds + 1) * _ROUND)
            if not all(n in known for n in numbers):
                break
            self._take(state, [known[n] for n in numbers])
        self._expect(state)
        return state


def _changes(state: State) -> dict[str, int]:
    """The knobs in which what was chosen for a kernel, or is its best, is not its default."""
    best, default = state.chosen or state.search.best, state.task.space.default
    return {k: v for k, v in best.knobs.items() if default[k] != v} if best is not None else {}


def _ratio(record: Record) -> float | None:
    outcome = Outcome(record.verdict, record.seconds, record.baseline)
    return outcome.ratio


def _quick(state: State) -> bool:
    """Whether others should hear of its best candidate so far."""
    return state.ratio < _WORTH_TELLING


def _is_chosen(state: State) -> bool:
    """Whether a candidate won the last race."""
    return state.chosen is not None


def _finalists(state: State) -> list[dict[str, int]]:
    """The quickest candidates of the search, those that look no quicker left out."""
    working = [o for o in state.search.observed if o.ratio is not None and o.ratio < 1.0]
    ranked = sorted(working, key=lambda o: o.cost)
    default = dict(state.task.space.default)
    return [dict(o.knobs) for o in ranked if dict(o.knobs) != default][:_FINALISTS]


def _clearly_quicker(outcome: Outcome) -> bool:
    """Whether the median of the ratios is below 1 for sure."""
    return median_interval(np.divide(outcome.seconds, outcome.baseline))[1] < 1.0


def _quickest(records: Sequence[Record]) -> Record | None:
    """The best of those that won, and whose results were compared."""
    won = [r for r in records if r.verdict is Verdict.ok and r.checked]
    return min(won, key=lambda r: float(np.median(np.divide(r.seconds, r.baseline))), default=None)


def _who() -> str:
    name = ""
    with suppress(KeyError, OSError):  # a user without a name
        name = getpass.getuser()
    return f"{name}@{platform.node()}:{os.getpid()}"
