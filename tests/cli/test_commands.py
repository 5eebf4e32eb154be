"""Every command on a tiny model, from the file to its numbers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from onnx import helper

from .conftest import Cli, write_model

pytestmark = pytest.mark.tvm


def test_compile_says_what_it_made(cli: Cli, model: Path) -> None:
    out = model.with_suffix(".tsm")
    facts_file = out.with_suffix(".json")
    result = cli("compile", model, "-o", out, "--dim", "batch=1..8", "--json", facts_file)
    assert result.code == 0, result.err
    assert out.is_file()
    assert "nodes " in result.out
    assert f"written   {out}" in result.out
    assert f"tunesmith run {out}" in result.out
    assert "batch 1..8" in result.out
    assert "verified  max abs" in result.out
    facts = json.loads(facts_file.read_text())
    assert facts["bytes"] == out.stat().st_size
    assert [p.name for p in out.parent.iterdir() if p.suffix == ".tmp"] == []


@pytest.mark.parametrize("level", ["-O0", "-O1", "-O2", "-O3"])
def test_every_level_compiles_and_verifies(cli: Cli, model: Path, level: str) -> None:
    out = model.with_suffix(".tsm")
    assert cli("compile", model, "-o", out, level).code == 0
    assert cli("verify", out, model).code == 0


def test_the_check_can_be_left_out(cli: Cli, model: Path) -> None:
    result = cli("compile", model, "-o", model.with_suffix(".tsm"), "--no-verify")
    assert result.code == 0, result.err
    assert "verified" not in result.out


def test_a_fixed_shape(cli: Cli, model: Path) -> None:
    out = model.with_suffix(".tsm")
    assert cli("compile", model, "-o", out, "--shape", "x:3x4").code == 0
    result = cli("verify", out, model, "--json", "-")
    assert result.code == 0
    assert json.loads(result.out)["outputs"][0]["shape"] == [3, 3]


def decoder(path: Path) -> Path:
    """A step of attention that is handed its past, and a mask that tells its length."""
    sizes = {"q": ["b", 2, 1, 8], "k": ["b", 2, 1, 8], "mask": ["b", 1, 1, "past + 1"],
             "past_k": ["b", 2, "past", 8]}  # fmt: skip
    nodes = [
        helper.make_node("Neg", ["k"], ["new"]),
        helper.make_node("Concat", ["past_k", "new"], ["present_k"], axis=2),
        helper.make_node("Attention", ["q", "present_k", "present_k", "mask"], ["y"]),
    ]
    results = {"y": ["b", 2, 1, 8], "present_k": ["b", 2, "past + 1", 8]}
    infos = [
        [helper.make_tensor_value_info(name, 1, shape) for name, shape in of.items()]
        for of in (sizes, results)
    ]
    graph = helper.make_graph(nodes, "decoder", *infos)
    model = helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 23)])
    path.write_bytes(model.SerializeToString())
    return path


def test_a_cache_in_place(cli: Cli, tmp_path: Path) -> None:
    """From the file to a comparison with what copies; the other commands take it as well."""
    model, out = decoder(tmp_path / "decoder.onnx"), tmp_path / "decoder.tsm"
    result = cli("compile", model, "-o", out, "--cache", "9", "--dim", "b=1..4")
    assert result.code == 0, result.err
    assert "caches    1 buffer of 9 rows, written in place: 576*b bytes" in result.out
    assert "verified  max abs" in result.out and "past 0..8" in result.out
    assert "caches    1 buffer of 9 rows" in cli("inspect", out).out
    checked = cli("verify", out, model, "--dim", "past=8", "--json", "-")
    assert checked.code == 0, checked.err
    assert {tuple(o["shape"])[2] for o in json.loads(checked.out)["outputs"]} == {1, 9}
    timed = cli("bench", out, model, "--time", "0.1", "--rounds", "5")
    assert timed.code == 0 and "max abs" in timed.out


def test_a_cache_where_there_is_none(cli: Cli, model: Path) -> None:
    result = cli("compile", model, "-o", model.with_suffix(".tsm"), "--cache", "9")
    assert result.code == 1
    assert "error: the model has no key/value cache to write in place" in result.err
    assert cli("compile", model, "--cache", "0").code == 2


def test_run(cli: Cli, compiled: tuple[Path, Path], tmp_path: Path) -> None:
    model, artifact = compiled
    x = np.random.default_rng(1).standard_normal((5, 4), dtype=np.float32)
    np.savez(tmp_path / "in.npz", x=x)
    result = cli(
        "run", artifact, "--inputs", tmp_path / "in.npz", "--outputs", tmp_path / "out.npz"
    )
    assert result.code == 0, result.err
    assert result.out == ""
    session = onnxruntime.InferenceSession(model)
    (expected,) = session.run(None, {"x": x})
    with np.load(tmp_path / "out.npz") as outputs:
        np.testing.assert_allclose(outputs["y"], expected, rtol=1e-5, atol=1e-6)


def test_verify_tries_several_sizes(cli: Cli, compiled: tuple[Path, Path], tmp_path: Path) -> None:
    model, artifact = compiled
    result = cli("verify", artifact, model, "--json", tmp_path / "v.json")
    assert result.code == 0, result.err
    assert "PASSED y float32[1, 3] at batch=1: max abs" in result.out
    facts = json.loads((tmp_path / "v.json").read_text())
    assert facts["passed"] is True
    assert [s["batch"] for s in facts["shapes"]] == [1, 5, 8]
    assert all(row["passed"] and row["name"] == "y" for row in facts["outputs"])


def test_verify_fails_on_another_model(
    cli: Cli, compiled: tuple[Path, Path], tmp_path: Path
) -> None:
    random = np.random.default_rng(7)
    other = write_model(
        tmp_path / "other.onnx",
        [helper.make_node("MatMul", ["x", "w"], ["y"])],
        {"w": random.standard_normal((4, 3), dtype=np.float32)},
    )
    result = cli("verify", compiled[1], other, "--json", tmp_path / "v.json")
    assert result.code == 1
    assert "FAILED y float32" in result.out
    assert "least that passes: atol=" in result.out
    assert json.loads((tmp_path / "v.json").read_text())["passed"] is False


def test_verify_with_inputs_of_the_user(
    cli: Cli, compiled: tuple[Path, Path], tmp_path: Path
) -> None:
    model, artifact = compiled
    np.savez(tmp_path / "in.npz", x=np.full((2, 4), 3, np.float32))
    result = cli("verify", artifact, model, "--inputs", tmp_path / "in.npz")
    assert result.code == 0, result.err
    assert "at batch=2" in result.out


def test_bench(cli: Cli, compiled: tuple[Path, Path], tmp_path: Path) -> None:
    model, artifact = compiled
    result = cli(
        "bench", artifact, model, "--shape", "x:2x4", "--threads", "1", "--time", "0.1",
        "--rounds", "5", "--json", tmp_path / "b.json",
    )  # fmt: skip
    assert result.code == 0, result.err
    assert "tunesmith" in result.out
    assert "ratio" in result.out
    facts = json.loads((tmp_path / "b.json").read_text())
    assert facts["engines"]["tunesmith"]["median_ms"] > 0
    assert facts["engines"]["onnxruntime"]["n"] >= 10
    low, high = facts["ratio_interval"]
    assert low <= facts["ratio"] * 1.5
    assert facts["ratio"] <= high * 1.5
    assert facts["sizes"] == {"batch": 2}


def test_a_symbol_that_is_not_there(cli: Cli, compiled: tuple[Path, Path]) -> None:
    model, artifact = compiled
    for command in ("verify", "bench"):
        result = cli(command, artifact, model, "--dim", "batsh=3")
        assert result.code == 1
        assert "no symbol `batsh`" in result.err
        assert "did you mean `batch`?" in result.err


def test_bench_alone(cli: Cli, compiled: tuple[Path, Path]) -> None:
    result = cli("bench", compiled[1], "--time", "0.1", "--rounds", "5", "--json", "-")
    assert result.code == 0, result.err
    facts = json.loads(result.out)
    assert list(facts["engines"]) == ["tunesmith"]
    assert facts["ratio"] is None


def test_inspect(cli: Cli, compiled: tuple[Path, Path]) -> None:
    model, artifact = compiled
    result = cli("inspect", model)
    assert result.code == 0, result.err
    assert "input     x f32[batch, 4]" in result.out
    assert "1 MatMul" in result.out
    result = cli("inspect", artifact)
    assert result.code == 0, result.err
    assert "input     x float32[batch, 4]" in result.out
    assert "kernels.so" in result.out


def test_inspect_an_unsupported_model(cli: Cli, tmp_path: Path) -> None:
    source = write_model(
        tmp_path / "odd.onnx", [helper.make_node("Mystery", ["x"], ["y"], domain="my.domain")]
    )
    result = cli("inspect", source, "--json", "-")
    assert result.code == 0, result.err
    facts = json.loads(result.out)
    assert facts["supported"] is False
    assert "Mystery" in facts["problem"]


def test_opt_prints_the_graph(cli: Cli, model: Path) -> None:
    result = cli("opt", model, "-p", "fuse-linear,eliminate-dead-code", "--print-after-change")
    assert result.code == 0, result.err
    assert result.out.startswith("graph @")
    assert "linear(" in result.out
    assert "// after fuse-linear" in result.err


def test_opt_watches_each_pass(cli: Cli, model: Path, tmp_path: Path) -> None:
    for engine in ([], ["interpreter"], ["onnxruntime"]):
        result = cli("opt", model, "--check-each", *engine, "--time", "--stats", "-O2")
        assert result.code == 0, result.err
        assert "fuse-linear" in result.err
    dump = tmp_path / "dump"
    result = cli(
        "opt", model, "-p", "canonicalize,fuse-linear", "--dump-dir", dump, "--stop-after", "1"
    )
    assert result.code == 0, result.err
    assert [p.name for p in dump.iterdir()] == ["00_canonicalize.nir"]
    assert "linear(" not in result.out


def test_opt_emits_onnx(cli: Cli, model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.onnx"
    assert cli("opt", model, "-O2", "--emit", "onnx", "-o", out).code == 0
    x = np.random.default_rng(1).standard_normal((5, 4), dtype=np.float32)
    results = [onnxruntime.InferenceSession(p).run(None, {"x": x})[0] for p in (model, out)]
    np.testing.assert_allclose(results[0], results[1], rtol=1e-5, atol=1e-6)
    assert [p.name for p in tmp_path.iterdir() if p.name.startswith(".tunesmith")] == []


def test_opt_refuses_an_unknown_pass(cli: Cli, model: Path) -> None:
    result = cli("opt", model, "-p", "fuse-lenear")
    assert result.code == 1
    assert "did you mean `fuse-linear`?" in result.err


def test_passes_and_targets(cli: Cli) -> None:
    from tunesmith.backends.targets import TARGETS
    from tunesmith.passes import PASSES

    result = cli("passes")
    assert result.code == 0
    assert all(p.name in result.out for p in PASSES)
    assert {row["name"] for row in json.loads(cli("passes", "--json", "-").out)} == {
        p.name for p in PASSES
    }
    result = cli("targets")
    assert result.code == 0
    assert all(name in result.out for name in TARGETS)


def test_doctor(cli: Cli) -> None:
    result = cli("doctor")
    assert result.code == 0, result.out
    assert "problem" not in result.out
    for name in ("python", "tvm", "cpu", "threads", "linker", "compile"):
        assert f"ok      {name}" in result.out


def test_doctor_finds_a_problem(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunesmith.cli_doctor.shutil.which", lambda name: None)
    monkeypatch.setattr("tunesmith.cli_doctor.importlib.util.find_spec", lambda name: None)
    from tunesmith import cli_doctor

    monkeypatch.setattr(cli_doctor, "CHECKS", (cli_doctor._check_linker,))
    result = cli("doctor")
    assert result.code == 1
    assert "problem linker" in result.out
    assert "hint: install gcc or clang" in result.out


def test_a_closed_pipe_is_no_traceback(compiled: tuple[Path, Path]) -> None:
    root = Path(__file__).parents[2]
    command = f"{sys.executable} -m tunesmith inspect {compiled[0]} | true"
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, cwd=root, env=dict(os.environ)
    )
    assert "Traceback" not in done.stderr
