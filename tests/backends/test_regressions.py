"""What once went wrong in generated code: NaN, chains that never compiled, flags in vectors."""

from __future__ import annotations

import os
from collections.abc import Iterator

import numpy as np
import pytest

from tunesmith.ir.graph import Graph
from tunesmith.ir.text import parse_graph
from tunesmith.ir.types import DType

from .guarded import check_guarded
from .running import Array, build, check, merge, pin

pytestmark = pytest.mark.tvm

LENGTHS = (1, 15, 16, 17, 33, 64, 65, 131)
SECONDS = 15  # of one core; what went wrong took minutes


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Compile anew, and not for more than some seconds of this process and its children."""
    monkeypatch.setenv("TUNESMITH_CACHE", "off")
    before = os.times()
    yield
    after = os.times()
    spent = after.user + after.children_user - before.user - before.children_user
    assert spent < SECONDS, f"{spent:.1f} s of the processor"


def one(inputs: str, body: str, results: str = "%y") -> Graph:
    """A graph with no more than its text."""
    return parse_graph(f"graph @g({inputs}) {{ {body} return {results} }}")


# ------------------------------------------------------------------------------------------- NaN


def with_nan(length: int) -> Array:
    """Rows with NaN at each interesting place, without one, and with nothing but -inf or inf."""
    places = sorted({0, length - 1, length // 2, length // 16 * 16 - 1, length // 64 * 64 - 1})
    rows = np.random.default_rng(length).standard_normal((len(places) + 4, length))
    for row, place in enumerate(places):
        rows[row, place] = np.nan
    rows[-1], rows[-2], rows[-3] = -np.inf, np.inf, np.nan
    rows[-3, : length // 2] = np.inf
    return rows.astype(np.float32)


EXTREMES = [
    "reduce_max(%x) {axes = [-1]}", "reduce_min(%x) {axes = [1], keepdims = true}",
    "reduce_max(%x) {axes = [0]}", "reduce_min(%x) {axes = [0, 1]}", "argmax(%x) {axis = 1}",
    "argmin(%x) {axis = 1}",
]  # fmt: skip


def test_nan_is_the_greatest_and_the_least_of_a_row() -> None:
    graph = merge([(node, one("%x: f32[B, S]", f"%y = {node}")) for node in EXTREMES])
    rows = [with_nan(length) for length in LENGTHS]
    check_guarded(graph, [{value.name: x for value in graph.inputs} for x in rows])


def test_nan_is_the_greatest_and_the_least_of_a_row_of_known_length() -> None:
    graphs, feeds = [], {}
    for node in EXTREMES[:2]:
        for length in LENGTHS:
            x, name = with_nan(length), f"{node} {length}"
            graph = one("%x: f32[B, S]", f"%y = {node}")
            graphs.append((name, pin(graph, {"B": x.shape[0], "S": length})))
            feeds[f"{name}.x"] = x
    check_guarded(merge(graphs), [feeds])


def test_nan_passes_through_elementwise_operators() -> None:
    nodes = [
        "relu(%x)", "clip(%x) {low = -1.0, high = 1.0}", "maximum(%x, %z)", "minimum(%z, %x)",
        "maximum(%z, %x)", "minimum(%x, %z)", "sign(%x)", "abs(%x)", "round(%x)", "gelu(%x)",
        "silu(%x)", "tanh(%x)", "sigmoid(%x)", "not_equal(%x, %x)", "equal(%x, %x)", "isnan(%x)",
        "less(%x, %z)", "greater_equal(%x, %z)",
    ]  # fmt: skip
    graphs = [(node, one("%x: f32[S], %z: f32[S]", f"%y = {node}")) for node in nodes]
    graph = merge(graphs)
    feeds = []
    for length in (1, 16, 35):
        some = np.asarray([np.nan, 1.5, -np.inf, -0.0, np.inf, -2.5, np.nan], np.float32)
        x, z = np.resize(some, length), np.resize(some[::-1], length)
        feeds.append({v.name: x if v.name.endswith("x") else z for v in graph.inputs})
    check_guarded(graph, feeds)


def test_not_less_is_not_greater_or_equal() -> None:
    body = (
        "%l = less(%x, %z) %n = logical_not(%l) %g = greater_equal(%x, %z) "
        "%m = logical_not(%g) %o = logical_and(%n, %m) %y = where(%o, %x, %z)"
    )
    graph = one("%x: f32[S], %z: f32[S]", body, "%n, %m, %o, %y")
    x = np.resize(np.asarray([np.nan, 1, 2, np.nan, -1], np.float32), 37)
    z = np.resize(np.asarray([1, np.nan, 2], np.float32), 37)
    check(graph, {"x": x, "z": z})


# ---------------------------------------------------------------------------------------- chains

CHAINS = {
    "exp of exp": "%a = exp(%x) %y = exp(%a)",
    "sigmoid of sigmoid": "%a = sigmoid(%x) %y = sigmoid(%a)",
    "tanh of tanh of tanh": "%a = tanh(%x) %b = tanh(%a) %y = tanh(%b)",
    "erf of erf": "%a = erf(%x) %y = erf(%a)",
    "softplus": "%o = constant() {value = f32[] 1.0} %a = exp(%x) %b = add(%a, %o) %y = log(%b)",
    "mish": "%o = constant() {value = f32[] 1.0} %a = exp(%x) %b = add(%a, %o) %c = log(%b) "
    "%d = tanh(%c) %y = mul(%x, %d)",
    "gelu of gelu": '%a = gelu(%x) %b = gelu(%a) {approximate = "tanh"} %y = gelu(%b)',
    "silu of silu": "%a = silu(%x) %b = silu(%a) %y = silu(%b)",
    "logarithm of a sum": "%a = exp(%x) %b = tanh(%x) %c = add(%a, %a) %d = mul(%b, %b) "
    "%e = add(%c, %d) %f = log(%e) %y = sigmoid(%f)",
    "one value, many readers": "%a = tanh(%x) %b = exp(%a) %c = mul(%a, %b) %d = add(%c, %a) "
    "%e = sigmoid(%d) %f = mul(%e, %d) %g = add(%f, %b) %y = mul(%g, %e)",
}


def test_chains_of_transcendental_functions_compile(fresh: None) -> None:
    graph = merge([(name, one("%x: f32[B, S]", body)) for name, body in CHAINS.items()])
    x = np.random.default_rng(0).uniform(-2, 2, (3, 37)).astype(np.float32)
    built = check(graph, {value.name: x for value in graph.inputs})
    assert set(built.kinds) == {"elementwise"}


@pytest.mark.parametrize("shape", ["B, 37", "3, 37"])
@pytest.mark.parametrize("dtype", ["f32", "f16"])
def test_a_chain_of_sixty_operators(fresh: None, shape: str, dtype: str) -> None:
    rounds = ["mul(%{0}, %w)", "add(%{0}, %x)", "tanh(%{0})", "sub(%{0}, %w)", "abs(%{0})"]
    lines, last = [], "x"
    for number in range(60):
        lines.append(f"%a{number} = {rounds[number % len(rounds)].format(last)}")
        last = f"a{number}"
    graph = one(
        f"%x: {dtype}[{shape}], %w: {dtype}[37]".replace("S", "37"), " ".join(lines), f"%{last}"
    )
    rng = np.random.default_rng(0)
    kind = np.float32 if dtype == "f32" else np.float16
    feeds: dict[str, Array] = {
        "x": rng.uniform(-1, 1, (3, 37)).astype(kind),
        "w": rng.uniform(-1, 1, 37).astype(kind),
    }
    check(graph, feeds)


def test_a_chain_that_doubles_its_value(fresh: None) -> None:
    lines = ["%a0 = sigmoid(%x)"] + [f"%a{i + 1} = add(%a{i}, %a{i})" for i in range(40)]
    graph = one("%x: f32[S]", " ".join(lines), "%a40")
    check(graph, {"x": np.linspace(-1, 1, 35, dtype=np.float32)})


@pytest.mark.parametrize("between", ["", "%n{0} = neg(%g{0})"])
def test_places_in_places_compile(fresh: None, between: str) -> None:
    """Each place is written out three times to be wrapped: four in each other took 15 seconds."""
    lines, last = [], "x"
    for number in range(12):
        lines.append(f"%g{number} = gather(%{last}, %k) {{axis = 0}} {between.format(number)}")
        last = f"{'n' if between else 'g'}{number}"
    graph = one("%x: f32[S, 5], %k: i64[7]", " ".join(lines), f"%{last}")
    places = np.array([6, -1, 0, 3, -7, 2, 5])
    check(graph, {"x": np.random.default_rng(0).standard_normal((9, 5), np.float32), "k": places})


# ----------------------------------------------------------------------------- flags and integers


@pytest.mark.parametrize("dtype", ["i64", "i32", "f32", "f64", "u8", "bool"])
def test_comparisons_in_vector_loops(dtype: str) -> None:
    bodies = {
        "flags": "%y = {op}(%x, %z)",
        "where": "%f = {op}(%x, %z) %y = where(%f, %x, %z)",
        "numbers": "%f = {op}(%x, %z) %y = cast(%f) {dtype = f32}",
        "both": "%f = {op}(%x, %z) %g = equal(%z, %x) %h = logical_xor(%f, %g) "
        "%n = logical_not(%h) %y = logical_or(%n, %g)",
    }
    graphs = [
        (f"{op} {name}", one(f"%x: {dtype}[B, S], %z: {dtype}[B, 1]", body.replace("{op}", op)))
        for op in ("less", "equal", "not_equal")
        for name, body in bodies.items()
    ]
    graph = merge(graphs)
    type = DType(dtype).numpy
    feeds = []
    for length in (1, 15, 16, 17, 65):
        rng = np.random.default_rng(length)
        x: Array = rng.integers(0, 3, (5, length)).astype(type)
        z: Array = rng.integers(0, 3, (5, 1)).astype(type)
        feeds.append({v.name: x if v.name.endswith(".x") else z for v in graph.inputs})
    check_guarded(graph, feeds)


def test_flags_as_inputs_and_masks() -> None:
    body = (
        "%i = iota() {size = S, dtype = i64} %j = reshape(%n) {shape = [B, 1]} "
        "%k = less(%i, %j) %m = logical_and(%k, %f) %y = where(%m, %x, %z) "
        "%c = cast(%m) {dtype = i64} %s = reduce_sum(%c) {axes = [1]}"
    )
    inputs = "%n: i64[B], %f: bool[B, S], %x: f32[B, S], %z: f32[]"
    feeds = []
    for length in (1, 16, 33):
        rng = np.random.default_rng(length)
        feeds.append({
            "n": rng.integers(0, length + 2, 4), "f": rng.random((4, length)) < 0.7,
            "x": rng.standard_normal((4, length)).astype(np.float32),
            "z": np.asarray(-np.inf, np.float32),
        })  # fmt: skip
    built = check_guarded(one(inputs, body, "%y, %m, %s"), feeds)
    assert "rows" not in built.kinds  # only f32 has that kernel


# ------------------------------------------------------------------------------------ half floats


@pytest.mark.parametrize("narrow", ["f16", "bf16"])
def test_attention_of_narrow_floats_is_rounded_once(narrow: str) -> None:
    """Scores and weights that were rounded as well were two units off, with a slower kernel."""
    body = (
        f"%a = cast(%q) {{dtype = {narrow}}} %b = cast(%k) {{dtype = {narrow}}} "
        f"%c = cast(%v) {{dtype = {narrow}}} "
        "%y = attention(%a, %b, %c) {scale = 0.35} %z = cast(%y) {dtype = f32}"
    )
    inputs = "%q: f32[2, 3, T, 8], %k: f32[2, 3, S, 8], %v: f32[2, 3, S, 8]"
    graph = one(inputs, body, "%z")
    rng = np.random.default_rng(0)
    kind = DType(narrow).numpy
    shapes = {"q": (2, 3, 5, 8), "k": (2, 3, 33, 8), "v": (2, 3, 33, 8)}
    feeds = {
        name: rng.uniform(-1, 1, shape).astype(kind).astype(np.float32)
        for name, shape in shapes.items()
    }
    built = build(graph)
    assert "attention" in built.kinds
    (got,) = built.run(feeds)
    q, k, v = (feeds[name].astype(np.float64) for name in "qkv")
    scores = q @ k.swapaxes(-1, -2) * 0.35
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    want = weights / weights.sum(-1, keepdims=True) @ v
    unit = {"f16": 2.0**-11, "bf16": 2.0**-8}[narrow]  # half a unit in the last place
    np.testing.assert_allclose(got.astype(np.float64), want, rtol=1.01 * unit, atol=1e-6)


# ---------------------------------------------------------------------------------- great numbers


@pytest.mark.parametrize("length", [4, 17, 100])
@pytest.mark.parametrize("offset", [0.0, 1e4, -1e6])
def test_log_softmax_of_great_numbers(length: int, offset: float) -> None:
    """The logarithm was added to the peak first, and lost all bits below those of the peak."""
    graph = one("%x: f32[3, S]", "%y = log_softmax(%x)")
    steps = np.random.default_rng(length).integers(-8, 8, (3, length)) / 2  # exact at any offset
    (got,) = build(graph).run({"x": (steps + offset).astype(np.float32)})
    shifted = steps - steps.max(-1, keepdims=True)
    want = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
    np.testing.assert_allclose(got.astype(np.float64), want, rtol=1e-6, atol=1e-7)


def test_a_scalar_reshaped_beside_a_tensor_of_ones() -> None:
    text = "%w = reshape(%s) {shape = [1]} %r = reshape(%w) {shape = []} %y = sub(%x, %r)"
    graph = one("%x: i32[1, 1, 1, 1], %s: i32[]", text)
    feeds = {"x": np.full((1, 1, 1, 1), 7, np.int32), "s": np.array(3, np.int32)}
    (found,) = build(graph).run(feeds)
    assert found.tolist() == [[[[4]]]]
