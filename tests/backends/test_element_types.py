"""Every element type through every kind of kernel, beside the interpreter."""

from __future__ import annotations

import numpy as np
import pytest

from tunesmith.ir.graph import Graph
from tunesmith.ir.text import parse_graph
from tunesmith.ir.types import DType

from .running import Array, check, merge

pytestmark = pytest.mark.tvm

INTEGERS = ("i8", "u8", "i16", "u16", "i32", "u32", "i64", "u64")
UNARY = ("neg(%x)", "abs(%x)", "sign(%x)", "bitwise_not(%x)")
BINARY = (
    "add(%x, %w)", "sub(%x, %w)", "mul(%x, %w)", "div(%x, %n)", "mod(%x, %n)", "pow(%x, %p)",
    "maximum(%x, %w)", "minimum(%x, %w)", "equal(%x, %w)", "not_equal(%x, %w)", "less(%x, %w)",
    "less_equal(%x, %w)", "greater(%x, %w)", "greater_equal(%x, %w)", "bitwise_and(%x, %w)",
    "bitwise_or(%x, %w)", "bitwise_xor(%x, %w)",
)  # fmt: skip
OTHERS = (
    "transpose(%x) {perm = [1, 0]}", "concat(%x, %w) {axis = 1}",
    "slice(%x) {axis = 1, start = 1, stop = S}", "reduce_sum(%x) {axes = [1]}",
    "reduce_sum(%x) {axes = [0]}", "reduce_max(%x) {axes = [1]}", "reduce_min(%x) {axes = [0]}",
    "reduce_prod(%x) {axes = [1]}", "reshape(%x) {shape = [B*S]}",
    "expand(%x) {shape = [3, B, S]}",
)  # fmt: skip


def graph_of(inputs: str, body: str) -> Graph:
    """A graph with one result."""
    return parse_graph(f"graph @g({inputs}) {{ {body} return %y }}")


def edges(dtype: str, count: int) -> Array:
    """The ends of a type, numbers about zero and about each power of two, in `[2, count]`."""
    info = np.iinfo(str(DType(dtype).numpy))
    found = {info.min, info.max, info.min + 1, info.max - 1, info.max // 2, info.max // 2 + 1}
    found |= {n for k in range(0, 65, 7) for n in (1 << k, (1 << k) - 1, -(1 << k), -(1 << k) - 1)}
    kept = [n for n in sorted(found) if info.min <= n <= info.max]
    return np.resize(np.asarray(kept, DType(dtype).numpy), (2, count))


@pytest.mark.parametrize("dtype", INTEGERS)
def test_integers_of_every_width(dtype: str) -> None:
    signed = dtype.startswith("i")
    graphs = {
        body: graph_of(
            f"%x: {dtype}[B, S], %w: {dtype}[B, S], %n: {dtype}[B, S], %p: {dtype}[B, S]",
            f"%y = {body}",
        )
        for body in (*(UNARY if signed else UNARY[1:]), *BINARY, *OTHERS)
    }
    count = 37
    x = edges(dtype, count)
    w = np.roll(x, 5, axis=1)
    n = np.where(w == 0, 3, w).astype(x.dtype)
    p = np.resize(np.asarray([0, 1, 2, 3, 7, 5]), x.shape).astype(x.dtype)
    merged = merge([*graphs.items()])
    values = {"x": x, "w": w, "n": n, "p": p}
    with np.errstate(all="ignore"):
        check(merged, {v.name: values[v.name.rsplit(".", 1)[1]] for v in merged.inputs})


@pytest.mark.parametrize("source", [*INTEGERS, "bool", "f16", "bf16", "f32", "f64"])
def test_casts_to_every_type(source: str) -> None:
    """Floats to integers within their range: beyond it, no two engines agree."""
    names = [dtype.value for dtype in DType]
    graphs = {
        name: graph_of(f"%x{name}: {source}[B, S]", f"%y = cast(%x{name}) {{dtype = {name}}}")
        for name in names
    }
    merged = merge([*graphs.items()])
    feeds = {}
    for value in merged.inputs:
        name = value.name.rsplit(".", 1)[1][1:]
        if source in INTEGERS:
            array = edges(source, 37)
        elif source == "bool":
            array = np.resize(np.asarray([True, False, False]), (2, 37))
        else:
            low = 0 if name.startswith("u") else -100
            array = np.resize(np.linspace(low, 100, 23), (2, 37)).astype(np.float32)
            kept = DType.f32 if source == "bf16" else DType(source)
            array = array.astype(DType(source).numpy).astype(kept.numpy)
        feeds[value.name] = array
    with np.errstate(all="ignore"):
        check(merged, feeds)
