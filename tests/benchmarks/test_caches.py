"""The benchmark of caches in place runs, on a small model, and keeps what it measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks import caches, zoo

pytestmark = [pytest.mark.tvm, pytest.mark.zoo]


def test_it_times_every_engine(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    if reason := zoo.unavailable():
        pytest.skip(reason)
    file = tmp_path / "caches.json"
    options = ["--model", "gpt2-decode/dynamo18-sdpa/small", "--past", "3", "20", "--rounds", "1",
               "--time", "0.01", "--cpu-time", "--json", str(file)]  # fmt: skip
    assert caches.main(options) == 0
    rows = json.loads(file.read_text())["rows"]
    names = ["in place", "copied", "onnxruntime", "onnxruntime, bound"]
    assert [(row["past"], row["engine"]) for row in rows] == [
        (p, n) for p in (3, 20) for n in names
    ]
    assert all(row["ratio"] > 0 and row["samples_ms"] for row in rows)
    assert "memory of a run, in place: " in capsys.readouterr().out


def test_cpu_time_is_of_one_thread() -> None:
    with pytest.raises(SystemExit):
        caches.main(["--cpu-time", "--threads", "2"])
