"""How the command line is spelled: help, misspellings, values that are none, exit 2."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import typer

from tunesmith.cli_values import parse_dims, parse_shapes

from .conftest import Cli

COMMANDS = (
    "compile", "run", "verify", "bench", "profile", "inspect", "opt", "bisect", "reduce", "passes",
    "targets", "demo", "doctor",
)  # fmt: skip


def test_help_names_every_command(cli: Cli) -> None:
    result = cli("--help")
    assert result.code == 0
    assert all(command in result.out for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(cli: Cli, command: str) -> None:
    result = cli(command, "--help")
    assert result.code == 0
    assert f"tunesmith {command}" in result.out


def test_version(cli: Cli) -> None:
    result = cli("--version")
    assert result.code == 0
    assert result.out.startswith("tunesmith ")
    assert "apache-tvm 0.27.0.post1" in result.out


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["compile", "m.onnx", "--targt", "host"], "`--target`?"),
        (["compil", "m.onnx"], "did you mean `compile`?"),
        (["compile"], "missing argument `MODEL`"),
        (["compile", "m.onnx", "-O7"], "`-O`"),
        (["compile", "m.onnx", "-Ofast"], "`-O`"),
        (["compile", "m.onnx", "--threads", "0"], "`--threads`"),
        (["compile", "m.onnx", "--shape", "ids"], "`ids` is not a shape"),
        (["compile", "m.onnx", "--shape", "ids:1x-3"], "a shape is written"),
        (["compile", "m.onnx", "--shape", "ids:1x0"], "a shape is written"),
        (["compile", "m.onnx", "--dim", "batch"], "`batch` is not a dim"),
        (["compile", "m.onnx", "--dim", "batch=8..1"], "`batch=8..1` holds no size"),
        (["compile", "m.onnx", "--dim", "batch=1", "--dim", "batch=2"], "given twice"),
        (["run", "m.tsm", "--inputs", "x.npz"], "missing option `--outputs`"),
        (["bench", "m.tsm", "--dim", "batch=1..8"], "write `--dim batch=1`"),
        (["tune", "m.onnx", "--at", "batch=1..8"], "write `--at batch=1`"),
        (["tune", "m.onnx", "--rpc", "127.0.0.1:9190"], "`--rpc` and `--key` go together"),
        (["compile", "m.onnx", "--on", "ray"], "`--on` and `--device-resource` go together"),
        (
            [
                "tune",
                "m.onnx",
                "--on",
                "ray",
                "--device-resource",
                "a",
                "--rpc",
                "b:1",
                "--key",
                "c",
            ],
            "two places",
        ),
        (["board", "serve", "--tracker", "127.0.0.1:9190", "--key", "a b"], "`a b` is no key"),
        (["opt", "m.onnx", "--emit", "html"], "`--emit`"),
        (["opt", "m.onnx", "--check-each", "--emit", "html"], "`--emit`"),
    ],
)
def test_usage_errors(cli: Cli, arguments: list[str], expected: str) -> None:
    result = cli(*arguments)
    assert result.code == 2
    assert result.out == ""
    assert result.err.startswith("error: ")
    assert "hint: " in result.err
    assert expected in result.err


def test_levels_are_spelled_both_ways(cli: Cli, tmp_path: Path) -> None:
    for level in (["-O3"], ["-O", "3"]):
        result = cli("compile", tmp_path / "missing.onnx", *level)
        assert result.code == 1
        assert "there is no such file" in result.err


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("ids:1x128", {"ids": (1, 128)}),
        ("ids:[1, 128]", {"ids": (1, 128)}),
        ("model/ids:0:7", {"model/ids:0": (7,)}),
        ("x:[]", {"x": ()}),
    ],
)
def test_shapes(text: str, shape: dict[str, tuple[int, ...]]) -> None:
    assert parse_shapes([text]) == shape


@pytest.mark.parametrize(
    "text", ["", ":1", "x:", "x:1xx", "x:1x", "x:²", "x:99999999999", "x:[1,]"]
)
def test_bad_shapes(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        parse_shapes([text])


@pytest.mark.parametrize(
    "text", ["", "=1", "b=", "b=0", "b=-1", "b=1...8", "b=1..8..9", "1=2", "b=x"]
)
def test_bad_dims(text: str) -> None:
    with pytest.raises(typer.BadParameter):
        parse_dims([text])


def test_a_process_has_the_same_exit_status() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tunesmith", "compile", "m.onnx", "--targt"],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert "did you mean" in done.stderr
