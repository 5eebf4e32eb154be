"""Printing and parsing are inverses; errors point at their place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tunesmith.ir.builder import Builder
from tunesmith.ir.constants import Constant
from tunesmith.ir.diagnostics import Location, ParseError
from tunesmith.ir.dims import Dim, Sym, dim, floor_div
from tunesmith.ir.graph import Graph
from tunesmith.ir.ops import OPS, Expr
from tunesmith.ir.text import parse_graph, print_graph
from tunesmith.ir.types import DType, TensorType
from tunesmith.ir.verifier import verify

from .cases import CASES, Case

BLOCK = """\
graph @block(%x: f32[B<=8, S<=512, 768], %w: f32[768], %k: f32[2<=K, 0<=M<=9]) {
  %n = rms_norm(%x, %w) {epsilon = 1e-05} : f32[B, S, 768]
  %a, %b = topk(%n) {k = 5} : f32[B, S, 5], i64[B, S, 5]
  %c = constant() {value = bf16[3] [-1.0, nan, 0x7fc1]} : bf16[3]
  %"/model/Cast:0" = cast(%c) {dtype = f16} : f16[3]
  %r = reshape(%x) {shape = [B*S, 768]} : f32[B*S, 768]
  %s = slice(%r) {axis = 0, start = 0, step = 2, stop = B*S} : f32[(B*S + 1)//2, 768]
  %f = full() {dtype = f32, shape = [K, 2*M + 1], value = -inf} : f32[K, 2*M + 1]
  %l = linear(%x, %q, _, %w) {activation = "relu"} : f32[B, S, 768]
  return %n as "last_hidden_state", %a, %"/model/Cast:0" as "a \\"quoted\\" name"
}""".replace(
    "  %l =", "  %q = full() {dtype = f32, shape = [768, 768], value = 1.0} : f32[768, 768]\n  %l ="
)


def test_block_is_canonical() -> None:
    graph = parse_graph(BLOCK)
    verify(graph)
    assert print_graph(graph) == BLOCK
    assert str(graph) == BLOCK


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_operator_round_trips(case: Case) -> None:
    graph = case.graph(case.dtypes.split()[0])
    verify(graph)
    text = print_graph(graph)
    again = parse_graph(text)
    assert print_graph(again) == text
    assert [node.attributes for node in again.nodes] == [node.attributes for node in graph.nodes]


def test_defaults_are_left_out_but_only_if_they_are_the_same() -> None:
    node = "pad(%x) {{low = [0], high = [1], value = {}}}"
    texts = [
        print_graph(parse_graph(f"graph @g(%x: f32[S]) {{ %y = {node.format(value)} return %y }}"))
        for value in ("0.0", "-0.0", "0", "1")
    ]
    assert ["value" in text for text in texts] == [False, True, False, True]
    assert "value = -0.0" in texts[1]
    assert "value = 1.0" in texts[3]


def test_locations_are_comments_that_the_parser_skips() -> None:
    graph = parse_graph("graph @g(%x: f32[S]) { %y = exp(%x) %z = neg(%y) return %z }")
    first, second = graph.nodes
    first.location = Location("/layer.0/Exp\n", "Exp")
    second.location = Location()
    text = print_graph(graph, locations=True)
    assert text.splitlines()[1] == "  %y = exp(%x) : f32[S]  // /layer.0/Exp\\n (Exp)"
    assert print_graph(parse_graph(text)) == print_graph(graph)


def test_a_node_knows_its_line() -> None:
    node = next(parse_graph("graph @g(%x: f32[S]) {\n\n%y = exp(%x) return %y }", "m.nir").nodes)
    assert str(node.location) == "m.nir:3"


def _constant_graph(array: NDArray[np.generic]) -> Graph:
    builder = Builder(Graph("g"))
    return builder.finish([builder.constant(array)])


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(list(DType)), st.binary(min_size=64, max_size=64), st.integers(0, 3))
def test_constants_keep_every_bit(dtype: DType, data: bytes, shape: int) -> None:
    if dtype is DType.bool:
        data = bytes(byte & 1 for byte in data)
    elements = np.frombuffer(data, dtype.numpy)
    array = [elements[0].reshape(()), elements[:3], elements[:6].reshape(2, 3), elements[:0]][shape]
    graph = _constant_graph(array)
    text = print_graph(graph)
    found = next(parse_graph(text).nodes).attributes["value"]
    assert isinstance(found, Constant)
    assert found.type == TensorType(dtype, array.shape)
    assert found.array.tobytes() == array.tobytes()


def test_large_constants_stand_as_hashes() -> None:
    array = np.arange(17, dtype=np.int16)
    graph = _constant_graph(array)
    text = print_graph(graph)
    digest = Constant(array).digest
    assert f"i16[17] #{digest}" in text
    assert print_graph(parse_graph(text, weights={digest: array})) == text
    with pytest.raises(ParseError, match="needs its weights"):
        parse_graph(text)
    with pytest.raises(ParseError, match="is not among the weights given"):
        parse_graph(text, weights={"0" * 64: array})
    with pytest.raises(ParseError, match=r"the weight is i16\[16\], not i16\[17\]"):
        parse_graph(text, weights={digest: array[1:]})


SYMBOLS = [Sym("B", 1, 8), Sym("S", 2), Sym("batch size", 0, 3), Sym("inf"), Sym("`"), Sym("a.b")]


@st.composite
def dims(draw: st.DrawFn, depth: int = 2) -> Dim:
    """Sizes: integers, symbols, and sums, products and quotients of them."""
    kind = draw(st.integers(0, 4 if depth else 1))
    if kind == 0:
        return draw(st.integers(1, 9))
    if kind == 1:
        return dim(draw(st.sampled_from(SYMBOLS)))
    left, right = draw(dims(depth=depth - 1)), draw(dims(depth=depth - 1))
    if kind == 2:
        return left + right
    return left * right if kind == 3 else floor_div(left - right, draw(st.integers(2, 5)))


NAMES = st.one_of(
    st.sampled_from(["x", "0", "a.1", "$", "_", "a/b:0", "ü", 'quo"te', "back\\slash", "//"]),
    st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=6),
)


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """Random graphs of operators that take any shape."""
    builder = Builder(Graph(draw(NAMES)))
    graph = builder.graph
    shape = tuple(draw(st.lists(dims(), max_size=3)))
    x = builder.input(draw(NAMES), TensorType(DType.f32, shape))
    values: list[Expr] = [x]
    for _ in range(draw(st.integers(0, 2))):
        name = graph.fresh_name(draw(NAMES))
        values.append(builder.input(f"{name}.in", TensorType(DType.f32, shape)))
    for _ in range(draw(st.integers(0, 8))):
        builder.hint = draw(NAMES)
        x, y = draw(st.sampled_from(values)), draw(st.sampled_from(values))
        match draw(st.integers(0, 5)):
            case 0:
                result = OPS[draw(st.sampled_from(["exp", "neg", "relu", "silu", "erf"]))](x)
            case 1:
                result = OPS[draw(st.sampled_from(["add", "mul", "maximum"]))](x, y)
            case 2:
                bound = draw(st.floats(width=32))
                result = OPS["clip"](x, low=bound, high=draw(st.floats()))
            case 3:
                form = draw(st.sampled_from(["none", "tanh"]))
                result = OPS["gelu"](x, approximate=form)
            case 4:
                result = OPS["reshape"](x, shape=(1, *x.shape)) if len(x.shape) < 3 else x
                result = OPS["reshape"](result, shape=x.shape)
            case _:
                result = builder.constant(np.asarray(draw(st.floats(width=32)), np.float32))
        values.append(result)
    outputs = draw(st.lists(st.sampled_from(values), max_size=3))
    names = draw(st.lists(NAMES, min_size=3, max_size=3, unique=True))
    return builder.finish(outputs, names)


@settings(max_examples=300, deadline=None)
@given(graphs())
def test_random_graphs_round_trip(graph: Graph) -> None:
    text = print_graph(graph)
    again = parse_graph(text)
    assert print_graph(again) == text
    assert [v.type for v in again.inputs] == [v.type for v in graph.inputs]
    assert [v.name for n in again.nodes for v in n.results] == [
        v.name for n in graph.nodes for v in n.results
    ]


ERRORS = (Path(__file__).parent / "errors" / "parse.txt").read_text(encoding="utf-8")


@pytest.mark.parametrize("case", ERRORS.split("// -----\n"))
def test_errors(case: str) -> None:
    text, expected = case.split("// =>\n")
    with pytest.raises(ParseError) as caught:
        parse_graph(text, "m.nir")
    assert str(caught.value) == expected.strip("\n")
