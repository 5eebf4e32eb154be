"""Elements that are only stored: every code, and the ends of every range, beside `ml_dtypes`."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from tunesmith.driver import compile_model
from tunesmith.frontend import import_model
from tunesmith.ir.diagnostics import FrontendError
from tunesmith.ir.graph import Graph
from tunesmith.ir.interpreter import evaluate
from tunesmith.ir.text import parse_graph, print_graph
from tunesmith.runtime import load

from .models import Array, node
from .models import model as open_model

FLOATS = ("FLOAT8E4M3FN", "FLOAT8E4M3FNUZ", "FLOAT8E5M2", "FLOAT8E5M2FNUZ", "FLOAT4E2M1")
INTEGERS = ("INT4", "UINT4", "INT2", "UINT2")


def model(*parts: Any, **options: Any) -> ModelProto:
    """A model whose outputs are vectors."""
    proto = open_model(*parts, **options)
    for value in proto.graph.output:
        element = value.type.tensor_type.elem_type
        value.CopyFrom(helper.make_tensor_value_info(value.name, element, [None]))
    return proto


def numbers() -> Array:
    """Every f16, finer ones about each tie, and what lies beyond."""
    halves = np.arange(1 << 16).astype(np.uint16).view(np.float16).astype(np.float32)
    some = halves[np.isfinite(halves)][::7]
    near = np.concatenate([np.nextafter(some, np.float32(x)) for x in (np.inf, -np.inf)])
    ends = np.array(
        [np.nan, -np.nan, np.inf, -np.inf, 1e30, -1e30, 1e-30, -1e-30, 0.0, -0.0], np.float32
    )
    return np.concatenate([halves, near, ends])


def cast(source: str, target: str, size: int, **attributes: object) -> Graph:
    """A model of one cast, imported."""
    from_, to = (getattr(TensorProto, name) for name in (source, target))
    nodes = [node("Cast", ["x"], ["y"], to=to, **attributes)]
    return import_model(model(nodes, {"x": (from_, [size])}, {"y": to}, opset=25))


def run(graph: Graph, x: Array, compiled: bool) -> Array:
    """By the interpreter, or by the backend."""
    if not compiled:
        return evaluate(graph, {"x": x})[0]
    return load(compile_model(graph, threads=1)).run({"x": x})["y"]


def same(found: Array, wanted: Array) -> None:
    """The same bits, but for those of NaN."""
    assert found.dtype == wanted.dtype
    left, right = found.astype(np.float32), wanted.astype(np.float32)
    np.testing.assert_array_equal(left, right)
    kept = ~np.isnan(left)
    np.testing.assert_array_equal(np.signbit(left[kept]), np.signbit(right[kept]))


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.tvm)])
@pytest.mark.parametrize("saturate", [0, 1])
@pytest.mark.parametrize("name", FLOATS)
def test_rounding_to_few_bits(name: str, saturate: int, compiled: bool) -> None:
    x = numbers()
    dtype = helper.tensor_dtype_to_np_dtype(getattr(TensorProto, name))
    graph = cast("FLOAT", name, x.size, saturate=saturate)
    most = np.float32(ml_dtypes.finfo(dtype).max)  # type: ignore[no-untyped-call]
    bound = x if not saturate else np.clip(x, -most, most)
    with np.errstate(all="ignore"):
        same(run(graph, x, compiled), bound.astype(dtype))


@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=pytest.mark.tvm)])
@pytest.mark.parametrize("name", [*FLOATS, "FLOAT8E8M0", *INTEGERS])
def test_every_code_is_read(name: str, compiled: bool) -> None:
    dtype = helper.tensor_dtype_to_np_dtype(getattr(TensorProto, name))
    bits = 4 if "4" in name and "8" not in name else 2 if "INT2" in name else 8
    x = np.arange(1 << bits).astype(np.uint8).view(dtype)
    same(run(cast(name, "FLOAT", x.size), x, compiled), x.astype(np.float32))


@pytest.mark.parametrize("name", INTEGERS)
@pytest.mark.parametrize("source", ["FLOAT", "INT32", "INT64", "UINT8"])
def test_integers_of_few_bits_wrap(name: str, source: str) -> None:
    narrow = helper.tensor_dtype_to_np_dtype(getattr(TensorProto, name))
    x = np.arange(0 if source == "UINT8" else -40, 41)
    wanted = x.astype(np.uint8).astype(narrow)
    x = x.astype(helper.tensor_dtype_to_np_dtype(getattr(TensorProto, source)))
    found = run(cast(source, name, x.size), x, False)
    np.testing.assert_array_equal(found.astype(np.int8), wanted.astype(np.int8))


@pytest.mark.parametrize("name", [*FLOATS, *INTEGERS])
@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 5, 17])
def test_weights_are_unpacked(name: str, size: int) -> None:
    dtype = helper.tensor_dtype_to_np_dtype(getattr(TensorProto, name))
    weight = np.random.default_rng(size).integers(0, 3, size).astype(np.float32).astype(dtype)
    proto = model(
        [node("Cast", ["w"], ["f"], to=1), node("Add", ["x", "f"], ["y"])],
        {"x": (1, [size])}, ["y"], {"w": np.zeros(0, np.float32)}, opset=25,
    )  # fmt: skip
    proto.graph.initializer[0].CopyFrom(numpy_helper.from_array(weight, "w"))
    x = np.ones(size, np.float32)
    np.testing.assert_array_equal(run(import_model(proto), x, False), x + weight.astype(np.float32))


@pytest.mark.parametrize("name", ["INT4", "UINT4"])
def test_quantized_numbers_stay_within_four_bits(name: str) -> None:
    """A zero point that is a weight says the type of the result."""
    element = getattr(TensorProto, name)
    zero = np.asarray(1, helper.tensor_dtype_to_np_dtype(element))
    proto = model(
        [node("QuantizeLinear", ["x", "s", "z"], ["q"]),
         node("DequantizeLinear", ["q", "s", "z"], ["y"])],
        {"x": (1, [5])}, ["y"], {"s": np.float32(0.5), "z": np.zeros(())}, opset=21,
    )  # fmt: skip
    proto.graph.initializer[1].CopyFrom(numpy_helper.from_array(zero, "z"))
    x = np.array([-100, -1, 0.25, 1, 100], np.float32)
    low, high = (-8, 7) if name == "INT4" else (0, 15)
    wanted = (np.clip(np.rint(x / 0.5) + 1, low, high) - 1) * 0.5
    np.testing.assert_array_equal(run(import_model(proto), x, False), wanted)


def test_text_holds_their_bits() -> None:
    text = """graph @g() {
  %y = constant() {value = f8e4m3fn[3] [0x7f, 0x80, 0x38]}
  return %y
}
"""
    graph = parse_graph(text)
    assert "[0x7f, 0x80, 0x38]" in print_graph(graph)
    assert print_graph(parse_graph(print_graph(graph))) == print_graph(graph)
    assert evaluate(graph, {})[0].astype(np.float32)[2] == 1.0


@pytest.mark.parametrize(
    "body", ["add(%x, %x)", "reduce_sum(%x) {axes = [0]}", "cast(%x) {dtype = f32}"]
)
def test_nothing_computes_with_them(body: str) -> None:
    with pytest.raises(Exception, match="only stored"):
        parse_graph(f"graph @g(%x: u4[3]) {{ %y = {body} return %y }}")


def test_an_odd_rounding_is_refused() -> None:
    with pytest.raises(FrontendError, match="round_mode"):
        cast("FLOAT", "FLOAT8E8M0", 3, round_mode="sideways")


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32, np.int64])
@pytest.mark.parametrize("direction", ["LEFT", "RIGHT"])
def test_signed_shifts(dtype: type[np.signedinteger[Any]], direction: str) -> None:
    limits, bits = np.iinfo(dtype), 8 * np.dtype(dtype).itemsize
    some = np.asarray([limits.min, limits.min + 1, -2, -1, 0, 1, 5, limits.max], dtype)
    far = np.asarray([0, 1, 2, bits - 2, bits - 1, bits, bits + 1, -1, -bits], dtype)
    x, y = np.repeat(some, far.size), np.tile(far, some.size)
    element = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    proto = model(
        [node("BitShift", ["x", "d"], ["y"], direction=direction)], {"x": (element, [x.size])},
        {"y": element}, {"d": y}, opset=28,
    )  # fmt: skip
    inside = (y >= 0) & (y < bits)
    safe = np.where(inside, y, 0)
    past = np.where(x < 0, -1, 0) if direction == "RIGHT" else np.zeros_like(x)
    moved = x >> safe if direction == "RIGHT" else x << safe
    np.testing.assert_array_equal(
        run(import_model(proto), x, False), np.where(inside, moved, past).astype(dtype)
    )
