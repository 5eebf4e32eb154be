"""Arithmetic that compilers take liberties with: NaN, signed zeros, integers that wrap."""

from __future__ import annotations

import numpy as np
import pytest

from tunesmith.ir.graph import Graph
from tunesmith.ir.text import parse_graph

from .running import Array, check, merge

pytestmark = pytest.mark.tvm

ODD = [np.nan, np.inf, -np.inf, -0.0, 0.0, 1.5, -2.0]


def one(inputs: str, body: str) -> Graph:
    """A graph with one result."""
    return parse_graph(f"graph @g({inputs}) {{ {body} return %y }}")


def run(graphs: dict[str, Graph], values: dict[str, Array]) -> None:
    """Compile all together; feeds by the last part of the name."""
    graph = merge([*graphs.items()])
    check(graph, {value.name: values[value.name.rsplit(".", 1)[1]] for value in graph.inputs})


SAME = ("equal", "not_equal", "less_equal", "greater_equal", "sub", "div", "mod", "add", "mul")


@pytest.mark.parametrize("dtype", ["f32", "f64", "f16"])
def test_a_value_beside_itself(dtype: str) -> None:
    graphs = {}
    for op in SAME:
        graphs[f"{op} sliced"] = one(
            f"%x: {dtype}[B, S]",
            f"%a = slice(%x) {{axis = 1, start = 1, stop = S}} %y = {op}(%a, %a)",
        )
        graphs[f"{op} expanded"] = one(
            f"%x: {dtype}[B, S]", f"%a = expand(%x) {{shape = [2, B, S]}} %y = {op}(%a, %a)"
        )
    x = np.resize(np.asarray(ODD), (2, 37)).astype({"f32": "f4", "f64": "f8", "f16": "f2"}[dtype])
    with np.errstate(all="ignore"):
        run(graphs, {"x": x})


def test_a_value_beside_itself_behind_a_product() -> None:
    anchors = {
        "linear": "%l = linear(%x, %w)",
        "matmul": "%l = matmul(%x, %w)",
        "softmax": "%l = softmax(%x)",
    }
    graphs = {
        f"{anchor} {op}": one("%x: f32[B, 7], %w: f32[7, 7]", f"{text} %y = {op}(%l, %l)")
        for anchor, text in anchors.items()
        for op in ("equal", "sub", "div")
    }
    x = np.random.default_rng(0).standard_normal((5, 7)).astype(np.float32)
    x[1, 2], x[3, 4] = np.nan, np.inf
    w = np.random.default_rng(1).standard_normal((7, 7)).astype(np.float32)
    with np.errstate(all="ignore"):
        run(graphs, {"x": x, "w": w})


@pytest.mark.parametrize("zero", ["0.0", "-0.0"])
def test_zero_annihilates_no_nan(zero: str) -> None:
    constant = f"%z = constant() {{value = f32[] {zero}}}"
    bodies = (
        "mul(%x, %z)",
        "mul(%z, %x)",
        "div(%z, %x)",
        "add(%x, %z)",
        "sub(%z, %x)",
        "div(%x, %z)",
    )
    graphs = {
        body: one(
            "%x: f32[S]",
            f"{constant} %a = {body} %o = constant() {{value = f32[] 1.0}} %y = div(%o, %a)",
        )
        for body in bodies
    }  # the quotient tells the sign
    graphs |= {f"plain {body}": one("%x: f32[S]", f"{constant} %y = {body}") for body in bodies}
    with np.errstate(all="ignore"):
        run(graphs, {"x": np.resize(np.asarray(ODD, np.float32), 37)})


