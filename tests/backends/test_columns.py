"""Reductions that leave the last axis: blocks of results beside each other, full or not."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from tunesmith.backends.targets import find_target
from tunesmith.ir.graph import Graph
from tunesmith.ir.interpreter import evaluate
from tunesmith.ir.text import parse_graph

from .guarded import check_guarded
from .running import Array, assert_close, build, check, merge

pytestmark = pytest.mark.tvm

FLOATS = ("reduce_sum", "reduce_prod", "reduce_max", "reduce_min")
WIDTHS = (1, 15, 16, 63, 64, 65, 130)


def one(inputs: str, body: str) -> Graph:
    """A graph with one result."""
    return parse_graph(f"graph @g({inputs}) {{ {body} return %y }}")


def feeds(graph: Graph, **values: Array) -> dict[str, Array]:
    """The feeds of a merged graph, by the last part of the name."""
    return {value.name: values[value.name.rsplit(".", 1)[1]] for value in graph.inputs}


def floats(shape: tuple[int, ...]) -> Array:
    """Numbers, a NaN and infinities in some columns."""
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    if x.size > 3:
        x.reshape(-1)[::7] = np.nan
        x.reshape(-1)[1::11] = -np.inf
    return x


@pytest.mark.parametrize("threads", [1, 2])
def test_any_size(threads: int) -> None:
    """Around the edges of a block, without rows and without columns, beside the interpreter."""
    shape = "%x: f32[0<=B, 0<=S, 0<=W]"
    graph = merge([
        (f"{op}.{axes}", one(shape, f"%y = {op}(%x) {{axes = {axes}, keepdims = false}}"))
        for op in FLOATS for axes in ("[1]", "[0]", "[0, 1]")
    ])  # fmt: skip
    built = build(graph, find_target("host", threads=threads))
    for width in (0, *WIDTHS):
        for batch, rows in ((1, 1), (2, 3), (3, 17), (1, 0), (0, 2)):
            values = feeds(graph, x=floats((batch, rows, width)))
            with np.errstate(all="ignore"):
                want = evaluate(graph, values)
            for name, got, expected, value in zip(
                graph.output_names, built.run(values), want, graph.outputs, strict=True
            ):
                assert_close(got, expected, value.type.dtype, f"{name} {batch}x{rows}x{width}")


def test_nothing_is_read_outside() -> None:
    """Inputs between pages that nobody may touch; means too, of some rows."""
    body = "%y = {op}(%x) {{axes = [1], keepdims = false}}"
    graph = merge([
        (op, one("%x: f32[0<=B, S, 0<=W]", body.format(op=op)))
        for op in (*FLOATS, "reduce_mean")
    ])  # fmt: skip
    values = [floats((2, 3, width)) for width in (0, *WIDTHS)]
    with np.errstate(all="ignore"):
        check_guarded(graph, [feeds(graph, x=x) for x in values], find_target("host", threads=2))


def test_all_of_columns() -> None:
    """Flags beside each other."""
    graph = one("%x: bool[S, 0<=W]", "%y = reduce_all(%x) {axes = [0], keepdims = false}")
    random = np.random.default_rng(0)
    check_guarded(graph, [{"x": random.random((3, width)) < 0.8} for width in (0, *WIDTHS)])


def test_fixed_sizes_and_what_is_fused() -> None:
    """Means, masks that are expanded on the way, and results whose last axis is not memory's."""
    bodies = {
        "mean": "%y = reduce_mean(%x) {axes = [1]}",
        "expanded": "%m = reduce_sum(%x) {axes = [2], keepdims = true} "
        "%e = expand(%m) {shape = [B, 5, 130]} %y = reduce_sum(%e) {axes = [1]}",
        "turned": "%t = transpose(%x) {perm = [2, 1, 0]} %y = reduce_max(%t) {axes = [1]}",
        "middle": "%y = reduce_min(%x) {axes = [0, 2], keepdims = false}",
    }
    graph = merge([(name, one("%x: f32[B, 5, 130]", body)) for name, body in bodies.items()])
    built = build(graph, find_target("host", threads=2))
    for batch in (1, 3, 70):
        x = np.random.default_rng(batch).standard_normal((batch, 5, 130)).astype(np.float32)
        want = evaluate(graph, feeds(graph, x=x))
        for name, got, expected, value in zip(
            graph.output_names, built.run(feeds(graph, x=x)), want, graph.outputs, strict=True
        ):
            assert_close(got, expected, value.type.dtype, f"{name} of {batch}")


@pytest.mark.parametrize("axes", ["[0]", "[1]", "[0, 1]"])
@pytest.mark.parametrize("shape", ["0, 4", "4, 0", "0<=B, 0"])
@pytest.mark.parametrize("dtype", ["f32", "f64", "i32"])
def test_means_of_nothing(dtype: str, shape: str, axes: str) -> None:
    """NaN, or 0 where there is none; TVM refuses to divide by a 0 that it sees."""
    graph = one(f"%x: {dtype}[{shape}]", f"%y = reduce_mean(%x) {{axes = {axes}}}")
    sizes = tuple(int(size) if size.isdigit() else 3 for size in shape.split(", "))
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of NumPy, about just this
        check(graph, {"x": np.ones(sizes, {"f": "float", "i": "int"}[dtype[0]] + dtype[1:])})


@pytest.mark.parametrize("dtype", ["f16", "f64", "i8", "i64", "u8"])
def test_types(dtype: str) -> None:
    """Beside NumPy in the type's own arithmetic: integers wrap, halves are rounded once."""
    graph = one(f"%x: {dtype}[S, W]", "%y = reduce_sum(%x) {axes = [0], keepdims = false}")
    name = {"f": "float", "i": "int", "u": "uint"}[dtype[0]] + dtype[1:]
    built = build(graph, find_target("host", threads=1))
    for width in (5, 64, 100):
        x = np.random.default_rng(0).integers(0, 50, (9, width)).astype(name)
        want = x.astype(np.float64).sum(0) if dtype.startswith("f") else x.sum(0, dtype=name)
        (got,) = built.run({"x": x})
        np.testing.assert_array_equal(got, want.astype(name))


def test_sums_have_the_order_of_rows() -> None:
    """Not one of pairs: a great number, many small ones, and its opposite leave nothing."""
    graph = one("%x: f32[S, W]", "%y = reduce_sum(%x) {axes = [0], keepdims = false}")
    x = np.ones((50, 66), np.float32)
    x[0], x[-1] = 2.0**25, -(2.0**25)
    (got,) = build(graph, find_target("host", threads=1)).run({"x": x})
    np.testing.assert_array_equal(got, np.zeros(66, np.float32))
