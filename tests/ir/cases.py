"""One-operator graphs for every operator of the table, as text; element types are filled in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tunesmith.ir.graph import Graph
from tunesmith.ir.text import parse_graph
from tunesmith.ir.types import DType, TensorType

FLOATS = "f32 f16 f64 bf16"
INTS = "i64 i32 i16 i8 u8 u16 u32 u64"
NUMBERS = f"{FLOATS} {INTS}"
ALL = f"{NUMBERS} bool"
SIZES = {"B": 2, "S": 5, "P": 3}


@dataclass(frozen=True)
class Case:
    """Operand types with `T` for the element type, a node, the types to try, ranges of data."""

    inputs: str
    node: str
    dtypes: str = "f32"
    ranges: dict[str, tuple[float, float]] = field(default_factory=dict)

    @property
    def op(self) -> str:
        """The operator."""
        return self.node.split("(")[0]

    def graph(self, dtype: str, static: bool = False) -> Graph:
        """The graph, with symbols or with the sizes that `SIZES` gives them."""
        results = "%out, %places" if self.op == "topk" else "%out"
        text = f"({self.inputs}) {{ {results} = {self.node} return {results} }}"
        text = "graph @case" + text.replace("T[", f"{dtype}[").replace("= T", f"= {dtype}")
        if static:
            for name, size in SIZES.items():
                text = text.replace(f"{name},", f"{size},").replace(f"{name}]", f"{size}]")
                text = text.replace(f"{name} ", f"{size} ").replace(f"{name}}}", f"{size}}}")
                text = text.replace(f"{name}*", f"{size}*").replace(f"{name})", f"{size})")
        return parse_graph(text, "case.nir")

    def __str__(self) -> str:
        return self.node


def unary(name: str, dtypes: str, low: float = 0.0, high: float = 0.0) -> Case:
    """An elementwise operator with one operand."""
    return Case("%x: T[B, 3]", f"{name}(%x)", dtypes, {"x": (low, high)} if high else {})


def binary(name: str, dtypes: str, *extra: tuple[str, tuple[float, float]]) -> list[Case]:
    """An elementwise operator with two operands, one of them broadcast."""
    return [
        Case("%x: T[B, S, 3], %y: T[S, 1]", f"{name}(%x, %y)", dtypes, dict(extra)),
        Case("%x: T[S, 2], %y: T[S, 2]", f"{name}(%x, %y)", dtypes.split()[0], dict(extra)),
    ]


def _windows(spatial: int, stride: int, pad: str, dilation: int | None = None) -> str:
    ones = ", ".join
    strides = ones([str(stride)] * spatial)
    dilations = f", dilations = [{ones([str(dilation)] * spatial)}]" if dilation else ""
    return f"strides = [{strides}], low = [{pad}], high = [{pad}]{dilations}"


IDX: dict[str, tuple[float, float]] = {"i": (-3, 3)}
CASES: list[Case] = [
    unary("neg", NUMBERS), unary("abs", NUMBERS), unary("sign", NUMBERS), unary("exp", FLOATS),
    unary("log", FLOATS, 0.1, 5), unary("sqrt", FLOATS, 0.1, 5), unary("rsqrt", FLOATS, 0.1, 5),
    unary("reciprocal", FLOATS), unary("tanh", FLOATS), unary("sigmoid", FLOATS),
    unary("erf", "f32 f16 bf16"), unary("sin", FLOATS), unary("cos", FLOATS),
    unary("floor", FLOATS), unary("ceil", FLOATS), unary("round", FLOATS),
    unary("isnan", FLOATS), unary("isinf", FLOATS),
    unary("logical_not", "bool"), unary("bitwise_not", INTS),
    *binary("add", ALL), *binary("sub", NUMBERS), *binary("mul", ALL), *binary("div", NUMBERS),
    *binary("mod", NUMBERS), *binary("maximum", ALL), *binary("minimum", ALL),
    *binary("pow", FLOATS, ("x", (0.5, 2))), *binary("pow", "i32 i64 u8", ("y", (1, 4))),
    *binary("equal", ALL), *binary("not_equal", ALL), *binary("less", ALL),
    *binary("less_equal", NUMBERS), *binary("greater", NUMBERS), *binary("greater_equal", NUMBERS),
    *binary("logical_and", "bool"), *binary("logical_or", "bool"), *binary("logical_xor", "bool"),
    *binary("bitwise_and", INTS), *binary("bitwise_or", INTS), *binary("bitwise_xor", INTS),
    Case("%c: bool[S, 1], %x: T[S, 3], %y: T[1, 3]", "where(%c, %x, %y)", ALL),
    *(Case("%x: T[S, 3]", f"cast(%x) {{dtype = {d}}}", "f32 i64 bool f16 bf16", {"x": (1, 9)})
      for d in ALL.split()),
    Case("%x: T[S, 3]", "bitcast(%x) {dtype = u32}", "i32 u32"),
    Case("%x: T[S, 3]", "bitcast(%x) {dtype = i8}", "u8"),
    Case("%x: T[S]", "constant() {value = f32[2, 2] [1.5, -2.0, inf, nan]}"),
    Case("%x: T[S]", "full() {value = 3, shape = [S, 2], dtype = T}", ALL),
    Case("%x: T[S]", "full() {value = 3, shape = [], dtype = T}", ALL),
    Case("%x: T[S]", "iota() {size = S, dtype = T}", NUMBERS),
    Case("%x: T[S]", "dim_value() {size = S, dtype = T}", NUMBERS),
    Case("%x: T[B, S]", "dim_value() {size = 2*B*S - 3, dtype = T}", "i64"),
    Case("%x: T[S]", "dim_value() {size = (S - 8)//2, dtype = T}", "i64"),
    Case("%x: T[2*S + 1]", "iota() {size = S, dtype = T}", "i32"),
    Case("%x: T[B, S, 4]", "reshape(%x) {shape = [B*S, 2, 2]}", ALL),
    Case("%x: T[B*S, 4], %z: T[S]", "reshape(%x) {shape = [4, 1, B, S]}"),
    Case("%x: T[B, S, 4]", "transpose(%x) {perm = [2, 0, 1]}", ALL),
    Case("%x: T[B, 1, 4]", "expand(%x) {shape = [3, B, 5, 4]}", ALL),
    Case("%x: T[1, S], %z: T[B]", "expand(%x) {shape = [B, S]}"),
    Case("%x: T[B, 7]", "slice(%x) {axis = 1, start = 1, stop = 6, step = 2}", ALL),
    Case("%x: T[B, 7]", "slice(%x) {axis = -1, start = 6, stop = -1, step = -3}"),
    Case("%x: T[B, S]", "slice(%x) {axis = 1, start = 1, stop = S - 1}"),
    Case("%x: T[B, S]", "slice(%x) {axis = 1, start = 0, stop = S - 1, step = 2}"),
    Case("%x: T[B, S], %y: T[B, 3]", "concat(%x, %y, %x) {axis = 1}", ALL),
    Case("%x: T[B, 3]", "pad(%x) {low = [1, 0], high = [0, 2], value = 1.0}", ALL),
    Case("%x: T[B, 5]", "pad(%x) {low = [0, -1], high = [2, -1]}"),
    Case("%x: T[3, B], %i: i64[2, 2]", "gather(%x, %i)", ALL, IDX),
    Case("%x: T[B, 3, 2], %i: u8[S]", "gather(%x, %i) {axis = 1}", "f32", {"i": (0, 3)}),
    Case("%x: T[B, 3], %i: i32[]", "gather(%x, %i) {axis = -1}", "f32", IDX),
    Case("%x: T[2, 3], %i: i64[1, 4]", "gather_elements(%x, %i) {axis = 1}", ALL, IDX),
    Case("%x: T[3, 3, B], %i: i32[S, 2]", "gather_nd(%x, %i)", ALL, IDX),
    Case("%x: T[2, 3, 3], %i: i64[2, 4, 1]", "gather_nd(%x, %i) {batch_dims = 1}", "f32", IDX),
    Case("%x: T[9, 2], %i: i64[1, 1], %u: T[1, 2]", "scatter_nd(%x, %i, %u)", ALL, IDX),
    *(Case("%x: T[4, 2], %i: i64[6, 1], %u: T[6, 2]",
           f'scatter_nd(%x, %i, %u) {{reduction = "{r}"}}', "f32 f64 i64 i32", IDX)
      for r in ("add", "mul", "min", "max")),
    *(Case("%x: T[B, S, 4]", f"{r}(%x) {{axes = [{a}], keepdims = {k}}}",
           "f32 f16 f64 bf16 i64 i32 i8 u8")
      for r in ("reduce_sum", "reduce_mean", "reduce_max", "reduce_min", "reduce_prod")
      for a, k in (("-1", "true"), ("0, 2", "false"), ("", "false"))),
    Case("%x: T[B, S]", "reduce_all(%x) {axes = [1]}", "bool"),
    *(Case("%x: T[B, S]", f"{r}(%x) {{axis = 1, last = {last}}}", NUMBERS)
      for r in ("argmax", "argmin") for last in ("true", "false")),
    *(Case("%x: T[B, S]", f"cumsum(%x) {{axis = 1, exclusive = {e}, reverse = {r}}}", NUMBERS)
      for e in ("true", "false") for r in ("true", "false")),
    Case("%x: T[B, 6]", "topk(%x) {k = 3}", NUMBERS),
    Case("%x: T[4, S], %z: T[P]", "topk(%x) {k = P, axis = 0, largest = false}"),
    Case("%x: T[]", "bind_size(%x) {size = 0<=K}", "i64", {"x": (0, 9)}),
    Case("%x: T[S]", "true_places(%x)", "bool"),
    Case("%x: T[B, 1, 4], %s: T[B, 1], %m: i64[], %o: T[], %l: T[]",
         "suppress(%x, %s, %m, %o, %l)", "f32", {"m": (0, 5), "o": (0.1, 0.9)}),
    Case("%x: T[B, S, 4], %y: T[4, 3]", "matmul(%x, %y)", NUMBERS),
    Case("%x: T[B, 1, S, 4], %y: T[3, 4, S]", "matmul(%x, %y)"),
    Case("%x: T[B, 4, 9, S], %w: T[6, 2, 3, 3], %b: T[6]",
         f"conv(%x, %w, %b) {{{_windows(2, 2, '1, 1', 1)}, groups = 2}}", "f32 f16 bf16"),
    Case("%x: T[B, 2, 11], %w: T[3, 2, 3]", f"conv(%x, %w) {{{_windows(1, 1, '0', 2)}}}"),
    Case("%x: T[B, 2, 9, S]", f"max_pool(%x) {{kernel = [3, 3], {_windows(2, 2, '1, 1', 1)}}}",
         "f32 f16 f64"),
    *(Case("%x: T[B, 2, 9, 9]", f"average_pool(%x) {{kernel = [3, 3], {_windows(2, 2, '1, 1')}, "
           f"count_padding = {c}}}", "f32 f16 bf16") for c in ("true", "false")),
    unary("relu", "f32 f16 i32"), unary("silu", FLOATS),
    Case("%x: T[B, S]", "gelu(%x)", "f32 f16 bf16"),
    Case("%x: T[B, S]", 'gelu(%x) {approximate = "tanh"}', FLOATS),
    Case("%x: T[B, S]", 'gelu(%x) {approximate = "sigmoid"}'),
    Case("%x: T[B, S]", "clip(%x) {low = -1.0, high = 1.0}"),
    Case("%x: T[B, S, 4]", "softmax(%x) {axis = 1}", FLOATS),
    Case("%x: T[B, S, 4]", "log_softmax(%x)", FLOATS),
    Case("%x: i8[S, 4], %s: T[4]", "dequantize(%x, %s)", "f32 f16"),
    Case("%x: T[B, S, 4], %w: T[4, 3]", "linear(%x, %w)", FLOATS),
    Case("%x: T[B, S, 4], %w: T[4, 3], %b: T[3]",
         'linear(%x, %w, %b) {activation = "gelu_tanh"}', FLOATS),
    Case("%x: T[B, S, 4], %w: i8[4, 3], %s: T[3]", "linear(%x, %w, _, %s)", "f32"),
    Case("%x: T[B, S, 4], %w: T[4], %b: T[4]", "layer_norm(%x, %w, %b)", FLOATS),
    Case("%x: T[B, S, 4], %w: T[4]", "layer_norm(%x, %w) {epsilon = 0.5}"),
    Case("%x: T[B, S, 4], %w: T[4]", "rms_norm(%x, %w)", FLOATS),
    Case("%q: T[B, 4, S, 6], %k: T[B, 2, P, 6], %v: T[B, 2, P, 3]",
         "attention(%q, %k, %v) {scale = 0.5}", FLOATS),
    Case("%q: T[B, 2, S, 6], %k: T[B, 2, S + P, 6], %v: T[B, 2, S + P, 6], "
         "%m: bool[B, 1, 1, S + P]",
         'attention(%q, %k, %v, %m) {scale = 0.5, causal = true, offset = P, masked_row = "zero"}'),
    Case("%q: T[B, 2, S, 6], %k: T[B, 2, P, 6], %v: T[B, 2, P, 6], %m: T[1, 1, S, P]",
         "attention(%q, %k, %v, %m) {scale = 0.5, softcap = 2.0}"),
    Case("%x: T[B, 2, S, 4], %c: T[S, 4], %s: T[S, 4]", "rotary(%x, %c, %s)", FLOATS),
    Case("%x: T[B, 2, S, 4], %c: T[S, 4], %s: T[S, 4]", "rotary(%x, %c, %s) {interleaved = true}"),
    Case("%x: T[B, 7, 3], %y: T[B, P, 3]", "write_slice(%x, %y) {axis = 1, start = P}", ALL),
    Case("%x: T[B, 6], %y: T[B, S]", "write_slice(%x, %y) {axis = -1, start = 0}"),
]  # fmt: skip


def each() -> Iterator[tuple[Case, str, bool]]:
    """Every case with every element type, with symbols; and once without."""
    for case in CASES:
        for dtype in case.dtypes.split():
            yield case, dtype, False
        yield case, case.dtypes.split()[0], True


def random_array(
    type: TensorType, rng: np.random.Generator, bounds: tuple[float, float] | None = None
) -> NDArray[np.generic]:
    """Random elements, none of them 0 by default."""
    shape = tuple(int(size) for size in type.shape if isinstance(size, int))
    if type.dtype is DType.bool:
        return rng.random(shape) < 0.6
    if type.dtype.is_float:
        signs = 1 if bounds else rng.choice([-1.0, 1.0], shape)
        low, high = bounds or (0.3, 2.0)
        return np.asarray(signs * rng.uniform(low, high, shape)).astype(type.dtype.numpy)
    low, high = bounds or (1, 6)
    values = rng.integers(int(low), int(high), shape)
    if bounds is None and not type.dtype.value.startswith("u"):
        values = values * rng.choice([-1, 1], shape)
    return np.asarray(values).astype(type.dtype.numpy)


def feeds_of(graph: Graph, case: Case, seed: int = 0) -> dict[str, NDArray[np.generic]]:
    """Random inputs for a graph at `SIZES`."""
    rng = np.random.default_rng(seed)
    ranges = case.ranges
    return {
        value.name: random_array(value.type.substitute(dict(SIZES)), rng, ranges.get(value.name))
        for value in graph.inputs
    }
