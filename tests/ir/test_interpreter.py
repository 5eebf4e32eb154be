"""What operators mean, where ONNX Runtime is no judge; what feeds are refused."""

from __future__ import annotations

import math
import tracemalloc

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from tunesmith.ir import opset
from tunesmith.ir.builder import Builder, trace
from tunesmith.ir.diagnostics import InputError
from tunesmith.ir.dims import dim
from tunesmith.ir.graph import Graph
from tunesmith.ir.interpreter import evaluate, evaluate_node
from tunesmith.ir.numpy_rules import NUMPY_RULES
from tunesmith.ir.ops import OPS
from tunesmith.ir.text import parse_graph
from tunesmith.ir.types import DType

from .cases import CASES

Array = NDArray[np.generic]


def run(node: str, *arrays: Array) -> list[Array]:
    """Evaluate one node on arrays."""
    types = [f"{DType.of(x.dtype)}[{', '.join(map(str, x.shape))}]" for x in arrays]
    inputs = ", ".join(f"%{'xyzw'[i]}: {type}" for i, type in enumerate(types))
    graph = parse_graph(f"graph @g({inputs}) {{ %out = {node} return %out }}")
    return evaluate(graph, dict(zip("xyzw", arrays, strict=False)))


def test_every_primitive_has_an_entry() -> None:
    primitives = {name for name, op in OPS.items() if not op.is_composite}
    assert NUMPY_RULES.keys() == primitives - {"return"}


@pytest.mark.parametrize("case", [c for c in CASES if OPS[c.op].is_composite], ids=str)
def test_decompositions_bottom_out_in_primitives(case: object) -> None:
    dtype = "bool" if case.op == "true_places" else "f32"  # type: ignore[attr-defined]  # a `Case`
    graph = case.graph(dtype)  # type: ignore[attr-defined]
    work = list(graph.nodes)
    for _ in range(10_000):
        if not work:
            return
        node = work.pop()
        if node.op.is_composite:
            types = [None if value is None else value.type for value in node.operands]
            work.extend(trace(node.op, types, node.attributes).nodes)
    pytest.fail("the decomposition does not end")


def test_erf_is_that_of_the_c_library() -> None:
    x = np.linspace(-7, 7, 2001)
    (y,) = run("erf(%x)", x)
    expected = np.asarray([math.erf(v) for v in x])
    np.testing.assert_allclose(np.asarray(y, np.float64), expected, 1e-15, 1e-16)
    (special,) = run("erf(%x)", np.asarray([math.nan, math.inf, -math.inf, -0.0]))
    np.testing.assert_array_equal(special, [math.nan, 1, -1, -0.0])


@pytest.mark.parametrize("op", ["maximum", "minimum"])
def test_nan_wins(op: str) -> None:
    x, y = np.asarray([math.nan, 1.0]), np.asarray([1.0, math.nan])
    assert np.isnan(run(f"{op}(%x, %y)", x, y)[0]).all()


def test_integers_wrap_and_divide_towards_zero() -> None:
    x, y = np.asarray([-7, 7, -128, 100], np.int8), np.asarray([2, -2, -1, 100], np.int8)
    np.testing.assert_array_equal(run("div(%x, %y)", x, y)[0], [-3, -3, -128, 1])
    np.testing.assert_array_equal(run("mod(%x, %y)", x, y)[0], [1, -1, 0, 0])
    np.testing.assert_array_equal(run("add(%x, %y)", x, y)[0], [-5, 5, 127, -56])
    np.testing.assert_array_equal(run("mul(%x, %y)", x, y)[0], [-14, -14, -128, 16])


def test_powers_of_integers() -> None:
    x, y = np.asarray([2, -1, -1, 3], np.int32), np.asarray([-1, -3, -2, 2], np.int32)
    np.testing.assert_array_equal(run("pow(%x, %y)", x, y)[0], [0, -1, 1, 9])


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_narrow_floats_sum_in_f32(dtype: type[np.generic]) -> None:
    ones = np.ones((1, 4096), dtype)
    assert run("reduce_sum(%x) {axes = [1]}", ones)[0].astype(np.float32) == 4096
    assert run("matmul(%x, %y)", ones, ones.T)[0].astype(np.float32) == 4096
    assert run("cumsum(%x) {axis = 1}", ones)[0].astype(np.float32)[0, -1] == 4096


def test_folding_nothing_gives_the_neutral_element() -> None:
    empty = np.zeros((2, 0), np.float32)
    for op, value in {"sum": 0, "prod": 1, "max": -math.inf, "min": math.inf}.items():
        np.testing.assert_array_equal(run(f"reduce_{op}(%x) {{axes = [1]}}", empty)[0], [value] * 2)


