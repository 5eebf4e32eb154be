"""The board: a wrong output has no time, nothing drops out in silence, and a smoke of it runs."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest

from benchmarks import zoo
from benchmarks.board import chart
from benchmarks.board.child import Child, ChildError, environment
from benchmarks.board.cli import main
from benchmarks.board.inputs import INPUTS, MAKERS, REFERENCE, prepare
from benchmarks.board.measure import Options, Workplace, cores_for, measure
from benchmarks.board.records import EngineRecord, RowRecord, key_of, read_board, write_board
from benchmarks.board.render import render
from benchmarks.board.rows import FAMILIES, ROWS, SMOKE, BoardRow, choose
from benchmarks.board.verdicts import best_peer, bounds, means, verdict
from benchmarks.peers import DYNAMIC, PEERS, STATIC
from benchmarks.peers_contract import Job

linux = pytest.mark.skipif(sys.platform != "linux", reason="the board pins processes to cores")


def _samples(median: float, spread: float = 0.001, rounds: int = 9) -> list[list[float]]:
    rng = random.Random(str((median, spread)))
    return [[median * (1 + rng.uniform(-spread, spread)) for _ in range(5)] for _ in range(rounds)]


def _engine(samples: list[list[float]] | None, state: str = "timed", why: str = "") -> EngineRecord:
    entry = EngineRecord(version="1", state=state, why=why, file_mb=440.0, load_ms=100.0)
    return entry if samples is None else entry | {"samples_ms": samples}


def _record(engines: dict[str, EngineRecord], row: str = "bert-base/128") -> RowRecord:
    return RowRecord(
        key=key_of(row, 1), row=row, family="transformer", model="m", size="1x128",
        inputs="tokens", precision="f32", threads=1, cores=[1], date="today", commit="c", load=0.0,
        rounds=9, seed=1, error="", engines=engines,
    )  # fmt: skip


def _board(*records: RowRecord) -> dict[str, RowRecord]:
    return {record["key"]: record for record in records}


def _ratio(ours: float, theirs: float, spread: float = 0.001, rounds: int = 9) -> str:
    engines = {
        STATIC: _engine(_samples(ours, spread, rounds)),
        "openvino": _engine(_samples(theirs, spread, rounds)),
    }
    found = verdict(_record(engines))
    assert found is not None
    return found.call


def test_the_rows_are_a_table() -> None:
    names = [row.name for row in (*ROWS, *SMOKE)]
    assert len(names) == len(set(names))
    assert all(row.family in FAMILIES and row.inputs in MAKERS for row in ROWS)
    assert {"bert-base/384", "bert-base/8x128", "minilm-l6-int8/16", "vit-b16"} <= set(names)
    assert all(row == BoardRow.from_json(json.loads(json.dumps(row.as_json()))) for row in ROWS)
    assert choose(["no-such/*"]) == []
    assert set(chart.STYLES) == set(PEERS)


@pytest.mark.parametrize(
    ("ours", "theirs", "spread", "call"),
    [
        (0.8, 1.0, 0.01, "faster"),
        (1.3, 1.0, 0.01, "slower"),
        (1.0, 1.0, 0.001, "equal"),
        (1.0, 1.02, 0.4, "too noisy to call"),
    ],
)
def test_a_winner_is_called_only_if_the_spread_allows(
    ours: float, theirs: float, spread: float, call: str
) -> None:
    assert _ratio(ours, theirs, spread) == call


def test_few_rounds_call_nothing() -> None:
    assert _ratio(0.1, 1.0, rounds=2) == "too few rounds to call"


def test_a_wrong_output_has_no_time() -> None:
    engines = {
        STATIC: _engine(_samples(2.0)),
        "openvino": _engine(_samples(1.0), "wrong", "y: 3 of 4 elements differ by more"),
        "onnxruntime": _engine(_samples(4.0)),
    }
    record = _record(engines)
    assert best_peer(record) == "onnxruntime"
    text = render(_board(record), {"cpu": "a CPU"})
    assert "| wrong |" in text and "OpenVINO, wrong: y: 3 of 4 elements differ by more" in text


def test_missing_engines_are_shown_with_the_reason() -> None:
    engines = {
        STATIC: _engine(_samples(1.0)),
        "iree": _engine(None, "missing", "not installed: iree-base-runtime"),
    }
    record = _record(engines)
    assert best_peer(record) is None and verdict(record) is None
    assert "IREE, missing: not installed: iree-base-runtime" in render(_board(record), {})


def test_means_and_bounds() -> None:
    fast = {STATIC: _engine(_samples(0.5)), "openvino": _engine(_samples(1.0))}
    slow = {STATIC: _engine(_samples(2.0)), "openvino": _engine(_samples(1.0))}
    board = _board(_record(fast), _record(slow, "gpt2/prefill-128"))
    (mean,) = means(board.values())
    assert mean.mean == pytest.approx(1.0, rel=0.01)
    assert mean.worst_row == "gpt2/prefill-128"
    judged = {b.what: b.passed for b in bounds(board)}
    assert judged["transformer rows, the worst one"] is False
    assert judged["decode rows, the worst one"] is None


def test_a_row_of_ours_without_a_time_fails() -> None:
    engines = {STATIC: _engine(None, "failed", "no"), "openvino": _engine(_samples(1.0))}
    judged = {b.what: b for b in bounds(_board(_record(engines)))}
    assert judged["transformer rows, the worst one"].passed is False
    assert "bert-base/128" in judged["transformer rows, the worst one"].where


def test_records_survive_the_file_but_not_another_machine(tmp_path: Path) -> None:
    board = _board(_record({STATIC: _engine(_samples(1.0))}))
    path = tmp_path / "deep" / "board.json"
    write_board(path, board, {"cpu": "a CPU"})
    assert read_board(path, {"cpu": "a CPU"}) == board
    assert read_board(path, {"cpu": "another"}) == {}
    assert read_board(tmp_path / "none.json", {}) == {}


def test_the_picture(tmp_path: Path) -> None:
    if reason := chart.missing():
        pytest.skip(reason)
    engines = {name: _engine(_samples(1.0 + i)) for i, name in enumerate(PEERS)}
    path = tmp_path / "board.png"
    assert chart.draw(_board(_record(engines)), {"cpu": "a CPU"}, path)
    assert path.read_bytes().startswith(b"\x89PNG")
    assert not chart.draw({}, {}, path)


def _tiny(folder: Path) -> BoardRow:
    """A file with an axis that has a name, and the row that times it."""
    helper, numpy_helper = onnx.helper, onnx.numpy_helper
    weight = np.random.default_rng(0).standard_normal((8, 4), dtype=np.float32)
    shapes = {"x": ["batch", 8], "y": ["batch", 4]}
    tensors = {n: helper.make_tensor_value_info(n, 1, dims) for n, dims in shapes.items()}
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"])]
    initializers = [numpy_helper.from_array(weight, "w")]
    graph = helper.make_graph(nodes, "tiny", [tensors["x"]], [tensors["y"]], initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, folder / "tiny.onnx")
    return BoardRow("tiny", "transformer", str(folder / "tiny.onnx"), "declared", axes={"batch": 3})


def test_declared_inputs_and_the_reference(tmp_path: Path) -> None:
    row = _tiny(tmp_path)
    facts = prepare(row, tmp_path)
    assert (facts["outputs"], facts["error"], row.label) == (["y"], "", "batch 3")
    with np.load(tmp_path / INPUTS) as feeds, np.load(tmp_path / REFERENCE) as theirs:
        assert feeds["x"].shape == (3, 8) and theirs["y"].shape == (3, 4)


def _job(folder: Path, engine: str, row: BoardRow) -> Path:
    facts = prepare(row, folder)
    job = Job(
        Path(facts["model"]), row.model, folder / INPUTS, ("y",), {}, row.optimizer, 1, folder
    )
    path = folder / f"{engine}.json"
    path.write_text(json.dumps(job.as_json()))
    return path


@linux
def test_a_child_answers_and_rests(tmp_path: Path) -> None:
    job = _job(tmp_path, "onnxruntime", _tiny(tmp_path))
    settings = environment(1, {})
    with Child("onnxruntime", job, tmp_path / "log", (), settings) as child:
        assert child.ask("load", 60)["first_ms"] > 0
        assert len(child.ask("run", 60, count=7)["samples_ms"]) == 7
        before = child.cpu_seconds()
        assert before > 0
        with pytest.raises(ChildError, match="took longer"):
            child.ask("run", 0.2, count=10**8)


@linux
def test_a_child_that_cannot_says_why(tmp_path: Path) -> None:
    job = _job(tmp_path, "onnxruntime-optimized", _tiny(tmp_path))
    with Child("onnxruntime-optimized", job, tmp_path / "log", (), environment(1, {})) as child:
        with pytest.raises(ChildError, match="no model type") as caught:
            child.ask("build", 60)
        assert caught.value.kind == "unsupported"


@linux
def test_a_model_that_is_not_there_is_an_error_of_the_row(tmp_path: Path) -> None:
    row = BoardRow("none", "transformer", str(tmp_path / "none.onnx"), "declared")
    record = _record({}, "none")
    measure(row, 1, Options(), Workplace(tmp_path), record, lambda what: None)
    assert "none.onnx" in record["error"]
    assert "none.onnx" in render(_board(record), {})


def test_cores() -> None:
    assert cores_for(1, [0, 1]) == [1]
    assert cores_for(2, [0, 1]) == [0, 1]


def _smoke(out: Path, *more: str) -> dict[str, RowRecord]:
    arguments: Sequence[str] = ("--smoke", "--threads", "1", "--out", str(out), *more)
    assert main(arguments) == 0
    rows = json.loads((out / "board.json").read_text())["rows"]
    return {row["key"]: row for row in rows}


@linux
@pytest.mark.tvm
@pytest.mark.zoo
def test_smoke(tmp_path: Path) -> None:
    entry = zoo.ENTRIES[SMOKE[0].model]
    if not entry.file.is_file() and (reason := zoo.unavailable()):
        pytest.skip(reason)
    (record,) = _smoke(tmp_path).values()
    assert set(record["engines"]) == {DYNAMIC, STATIC, "onnxruntime"}
    for engine in record["engines"].values():
        assert engine["state"] == "timed", engine["why"]
        assert len(engine["samples_ms"]) == 2
        assert engine["peak_mb"] > engine["before_mb"] > 0
    assert record["quiet"]["idle"] < 0.5
    found = verdict(record)
    assert found is not None and found.peer == "onnxruntime"
    assert "bert-small/16" in (tmp_path / "board.md").read_text()
    assert list(_smoke(tmp_path, "--render")) == [record["key"]]
