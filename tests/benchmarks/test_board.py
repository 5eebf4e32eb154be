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

from benchmarks import tuning, zoo
from benchmarks.board import chart
from benchmarks.board.bounds import Bound, bounds
from benchmarks.board.child import Child, ChildError, environment
from benchmarks.board.cli import main
from benchmarks.board.inputs import INPUTS, MAKERS, REFERENCE, prepare
from benchmarks.board.measure import Options, Workplace, cores_for, measure
from benchmarks.board.records import EngineRecord, RowRecord, key_of, read_board, write_board
from benchmarks.board.render import render
from benchmarks.board.rows import FAMILIES, ROWS, SMOKE, BoardRow, choose
from benchmarks.board.runs import merge, runs_of
from benchmarks.board.verdicts import best_peer, means, ratio_of, verdict
from benchmarks.peers import DYNAMIC, PEERS, STATIC, TUNED
from benchmarks.peers_contract import SLOW_TIMES, Job
from benchmarks.spine_facts import ROOT
from tests.benchmarks import slow_peers

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


def test_bounds_of_tuned_rows_stand_only_where_there_are_some() -> None:
    untuned = {STATIC: _engine(_samples(1.0)), "openvino": _engine(_samples(1.1))}
    assert not any("tuned" in b.what for b in bounds(_board(_record(untuned))))
    tuned = untuned | {TUNED: _engine(_samples(0.9))}
    judged = {b.what: b for b in bounds(_board(_record(tuned)))}
    assert judged["tuned over untuned, geometric mean"].passed is True
    assert judged["tuned transformer rows, the worst one"].passed is True
    slower = untuned | {TUNED: _engine(_samples(1.01))}
    judged = {b.what: b for b in bounds(_board(_record(slower)))}
    assert judged["tuned over untuned, geometric mean"].passed is False
    failed = _record(untuned | {TUNED: _engine(None, "failed", "no")}, "vit-b16")
    never = _record(untuned | {TUNED: _engine(None, "unsupported", "it was never tuned")}, "t5")
    what = "tuned transformer rows, geometric mean of ours over the best peer"
    lost = {b.what: b for b in bounds(_board(_record(tuned), failed, never))}[what]
    assert lost.passed is False and "vit-b16" in lost.where and "t5" not in lost.where
    assert judged[what].found == pytest.approx(1.01 / 1.1, rel=0.01)
    assert judged[what].passed is False


def test_a_row_of_ours_without_a_time_fails() -> None:
    engines = {STATIC: _engine(None, "failed", "no"), "openvino": _engine(_samples(1.0))}
    judged = {b.what: b for b in bounds(_board(_record(engines)))}
    assert judged["transformer rows, the worst one"].passed is False
    assert "bert-base/128" in judged["transformer rows, the worst one"].where


def test_a_tuned_row_that_is_slower_for_sure_fails() -> None:
    what = "tuned rows that are slower than untuned for sure"

    def found(tuned: float, spread: float = 0.001) -> Bound:
        samples = {STATIC: _samples(1.0, spread), TUNED: _samples(tuned, spread)}
        engines = {name: _engine(each) for name, each in samples.items()}
        return {b.what: b for b in bounds(_board(_record(engines)))}[what]

    assert found(1.02).passed is False and found(1.02).where == "bert-base/128 threads=1"
    assert found(0.98).passed is True and found(1.02, spread=0.3).passed is True


@pytest.mark.parametrize(("ratio", "passed"), [(1.2, True), (30.0, False)])
def test_a_tuned_row_of_one_round_is_slower_for_sure_if_it_is_by_far(
    ratio: float, passed: bool
) -> None:
    engines = {STATIC: _engine(_samples(1.0, rounds=1)), TUNED: _engine(_samples(ratio, rounds=1))}
    judged = {b.what: b for b in bounds(_board(_record(engines)))}
    assert judged["tuned rows that are slower than untuned for sure"].passed is passed


