"""The comparison with stock MetaSchedule: both sides compute the same, the text is written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import metaschedule_report
from benchmarks.metaschedule import compare
from benchmarks.metaschedule_report import BEGIN, END
from benchmarks.metaschedule_subjects import SUBJECTS, Subject, gemm
from tests.backends.running import target
from tunesmith.ir.interpreter import evaluate

pytestmark = pytest.mark.tvm


@pytest.mark.parametrize("subject", SUBJECTS, ids=lambda s: s.name)
def test_the_operator_is_what_float64_says(subject: Subject) -> None:
    data = subject.data()
    feeds = {name: array for name, array in data.items() if name not in subject.weights}
    (found,) = evaluate(subject.graph(data), feeds)
    exact = subject.exact(*(array.astype(np.float64) for array in data.values()))
    assert found.shape == exact.shape == subject.result
    assert np.allclose(np.asarray(found, np.float64), exact, rtol=1e-4, atol=1e-5)


@pytest.mark.slow
def test_both_tune_and_compute_the_same() -> None:
    row = compare(gemm(64, 128, 192), target(), 2.0, 2)
    assert row["trials"]["stock"] >= 2 > row["failed"]
    assert row["trials"]["ours"] >= 1 and row["curves"]["ours"] and row["curves"]["stock"]
    assert max(row["errors"].values()) < 1e-5
    assert min(row["ours"], row["stock"], row["default"]) > 0


def test_the_text_between_the_marks_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("FIGURES", "CURVES", "TEXT"):
        monkeypatch.setattr(metaschedule_report, name, tmp_path / name)
    monkeypatch.setattr(metaschedule_report, "draw", lambda facts: None)
    text = tmp_path / "TEXT"
    row = {"name": "gemm", "stock": 3e-3, "ours": 1e-3, "default": 2e-3, "seconds": 20.0,
           "trials": {"stock": 16, "ours": 12}, "failed": 1, "load": [0.5, 1.5],
           "errors": {"stock": 1e-7, "ours": 2e-7}}  # fmt: skip
    facts = {"date": "today", "commit": "abc", "budget": 20.0, "batch": 16, "mean": 3.0,
             "cost model": "xgboost", "machine": {"cpu": "a cpu"}, "rows": [row]}  # fmt: skip
    text.write_text(f"before\n{BEGIN}\nold\n{END}\nafter\n")
    metaschedule_report.write(facts)
    written = text.read_text()
    assert written.startswith("before\n") and written.endswith("after\n") and "old" not in written
    assert "| gemm | 3 | 2 | 1 | **3.00** | 20 | 16 (1 failed), 12 |" in written
    text.write_text("no marks\n")
    with pytest.raises(SystemExit, match="begin"):
        metaschedule_report.write(facts)
