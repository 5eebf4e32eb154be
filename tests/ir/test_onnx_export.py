"""The interpreter and ONNX Runtime agree on every operator, exported."""

from __future__ import annotations

from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

from tunesmith.ir.constants import Constant
from tunesmith.ir.diagnostics import Location
from tunesmith.ir.graph import Graph
from tunesmith.ir.interpreter import evaluate
from tunesmith.ir.onnx_export import export_onnx, save_onnx
from tunesmith.ir.onnx_export_rules import ONNX_RULES
from tunesmith.ir.ops import OPS
from tunesmith.ir.text import parse_graph
from tunesmith.ir.types import DType

from .cases import Case, each, feeds_of

Array = NDArray[np.generic]
ROUNDING = {"f64": 1e-12, "f32": 2e-6, "f16": 2e-3, "bf16": 1.6e-2}


def run_onnx(model: bytes | str, feeds: dict[str, Array]) -> list[Array]:
    """Run a model; bf16 crosses the border as its bits."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, ["CPUExecutionProvider"])
    given = {}
    for name, array in feeds.items():
        if array.dtype == ml_dtypes.bfloat16:
            bits = onnx.TensorProto.BFLOAT16
            given[name] = onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(array, bits)
        else:
            given[name] = onnxruntime.OrtValue.ortvalue_from_numpy(array)
    return [value.numpy() for value in session.run_with_ort_values(None, given)]


def widen_bfloat16(model: onnx.ModelProto) -> None:
    """Give bf16 outputs as f32: ONNX Runtime has no arrays of bf16 for Python."""
    for output in model.graph.output:
        tensor = output.type.tensor_type
        if tensor.elem_type == onnx.TensorProto.BFLOAT16:
            cast = onnx.helper.make_node("Cast", [output.name], [f"{output.name}.f32"], to=1)
            model.graph.node.append(cast)
            output.name, tensor.elem_type = cast.output[0], 1


def assert_agree(graph: Graph, feeds: dict[str, Array], dtype: str = "f32") -> None:
    """Compare the two, bit by bit but for the rounding of floats."""
    model = export_onnx(graph)
    onnx.checker.check_model(model)
    widen_bfloat16(model)
    ours, theirs = evaluate(graph, feeds), run_onnx(model.SerializeToString(), feeds)
    for value, mine, other in zip(graph.outputs, ours, theirs, strict=True):
        assert mine.shape == other.shape
        assert mine.dtype == other.dtype or value.type.dtype is DType.bf16
        if value.type.dtype.is_float:
            kinds = (dtype, value.type.dtype.value)
            rounding = max(ROUNDING.get(kind, 0.0) for kind in kinds)
            np.testing.assert_allclose(
                np.asarray(mine, np.float64), np.asarray(other, np.float64), rounding, rounding
            )
        else:
            np.testing.assert_array_equal(mine, other)


@pytest.mark.parametrize(
    ("case", "dtype", "static"),
    [pytest.param(*row, id=f"{row[0]}-{row[1]}-{row[2]}") for row in each()],
)
def test_agrees(case: Case, dtype: str, static: bool) -> None:
    graph = case.graph(dtype, static)
    assert_agree(graph, feeds_of(graph, case), dtype)


def test_every_operator_has_a_case_and_a_rule() -> None:
    assert {row[0].op for row in each()} == OPS.keys() - {"return"}
    primitives = {name for name, op in OPS.items() if not op.is_composite}
    assert ONNX_RULES.keys() == primitives - {"return", "constant"}


BLOCK = """graph @block(%x: f32[B<=8, S<=512, 8], %w: f32[8], %tokens: i64[B, S]) {
  %table = constant() {value = f32[2, 8] [0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 4.0, -0.5, -1.0, -1.5, -2.0, -2.5, -3.0, -3.5, -4.0]}
  %e = gather(%table, %tokens)
  %h = add(%x, %e)
  %n = rms_norm(%h, %w)
  %n2 = rms_norm(%n, %w)
  %n3 = rms_norm(%n2, %w) {epsilon = 0.1}
  %r = reshape(%n3) {shape = [B, S, 2, 4]}
  %q = transpose(%r) {perm = [0, 2, 1, 3]}
  %a = attention(%q, %q, %q) {causal = true, scale = 0.5}
  return %a as "attended", %w as "weight", %n as "first", %n as "second", %table
}"""  # noqa: E501  # one node a line


def block_feeds() -> dict[str, Array]:
    rng = np.random.default_rng(0)
    return {
        "x": rng.normal(size=(2, 5, 8)).astype(np.float32),
        "w": rng.normal(size=8).astype(np.float32),
        "tokens": rng.integers(0, 2, (2, 5)),
    }


def test_composites_become_functions_one_for_each_meaning() -> None:
    graph = parse_graph(BLOCK)
    assert_agree(graph, block_feeds())
    model = export_onnx(graph)
    names = {function.name for function in model.functions}
    assert {"rms_norm", "rms_norm_1", "attention", "softmax"} == names
    calls = [node.op_type for node in model.graph.node if node.domain == "tunesmith"]
    assert calls == ["rms_norm", "rms_norm", "rms_norm_1", "attention"]
    sizes = model.graph.input[0].type.tensor_type.shape.dim
    assert [size.dim_param or size.dim_value for size in sizes] == ["B", "S", 8]
    assert [output.name for output in model.graph.output] == graph.output_names


@pytest.mark.parametrize("external_above", [0, 2**30])
def test_save_with_external_weights(tmp_path: Path, external_above: int) -> None:
    weight = Constant(np.random.default_rng(0).normal(size=(64, 32)).astype(np.float32))
    constant = f"%w = constant() {{value = f32[64, 32] #{weight.digest}}}"
    text = f"graph @g(%x: f32[S, 64]) {{ {constant} %y = matmul(%x, %w) return %y }}"
    graph = parse_graph(text, weights={weight.digest: weight.array})
    path = tmp_path / "m.onnx"
    save_onnx(graph, path, external_above)
    assert (tmp_path / "m.onnx.data").exists() == (external_above == 0)
    x = np.random.default_rng(1).normal(size=(3, 64)).astype(np.float32)
    (y,) = run_onnx(str(path), {"x": x})
    expected = np.asarray(evaluate(graph, {"x": x})[0], np.float32)
    np.testing.assert_allclose(np.asarray(y, np.float32), expected, 1e-5, 1e-5)


def test_node_names_are_those_of_the_source() -> None:
    graph = parse_graph(BLOCK)
    node = next(n for n in graph.nodes if n.op.name == "add")
    node.location = Location("/model/add", "Add")
    assert "/model/add" in [n.name for n in export_onnx(graph).graph.node]
