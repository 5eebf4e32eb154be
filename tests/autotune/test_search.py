"""The search and the tuner, without hardware or clocks: a known surface of costs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pytest

from tunesmith.autotune.gaussian import expected_improvement, fit
from tunesmith.autotune.measure import Outcome, Task
from tunesmith.autotune.records import Device, Record, TrialTaken, Verdict, Workload
from tunesmith.autotune.search import Observation, Search, Space
from tunesmith.autotune.tune import CONFIRMED, Goal, Tuner, _clearly_quicker

VALUES = {"tile": (1, 2, 4, 8, 16), "unroll": (1, 2, 4, 8), "block": (16, 32, 64, 128, 256)}
DEFAULT = {"tile": 4, "unroll": 2, "block": 64}
DEVICE = Device(text='{"cpu":"fake"}')


def space() -> Space:
    return Space(VALUES, DEFAULT, lambda knobs: knobs["tile"] * knobs["unroll"] <= 64)


def surface(knobs: Mapping[str, int]) -> float:
    """The ratio to the default: least, 0.7, at tile 8, unroll 8, block 128."""
    away = [math.log2(knobs[name] / best) for name, best in
            {"tile": 8, "unroll": 8, "block": 128}.items()]  # fmt: skip
    at_default = sum(math.log2(DEFAULT[n] / b) ** 2 for n, b in
                     {"tile": 8, "unroll": 8, "block": 128}.items())  # fmt: skip
    return 0.7 + 0.3 * sum(x * x for x in away) / at_default


def test_the_process_passes_through_what_was_measured() -> None:
    points = np.array([[0.0], [0.3], [1.0]])
    known = np.array([0.1, -0.2, 0.05])
    mean, deviation = fit(points, known).predict(points, np.zeros(3))
    np.testing.assert_allclose(mean, known, atol=0.01)
    assert deviation.max() < 0.02
    _, far = fit(points[:1], known[:1]).predict(np.array([[1.0]]), np.zeros(1))
    assert far[0] > 0.05


def test_expected_improvement_against_sampling() -> None:
    draws = np.random.default_rng(0).normal(0.1, 0.3, 400_000)
    sampled = np.maximum(0.05 - draws, 0).mean()
    got = expected_improvement(np.array([0.1]), np.array([0.3]), 0.05)[0]
    assert got == pytest.approx(sampled, rel=0.02)


def test_the_search_finds_the_best_of_a_known_surface() -> None:
    search = Search(space(), "seed")
    for _ in range(8):
        proposed, gain = search.propose(4)
        assert gain >= 0
        for knobs in proposed:
            assert knobs["tile"] * knobs["unroll"] <= 64, "a point that does not fit"
            search.observe(Observation(knobs, surface(knobs)))
    assert search.best is not None and search.best.ratio is not None
    assert search.best.ratio < 0.72, "32 of 95 points are enough"
    tried = [tuple(sorted(o.knobs.items())) for o in search.observed]
    assert len(set(tried)) == len(tried), "nothing is tried twice"


def test_a_small_space_is_exhausted() -> None:
    small = Space({"rows": (1, 2, 4)}, {"rows": 2}, lambda knobs: True)
    search = Search(small, "seed")
    proposed, _ = search.propose(4)
    assert sorted(k["rows"] for k in proposed) == [1, 4]
    for knobs in proposed:
        search.observe(Observation(knobs, None))
    assert search.propose(4) == ([], 0.0)
    assert search.best is None


def test_hints_come_first_and_only_if_they_fit() -> None:
    hints = [{"tile": 16, "unroll": 8, "block": 64}, {"tile": 8, "unroll": 8, "block": 128},
             {"tile": 8}]  # fmt: skip
    proposed, gain = Search(space(), "seed", hints).propose(4)
    assert proposed[0] == hints[1]
    assert hints[0] not in proposed
    assert gain > 0


@dataclass
class Memory:
    """A store that keeps records in a list."""

    records: list[Record] = field(default_factory=list)

    def add(self, record: Record) -> int:
        key = (record.workload, record.seed, record.trial)
        if key in [(r.workload, r.seed, r.trial) for r in self.records]:
            raise TrialTaken("a trial twice")
        self.records.append(record)
        return len(self.records)

    def trials(
        self, workload: Workload, device: Device, versions: str, seed: int | None = None
    ) -> list[Record]:
        found = [r for r in self.records if r.workload == workload and seed in (None, r.seed)]
        return sorted(found, key=lambda r: r.trial)

    def near(self, template: str, device: Device, versions: str, features: Mapping[str, int],
             limit: int = 4) -> list[Record]:  # fmt: skip
        found = {r.workload.sha256: r for r in self.records if r.verdict is Verdict.ok}
        near = sorted(
            found.values(), key=lambda r: abs(r.workload.features["rows"] - features["rows"])
        )
        return near[:limit]


class Killed(Exception):
    """As if by a signal."""


@dataclass
class Fake:
    """Workers with a known surface and a clock of their own; `after` trials they are killed."""

    after: int = 10**9
    verdicts: dict[tuple[int, ...], Verdict] = field(default_factory=dict)
    noise: float = 0.0
    asked: list[dict[str, int]] = field(default_factory=list)
    now: float = 0.0

    def measure(
        self, task: Task, candidates: Sequence[Mapping[str, int]], seconds: float
    ) -> Iterator[Outcome]:
        for knobs in candidates:
            if len(self.asked) >= self.after:
                raise Killed
            self.asked.append(dict(knobs))
            self.now += 1.0
            verdict = self.verdicts.get(task.space.point(knobs))
            if verdict is not None:
                yield Outcome(verdict, reason="planted", checked=verdict is Verdict.wrong)
                continue
            ratio = 1.0 if dict(knobs) == DEFAULT else surface(knobs)
            times = tuple(1e-3 * ratio * (1 + self.noise * (i % 3 - 1)) for i in range(15))
            said = Verdict.ok if ratio < 0.995 else Verdict.slower
            yield Outcome(said, times, (1e-3,) * 15, checked=True)

    def close(self) -> None:
        pass


def tasks(times: Sequence[float] = (0.01, 0.02)) -> list[Task]:
    return [
        Task(f"k{i}", Workload(template="gemm/1", text=f"kernel {i}", features={"rows": i}),
             space(), seconds=seconds, calls=1)
        for i, seconds in enumerate(times)
    ]  # fmt: skip


def tuner(store: Memory, workers: Fake, **goal: object) -> Tuner:
    wanted = Goal(device=DEVICE, versions="fake 1", **{"trials": 40, **goal})  # type: ignore[arg-type]
    return Tuner(tasks(), workers, store, wanted, clock=lambda: workers.now)


def content(store: Memory) -> list[tuple[object, ...]]:
    return sorted((r.workload.text, r.seed, r.trial, tuple(sorted(r.knobs.items())), r.verdict)
                  for r in store.records)  # fmt: skip


def test_the_tuner_finds_and_chooses_the_best() -> None:
    store, workers = Memory(), Fake()
    one = tuner(store, workers)
    one.run()
    one.choose()
    for state in one.states:
        assert state.chosen is not None
        assert state.chosen.seed == CONFIRMED
        assert state.chosen.checked
        assert surface(state.chosen.knobs) < 0.75
    first = store.trials(one.states[0].task.workload, DEVICE, "fake 1", 0)[0]
    assert dict(first.knobs) == DEFAULT, "trial 0 is what analysis says"
    assert one.curve[-1][1] > 1.3


@pytest.mark.parametrize("after", [0, 1, 3, 4, 5, 17, 22])
def test_a_killed_search_ends_as_if_it_had_not_been(after: int) -> None:
    whole, parts = Memory(), Memory()
    tuner(whole, Fake()).run()
    assert len(whole.records) > after
    with pytest.raises(Killed):
        tuner(parts, Fake(after=after)).run()
    assert len(parts.records) == after
    again = tuner(parts, Fake(), trials=40 - after)
    again.run()
    assert content(parts) == content(whole)


def test_a_killed_search_goes_on_with_the_same_hints() -> None:
    """Kernels of other models are in the store; of our own there are more after the kill."""

    def others() -> Memory:
        store = Memory()
        for number in range(4):
            work = Workload(template="gemm/1", text=f"other {number}", features={"rows": number})
            store.add(Record(workload=work, device=DEVICE, versions="fake 1", seed=CONFIRMED,
                             knobs={**DEFAULT, "tile": 8, "block": (16, 32, 128, 256)[number]},
                             trial=0, verdict=Verdict.ok, checked=True, seconds=(0.9,) * 15,
                             baseline=(1.0,) * 15))  # fmt: skip
        return store

    whole, parts = others(), others()
    tuner(whole, Fake()).run()
    with pytest.raises(Killed):
        tuner(parts, Fake(after=6)).run()
    tuner(parts, Fake(), trials=34).run()
    assert content(parts) == content(whole)


@pytest.mark.parametrize("ratio", [0.9, 1.1])
def test_without_time_to_search_the_knobs_of_near_shapes_race(ratio: float) -> None:
    """They are chosen if they win here, and not for having won elsewhere."""
    near = {**DEFAULT, "tile": 8, "block": 128}

    class Here(Fake):
        def measure(
            self, task: Task, candidates: Sequence[Mapping[str, int]], seconds: float
        ) -> Iterator[Outcome]:
            self.asked += map(dict, candidates)
            for _ in candidates:
                yield Outcome(Verdict.ok, (ratio * 1e-3,) * 15, (1e-3,) * 15, checked=True)

    store, workers = Memory(), Here()
    for number, knobs in enumerate([near, {**near, "tile": 16}]):
        work = Workload(template="gemm/1", text=f"other {number}", features={"rows": -9 * number})
        store.add(Record(workload=work, device=DEVICE, versions="fake 1", seed=CONFIRMED,
                         knobs=knobs, trial=0, verdict=Verdict.ok, checked=True,
                         seconds=(0.9,) * 15, baseline=(1.0,) * 15))  # fmt: skip
    one = tuner(store, workers, trials=0)
    one.run()
    one.choose()
    assert workers.asked == [near, near], "the nearest one, for each kernel"
    chosen = [s.chosen.knobs if s.chosen is not None else None for s in one.states]
    assert chosen == ([near, near] if ratio < 1 else [None, None])
    again = tuner(store, workers, trials=0, seconds=-1.0)
    again.run()
    again.choose()
    assert len(workers.asked) == 2, "no time is left"


def test_kernels_that_were_not_searched_race_what_was_chosen_for_others_like_them() -> None:
    """Not what was quick in the search and lost its last race."""

    def race(won: bool) -> list[dict[str, int]]:
        class Races(Fake):
            def measure(
                self, task: Task, candidates: Sequence[Mapping[str, int]], seconds: float
            ) -> Iterator[Outcome]:
                for outcome in super().measure(task, candidates, seconds):
                    last = seconds > 1.0 and not won
                    yield replace(outcome, seconds=(1.1e-3,) * 15) if last else outcome

        workers = Races()
        one = tuner(Memory(), workers, trials=4)
        one.run()
        searched = [state for state in one.states if state.search.observed]
        assert len(searched) == 1
        before = len(workers.asked)
        one.choose()
        (other,) = [state for state in one.states if state not in searched]
        chosen = searched[0].chosen
        assert (chosen is not None) == won
        assert (other.chosen is not None) == won
        if chosen is not None and other.chosen is not None:
            assert other.chosen.knobs == chosen.knobs
        return workers.asked[before:]

    assert len(race(True)) == len(race(False)) + 1


def test_two_tuners_of_one_model_share_their_trials() -> None:
    """The second has made its plans when the first stores its trials: these count for both."""
    store = Memory()
    one, two = tuner(store, Fake()), tuner(store, Fake())
    one.run()
    two.run()
    two.choose()
    keys = [(r.workload, r.seed, r.trial) for r in store.records]
    assert len(set(keys)) == len(keys)
    for mine, other in zip(one.states, two.states, strict=True):
        assert [dict(r.knobs) for r in other.records][: len(mine.records)] == [
            dict(r.knobs) for r in mine.records
        ]
        assert other.chosen is not None


def test_another_run_with_nothing_to_do_measures_nothing() -> None:
    store = Memory()
    one = tuner(store, Fake(), trials=None)
    one.run()
    one.choose()
    workers = Fake()
    two = tuner(store, workers, trials=None)
    two.run()
    two.choose()
    assert workers.asked == []
    assert [s.chosen for s in two.states] == [s.chosen for s in one.states]


def test_kernels_of_one_template_hear_of_each_others_best() -> None:
    """The second kernel to be tuned tries what was best for the first in its first round."""
    store, workers = Memory(), Fake()
    one = tuner(store, workers, trials=None)
    one.run()
    long, short = one.states[1], one.states[0]
    assert long.records[0].at <= short.records[0].at
    early = {tuple(sorted(r.knobs.items())) for r in short.records[:4]}
    before = [r for r in store.records if r.workload == long.task.workload]
    known = [tuple(sorted(r.knobs.items())) for r in before if surface(r.knobs) < 0.985]
    assert early & set(known)


@pytest.mark.parametrize("place", [0, 1])
def test_time_goes_where_most_is_expected(place: int) -> None:
    """Two kernels, alike but for their time: in turns, each would get 8 trials."""
    times = [0.001, 0.001]
    times[place] = 0.05
    goal = Goal(device=DEVICE, versions="fake 1", trials=16)
    workers = Fake()
    one = Tuner(tasks(times), workers, Memory(), goal, clock=lambda: workers.now)
    one.run()
    assert one.measured == 16
    assert len(one.states[place].records) >= 12
    assert len(one.states[1 - place].records) <= 4


def test_a_kernel_without_hope_gets_no_more_time_than_shows_it() -> None:
    """The longer one is exhausted after some rounds that brought nothing; the other goes on."""
    verdicts: dict[tuple[int, ...], Verdict] = {
        (tile, unroll, block): Verdict.wrong
        for tile in VALUES["tile"] for unroll in VALUES["unroll"] for block in VALUES["block"]
        if (tile, unroll, block) != tuple(DEFAULT.values())
    }  # fmt: skip

    class Half(Fake):
        def measure(
            self, task: Task, candidates: Sequence[Mapping[str, int]], seconds: float
        ) -> Iterator[Outcome]:
            self.verdicts = verdicts if task.name == "k1" else {}
            yield from super().measure(task, candidates, seconds)

    workers = Half()
    goal = Goal(device=DEVICE, versions="fake 1", trials=80)
    one = Tuner(tasks(), workers, Memory(), goal, clock=lambda: workers.now)
    one.run()
    assert one.states[0].ratio < 0.75
    assert len(one.states[1].records) <= 48, "ten rounds without a better one, and it is left alone"


def test_the_budget_leaves_time_for_the_last_races() -> None:
    store, workers = Memory(), Fake()
    one = tuner(store, workers, trials=None, seconds=30.0)
    one.run()
    one.choose()
    assert workers.now <= 33.0


def test_failures_are_recorded_and_never_chosen() -> None:
    best = (8, 8, 128)
    store = Memory()
    workers = Fake(verdicts={best: Verdict.wrong, (8, 4, 128): Verdict.timeout,
                             (16, 4, 128): Verdict.crashed})  # fmt: skip
    one = tuner(store, workers, trials=None)
    one.run()
    one.choose()
    kinds = {r.verdict for r in store.records}
    assert Verdict.wrong in kinds
    for state in one.states:
        assert state.chosen is not None
        assert state.task.space.point(state.chosen.knobs) not in workers.verdicts


@pytest.mark.parametrize("count", [0, 1, 6, 7, 8, 10, 11, 15, 40])
def test_a_few_races_prove_nothing_and_many_do(count: int) -> None:
    """The interval of a median by ranks has no end for few measurements, whatever they say."""
    won = Outcome(Verdict.ok, (0.8,) * count, (1.0,) * count)
    assert _clearly_quicker(won) == (count >= 11)
    lost = Outcome(Verdict.ok, (1.001,) * count, (1.0,) * count)
    assert not _clearly_quicker(lost)


def test_a_kernel_whose_default_cannot_be_measured_is_left_alone() -> None:
    store = Memory()
    default = tasks()[0].space.point(DEFAULT)
    workers = Fake(verdicts={default: Verdict.crashed})
    one = tuner(store, workers, trials=None)
    one.run()
    assert all(len(state.records) == 4 for state in one.states)


def test_what_lost_inside_a_model_is_never_chosen_again() -> None:
    store = Memory()
    one = tuner(store, Fake())
    one.run()
    one.choose()
    before = [dict(s.chosen.knobs) for s in one.states if s.chosen is not None]
    assert len(before) == 2
    one.drop([state.task.name for state in one.states])
    two = tuner(store, Fake())
    two.choose()
    after = [dict(s.chosen.knobs) for s in two.states if s.chosen is not None]
    assert not [knobs for knobs in after if knobs in before]


def test_who_does_not_clearly_win_is_not_used() -> None:
    """Ratios between 0.7 and 1.3 of the median: nobody can tell."""
    store, workers = Memory(), Fake(noise=0.5)
    one = tuner(store, workers)
    one.run()
    one.choose()
    assert all(state.chosen is None for state in one.states)


def test_records_that_nobody_checked_are_not_chosen() -> None:
    class Unchecked(Fake):
        def measure(self, task: Task, candidates: Sequence[Mapping[str, int]], seconds: float
                    ) -> Iterator[Outcome]:  # fmt: skip
            for outcome in super().measure(task, candidates, seconds):
                yield Outcome(outcome.verdict, outcome.seconds, outcome.baseline, checked=False)

    store = Memory()
    one = tuner(store, Unchecked())
    one.run()
    one.choose()
    assert all(state.chosen is None for state in one.states)
