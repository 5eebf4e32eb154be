"""What is wrong with a file is said in one error, and nothing is left behind."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper

from tunesmith.ir.diagnostics import CompilerError

from .conftest import Cli, Result, linear, write_model


def check_refused(result: Result, *expected: str) -> None:
    """Exit 1, one error on stderr, nothing on stdout."""
    assert result.code == 1, result.err
    assert result.out == ""
    assert "error: " in result.err
    assert "Traceback" not in result.err
    for text in expected:
        assert text in result.err


def leftovers(folder: Path) -> list[str]:
    """What a failed compile left beside its input."""
    return sorted(p.name for p in folder.iterdir() if p.suffix in (".tsm", ".tmp"))


def compile_refused(cli: Cli, source: Path, *expected: str) -> None:
    """A compile that fails for the user's reason, and leaves nothing."""
    result = cli("compile", source, "-o", source.parent / "out.tsm")
    assert result.code == 1, result.err
    assert "Traceback" not in result.err
    assert "error: " in result.err
    for text in expected:
        assert text in result.err
    assert leftovers(source.parent) == []


def test_a_file_that_is_refused_is_not_read_to_the_end(
    cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its hash is for the manifest; the interpreter would wait for it before it ends."""
    hashed: list[object] = []
    monkeypatch.setattr("tunesmith.driver._source_hash", hashed.append)
    huge = tmp_path / "huge.onnx"
    with huge.open("wb") as file:
        file.truncate(8 << 30)  # no byte of it is on the disk
    compile_refused(cli, huge, "huge.onnx", "8589934592 bytes")
    assert hashed == []


def test_a_missing_file(cli: Cli, model: Path) -> None:
    check_refused(
        cli("compile", model.with_name("tny.onnx")), "there is no such file", "`tiny.onnx`"
    )


def test_a_folder(cli: Cli, tmp_path: Path) -> None:
    check_refused(cli("compile", tmp_path), "this is a folder")


@pytest.mark.parametrize("keep", [1, 20, 100])
def test_a_truncated_file(cli: Cli, model: Path, keep: int) -> None:
    model.write_bytes(model.read_bytes()[:keep])
    compile_refused(cli, model)


@pytest.mark.parametrize("content", [b"", b"# not a model\n" * 50, b"PK\x03\x04" + bytes(100)])
def test_a_file_that_is_no_model(cli: Cli, tmp_path: Path, content: bytes) -> None:
    source = tmp_path / "odd.onnx"
    source.write_bytes(content)
    compile_refused(cli, source)


def test_an_unsupported_operator(cli: Cli, tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Mystery", ["x"], ["h"], "first", domain="my.domain"),
        helper.make_node("Mystery", ["h"], ["y"], "second", domain="my.domain"),
    ]
    compile_refused(cli, write_model(tmp_path / "odd.onnx", nodes), "Mystery", "my.domain", "first")


def test_a_cycle(cli: Cli, tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Add", ["x", "b"], ["a"], "first"),
        helper.make_node("Relu", ["a"], ["b"], "second"),
        helper.make_node("Relu", ["b"], ["y"], "third"),
    ]
    compile_refused(cli, write_model(tmp_path / "cycle.onnx", nodes))


def test_two_values_of_one_name(cli: Cli, tmp_path: Path) -> None:
    nodes = [helper.make_node("Relu", ["x"], ["y"]), helper.make_node("Neg", ["x"], ["y"])]
    compile_refused(cli, write_model(tmp_path / "twice.onnx", nodes), "y")


def test_a_value_that_is_not_there(cli: Cli, tmp_path: Path) -> None:
    nodes = [helper.make_node("Add", ["x", "ghost"], ["y"], "sum")]
    compile_refused(cli, write_model(tmp_path / "ghost.onnx", nodes), "ghost")


def test_a_negative_size(cli: Cli, model: Path) -> None:
    loaded = onnx.load(model)
    loaded.graph.initializer[0].dims[0] = -4
    onnx.save_model(loaded, model)
    compile_refused(cli, model, "w")


@pytest.mark.parametrize("location", ["gone.bin", "../outside.bin", "/etc/hostname", "link.bin"])
def test_external_data_that_must_not_be_read(cli: Cli, tmp_path: Path, location: str) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (tmp_path / "outside.bin").write_bytes(bytes(1024))
    (folder / "link.bin").symlink_to(tmp_path / "outside.bin")
    source = linear(folder / "external.onnx")
    loaded = onnx.load(source)
    tensor = loaded.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value=location)
    source.write_bytes(loaded.SerializeToString())
    compile_refused(cli, source, Path(location).name)


def test_an_unknown_input_shape_and_dim(cli: Cli, model: Path) -> None:
    result = cli("compile", model, "--shape", "xx:1x4", "-o", model.with_suffix(".tsm"))
    assert result.code == 1
    assert "no input `xx`" in result.err
    result = cli("compile", model, "--dim", "batsh=1..4", "-o", model.with_suffix(".tsm"))
    assert result.code == 1
    assert "batsh" in result.err
    assert leftovers(model.parent) == []


def test_an_unknown_target(cli: Cli, model: Path) -> None:
    result = cli("compile", model, "--target", "quantum", "-o", model.with_suffix(".tsm"))
    assert result.code == 1
    assert "quantum" in result.err
    assert "hint: " in result.err


def test_outputs_that_cannot_be_written(cli: Cli, model: Path) -> None:
    check_refused(cli("compile", model, "-o", model.parent / "no" / "x.tsm"), "there is no folder")
    check_refused(cli("compile", model, "-o", model.parent), "this is a folder")
    check_refused(cli("compile", model, "-o", model), "this is the input file")


def test_a_damaged_artifact(cli: Cli, compiled: tuple[Path, Path], tmp_path: Path) -> None:
    content = bytearray(compiled[1].read_bytes())
    inputs = tmp_path / "in.npz"
    np.savez(inputs, x=np.ones((2, 4), np.float32))
    for name, damage in (
        ("short", content[: len(content) // 2]),
        ("flipped", bytes(b ^ (i == len(content) // 3) for i, b in enumerate(content))),
        ("text", b"hello"),
    ):
        path = tmp_path / f"{name}.tsm"
        path.write_bytes(bytes(damage))
        result = cli("run", path, "--inputs", inputs, "--outputs", tmp_path / "out.npz")
        check_refused(result, str(path))
        assert not (tmp_path / "out.npz").exists()
        check_refused(cli("inspect", path), str(path))


@pytest.mark.parametrize(
    ("arrays", "expected"),
    [
        ({"z": np.ones((2, 4), np.float32)}, "no input `z`"),
        ({}, "input `x` is missing"),
        ({"x": np.ones((2, 4), np.float64)}, "float64"),
        ({"x": np.ones((2, 5), np.float32)}, "axis 1 is 5, not 4"),
        ({"x": np.ones((9, 4), np.float32)}, "`batch` 9"),
        ({"x": np.ones(4, np.float32)}, "rank 1"),
    ],
)
def test_inputs_that_do_not_fit(
    cli: Cli,
    compiled: tuple[Path, Path],
    tmp_path: Path,
    arrays: dict[str, np.ndarray],
    expected: str,
) -> None:
    np.savez(tmp_path / "in.npz", **arrays)  # type: ignore[arg-type]  # a name could be a flag
    out = tmp_path / "out.npz"
    check_refused(
        cli("run", compiled[1], "--inputs", tmp_path / "in.npz", "--outputs", out), expected
    )
    assert not out.exists()


def test_inputs_that_are_no_npz(cli: Cli, compiled: tuple[Path, Path], tmp_path: Path) -> None:
    np.save(tmp_path / "one.npy", np.ones(3))
    (tmp_path / "text.npz").write_text("hello")
    np.savez(tmp_path / "pickle.npz", x=np.array([{}], object))
    for name, text in (
        ("one.npy", "one array"),
        ("text.npz", "not an `.npz` file"),
        ("pickle.npz", "not an `.npz` file"),
        ("missing.npz", "there is no such file"),
    ):
        out = tmp_path / "out.npz"
        check_refused(
            cli("run", compiled[1], "--inputs", tmp_path / name, "--outputs", out), text, "hint: "
        )


def test_a_bug_leaves_a_reproducer(
    cli: Cli, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(path: Path) -> Path:
        raise RuntimeError("the flux is\nout of phase")

    monkeypatch.setattr("tunesmith.cli_inspect.require_file", broken)
    result = cli("inspect", model)
    assert result.code == 70
    assert "error: this is a bug of ours: RuntimeError: the flux is\n" in result.err
    (file,) = (tmp_path / "crash").iterdir()
    assert str(file) in result.err
    text = file.read_text()
    assert f"# tunesmith inspect {model}" in text
    assert "# apache-tvm 0.27.0.post1" in text
    assert "def broken" not in text
    assert "Traceback" in text


def test_an_error_prints_its_notes(cli: Cli, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: Path) -> Path:
        error = CompilerError("it is odd", where="here", hint="make it even")
        error.add_note("in pass 3 of 9")
        raise error

    monkeypatch.setattr("tunesmith.cli_inspect.require_file", refused)
    result = cli("inspect", model)
    assert result.code == 1
    assert result.err == "error: here: it is odd\n  in pass 3 of 9\nhint: make it even\n"


def test_an_interrupt_is_130(cli: Cli, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(path: Path) -> Path:
        raise KeyboardInterrupt

    monkeypatch.setattr("tunesmith.cli_inspect.require_file", interrupted)
    assert cli("inspect", model).code == 130
