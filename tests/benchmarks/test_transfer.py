"""The benchmark of transfer: what it says of figures, and one whole run on a small model."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from benchmarks import transfer

FACTS: dict[str, Any] = {
    "date": "today", "commit": "abc", "machine": {"cpu": "a cpu"}, "load": [0.5, 1.5],
    "options": {"model": "m", "first": "s=128", "second": "s=160", "budget": "10m", "quick": "30s",
                "threads": 1, "turns": 15},
    "first": {"took": 620.0, "trials": 200, "first_trial": 7.25, "kernels": 6},
    "rows": {
        "untuned": {"took": 5.0, "seconds": 12e-3, "share": 0.83},
        "records": {"took": 20.0, "kernels": 5, "seconds": 10.4e-3, "share": 0.96},
        "quick": {"took": 61.0, "trials": 24, "first_trial": 6.0, "kernels": 6,
                  "seconds": 10.1e-3, "share": 0.99},
        "full": {"took": 640.0, "trials": 180, "first_trial": 6.5, "kernels": 6,
                 "seconds": 10e-3, "share": 1.0},
    },
}  # fmt: skip


def changed(row: str, **fields: float) -> dict[str, Any]:
    facts = copy.deepcopy(FACTS)
    facts["rows"][row].update(fields)
    return facts


def test_both_the_seconds_and_the_speed_decide() -> None:
    assert transfer.verdict(FACTS)
    assert not transfer.verdict(changed("records", share=0.94))
    assert not transfer.verdict(changed("records", took=60.0)), "the quick one took 61 s"
    assert transfer.verdict(changed("quick", took=59.0))


def test_nothing_to_transfer_is_neither_reached_nor_missed() -> None:
    untuned = copy.deepcopy(FACTS)
    untuned["first"]["kernels"] = 0
    for facts, size in ((untuned, "s=128"), (changed("full", kernels=0), "s=160")):
        assert transfer.verdict(facts) is None
        last = transfer.section(facts).splitlines()[-1]
        assert last.startswith(f"Nothing to transfer: no kernel became quicker by tuning {size}")
        assert "reached" not in last


def test_the_text_between_the_marks_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transfer, "FIGURES", tmp_path / "figures.json")
    monkeypatch.setattr(transfer, "TEXT", tmp_path / "text.md")
    (tmp_path / "text.md").write_text(f"before\n{transfer.BEGIN}\nold\n{transfer.END}\nafter\n")
    transfer.write(FACTS)
    text = (tmp_path / "text.md").read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    assert "| records of the first size, no search | 20 |  |  | 5 | 10.4 | 96.0% |" in text
    assert "| tuned for 30s | 61 | 6.0 | 24 | 6 | 10.1 | 99.0% |" in text
    assert "the first began at most 7.2 s" in text
    assert "within 60 s: reached" in text
    assert json.loads((tmp_path / "figures.json").read_text()) == FACTS
    transfer.write(changed("records", share=0.5))
    assert "within 60 s: not reached" in (tmp_path / "text.md").read_text()
    (tmp_path / "text.md").write_text("no marks\n")
    with pytest.raises(SystemExit, match="begin"):
        transfer.write(FACTS)


@pytest.mark.tvm
@pytest.mark.slow
def test_a_whole_run_measures_all_four(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = """<ir_version: 10, opset_import: ["" : 17]>
    one (float[rows, 96] x) => (float[rows, 96] y) { y = MatMul(x, w) }"""
    model = onnx.parser.parse_model(text)
    weight = np.random.default_rng(0).standard_normal((96, 96)).astype("f4")
    model.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    onnx.save_model(model, tmp_path / "m.onnx")
    transfer.main(["--model", str(tmp_path / "m.onnx"), "--first", "rows=64", "--second", "rows=80",
                   "--budget", "6s", "--quick", "3s", "--turns", "3"])  # fmt: skip
    rows = [line.split("|") for line in capsys.readouterr().out.splitlines() if "|" in line]
    assert [row[1].strip() for row in rows[2:]] == [
        "untuned", "records of the first size, no search", "tuned for 3s", "tuned for 6s more",
    ]  # fmt: skip
    for row in rows[2:]:
        assert float(row[2]) > 0 and float(row[6]) > 0 and row[7].strip().endswith("%")
    assert all(float(row[3]) > 0 for row in rows[4:]), "the first trial of both"