WRAPPING = (
    "%a = abs(%x) %y = maximum(%a, %o)", "%a = abs(%x) %y = less(%a, %z)",
    "%a = add(%x, %o) %y = greater(%a, %x)", "%a = sub(%x, %w) %y = greater(%a, %z)",
    "%a = mul(%x, %t) %y = div(%a, %t)", "%a = neg(%x) %y = less(%a, %z)",
    "%a = mul(%x, %w) %y = add(%a, %x)", "%y = div(%x, %m)", "%y = div(%x, %w)", "%y = mod(%x, %m)",
    "%y = mod(%x, %w)", "%y = div(%x, %v)", "%y = mod(%x, %v)", "%y = mod(%x, %t)",
)  # fmt: skip


@pytest.mark.parametrize("dtype", ["i8", "i16", "i32", "i64"])
def test_integers_wrap(dtype: str) -> None:
    names = {"o": 1, "z": 0, "t": 2, "m": -1}
    constants = " ".join(f"%{n} = constant() {{value = {dtype}[] {v}}}" for n, v in names.items())
    inputs = f"%x: {dtype}[S], %w: {dtype}[S], %v: {dtype}[]"
    graphs = {body: one(inputs, f"{constants} {body}") for body in WRAPPING}
    type = np.dtype(dtype.replace("i", "int"))
    limits = np.iinfo(type)
    some = [limits.min, limits.max, limits.min + 1, limits.max // 2, -1, 1, 2, 5, -7]
    x = np.resize(np.asarray(some, type), 5 * len(some))
    w = np.repeat(np.asarray([-1, limits.max, limits.min, 3, -2], type), len(some))
    with np.errstate(all="ignore"):
        run(graphs, {"x": x, "w": w, "v": np.asarray(-1, type)})


def test_means_of_integers_do_not_overflow() -> None:
    graphs = {
        f"{dtype} {axis}": one(
            f"%{dtype}: {dtype}[3, S]", f"%y = reduce_mean(%{dtype}) {{axes = [{axis}]}}"
        )
        for dtype in ("u8", "i8", "i16", "i32")
        for axis in (0, 1)
    }
    values = {}
    for dtype in ("u8", "i8", "i16", "i32"):
        type = np.dtype(dtype.replace("i", "int").replace("u", "uint"))
        values[dtype] = np.full((3, 9), np.iinfo(type).max - 3, type)
    run(graphs, values)


@pytest.mark.parametrize("dtype", ["f16", "bf16", "f64", "i32", "i8"])
def test_what_is_fused_behind_a_product_of_any_type(dtype: str) -> None:
    inputs = f"%x: {dtype}[B, 4], %w: {dtype}[4, 3], %b: {dtype}[3]"
    bodies = {
        "bias": "%l = matmul(%x, %w) %y = add(%l, %b)",
        "cast": "%l = matmul(%x, %w) %y = cast(%l) {dtype = f32}",
        "reshaped": "%l = matmul(%x, %w) %r = reshape(%l) {shape = [B*3]} %y = add(%r, %r)",
    }
    graphs = {name: one(inputs, body) for name, body in bodies.items()}
    type = {"f16": "f2", "bf16": "f4", "f64": "f8", "i32": "i4", "i8": "i1"}[dtype]
    rng = np.random.default_rng(0)
    shapes = {"x": (5, 4), "w": (4, 3), "b": (3,)}
    run(graphs, {name: rng.integers(-4, 5, shape).astype(type) for name, shape in shapes.items()})


EMPTY = [
    ((2, 0, 3), (2, 3, 4)),
    ((2, 3, 0), (2, 0, 4)),
    ((0, 1, 3), (0, 3, 2)),
    ((2, 3, 4), (2, 4, 0)),
]


@pytest.mark.parametrize("shapes", EMPTY)
def test_products_without_elements(shapes: tuple[tuple[int, ...], tuple[int, ...]]) -> None:
    left, right = (", ".join(map(str, shape)) for shape in shapes)
    graph = one(f"%x: f32[{left}], %w: f32[{right}]", "%y = matmul(%x, %w)")
    check(graph, {"x": np.ones(shapes[0], np.float32), "w": np.ones(shapes[1], np.float32)})