@pytest.mark.parametrize(
    ("size", "expected"), [(880.0, 50.0), (440.0, 100.0), (220.0, 200.0), (200.0, None)]
)
def test_loading_is_judged_where_it_depends_on_the_size(
    size: float, expected: float | None
) -> None:
    engines = {STATIC: _engine(_samples(1.0)) | {"file_mb": size}}
    judged = {b.what: b for b in bounds(_board(_record(engines)))}
    found = judged["load of an artifact, ms for 440 MB"].found
    assert found == (expected and pytest.approx(expected))


def test_records_survive_the_file(tmp_path: Path) -> None:
    board = _board(_record({STATIC: _engine(_samples(1.0))}))
    path = tmp_path / "deep" / "board.json"
    write_board(path, board, {"cpu": "a CPU"})
    assert read_board(path) == board
    assert read_board(tmp_path / "none.json") == {}


def test_a_board_of_another_machine_is_neither_mixed_nor_forgotten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record = _board(_record({STATIC: _engine(_samples(1.0))}))
    write_board(tmp_path / "board.json", record, {"cpu": "another, 2 cores"})
    (tmp_path / "tuned.json").write_text('{"minilm-l3/16 threads=2": {"cpu": "another, 2 cores"}}')
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for call in (main, tuning.main):
        with pytest.raises(SystemExit) as ended:
            call(["--rows", "minilm-l3/16", "--out", str(tmp_path)])
        assert ended.value.code == 2
        assert "another processor (another, 2 cores" in capsys.readouterr().err
    assert before == {path: path.read_bytes() for path in tmp_path.iterdir()}


def _merged(*runs: dict[str, EngineRecord]) -> RowRecord:
    """A row after several runs of the board, the first one first."""
    record: RowRecord | None = None
    for number, engines in enumerate(runs):
        new = _record(engines)
        new["date"] = f"day {number}"
        record = merge(record, new)
    assert record is not None
    return record


def _quick(**medians: float) -> dict[str, EngineRecord]:
    names = {"ours": STATIC, "any": DYNAMIC, "ort": "onnxruntime", "ov": "openvino"}
    return {names.get(n, n): _engine(_samples(median)) for n, median in medians.items()}


def test_engines_of_a_later_run_join_the_row_by_their_ratio() -> None:
    """On a machine that is twice as slow by then: no ratio may be between engines of two runs."""
    record = _merged(_quick(ours=10, any=11, ort=15, ov=12.5), _quick(ours=20, iree=60, tvm=2400))
    assert (record["date"], [run["date"] for run in runs_of(record)]) == (
        "day 0",
        ["day 1", "day 0"],
    )
    for name, ratio in (("onnxruntime", 1.5), ("openvino", 1.25), ("iree", 3.0), ("tvm", 120.0)):
        assert ratio_of(record, name, STATIC) == pytest.approx(ratio, rel=0.01)
    assert ratio_of(record, "iree", DYNAMIC) is None, "they never took turns"
    found = verdict(record)
    assert found is not None and (found.peer, found.call) == ("openvino", "faster")
    assert found.ratio == pytest.approx(1 / 1.25, rel=0.01)
    text = render(_board(record), {})
    line = next(
        row for row in text.splitlines() if row.startswith("| bert-base/128 | 1x128 | 1 | 11")
    )
    cells = [cell.strip() for cell in line.split("|")]
    assert "**10.0**" in cells and "x 3.00" in cells and "x 120" in cells
    assert "60.0" not in cells and "20.0" not in cells, "no milliseconds beside those of others"


def test_a_peer_of_a_later_run_can_be_the_best_one() -> None:
    record = _merged(_quick(ours=10, ort=15), _quick(ours=20, torch=18))
    found = verdict(record)
    assert found is not None and found.peer == "torch"
    assert found.ratio == pytest.approx(20 / 18, rel=0.01)
    (mean,) = means([record])
    assert mean.mean == pytest.approx(20 / 18, rel=0.01)
    assert "| **x 0.900** | torch.compile | 1.111 |" in render(_board(record), {})