def test_topk_takes_the_first_of_equals() -> None:
    graph = parse_graph(
        "graph @g(%x: f32[6]) { %v, %i = topk(%x) {k = 4} "
        "%w, %j = topk(%x) {k = 4, largest = false} return %i, %j }"
    )
    largest, least = evaluate(graph, {"x": np.asarray([1, 3, 3, 0, 3, 0], np.float32)})
    np.testing.assert_array_equal(largest, [1, 2, 4, 0])
    np.testing.assert_array_equal(least, [3, 5, 0, 1])


def test_a_masked_row_is_nan_or_zero() -> None:
    q = np.ones((1, 1, 2, 2), np.float32)
    mask = np.asarray([[True, False], [False, False]]).reshape(1, 1, 2, 2)
    arrays, common = (q, q, q, mask), "attention(%x, %y, %z, %w) {scale = 1.0, masked_row = "
    np.testing.assert_array_equal(run(common + '"zero"}', *arrays)[0][0, 0], [[1, 1], [0, 0]])
    nan = math.nan
    np.testing.assert_array_equal(run(common + '"nan"}', *arrays)[0][0, 0], [[1, 1], [nan, nan]])


def test_constants_scatter_and_casts_of_special_values() -> None:
    x = np.asarray([0.0, math.nan, -1.5, 1.5], np.float32)
    np.testing.assert_array_equal(run("cast(%x) {dtype = bool}", x)[0], [False, True, True, True])
    np.testing.assert_array_equal(run("cast(%x) {dtype = i8}", x[2:])[0], [-1, 1])


SHAPED = "graph @g(%x: f32[B<=4, 2*(2<=S) + 1], %y: f32[S]) { %d = dim_value() {size = S, dtype = i64} return %d }"  # noqa: E501


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        ((2, 7), (4,), r"input `x` is f32\[B, 2\*S \+ 1\]: axis 1 has 7 elements, not 9"),
        ((5, 7), (3,), "`B` is 5, outside its bounds\nhint: `B` is 1 to 4"),
        ((0, 7), (3,), "`B` is 0, outside its bounds"),
        ((2, 3), (1,), "`S` is 1, outside its bounds\nhint: `S` is 2 or more"),
        ((2,), (3,), r"input `x` is f32\[B, 2\*S \+ 1\], but has 1 axes"),
    ],
)
def test_feeds_that_do_not_fit(x: tuple[int, ...], y: tuple[int, ...], message: str) -> None:
    feeds = {"x": np.zeros(x, np.float32), "y": np.zeros(y, np.float32)}
    with pytest.raises(InputError, match=message):
        evaluate(parse_graph(SHAPED), feeds)


def test_feeds_of_other_names_and_types() -> None:
    graph = parse_graph(SHAPED)
    with pytest.raises(InputError, match="the inputs are `x`, `y`; missing or unknown: `y`, `z`"):
        evaluate(graph, {"x": np.zeros(1), "z": np.zeros(1)})
    with pytest.raises(InputError, match=r"input `x` is f32\[.*\], not of type float64"):
        evaluate(graph, {"x": np.zeros((1, 7)), "y": np.zeros(3)})


def test_symbols_follow_from_products_and_sums() -> None:
    text = "graph @g(%x: f32[B*S, 2], %y: f32[S + P], %z: f32[3*P]) {{ {} return %d }}"
    graph = parse_graph(text.format("%d = dim_value() {size = B, dtype = i64}"))
    feeds = {"x": (12, 2), "y": (7,), "z": (9,)}
    (size,) = evaluate(graph, {name: np.zeros(s, np.float32) for name, s in feeds.items()})
    assert size == 3


def test_evaluate_node() -> None:
    x = np.asarray([[1.0, 2.0], [3.0, 4.0]], np.float32)
    shape = (dim("S") * 2, 1)
    (y,) = evaluate_node(OPS["reshape"], [x], {"shape": shape}, {"S": 2})
    assert y.shape == (4, 1)
    with pytest.raises(KeyError, match="S"):
        evaluate_node(OPS["reshape"], [x], {"shape": shape})
    (z,) = evaluate_node(OPS["softmax"], [x], {"axis": -1})
    np.testing.assert_allclose(np.asarray(z, np.float32).sum(-1), 1, 1e-6)


def test_values_are_dropped_after_their_last_use() -> None:
    builder = Builder(Graph())
    x = builder.input("x", parse_graph("graph @g(%x: f32[1048576]) { return }").inputs[0].type)
    y = x
    for _ in range(50):
        y = opset.neg(opset.exp(y))
    graph = builder.finish([y])
    feeds: dict[str, Array] = {"x": np.zeros(2**20, np.float32)}
    tracemalloc.start()
    evaluate(graph, feeds)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5 * 4 * 2**20
