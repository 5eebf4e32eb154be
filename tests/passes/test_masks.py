"""Rows that are masked entirely: each way to write such a mask means something else, and keeps it.

The table of `MatMul` + `Softmax` graphs: -inf gives NaN, or 0 behind a guard; the lowest number and
-1e30 give the mean of the values; -1e4 gives an ordinary softmax of the scores.
"""

from __future__ import annotations

from math import inf, nan

import numpy as np
import pytest
from numpy.typing import NDArray

from tunesmith.ir.builder import Builder
from tunesmith.ir.dims import dim
from tunesmith.ir.graph import Graph
from tunesmith.ir.interpreter import evaluate
from tunesmith.ir.opset import (
    attention,
    iota,
    isnan,
    less_equal,
    logical_and,
    matmul,
    reshape,
    softmax,
    transpose,
    where,
)
from tunesmith.ir.text import parse_graph
from tunesmith.ir.types import DType, TensorType
from tunesmith.passes.base import PassContext
from tunesmith.passes.pipeline import Pipeline

Array = NDArray[np.generic]
LOWEST = float(np.finfo(np.float32).min)
KEYS = 5

# what hides a key, how it is written, and what a row without any key gives
TABLE = [
    (-inf, "input", False, nan),
    (-inf, "input", True, 0.0),
    (-inf, "fill", False, nan),
    (-inf, "fill", True, 0.0),
    (-inf, "sum", False, nan),
    (-inf, "sum", True, 0.0),
    (LOWEST, "input", False, 1.0),
    (LOWEST, "fill", False, 1.0),
    (LOWEST, "fill", True, 1.0),
    (LOWEST, "sum", False, 1.0),
    (LOWEST, "sum", True, 1.0),
    (-1e30, "input", False, 1.0),
    (-1e30, "fill", False, 1.0),
    (-1e30, "sum", True, 1.0),
    (-1e4, "input", False, None),
    (-1e4, "sum", False, None),
]


def _graph(number: float, spelling: str, guard: bool, causal: bool, dtype: DType) -> Graph:
    """An attention over keys that an input of flags shows or hides."""
    batch, keys = dim("B"), dim("S")
    build = Builder(Graph("masked"))
    heads = TensorType(dtype, (batch, 2, keys, 4))
    q, k, v = (build.input(name, heads) for name in "qkv")
    row = (batch, 1, 1, keys)
    shown = build.input("shown", TensorType(DType.bool, row))
    mask = build.input("mask", TensorType(dtype, row)) if spelling == "input" else None
    with build:
        if causal and mask is None:
            place = iota(size=keys, dtype=DType.i64)
            shown = logical_and(less_equal(place, reshape(place, shape=(keys, 1))), shown)
        scores = matmul(q * 0.5, transpose(k, perm=(0, 1, 3, 2)))
        if spelling == "fill":
            scores = where(shown, scores, number)
        elif spelling == "sum":
            zero = build.constant(np.zeros(1, dtype.numpy))
            scores = scores + where(shown, zero, number)
        elif mask is not None:
            scores = scores + mask
        weights = softmax(scores, axis=-1)
        if guard:
            weights = where(isnan(weights), 0.0, weights)
        return build.finish([matmul(weights, v)], ["y"])


def _feeds(number: float, spelling: str, dtype: DType) -> dict[str, Array]:
    """Three rows of a batch: nothing hidden, the first keys hidden, all hidden."""
    random = np.random.default_rng(7)
    shown = np.ones((3, 1, 1, KEYS), bool)
    shown[1, ..., :2] = False
    shown[2] = False
    feeds: dict[str, Array] = {
        name: random.standard_normal((3, 2, KEYS, 4)).astype(dtype.numpy) for name in "qkv"
    }
    feeds["shown"] = shown
    if spelling == "input":
        feeds["mask"] = np.where(shown, 0.0, number).astype(dtype.numpy)
    return feeds


def _fused(graph: Graph) -> Graph:
    """The graph after the pass; one attention is all that is left of the softmax."""
    assert Pipeline.parse("fuse-attention,eliminate-dead-code").run(graph, PassContext())[0]
    assert [node.op for node in graph.nodes].count(attention) == 1
    assert not any(node.op is softmax for node in graph.nodes)
    return graph


@pytest.mark.parametrize("causal", [False, True], ids=["", "causal"])
@pytest.mark.parametrize(("number", "spelling", "guard", "row"), TABLE)
def test_table(number: float, spelling: str, guard: bool, row: float | None, causal: bool) -> None:
    """The fused graph gives what the unfused one gives, for rows masked entirely too."""
    feeds = _feeds(number, spelling, DType.f32)
    (want,) = evaluate(_graph(number, spelling, guard, causal, DType.f32), feeds)
    (have,) = evaluate(_fused(_graph(number, spelling, guard, causal, DType.f32)), feeds)
    np.testing.assert_allclose(have.astype("f"), want.astype("f"), rtol=1e-5, atol=1e-5)
    if row is None:
        assert np.abs(want[2] - feeds["v"][2].mean(axis=1, keepdims=True)).max() > 1e-2
    else:
        mean = feeds["v"][2].mean(axis=1, keepdims=True)
        np.testing.assert_allclose(want[2], np.broadcast_to(mean * row, want[2].shape), atol=1e-5)


