"""The harness itself: every column is reached, and every fault of a run is told."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from onnx import ModelProto

from tests.conformance.child import run_cases
from tests.conformance.engines import Refused
from tests.conformance.judge import judge
from tests.conformance.records import (
    Known,
    Row,
    faults,
    read_known,
    unexplained,
    updated,
    write_known,
)
from tests.conformance.report import render
from tests.conformance.suite import Array, Case, DataSet, Value


def f(*values: float) -> Array:
    """Floats."""
    return np.array(values, np.float32)


ONE: DataSet = ([f(1)], [f(2)])


class Scripted:
    """An engine that does what the name of the case says."""

    title = "scripted"

    def __init__(self, act: Callable[[], list[Value]], refuse: bool = False) -> None:
        self.act, self.refuse = act, refuse

    def warm(self) -> None:
        """Nothing to load."""

    def prepare(self, model: ModelProto, stages: object) -> Callable[..., list[Value]]:
        if self.refuse:
            raise Refused("no import rule: `Foo`")
        return lambda given: self.act()


def _fail() -> list[Value]:
    raise ValueError("two\nlines")


def _die() -> list[Value]:
    os.kill(os.getpid(), signal.SIGSEGV)
    return []


def _sleep() -> list[Value]:
    time.sleep(60)
    return []


def _leave() -> list[Value]:
    os._exit(3)


def _print() -> list[Value]:
    os.write(1, b"noise")
    return [f(2)]


@pytest.mark.parametrize(
    ("act", "column", "reason"),
    [
        (lambda: [f(2)], "pass", ""),
        (_print, "pass", ""),
        (lambda: [f(3)], "wrong", "output 0 differs at 1 of 1 elements"),
        (lambda: [np.array([2.0])], "wrong", "output 0 is float64, not float32"),
        (lambda: [np.array(2, np.float32)], "wrong", "output 0 has the shape (), not (1,)"),
        (lambda: [], "wrong", "0 outputs, not 1"),
        (_fail, "error", "ValueError: two lines"),
        (_die, "crash", "the process ended: SIGSEGV"),
        (_leave, "crash", "the process ended: status 3"),
        (_sleep, "hang", "it did not end within 0.5 s"),
    ],
)
def test_columns(act: Callable[[], list[Value]], column: str, reason: str) -> None:
    rows = list(run_cases(_cases("a"), Scripted(act), deadline=0.5))
    assert [(row.name, row.column, row.reason) for row in rows] == [("a", column, reason)]


def test_bfloat16_is_held_to_two_units() -> None:
    narrow = ml_dtypes.bfloat16
    one = np.ones(3, narrow)
    assert judge([one * narrow(1 + 2**-7)], [one], 1e-3, 1e-7)[0] == ""
    assert (
        judge([one * narrow(1 + 2**-5)], [one], 1e-3, 1e-7)[0]
        == "output 0 differs at 3 of 3 elements"
    )
    assert judge([f(1)], [np.ones(1, narrow)], 1e-3, 1e-7)[0]


def test_a_refusal_is_no_error() -> None:
    (row,) = run_cases(_cases("a"), Scripted(_fail, refuse=True))
    assert (row.column, row.reason) == ("unsupported", "no import rule: `Foo`")


def test_several_cases_at_a_time() -> None:
    names = [f"c{i}" for i in range(7)]
    rows = list(run_cases(_cases(*names), Scripted(lambda: [f(2)]), jobs=3))
    assert sorted(row.name for row in rows) == names


def _cases(*names: str) -> list[Case]:
    return [Case(name, ModelProto(), lambda: [ONE], 1e-3, 1e-7) for name in names]


@pytest.mark.parametrize(
    ("have", "want", "reason"),
    [
        ([np.nan], [np.nan], ""),
        ([np.inf], [-np.inf], "output 0 differs at 1 of 1 elements"),
        ([1.0009], [1], ""),
        ([1.002], [1], "output 0 differs at 1 of 1 elements"),
    ],
)
def test_closeness(have: Sequence[float], want: Sequence[float], reason: str) -> None:
    assert judge([f(*have)], [f(*want)], 1e-3, 1e-7)[0] == reason


def test_sequences_and_text() -> None:
    text = np.array(["a", "b"], object)
    assert judge([[text, text]], [[text, text]], 0, 0) == ("", 0)
    assert judge([text[:1]], [np.array(["b"], object)], 0, 0)[0] == "output 0 holds other text"
    assert judge([None], [None], 0, 0) == ("", 0)
    assert judge([text], [None], 0, 0)[0] == "output 0 is not absent"


KNOWN = {"b": Known("wrong", "why"), "c": Known("unsupported", "no")}


@pytest.mark.parametrize(
    ("rows", "told"),
    [
        ([Row("a", "pass"), Row("b", "wrong"), Row("c", "unsupported")], []),
        ([Row("a", "wrong", "x"), Row("b", "wrong"), Row("c", "unsupported")], ["as wrong: x"]),
        ([Row("a", "pass"), Row("b", "pass"), Row("c", "unsupported")], ["`b` passes"]),
        ([Row("a", "pass"), Row("b", "crash"), Row("c", "unsupported")], ["ended as crash"]),
        ([Row("a", "pass"), Row("b", "wrong")], ["1 listed cases were not collected"]),
    ],
)
def test_faults_of_a_run(rows: list[Row], told: list[str]) -> None:
    found = faults(rows, KNOWN, ["a", "b", "c"])
    assert len(found) == len(told)
    assert all(part in line for part, line in zip(told, found, strict=True))


def test_the_list_is_updated_and_reads_back(tmp_path: Path) -> None:
    rows = [Row("a", "error", "new"), Row("b", "wrong", "0.1"), Row("c", "pass")]
    known = updated(rows, KNOWN)
    assert unexplained(known) == ["a"]
    assert known["b"].reason == "why"
    write_known(known, tmp_path / "known.txt")
    assert read_known(tmp_path / "known.txt") == known


def test_the_tables() -> None:
    rows: dict[str, list[str | int]] = {
        "test_abs": ["pass", 1, ""],
        "test_cos": ["pass", 1, "", "axes"],
        "test_lstm_defaults": ["unsupported", 0, "no import rule: `LSTM`"],
    }
    text = render({"onnx": "1"}, {"tunesmith": {"title": "T", "rows": rows}}, KNOWN)
    assert "| T | core 3 | 2 | 1 | 1 | 0 | 0 | 0 | 0 | 66.7 % |" in text
    assert "| no import rule: `LSTM` | 1 | 1 |" in text
    assert "| `b` | wrong | why |" in text