def test_a_run_that_tells_all_again_replaces_what_was_before() -> None:
    record = _merged(
        _quick(ours=10, ort=15), _quick(ours=20, iree=60), _quick(ours=9, ort=15, ov=11)
    )
    assert [run["date"] for run in runs_of(record)] == ["day 2", "day 1"]
    assert record["date"] == "day 2"
    record = merge(record, _record(_quick(ours=8, iree=60)))
    assert [run["date"] for run in runs_of(record)] == ["today", "day 2"]
    other = _record(_quick(ours=1, ort=2))
    other["size"] = "1x64"
    assert runs_of(merge(record, other)) == [other], "another size has no past"


def test_drawing_anew_keeps_the_rows_of_another_machine(tmp_path: Path) -> None:
    record = _merged(_quick(ours=10, ort=15), _quick(ours=20, iree=60))
    write_board(tmp_path / "board.json", _board(record), {"cpu": "another"})
    before = (tmp_path / "board.json").read_text()
    assert main(["--render", "--out", str(tmp_path)]) == 0
    assert (tmp_path / "board.json").read_text() == before
    text = (tmp_path / "board.md").read_text()
    assert "* cpu: another" in text and "| x 3.00 |" in text


def test_a_later_failure_is_not_hidden_by_an_earlier_time(tmp_path: Path) -> None:
    wrong = _engine(_samples(1.0), "wrong", "y: 3 of 4 elements differ by more")
    gone = _engine(None, "missing", "not installed: openvino")
    record = _merged(
        _quick(ours=10, ort=15, iree=5, ov=12), _quick(ours=10) | {"iree": wrong, "openvino": gone}
    )
    assert best_peer(record) == "openvino", "who is not installed any more has its last time"
    text = render(_board(record), {})
    assert "IREE, wrong: y: 3 of 4 elements" in text and "not installed" not in text
    write_board(tmp_path / "board.json", _board(record), {"cpu": "a CPU"})
    assert read_board(tmp_path / "board.json") == _board(record)


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
        assert len(child.ask("run", 60, count=7, warm=True)["samples_ms"]) == 7
        before = child.cpu_seconds()
        assert before > 0
        with pytest.raises(ChildError, match="took longer"):
            child.ask("run", 0.2, count=10**8, warm=True)


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


@linux
def test_who_is_far_slower_runs_once_and_a_build_serves_all_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Real children and ONNX Runtime; of two peers, one sleeps, one builds."""
    row = _tiny(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setattr("benchmarks.board.child.WORKER", "tests.benchmarks.slow_peers")
    for peer in slow_peers.ENGINES:
        monkeypatch.setitem(PEERS, peer.name, peer)
    options = Options(
        engines=("onnxruntime", "sleeping", "built"), rounds=5, seconds=0.01, slow=0.2, cold=False
    )
    place, found = Workplace(tmp_path / "place"), []
    for threads in (1, 2):
        record = _record({}, "tiny")
        record["threads"] = threads
        measure(row, threads, options, place, record, lambda what: None)
        found.append(record["engines"])
    for engines in found:
        slow = engines["sleeping"]
        assert (slow["state"], len(slow["samples_ms"])) == ("slow", 1), slow["why"]
        assert slow["samples_ms"][0][0] >= 1e3 * slow_peers.SLEEP and slow["max_abs"] == 0
        assert f"more than {SLOW_TIMES:g} times" in slow["why"]
        assert len(engines["onnxruntime"]["samples_ms"]) == 5
        assert engines["built"]["state"] == "timed"
    assert (tmp_path / "builds").read_text() == "built\n", "once, for both numbers of threads"
    first, second = (engines["built"]["build_s"] for engines in found)
    assert first is not None and first > 0 and second == first


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