@pytest.mark.parametrize("guard", [False, True])
def test_a_condition_alone_needs_the_guard(guard: bool) -> None:
    """`masked_row` says what the unfused graph does."""
    graph = _fused(_graph(-inf, "sum", guard, True, DType.f32))
    (node,) = (node for node in graph.nodes if node.op is attention)
    assert node.attributes["masked_row"] == ("zero" if guard else "nan")
    assert node.attributes["causal"] is True
    mask = node.operands[3]
    assert mask is not None and mask.name == "shown"


@pytest.mark.parametrize("spelling", ["fill", "sum"])
def test_a_guard_that_cannot_fire_goes(spelling: str) -> None:
    """With the lowest number no row is NaN: kernels need not test for it."""
    graph = _fused(_graph(LOWEST, spelling, True, False, DType.f32))
    (node,) = (node for node in graph.nodes if node.op is attention)
    assert node.attributes["masked_row"] == "nan"


def test_two_lowest_numbers_are_minus_infinity() -> None:
    """Their sum overflows, so a guard behind them can fire, and stays."""
    text = """
    graph @f(%q: f32[1, 1, 2, 4], %k: f32[1, 1, 4, 2], %v: f32[1, 1, 2, 4], %m: bool[2]) {
      %s = matmul(%q, %k)
      %z = constant() {value = f32[] 0.0}
      %n = constant() {value = f32[] -3.4028235e+38}
      %w = where(%m, %z, %n)
      %a = add(%s, %w)
      %b = add(%a, %w)
      %p = softmax(%b)
      %t = isnan(%p)
      %g = where(%t, %z, %p)
      %y = matmul(%g, %v)
      return %y
    }
    """
    graph = _fused(parse_graph(text))
    (node,) = (node for node in graph.nodes if node.op is attention)
    assert node.attributes["masked_row"] == "zero"


@pytest.mark.parametrize("spelling", ["fill", "sum"])
def test_masked_rows_may_be_given_up(spelling: str) -> None:
    """Without `keep-masked-rows` the triangle goes, rows without a key are 0, others stay."""
    feeds = _feeds(LOWEST, spelling, DType.f32)
    unfused = evaluate(_graph(LOWEST, spelling, False, True, DType.f32), feeds)
    (want,) = (array.astype(np.float32) for array in unfused)
    graph = _graph(LOWEST, spelling, False, True, DType.f32)
    Pipeline.parse("fuse-attention{keep-masked-rows=false}").run(graph, PassContext())
    (node,) = (node for node in graph.nodes if node.op is attention)
    assert (node.attributes["causal"], node.attributes["masked_row"]) == (True, "zero")
    (have,) = (array.astype(np.float32) for array in evaluate(graph, feeds))
    np.testing.assert_allclose(have[0], want[0], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(have[1, :, 2:], want[1, :, 2:], rtol=1e-5, atol=1e-5)
    assert not have[1, :, :2].any() and not have[2].any()


@pytest.mark.parametrize("shape", [(1, KEYS), (KEYS, 1)])
def test_one_row_is_no_triangle(shape: tuple[int, int]) -> None:
    """A constant that is broadcast over the queries, or over the keys, only looks like one."""
    flags = (np.arange(KEYS) < 2).reshape(shape) ^ (shape[1] == 1)
    build = Builder(Graph("padded"))
    heads = TensorType(DType.f32, (1, 1, KEYS, 4))
    q, k, v = (build.input(name, heads) for name in "qkv")
    with build:
        scores = matmul(q, transpose(k, perm=(0, 1, 3, 2)))
        weights = softmax(where(build.constant(flags), scores, -inf))
        graph = build.finish([matmul(weights, v)], ["y"])
    (node,) = (node for node in _fused(graph).nodes if node.op is attention)
    assert node.attributes["causal"] is False and len(node.operands) == 4


def test_half_precision_rows() -> None:
    """In f16 an added -65504 keeps the mean of a row that is masked entirely."""
    graphs = [_graph(-65504.0, "sum", False, causal, DType.f16) for causal in (False, True)]
    feeds = _feeds(-65504.0, "sum", DType.f16)
    for causal, graph in zip((False, True), graphs, strict=True):
        (want,) = evaluate(graph, feeds)
        (have,) = evaluate(_fused(_graph(-65504.0, "sum", False, causal, DType.f16)), feeds)
        np.testing.assert_allclose(have.astype("f"), want.astype("f"), rtol=2e-3, atol=2e-3)
