"""Inputs, outputs and weights of the element types that NumPy or DLPack make trouble with."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, helper, numpy_helper

from tunesmith.cli_compile import run_command
from tunesmith.driver import compile_model
from tunesmith.ir.diagnostics import InputError
from tunesmith.ir.types import DType
from tunesmith.random_inputs import make_inputs
from tunesmith.runtime import Artifact, load
from tunesmith.runtime.manifest import DTYPES, numpy_type

pytestmark = pytest.mark.tvm
BF16 = ml_dtypes.bfloat16
NEAR = {"float16": 2e-3, "float32": 1e-5, "float64": 1e-13}  # the rest is exact, bfloat16 as well


def _is_stored(name: str) -> bool:
    """Whether elements of a type are only moved and converted: `tests/frontend/test_narrow.py`."""
    return any(d.is_stored and d.numpy == numpy_type(name) for d in DType)


def _scaled(dtype: str) -> ModelProto:
    """`x * w + w` with a weight that is no scalar, so that it lies in the artifact."""
    weight = np.arange(1, 71).astype(numpy_type(dtype))
    element = helper.np_dtype_to_tensor_dtype(weight.dtype)
    nodes = [helper.make_node("Mul", ["x", "w"], ["a"]), helper.make_node("Add", ["a", "w"], ["y"])]
    graph = helper.make_graph(
        nodes, "scaled", [helper.make_tensor_value_info("x", element, ["N", 70])],
        [helper.make_tensor_value_info("y", element, ["N", 70])],
        [numpy_helper.from_array(weight, "w")],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)


def _wanted(x: NDArray[np.generic]) -> NDArray[np.generic]:
    weight = np.arange(1, 71)
    if x.dtype != BF16:
        return x * weight.astype(x.dtype) + weight.astype(x.dtype)
    product = (x.astype(np.float32) * weight.astype(BF16).astype(np.float32)).astype(BF16)
    return (product.astype(np.float32) + weight.astype(BF16).astype(np.float32)).astype(BF16)


@pytest.fixture(scope="module")
def narrow() -> Artifact:
    return compile_model(_scaled("bfloat16"), threads=1)


def _numbers(rows: int) -> NDArray[np.generic]:
    return np.random.default_rng(rows).standard_normal((rows, 70)).astype(BF16)


COMPUTED = [name for name in DTYPES if name != "bool" and not _is_stored(name)]


@pytest.mark.parametrize("dtype", COMPUTED)
def test_every_element_type_goes_in_and_out(dtype: str, tmp_path: Path) -> None:
    artifact = compile_model(_scaled(dtype), threads=1)
    artifact.save(tmp_path / "m.tsm")
    executable = load(tmp_path / "m.tsm", strict=True)
    for rows in (1, 2, 17):
        (x,) = make_inputs(executable.inputs, {"N": rows}).values()
        y = executable.run({"x": x})["y"]
        assert y.dtype == x.dtype == numpy_type(dtype) and y.shape == (rows, 70)
        want = _wanted(x).astype(np.float64)
        near = NEAR.get(dtype, 0.0)
        np.testing.assert_allclose(y.astype(np.float64), want, rtol=near, atol=near)


def test_bfloat16_of_another_layout_and_without_elements(narrow: Artifact) -> None:
    executable = load(narrow)
    x = _numbers(9)
    np.testing.assert_array_equal(executable.run({"x": x[::2]})["y"], _wanted(x[::2]))
    assert executable.empty("x", N=3).dtype == BF16
    frozen = x.copy()
    frozen.flags.writeable = False
    np.testing.assert_array_equal(executable.run({"x": frozen})["y"], _wanted(x))


def test_bfloat16_in_files(narrow: Artifact, tmp_path: Path) -> None:
    """An `.npz` file says of an element only that it has two bytes."""
    x = _numbers(4)
    narrow.save(tmp_path / "m.tsm")
    np.savez(tmp_path / "in.npz", x=x)
    run_command(tmp_path / "m.tsm", tmp_path / "in.npz", tmp_path / "out.npz", 1)
    y = np.load(tmp_path / "out.npz")["y"]
    np.testing.assert_array_equal(y.view(BF16), _wanted(x))


def test_bfloat16_of_torch(narrow: Artifact) -> None:
    torch = pytest.importorskip("torch")
    executable = load(narrow)
    x = torch.randn(5, 70).to(torch.bfloat16)
    wanted = _wanted(x.view(torch.uint16).numpy().view(BF16))
    np.testing.assert_array_equal(executable.run({"x": x})["y"], wanted)
    with pytest.raises(InputError, match="float16, not bfloat16"):
        executable.run({"x": x.to(torch.float16)})


@pytest.mark.parametrize("dtype", [np.float32, np.uint16, np.float16])
def test_what_is_no_bfloat16_is_refused(narrow: Artifact, dtype: type) -> None:
    with pytest.raises(InputError, match="not `bfloat16`"):
        load(narrow).run({"x": np.zeros((1, 70), dtype)})
