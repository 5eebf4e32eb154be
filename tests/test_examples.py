"""The scripts in `examples/` run."""

from __future__ import annotations

from pathlib import Path

import pytest

from .cli.conftest import linear
from .test_layout import ROOT, in_checkout, run_python

pytestmark = pytest.mark.tvm


@in_checkout
def test_compile_and_deploy(tmp_path: Path) -> None:
    model = linear(tmp_path / "tiny.onnx")
    done = run_python(str(ROOT / "examples/compile_model.py"), str(model))
    assert done.returncode == 0, done.stderr
    assert "y float32" in done.stdout
    done = run_python(str(ROOT / "examples/deploy.py"), str(tmp_path / "tiny.tsm"), "x=2x4")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("y (2, 3)")


@in_checkout
def test_every_example_is_named_here() -> None:
    names = {path.name for path in (ROOT / "examples").glob("*.py")}
    assert names == {"compile_model.py", "deploy.py"}
