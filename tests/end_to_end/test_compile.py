"""From ONNX to a file to results, in one process and in a fresh one."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import tunesmith
from tunesmith.driver import compile_model
from tunesmith.ir.diagnostics import BackendError, FrontendError, InputError
from tunesmith.oracle import OnnxSession
from tunesmith.runtime import Artifact, load

from .models import WORDS, block, feeds

pytestmark = pytest.mark.tvm
DIMS = {"batch": (1, 4), "sequence": (1, 40)}


def _agree(ours: Any, theirs: Any) -> None:
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)


@pytest.fixture(scope="module")
def dynamic() -> Artifact:
    return compile_model(block(), dims=DIMS, threads=1, verify=True)


@pytest.mark.parametrize(("batch", "length"), [(1, 1), (1, 2), (2, 17), (3, 16), (4, 40)])
def test_one_artifact_serves_every_shape_in_its_bounds(
    dynamic: Artifact, batch: int, length: int
) -> None:
    inputs = feeds(batch, length, seed=length)
    (theirs,) = OnnxSession(block(), threads=1).run(inputs).values()
    (ours,) = load(dynamic, threads=1).run(inputs).values()
    _agree(ours, theirs)


def test_everything_fuses(dynamic: Artifact) -> None:
    report = dynamic.manifest.report
    assert report["fused"] == {"attention": 1, "gelu": 1, "linear": 6}
    table = report["kernel_table"]
    assert isinstance(table, list)
    kinds = Counter(row["kind"] for row in table if isinstance(row, dict))
    # queries, keys and values are one
    assert kinds == {"gemm": 4, "attention": 1, "rows": 2, "elementwise": 2}, table


def test_the_manifest_says_how_close_it_is(dynamic: Artifact) -> None:
    tolerance = dynamic.manifest.tolerance
    assert tolerance is not None and tolerance["passed"] is True
    rows = tolerance["outputs"]
    assert isinstance(rows, list) and len(rows) >= 3


@pytest.mark.parametrize("preset", ["O0", "O1", "O2", "O3"])
def test_every_level_gives_the_same_results(preset: str) -> None:
    inputs = feeds(2, 9)
    (theirs,) = OnnxSession(block(), threads=1).run(inputs).values()
    artifact = compile_model(block(), preset=preset, dims=DIMS, threads=1)
    (ours,) = load(artifact, threads=1).run(inputs).values()
    _agree(ours, theirs)


def test_static_shapes_are_a_smaller_contract() -> None:
    artifact = compile_model(block(), shapes={"ids": (2, 9), "mask": (2, 9)}, threads=1)
    assert not artifact.manifest.symbols
    executable = load(artifact, threads=1)
    (theirs,) = OnnxSession(block(), threads=1).run(feeds(2, 9)).values()
    (ours,) = executable.run(feeds(2, 9)).values()
    _agree(ours, theirs)
    with pytest.raises(InputError, match="axis 1 is 8, not 9"):
        executable.run(feeds(2, 8))


def test_an_id_outside_of_its_table_is_refused(dynamic: Artifact) -> None:
    inputs = feeds(1, 4)
    inputs["ids"][0, 2] = WORDS
    with pytest.raises(InputError, match=f"holds {WORDS}, and the table it picks rows of has"):
        load(dynamic, threads=1).run(inputs)


def test_a_size_outside_of_its_bounds_is_refused(dynamic: Artifact) -> None:
    with pytest.raises(InputError, match="sequence"):
        load(dynamic, threads=1).run(feeds(1, 41))


def test_saved_then_run_where_no_compiler_is_loaded(dynamic: Artifact, tmp_path: Path) -> None:
    dynamic.save(tmp_path / "block.tsm")
    np.savez(tmp_path / "in.npz", **feeds(2, 7))
    code = (
        "import sys, numpy as np; from tunesmith.runtime import load;"
        "x = dict(np.load(sys.argv[2])); y = load(sys.argv[1], threads=1).run(x);"
        "np.savez(sys.argv[3], **y);"
        "bad = {'tvm', 'onnx', 'torch', 'networkx', 'onnxruntime'} & set(sys.modules);"
        "maps = open('/proc/self/maps').read();"
        "sys.exit(f'loaded: {bad}' if bad or 'libtvm_compiler' in maps else 0)"
    )
    names = [tmp_path / n for n in ("block.tsm", "in.npz", "out.npz")]
    subprocess.run([sys.executable, "-c", code, *map(str, names)], check=True, timeout=120)
    (theirs,) = OnnxSession(block(), threads=1).run(feeds(2, 7)).values()
    _agree(np.load(names[2])["hidden"], theirs)


def test_a_wrong_kernel_is_not_let_through(monkeypatch: pytest.MonkeyPatch) -> None:
    from tunesmith.backends.tvm.kernels import products

    monkeypatch.setitem(products._ACTIVATIONS, "gelu", lambda x: x)
    monkeypatch.setenv("TUNESMITH_CACHE", "off")
    with pytest.raises(BackendError, match="differs from onnxruntime"):
        compile_model(block(), dims=DIMS, threads=1, verify=True)


def test_the_front_door_is_the_driver() -> None:
    assert tunesmith.compile_model is compile_model
    assert tunesmith.load is load


def test_a_model_from_a_file_has_its_hash(tmp_path: Path) -> None:
    onnx.save(block(), tmp_path / "m.onnx")
    artifact = compile_model(tmp_path / "m.onnx", dims=DIMS, threads=1)
    assert len(artifact.manifest.source_sha256) == 64
    assert artifact.manifest.name == "m"


@pytest.mark.parametrize(("what", "types"), [("input", (4, 1)), ("output", (1, 4))])
def test_elements_that_no_executable_takes_are_refused_at_once(
    what: str, types: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They were compiled for minutes, and then could be neither loaded nor saved."""
    monkeypatch.setattr("tunesmith.driver.DTYPES", {"float32": 4})
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("Cast", ["x"], ["y"], to=types[1])], "odd",
        [onnx.helper.make_tensor_value_info("x", types[0], [3])],
        [onnx.helper.make_tensor_value_info("y", types[1], [3])],
    )  # fmt: skip
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)])
    with pytest.raises(FrontendError, match=rf"{what} `[xy]`.*an {what} of u16 is not supported"):
        compile_model(model)
