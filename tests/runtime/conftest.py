"""A real library built once by a compiler in another process, and artifacts around it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tunesmith.runtime.artifact import Artifact
from tunesmith.runtime.cpu import architecture
from tunesmith.runtime.manifest import Manifest, SymbolSpec, TargetSpec, TensorSpec

TARGET = TargetSpec(f"{architecture()}-linux-gnu", "host", (), 2)
WEIGHT = (np.arange(12, dtype=np.float32).reshape(4, 3) - 5) / 4


def tiny_manifest(target: TargetSpec = TARGET) -> Manifest:
    """What `tiny.so` is."""
    return Manifest(
        name="tiny",
        inputs=(TensorSpec("x", "float32", ("n", 4)),),
        outputs=(TensorSpec("y", "float32", ("n", 3)),),
        symbols=(SymbolSpec("n", 1, 64),),
        target=target,
        pipeline="canonicalize,fuse",
        report={"speedup": 1.5, "notes": ["a", None, True]},
    )


def expected(x: np.ndarray) -> np.ndarray:
    """What `tiny.so` computes."""
    return np.maximum(x @ WEIGHT, 0)


@pytest.fixture(scope="session")
def libraries(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder with `tiny.so`, `many.so` and `wide.so`."""
    folder = tmp_path_factory.mktemp("libraries")
    script = Path(__file__).with_name("libraries.py")
    subprocess.run([sys.executable, str(script), str(folder)], check=True, timeout=120)
    return folder


@pytest.fixture
def tiny(libraries: Path) -> Artifact:
    """An artifact as the compiler makes it."""
    return Artifact(
        manifest=tiny_manifest(),
        library=libraries / "tiny.so",
        weights={"w": WEIGHT},
        graph="graph @tiny(…)\n",
        notes={"tuning.json": b"{}"},
    )


@pytest.fixture
def tiny_path(tiny: Artifact, tmp_path: Path) -> Path:
    """The same, as a file."""
    return tiny.save(tmp_path / "tiny.tsm")
