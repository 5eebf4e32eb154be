"""No kernel reads outside of its operands: they lie between pages that nobody may touch.

What guards against that is a clamp of the index, which the simplifier of TVM takes away where a
condition makes it superfluous; the element was read on both sides of the condition all the same.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.ir.cases import random_array
from tunesmith.ir.graph import Graph
from tunesmith.ir.text import parse_graph
from tunesmith.ir.types import DType

from .guarded import SIDES, Guarded, check_guarded
from .running import Array, build, merge, pin

pytestmark = pytest.mark.tvm

TOKEN = (
    "%t: f32[1, 1, 24], %x: f32[B, 196, 24], %p: f32[1, 197, 24]",
    "%e = expand(%t) {shape = [B, 1, 24]} %c = concat(%e, %x) {axis = 1} %y = add(%c, %p)",
)
KEYS = "%q: f32[B, 2, 5, 8], %k: f32[B, 2, S, 8], %v: f32[B, 2, S, 8]"
PAST = f"{KEYS}, %a: f32[B, 2, 7, 8], %b: f32[B, 2, 7, 8]"
ANGLES = "%x: f32[B, 2, S, 16], %c: f32[S, 16], %s: f32[S, 16]"
THREE = "%x: f32[B, S], %y: f32[B, 3], %z: f32[B, 17]"

# what it reads, and what it computes; the result is %w, or %y
GRAPHS: dict[str, tuple[str, str]] = {
    "token in front of patches": TOKEN,
    "patches in front of a token": (
        TOKEN[0],
        "%e = expand(%t) {shape = [B, 1, 24]} %c = concat(%x, %e) {axis = 1} %y = add(%c, %p)",
    ),
    "concat of three": (THREE, "%c = concat(%y, %x, %z) {axis = 1} %w = mul(%c, %c)"),
    "concat in a concat": (
        THREE,
        "%a = concat(%x, %y) {axis = 1} %b = neg(%a) %c = concat(%z, %b, %y) {axis = 1} "
        "%w = exp(%c)",
    ),
    "concat of rows": (
        "%x: f32[S, 8], %y: f32[3, 8]",
        "%c = concat(%x, %y) {axis = 0} %w = tanh(%c)",
    ),
    "concat, reduced": (THREE, "%c = concat(%x, %y) {axis = 1} %w = reduce_sum(%c) {axes = [1]}"),
    "concat, softmax": (THREE, "%c = concat(%z, %x) {axis = 1} %w = softmax(%c)"),
    "concat, reduced over rows": (
        THREE,
        "%c = concat(%x, %y) {axis = 1} %w = reduce_max(%c) {axes = [0]}",
    ),
    "concat into linear": (
        "%x: f32[B, S, 8], %y: f32[B, 3, 8], %w8x17: f32[8, 17]",
        "%c = concat(%x, %y) {axis = 1} %w = linear(%c, %w8x17)",
    ),
    "concat of columns into linear": (
        "%x: f32[B, S, 5], %y: f32[B, S, 3], %w8x17: f32[8, 17]",
        "%c = concat(%x, %y) {axis = 2} %w = linear(%c, %w8x17)",
    ),
    "concat into the left of matmul": (
        "%x: f32[B, S, 8], %y: f32[B, 3, 8], %z: f32[B, 8, S]",
        "%c = concat(%x, %y) {axis = 1} %w = matmul(%c, %z)",
    ),
    "concat into the right of matmul": (
        "%x: f32[B, 8, S], %y: f32[B, 8, 3], %z: f32[B, S, 8]",
        "%c = concat(%x, %y) {axis = 2} %w = matmul(%z, %c)",
    ),
    "past keys and values": (
        PAST,
        "%kk = concat(%a, %k) {axis = 2} %vv = concat(%b, %v) {axis = 2} "
        "%w = attention(%q, %kk, %vv) {scale = 0.5}",
    ),
    "past values that are computed": (
        PAST,
        "%n = neg(%b) %kk = concat(%k, %a) {axis = 2} %vv = concat(%v, %n) {axis = 2} "
        "%w = attention(%q, %kk, %vv) {scale = 0.5, causal = true, offset = S}",
    ),
    "mask put together": (
        f"{KEYS}, %m: f32[B, 1, 5, S - 1], %n: f32[B, 1, 5, 1]".replace("S", "2<=S", 1),
        "%c = concat(%m, %n) {axis = 3} %w = attention(%q, %k, %v, %c) {scale = 0.5}",
    ),
    "mask of a row": (
        f"{KEYS}, %m: f32[B, 1, 1, S - 1], %n: f32[B, 1, 1, 1]".replace("S", "2<=S", 1),
        "%c = concat(%n, %m) {axis = 3} %w = attention(%q, %k, %v, %c) {scale = 0.5}",
    ),
    "pad": (
        "%x: f32[B, S]",
        "%c = pad(%x) {low = [1, 2], high = [0, 1], value = 1.0} %w = exp(%c)",
    ),
    "pad that cuts": (
        "%x: f32[B, S + 3]",
        "%c = pad(%x) {low = [2, -1], high = [1, -1], value = 2.0} %w = neg(%c)",
    ),
    "pad in front only": (
        "%x: f32[B, S, 3]",
        "%c = pad(%x) {low = [0, 40, 1], high = [0, 0, 0], value = -1.0} %w = add(%c, %c)",
    ),
    "pad and reduce": (
        "%x: f32[B, S]",
        "%c = pad(%x) {low = [0, 3], high = [0, 5], value = -inf} %w = reduce_max(%c) {axes = [1]}",
    ),
    "pad into matmul": (
        "%x: f32[B, S, 4], %z: f32[B, 6, 5]",
        "%c = pad(%x) {low = [0, 1, 1], high = [0, 1, 1], value = 0.0} %w = matmul(%c, %z)",
    ),
    "pad and pool": (
        "%x: f32[B, 3, S, 7]",
        "%c = pad(%x) {low = [0, 0, 1, 1], high = [0, 0, 1, 1], value = 0.0} "
        "%w = max_pool(%c) {kernel = [2, 2], strides = [1, 1], low = [0, 0], high = [0, 0], "
        "dilations = [1, 1]}",
    ),
    "pad and concat": (
        "%x: f32[B, S], %y: f32[B, 4]",
        "%c = pad(%x) {low = [0, 2], high = [0, 2], value = 0.0} %d = concat(%y, %c) {axis = 1} "
        "%w = abs(%d)",
    ),
    "slice": (
        "%x: f32[B, S + 7]",
        "%c = slice(%x) {axis = 1, start = 3, stop = S + 7, step = 2} %w = neg(%c)",
    ),
    "slice backwards": (
        "%x: f32[B, S]",
        "%c = slice(%x) {axis = 1, start = S - 1, stop = -1, step = -1} %w = neg(%c)",
    ),
    "slices of a concat": (
        THREE,
        "%c = concat(%x, %z) {axis = 1} %d = slice(%c) {axis = 1, start = 1, stop = S + 9} "
        "%w = neg(%d)",
    ),
    "rotary of halves": (ANGLES, "%y = rotary(%x, %c, %s)"),
    "rotary of neighbours": (ANGLES, "%y = rotary(%x, %c, %s) {interleaved = true}"),
    "rotary of a concat": (
        "%x: f32[B, 2, S, 8], %z: f32[B, 2, 3, 8], %c: f32[S + 3, 8], %s: f32[S + 3, 8]",
        "%d = concat(%x, %z) {axis = 2} %w = rotary(%d, %c, %s)",
    ),
    "gather where a place is reached": (
        "%x: f32[9, S], %i: i64[S], %z: f32[S, S]",
        "%n = iota() {size = S, dtype = i64} %k = constant() {value = i64[] 4} "
        "%o = greater_equal(%n, %k) %g = gather(%x, %i) %w = where(%o, %g, %z)",
    ),
    "gather of shifted places": (
        "%x: f32[S, 8]",
        "%n = iota() {size = S, dtype = i64} %k = constant() {value = i64[] 1} %p = sub(%n, %k) "
        "%j = constant() {value = i64[] 0} %o = greater_equal(%p, %j) %z = maximum(%p, %j) "
        "%g = gather(%x, %z) %h = reshape(%o) {shape = [S, 1]} %f = neg(%g) "
        "%w = where(%h, %g, %f)",
    ),
    "gather from a concat": (
        "%x: f32[S, 4], %y: f32[9, 4], %i: i64[B]",
        "%c = concat(%y, %x) {axis = 0} %g = gather(%c, %i) %w = neg(%g)",
    ),
    "where of a pad": (
        "%x: f32[B, S], %z: f32[B, S + 1]",
        "%c = pad(%x) {low = [0, 1], high = [0, 0], value = 0.0} %o = less(%c, %z) "
        "%w = where(%o, %c, %z)",
    ),
}  # fmt: skip

SIZES = [(1, 2), (2, 15), (3, 16), (2, 17), (1, 33), (5, 48)]


def parsed(name: str) -> Graph:
    """A graph of the table, its weight a constant."""
    inputs, body = GRAPHS[name]
    result = "%y" if "%y =" in body else "%w"
    graph = parse_graph(f"graph @g({inputs}) {{ {body} return {result} }}")
    weight = np.random.default_rng(1).standard_normal((8, 17)).astype(np.float32)
    return pin(graph, {}, {"w8x17": weight})


def random_feeds(graph: Graph, batch: int, length: int) -> dict[str, Array]:
    rng = np.random.default_rng(batch * 100 + length)
    feeds: dict[str, Array] = {}
    for value in graph.inputs:
        type = value.type.substitute({"B": batch, "S": length})
        bounds = (-9, 9) if type.dtype is DType.i64 else None
        feeds[value.name] = random_array(type, rng, bounds)
    return feeds


def test_symbolic_sizes() -> None:
    graph = merge([(name, parsed(name)) for name in GRAPHS])
    check_guarded(graph, [random_feeds(graph, *sizes) for sizes in SIZES])


@pytest.mark.parametrize(("batch", "length"), [(1, 31), (2, 16)])
def test_static_sizes(batch: int, length: int) -> None:
    sizes = {"B": batch, "S": length}
    graph = merge([(name, pin(parsed(name), sizes)) for name in GRAPHS])
    check_guarded(graph, [random_feeds(graph, batch, length)])


@pytest.mark.parametrize("batch", [None, 2])
def test_token_in_another_type(batch: int | None) -> None:
    graphs = []
    for dtype in ("f16", "f64", "i8", "i64"):
        inputs, body = (part.replace("f32", dtype) for part in TOKEN)
        graph = parse_graph(f"graph @g({inputs}) {{ {body} return %y }}")
        graphs.append((dtype, graph if batch is None else pin(graph, {"B": batch})))
    merged = merge(graphs)
    check_guarded(merged, [random_feeds(merged, batch or 3, 1)])


def test_places_far_outside_are_not_read() -> None:
    far = np.iinfo(np.int64)
    places = np.asarray([far.min, far.max, -100, 100, 9, -10, 1 << 40, -(1 << 33)])
    text = (
        "graph @g(%x: f32[9, S], %i: i64[8], %j: i64[8, S], %k: i64[8, 1]) { "
        "%a = gather(%x, %i) %b = gather_elements(%x, %j) {axis = 0} %c = gather_nd(%x, %k) "
        "%d = scatter_nd(%x, %k, %a) return %a, %b, %c, %d }"
    )
    built = build(parse_graph(text))
    for side in SIDES:
        guarded = Guarded(built, side)
        for length in (1, 16, 40):
            x = np.random.default_rng(0).standard_normal((9, length)).astype(np.float32)
            columns = np.repeat(places[:, None], length, 1)
            got = guarded.run({"x": x, "i": places, "j": columns, "k": places[:, None]})
            assert all(np.isin(array, x).all() for array in got)


PROGRAM = """
from tvm import tirx
from tests.backends import test_bounds as bounds
from tests.backends.guarded import check_guarded
from tunesmith.backends.tvm.evaluator import Evaluator

Evaluator.chosen = lambda self, condition, yes, no: tirx.Select(condition, yes, no)
graph = bounds.parsed("token in front of patches")
check_guarded(graph, [bounds.random_feeds(graph, 2, 1)])
"""


def test_a_careless_choice_is_caught() -> None:
    away = {**os.environ, "TUNESMITH_CACHE": "off"}  # nobody else may get this code
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=away, cwd=root, capture_output=True, text=True
    )
    assert done.returncode < 0, done.stderr
