"""The figures of the spine: nothing that fails disappears, and every bound is judged."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from benchmarks import spine
from benchmarks.spine import Step, main, plan, run_step
from benchmarks.spine_compare import attention_misses, errors_of
from benchmarks.spine_rows import (
    Compiled,
    Engine,
    OutputRow,
    Ratio,
    Row,
    SizeRow,
    failures,
    read_json,
)
from benchmarks.spine_rows import write_json as save
from benchmarks.spine_subjects import Subject, find_subject, subjects
from benchmarks.spine_table import render
from benchmarks.spine_time import Turns
from benchmarks.spine_verdicts import verdicts
from tunesmith.runtime import Manifest
from tunesmith.runtime.manifest import TargetSpec

BERT = "bert-base/dynamo18-sdpa"


def _check(error: float | None = 1e-6, attention: int = 12, seconds: float = 30.0) -> Row:
    compiled = Compiled(
        seconds=seconds,
        stages={"import": 1.0, "build": 2.0},
        bytes=1000,
        peak_mb=10,
        dims="batch 1..8",
        nodes=[9, 4],
        kernels=3,
        attention=attention,
        near_misses=[]
        if attention == 12
        else ["attention: the scale varies (2 times, first at n)"],
    )
    passed = error is not None and error <= 1e-4
    output = OutputRow(
        output="y",
        dtype="float32",
        scale=2.0,
        max_abs=error,
        passed=passed,
        reason="" if passed else "far",
    )
    sizes = [SizeRow(size=[1, 16], outputs=[output], skipped="", error="")]
    return Row(
        key=f"check {BERT}",
        kind="check",
        subject=BERT,
        expected=12,
        compiled=compiled,
        sizes=sizes,
    )


def _time(ratio: float, threads: int = 1) -> Row:
    engine = Engine(median_ms=2.0, p90_ms=2.1, p99_ms=2.2, cv=0.05, n=10, samples_ms=[[2.0]])
    pair = Ratio(ours="tunesmith", theirs="onnxruntime", ratio=ratio, low=ratio, high=ratio)
    return Row(
        key=f"time {BERT} threads={threads}",
        kind="time",
        subject=BERT,
        expected=12,
        threads=threads,
        load_ms=1.0,
        first_run_ms=1.0,
        sizes=_check()["sizes"],
        engines={"tunesmith": engine, "onnxruntime": engine},
        ratios=[pair],
    )


def _judged(*rows: Row) -> dict[str, bool | None]:
    return {v.bound: v.passed for v in verdicts({row["key"]: row for row in rows})}


def test_all_models_of_the_issue_are_there() -> None:
    names = [s.name for s in subjects()]
    assert len(names) == len(set(names)) == 5 * 7 + 2
    assert sum(s.is_timed_route for s in subjects()) == 5 * 2 + 2
    assert len(subjects(small=True)) == 37
    assert subjects(["no-such/*"]) == []
    bert, image = find_subject(BERT), find_subject("vit-b16/dynamo18-sdpa")
    assert bert.dims == {"batch": (1, 8), "sequence": (1, 512)}
    assert image.dims == find_subject("resnet50/dynamo18").dims == {"batch": (1, 8)}
    assert (bert.timed, image.timed) == ((1, 128), (1,))


@pytest.mark.parametrize("name", ["minilm-l6-int8", BERT, f"{BERT}/small", "gpt2/dynamo18-sdpa"])
def test_inputs_are_of_the_size_and_padded(name: str) -> None:
    feeds = find_subject(name).feeds((3, 77), seed=1)
    assert all(a.shape == (3, 77) and a.dtype == np.int64 for a in feeds.values())
    mask = np.asarray(feeds["attention_mask"], np.int64)
    assert mask[0].all() and 0 < mask.sum() < mask.size


def test_timing_comes_after_both_compiles() -> None:
    subject = find_subject("minilm-l3")
    assert [s.key for s in plan(subject, speed=False)] == ["check minilm-l3"]
    assert [s.key for s in plan(subject, speed=True)] == [
        "check minilm-l3",
        "fix minilm-l3",
        "time minilm-l3 threads=1",
        "time minilm-l3 threads=2",
    ]


def test_bounds_that_hold() -> None:
    start = Row(key="start", kind="start", subject="", expected=0)
    start["starts"] = {"import tunesmith": [0.1], "tunesmith --help": [0.2]}
    rows = (_check(), _time(1.2), _time(1.3, threads=2), start)
    assert set(_judged(*rows).values()) == {True}
    assert not any(failures(row) for row in rows)
    text = render({row["key"]: row for row in rows}, {"cpu": "a CPU"})
    assert "FAILED" not in text and "not measured" not in text
    assert "12/12 PASSED" in text and "| 1.200 |" in text


def test_nothing_measured_is_no_verdict() -> None:
    assert set(_judged().values()) == {None}


@pytest.mark.parametrize(
    ("row", "bound"),
    [
        (_check(error=2e-4), "max abs error against ONNX Runtime"),
        (_check(error=None), "max abs error against ONNX Runtime"),
        (_check(attention=10), "attention blocks found"),
        (_check(seconds=61.0), "compile of BERT-base"),
        (_time(1.31), "latency over ONNX Runtime's, 1 thread"),
    ],
)
def test_bounds_that_do_not_hold(row: Row, bound: str) -> None:
    judged = _judged(row)
    assert [name for name, passed in judged.items() if passed is False] == [bound]
    text = render({row["key"]: row}, {})
    assert "FAILED" in text and failures(row)[0] in text


def test_near_misses_are_shown() -> None:
    row = _check(attention=10)
    assert "the scale varies" in render({row["key"]: row}, {})


def test_an_error_is_shown_and_fails() -> None:
    row = Row(key=f"check {BERT}", kind="check", subject=BERT, expected=12, error="no room\nat x")
    assert _judged(row)["models compile with dynamic dims and run"] is False
    assert _judged(row)["attention blocks found"] is False
    text = render({row["key"]: row}, {})
    assert f"* `check {BERT}`: check: no room" in text and "no room\nat x" in text


def test_a_size_that_onnx_runtime_cannot_run_is_told() -> None:
    row = _check()
    row["sizes"].append(SizeRow(size=[2, 33], outputs=[], skipped="its shapes differ", error=""))
    assert _judged(row)["max abs error against ONNX Runtime"] is True
    text = render({row["key"]: row}, {})
    assert "| skipped |" in text and "its shapes differ" in text


def test_a_size_that_we_cannot_run_fails() -> None:
    row = _check()
    row["sizes"].append(SizeRow(size=[2, 33], outputs=[], skipped="", error="too large"))
    assert _judged(row)["max abs error against ONNX Runtime"] is False
    assert failures(row) == ["2x33: too large"]


def test_rows_survive_the_file(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "rows.json"
    assert read_json(path) == {}
    rows = {row["key"]: row for row in (_check(), _time(1.0))}
    save(path, rows, {"cpu": "a CPU"})
    assert read_json(path) == rows
    assert [file.name for file in path.parent.iterdir()] == ["rows.json"]
    path.write_text(path.read_text().replace('"format": 1', '"format": 0'))
    assert read_json(path) == {}


def _manifest(*passes: dict[str, object]) -> Manifest:
    target = TargetSpec("x86_64-linux-gnu", "x86-64", (), 1)
    return Manifest(name="m", inputs=(), outputs=(), target=target, passes=passes)  # type: ignore[arg-type]  # JSON


def test_near_misses_that_were_found_later_are_none() -> None:
    def note(kind: str, where: str) -> dict[str, object]:
        reason = "" if kind == "match" else "two masks"
        return {"pass": "fuse-attention", "kind": kind, "what": "attention", "where": where,
                "reason": reason}  # fmt: skip

    notes = [note("near-miss", "a"), note("near-miss", "b"), note("match", "a")]
    other = note("near-miss", "c") | {"pass": "fuse-linear"}
    assert attention_misses(_manifest(*notes, other)) == [
        "attention: two masks (1 times, first at b)"
    ]


def test_an_output_that_is_not_finite_proves_nothing() -> None:
    good, odd = np.array([1, -3], np.float32), np.array([1, np.nan], np.float32)
    (same,) = errors_of({"y": good}, {"y": good})
    assert (same["passed"], same["max_abs"], same["scale"], same["reason"]) == (True, 0.0, 3.0, "")
    (both,) = errors_of({"y": odd}, {"y": odd})
    assert not both["passed"] and "not finite" in both["reason"]
    (far,) = errors_of({"y": good + 1}, {"y": good})
    assert not far["passed"] and far["max_abs"] == 1.0
    missing = errors_of({}, {"y": good})
    assert [(o["passed"], o["max_abs"]) for o in missing] == [(False, None)]


def test_engines_settle_once_a_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("time.sleep", pauses.append)
    turns = Turns(pause=0.5)
    ours, theirs = turns.wrap("ours", lambda: 1), turns.wrap("theirs", lambda: 2)
    assert [ours(), ours(), theirs(), theirs(), ours()] == [1, 1, 2, 2, 1]
    assert pauses == [0.5] * 3


def test_a_process_that_fails_leaves_a_row(tmp_path: Path) -> None:
    options = argparse.Namespace(rounds=1, seconds=0.1, timeout=120.0)
    unknown = Subject("no-such", 1, ("batch", "sequence"), ())
    row = run_step(Step("check", unknown), tmp_path, options)
    assert row["error"].startswith("the process ended with 1\n")
    untimed = run_step(Step("time", unknown, 2), tmp_path, options)
    assert untimed["error"] == "not timed: it did not compile"
    assert untimed["threads"] == 2


@pytest.fixture
def stepped(monkeypatch: pytest.MonkeyPatch) -> Callable[[Row | type[BaseException]], None]:
    """Replaces the processes by one result, or by an exception at the second."""
    monkeypatch.setattr(spine, "measure_starts", lambda: {"python": [0.1]})

    def replace(result: Row | type[BaseException]) -> None:
        done: list[str] = []

        def step(step: Step, folder: Path, options: argparse.Namespace) -> Row:
            if step.kind == "build":  # only where the cache of the zoo is empty
                return Row(key=step.key, kind="build", subject=step.subject.name, expected=1)
            done.append(step.key)
            if isinstance(result, type):
                if len(done) > 1:
                    raise result
                return Row(key=step.key, kind="check", subject=step.subject.name, expected=1)
            return result

        monkeypatch.setattr(spine, "run_step", step)

    return replace


def test_the_exit_code_tells(
    tmp_path: Path, stepped: Callable[[Row], None], capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "spine.md"
    command = ["--models", BERT, "--skip-speed", "--out", str(out)]
    stepped(_check(attention=10))
    assert main(command) == 1
    assert capsys.readouterr().out == out.read_text() + "\n"
    row = read_json(out.with_suffix(".json"))[f"check {BERT}"]
    assert row["date"] and row["commit"] and row["load"] >= 0


def test_what_was_measured_is_kept_after_control_c(
    tmp_path: Path, stepped: Callable[[type[BaseException]], None]
) -> None:
    out = tmp_path / "spine.md"
    stepped(KeyboardInterrupt)
    assert main(["--models", "gpt2/*", "--skip-speed", "--out", str(out)]) == 130
    rows = json.loads(out.with_suffix(".json").read_text())["rows"]
    assert [row["key"] for row in rows] == ["start", "check gpt2/torchscript14-eager"]
