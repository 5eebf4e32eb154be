"""Tiny models, and the command line as a function."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from tunesmith.cli import execute


@dataclass(frozen=True)
class Result:
    """How a command ended."""

    code: int
    out: str
    err: str


Cli = Callable[..., Result]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Cli:
    """Run the command line in this process; a crash leaves its reproducer in `tmp_path/crash`."""
    (tmp_path / "crash").mkdir()
    monkeypatch.setenv("TUNESMITH_CRASH_DIR", str(tmp_path / "crash"))
    monkeypatch.setenv("NO_COLOR", "1")

    def run(*arguments: str | Path) -> Result:
        capsys.readouterr()
        code = execute([str(a) for a in arguments])
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return run


def write_model(
    path: Path, nodes: Sequence[onnx.NodeProto], weights: dict[str, np.ndarray] | None = None
) -> Path:
    """A model from `x: f32[batch, 4]` to `y: f32[batch, 3]`."""
    graph = helper.make_graph(
        list(nodes),
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(array, name) for name, array in (weights or {}).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.save_model(model, path)
    return path


def linear(path: Path) -> Path:
    """`relu(x @ w + b)`."""
    random = np.random.default_rng(0)
    return write_model(
        path,
        [
            helper.make_node("MatMul", ["x", "w"], ["h"], "product"),
            helper.make_node("Add", ["h", "b"], ["s"], "sum"),
            helper.make_node("Relu", ["s"], ["y"], "cut"),
        ],
        {
            "w": random.standard_normal((4, 3), dtype=np.float32),
            "b": random.standard_normal(3, dtype=np.float32),
        },
    )


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A tiny model with a dynamic batch."""
    return linear(tmp_path / "tiny.onnx")


@pytest.fixture(scope="session")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The tiny model, and its artifact for a batch of 1 to 8."""
    folder = tmp_path_factory.mktemp("compiled")
    source, artifact = linear(folder / "tiny.onnx"), folder / "tiny.tsm"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNESMITH_CRASH_DIR", str(folder))
        code = execute(["compile", str(source), "-o", str(artifact), "--dim", "batch=1..8"])
    assert code == 0
    return source, artifact
