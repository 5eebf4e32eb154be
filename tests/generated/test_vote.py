"""The vote: each verdict, and each way not to reach it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto

from tests.conformance.engines import Run
from tests.conformance.suite import Array, Case, Value
from tests.generated.answers import answers
from tests.generated.report import render, write_report
from tests.generated.stability import MOVES, UNITS, moved, unstable
from tests.generated.vote import Answer, Verdict, differs, vote
from tunesmith.oracle import max_ulp


def f(*values: float) -> Array:
    """Floats."""
    return np.array(values, np.float32)


ONE, TWO, FOUR = ([f(x)] for x in (1, 2, 4))
NONE = Answer("error")
ODD = [f(np.inf, np.nan, 1)]
ODD_TWO = [f(np.inf, np.nan, 2)]
ODD_SIGN = [f(-np.inf, np.nan, 1)]


def ran(outputs: list[Array]) -> Answer:
    return Answer("ran", outputs)


@pytest.mark.parametrize(
    ("ours", "oracle", "reference", "runtime", "column"),
    [
        (ran(ONE), ONE, ran(TWO), ran(TWO), "pass"),
        (ran(ONE), ONE, NONE, NONE, "pass"),
        (ran(ONE), TWO, ran(ONE), ran(ONE), "oracle fault"),
        (ran(ONE), TWO, ran(ONE), NONE, "disputed"),
        (ran(ONE), TWO, ran(ONE), ran(TWO), "disputed"),
        (ran(ONE), TWO, NONE, NONE, "disputed"),
        (ran(ONE), TWO, ran(TWO), NONE, "mismatch"),
        (ran(ONE), TWO, ran(TWO), ran(TWO), "mismatch"),
        (ran(ONE), TWO, ran(FOUR), ran(TWO), "mismatch"),
        (Answer("unsupported", (), "no"), ONE, ran(ONE), ran(ONE), "unsupported"),
        (Answer("crash"), ONE, ran(ONE), ran(ONE), "crash"),
        (ran(ODD), ODD, NONE, NONE, "pass"),
        (ran(ODD_TWO), ODD, ran(ODD), ran(ODD), "inside"),
        (ran(ODD_TWO), ODD, ran(ODD_TWO), ran(ODD_TWO), "oracle fault"),
        (ran(ODD_SIGN), ODD, ran(ODD), ran(ODD), "mismatch"),
        (ran(ONE), ODD, ran(ODD), ran(ODD), "mismatch"),
    ],
)
def test_verdicts(
    ours: Answer, oracle: list[Array], reference: Answer, runtime: Answer, column: str
) -> None:
    found = vote(ours, oracle, {"reference": reference, "runtime": runtime}, 1e-2, 1e-3)
    assert found.column == column
    assert found.finite == (oracle is not ODD)


def test_differences_are_told() -> None:
    one = f(1, np.nan)
    assert differs([one], [one], 1e-2, 1e-3) == ""
    assert "elements differ by more" in differs([f(1.1, np.nan)], [one], 1e-2, 1e-3)
    assert "NaN" in differs([f(1, 1)], [one], 1e-2, 1e-3)
    assert "dtype" in differs([one.astype(np.float64)], [one], 1e-2, 1e-3)
    assert "shape" in differs([one[None]], [one], 1e-2, 1e-3)
    assert differs([], [one], 1e-2, 1e-3) == "0 outputs, not 1"
    assert differs([None], [one], 1e-2, 1e-3) == "output 0 is no tensor"


class Scripted:
    """An engine that does one thing."""

    title = "scripted"

    def __init__(self, act: Callable[[], list[Value]]) -> None:
        self.act = act

    def warm(self) -> None:
        """Nothing to load."""

    def prepare(self, model: ModelProto, stages: object) -> Run:
        """Whatever the model is."""
        return lambda given: self.act()


def _die() -> list[Value]:
    os.kill(os.getpid(), signal.SIGSEGV)
    return []


def _sleep() -> list[Value]:
    time.sleep(60)
    return []


def _fail() -> list[Value]:
    raise ValueError("no")


@pytest.mark.parametrize(
    ("act", "column", "reason"),
    [
        (_die, "crash", "the process ended: SIGSEGV"),
        (_sleep, "hang", "it did not end within 1 s"),
        (_fail, "error", "ValueError: no"),
        (lambda: [np.array(3), np.array([[1]], np.uint8)], "ran", ""),
    ],
)
def test_answers(act: Callable[[], list[Value]], column: str, reason: str) -> None:
    case = Case("7", ModelProto(), lambda: [([], [])], 1e-2, 1e-3)
    ((name, answer),) = answers([case], Scripted(act), deadline=1)
    assert (name, answer.column, answer.reason) == ("7", column, reason)
    if column == "ran":
        assert not differs(answer.outputs, [np.array(3), np.array([[1]], np.uint8)], 0, 0)


def test_the_tables() -> None:
    rows = {
        "1": Verdict("pass"), "2": Verdict("unsupported", "no import rule: `Foo`"),
        "3": Verdict("mismatch", "output 0: 1 of 2 | elements differ", finite=False),
    }  # fmt: skip
    text = render(
        {"onnx": "1"}, {"a": ("A", rows), "b": ("B", rows)}, {"b": {"1": "", "3": "x"}}, ["a"]
    )
    assert "| A | 3 | 1 | 0 | 0 | 1 | 0 | 0 | 0 | 1 | 0 | 0 | 1 |" in text
    assert "| no import rule: `Foo` | 1 |" in text
    assert "| 3 | mismatch | a | output 0: 1 of 2 \\| elements differ |" in text
    assert "| B | 2 | 1 | 3 |" in text


@pytest.mark.parametrize(
    ("have", "still", "others", "told"),
    [
        ([f(1, 1)], [f(1, 1)], [], ""),
        ([f(1, 2)], [f(1, 1)], [[f(1, 3)]], "output 0: 1 of 2 elements differ, each also"),
        ([f(1, 2)], [f(1, 1)], [[f(2, 1)]], ""),
        ([f(2, 2)], [f(1, 1)], [[f(2, 1)], [f(1, 2)]], "output 0: 2 of 2"),
        ([f(1, 2)], [f(1, 1)], [[f(1, 1)]], ""),
        ([f(1)], [f(1, 1)], [[f(2, 2)]], ""),
        ([f(1), f(9)], [f(1), f(8)], [[f(2), f(8)]], ""),
    ],
)
def test_what_is_unstable(
    have: list[Array], still: list[Array], others: list[list[Array]], told: str
) -> None:
    """At no other elements than by themselves, each output by its own."""
    found = unstable(have, [ran(still), *map(ran, others)], 1e-2, 1e-3)
    assert found.startswith(told) and bool(found) == bool(told)


def test_nobody_who_ran_finds_nothing_unstable() -> None:
    assert unstable([f(2)], [NONE, ran([f(3)])], 1e-2, 1e-3) == ""
    assert unstable([f(2)], [], 1e-2, 1e-3) == ""


def test_inputs_move_a_little_and_not_at_random() -> None:
    arrays: list[Value] = [f(1, -2, 0, np.inf), np.array([3], np.int64), f(1).astype(np.float16)]
    case = Case("7", ModelProto(), lambda: [(arrays, [])], 1e-2, 1e-3)
    first, again = ([c.data_sets()[0][0] for c in moved(case)] for _ in range(2))
    assert len(first) == MOVES + 1
    for one, two in zip(first, again, strict=True):
        for x, y, old in zip(one, two, arrays, strict=True):
            assert isinstance(x, np.ndarray) and isinstance(old, np.ndarray)
            np.testing.assert_array_equal(x, y, strict=True)
            assert x.dtype == old.dtype
            if x.dtype.kind == "f":
                assert max_ulp(x, old) <= 2 * UNITS  # just below a power of two they are half
            else:
                np.testing.assert_array_equal(x, old)
    assert len({np.asarray(given[0]).tobytes() for given in first}) > MOVES // 2


def test_what_did_not_run_keeps_its_rows(tmp_path: Path) -> None:
    def table() -> str:
        return (tmp_path / "generated.md").read_text(encoding="utf-8")

    first = {"10": Verdict("mismatch", "no", False), "9": Verdict("pass")}
    write_report(tmp_path, {"a": ("A", first), "b": ("B", first)}, {"b": {"9": "x"}}, ["a", "b"])
    assert "| A | 2 | 1 | 0 | 0 | 0 | 0 | 0 | 0 | 1 | 0 | 0 | 1 |" in table()
    write_report(tmp_path, {"a": ("A", {"10": Verdict("pass")})}, {"b": {"9": ""}}, ["a", "b"])
    assert "| A | 2 | 2 | 0 | 0 | 0 | 0 | 0 | 0 | 0 | 0 | 0 | 0 |" in table()
    assert "| B | 2 | 1 | 0 | 0 | 0 | 0 | 0 | 0 | 1 | 0 | 0 | 1 |" in table()
    assert "| 10 | mismatch | b | no |" in table()
    assert "| B | 1 | 1 | none |" in table()
