"""How long two kernels race: a candidate that has surely lost takes no more time."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tunesmith.autotune.records import Verdict
from tunesmith.autotune.runner import Order, Runners
from tunesmith.autotune.search import Observation, Search, Space, first_gain
from tunesmith.backends.tvm.standalone import Variant, Workbench


@dataclass
class _Clock:
    """Time that passes only while a kernel runs."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


def _variant(clock: _Clock, seconds: float, jitter: float, seed: int) -> Variant:
    random = np.random.default_rng(seed)

    def function(*_: Any) -> None:
        clock.now += seconds * (1.0 + jitter * random.random())

    return Variant(function, [()], [], [])


def _bench(*inputs: np.ndarray[Any, Any]) -> Workbench:
    bench = Workbench.__new__(Workbench)
    bench.inputs, bench.packed = list(inputs), {}
    return bench


@pytest.mark.parametrize(
    ("slower", "whole"), [(2.0, False), (1.1, False), (1.01, True), (1.0, True), (0.8, True)]
)
def test_a_race_ends_when_it_is_surely_lost(slower: float, whole: bool) -> None:
    clock = _Clock()
    one = _variant(clock, 0.001 * slower, 0.02, 1)
    other = _variant(clock, 0.001, 0.02, 2)
    times, baseline = _bench().race(one, other, seconds=0.3, clock=clock)
    assert len(times) == len(baseline) >= 7
    assert (clock.now >= 0.3) == whole
    assert np.median(np.divide(times, baseline)) == pytest.approx(slower, rel=0.02)


def test_a_race_that_is_close_ends_later() -> None:
    clock = _Clock()
    one, other = _variant(clock, 0.00105, 0.1, 1), _variant(clock, 0.001, 0.1, 2)
    times, _ = _bench().race(one, other, seconds=0.3, clock=clock)
    assert len(times) > 7 and clock.now < 0.3


def test_a_noisy_race_is_not_lost_by_one_bad_pair() -> None:
    clock, calls = _Clock(), 0

    def stumbling(*_: Any) -> None:
        nonlocal calls
        calls += 1
        clock.now += 0.005 if calls in (4, 5, 9) else 0.001

    other = _variant(clock, 0.001, 0.0, 2)
    _bench().race(Variant(stumbling, [()], [], []), other, seconds=0.3, clock=clock)
    assert clock.now >= 0.3


def _doubling(x: np.ndarray[Any, Any], name: str, runs: list[str]) -> Variant:
    """A kernel that doubles what it reads, or does something wrong."""
    memory = np.full(3 * 4096, 0xA5, np.uint8)
    result = memory[4096:8192].view(np.float32)

    def function(*_: Any) -> None:
        runs.append(name)
        result[:] = x * (2.5 if name == "other" else 2.0)
        if name == "spoils what it reads":
            x[-1] = 7.0

    return Variant(function, [()], [result], [memory])


def test_results_of_the_reference_are_computed_once() -> None:
    runs: list[str] = []
    x = np.ones(1024, np.float32)
    bench, reference = _bench(x), _doubling(x, "reference", runs)
    assert bench.differs(_doubling(x, "same", runs), reference) == ""
    assert "1024 of 1024 elements differ" in bench.differs(_doubling(x, "other", runs), reference)
    assert runs == ["reference", "same", "other"]


def test_what_is_only_read_must_not_be_written() -> None:
    """Its own results are right, but those of the next kernel would not be."""
    x = np.ones(1024, np.float32)
    bench, reference = _bench(x), _doubling(x, "reference", [])
    assert bench.differs(_doubling(x, "same", []), reference) == ""
    reason = bench.differs(_doubling(x, "spoils what it reads", []), reference)
    assert reason == "something that is only read is written"


@pytest.mark.parametrize(("verdict", "stays"), [("ok", True), ("wrong", False)])
def test_after_a_wrong_candidate_the_next_has_a_new_process(
    verdict: str, stays: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it wrote may be what the next one reads."""
    ended: list[bool] = []

    class Answers:
        def ask(self, order: Any, deadline: float) -> dict[str, Any]:
            return {"verdict": verdict, "seconds": [1.0], "baseline": [2.0], "reason": "",
                    "checked": True}  # fmt: skip

        def end(self) -> int:
            ended.append(True)
            return 0

    class Written:
        def text(self) -> str:
            return "{}"

    runners, one = Runners(1, 1.0), Answers()
    monkeypatch.setattr(runners, "runner", ("kernel", one))
    order: Any = Order(Path("kernel.so"), Written(), {})  # type: ignore[arg-type]
    outcome = runners.measure("kernel", order, order, 0.1, lambda weights: {})
    assert outcome.verdict is Verdict(verdict)
    assert (runners.runner is not None, ended) == (stays, [] if stays else [True])


def test_before_any_trial_a_kernel_is_worth_what_the_process_expects() -> None:
    space = Space({"a": (1, 2, 3, 4, 5, 6, 7, 8)}, {"a": 1}, lambda knobs: True)
    search = Search(space, "seed")
    search.observe(Observation({"a": 1}, 1.0))
    _, share = search.propose(1)
    assert 0.5 * share < first_gain() < 2.0 * share
