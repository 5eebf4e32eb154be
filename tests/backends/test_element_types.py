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
    names = [dtype.value for dtype in DType if not dtype.is_stored]
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


@pytest.mark.parametrize(
    "names", ["f16 i16 u16 bf16", "f32 i32 u32", "f64 i64 u64", "i8 u8 f8e5m2 i4"]
)
def test_bits_as_another_type(names: str) -> None:
    """Also of a value that is computed, and there and back."""
    types = names.split()
    graphs = {
        f"{a} {b}": graph_of(
            f"%{a}: {a}[B, S]",
            f"%b = bitcast(%{a}) {{dtype = {b}}} %y = bitcast(%b) {{dtype = {a}}}",
        )
        for a in types if not DType(a).is_stored and a != "bf16" for b in types if a != b
    }  # fmt: skip
    signed, unsigned = types[1], types[1] if types[1].startswith("u") else types[2]
    graphs["neg"] = graph_of(
        f"%{signed}: {signed}[B, S]",
        f"%a = bitwise_not(%{signed}) %y = bitcast(%a) {{dtype = {unsigned}}}",
    )
    merged = merge([*graphs.items()])
    size = DType(types[0]).bytes
    bits = np.random.default_rng(size).integers(0, 256, (3, 11 * size)).astype(np.uint8)
    feeds = {
        value.name: bits.view(value.type.dtype.numpy) for value in merged.inputs
    }  # also NaN of every kind: a move keeps its bits, and NaN compare equal
    check(merged, feeds)
