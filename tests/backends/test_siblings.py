"""Products of the same rows: which become one kernel, which must not, and the numbers of both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pytest

from tunesmith.backends.targets import find_target
from tunesmith.backends.tvm.compile import TvmBackend
from tunesmith.backends.tvm.kernels.kernel import Kernel
from tunesmith.backends.tvm.schedule import gemm_knobs
from tunesmith.ir.graph import Graph
from tunesmith.ir.interpreter import evaluate
from tunesmith.ir.text import parse_graph

from .guarded import check_guarded
from .running import Array, assert_close, build, merge, pin, target, text_of_kernels

pytestmark = pytest.mark.tvm

ROWS = (0, 1, 5, 6, 7, 8, 9, 11, 12, 13, 47, 48, 97)


@dataclass(frozen=True)
class Case:
    """Products of `%x`, whose weights are `%w…`; the operators of each kernel, apart by a bar."""

    inputs: str
    body: str
    kernels: str
    results: str = "%q, %k, %v"
    inner: str = "24"

    def graph(self, prefix: str = "") -> Graph:
        """The graph, its weights constants; those of eight bits are small integers."""
        low = "0<=" if "reshape" not in self.body else ""
        text = f"graph @g(%x: f32[{low}R, {self.inner}], {self.inputs}) {{ {self.body} "
        graph = parse_graph(text.replace("\n", " ") + f"return {self.results} }}")
        random = np.random.default_rng(7)
        weights: dict[str, Array] = {}
        for value in graph.inputs:
            if not value.name.startswith("w"):
                continue
            shape = [int(str(size)) for size in value.type.shape]
            if value.type.dtype.numpy == np.int8:
                weights[value.name] = random.integers(-128, 128, shape).astype(np.int8)
            else:
                weights[value.name] = random.standard_normal(shape).astype(np.float32)
        return pin(graph, {}, weights)


def feeds_of(graph: Graph, rows: int) -> dict[str, Array]:
    random = np.random.default_rng(rows)
    result: dict[str, Array] = {}
    for value in graph.inputs:
        shape = [int(str(size)) for size in value.type.substitute({"R": rows}).shape]
        result[value.name] = random.uniform(-1, 1, shape).astype(value.type.dtype.numpy)
    return result


THREE = "%w1: f32[24, 144], %w2: f32[24, 48], %w3: f32[24, 48]"
PAIR = "%w1: f32[24, 96], %w2: f32[24, 96]"
JOINED = {
    "grouped heads": Case(
        THREE,
        "%q = linear(%x, %w1) %k = linear(%x, %w2) %v = linear(%x, %w3)",
        "gemm linear linear linear",
    ),
    "results that end within a panel": Case(
        "%w1: f32[24, 47], %w2: f32[24, 95], %w3: f32[24, 46]",
        "%q = linear(%x, %w1) %k = linear(%x, %w2) %v = linear(%x, %w3)",
        "gemm linear linear linear",
    ),
    "an epilogue each": Case(
        f"{THREE}, %b: f32[144], %c: f32[48], %r: f32[R, 48]",
        '%l = linear(%x, %w1, %b) %q = gelu(%l) %m = linear(%x, %w2, %c) {activation = "relu"} '
        "%k = sub(%r, %m) %n = linear(%x, %w3) %v = reshape(%n) {shape = [R*3, 16]}",
        "gemm linear gelu linear sub linear reshape",
    ),
    "three of two vectors": Case(
        "%w1: f32[24, 32], %w2: f32[24, 32], %w3: f32[24, 32]",
        "%q = linear(%x, %w1) %k = linear(%x, %w2) %v = linear(%x, %w3)",
        "gemm linear linear linear",
    ),
    "one that nobody reads": Case(
        THREE,
        "%q = linear(%x, %w1) %k = linear(%x, %w2) %v = linear(%x, %w3)",
        "gemm linear linear linear",
        "%q, %v",
    ),
    "one weight, two biases": Case(
        f"{PAIR}, %b: f32[96], %c: f32[96]",
        "%q = linear(%x, %w1, %b) %k = linear(%x, %w1, %c)",
        "gemm linear linear",
        "%q, %k",
    ),
    "weights of eight bits": Case(
        "%w1: i8[24, 96], %w2: i8[24, 47], %s: f32[96], %t: f32[1], %c: f32[47]",
        "%q = linear(%x, %w1, _, %s) %k = linear(%x, %w2, %c, %t)",
        "gemm linear linear",
        "%q, %k",
    ),
    "a gate": Case(
        PAIR,
        '%g = linear(%x, %w1) {activation = "silu"} %u = linear(%x, %w2) %q = mul(%g, %u)',
        "gemm linear linear mul",
        "%q",
    ),
    "a gate behind what it gates": Case(
        f"{PAIR}, %b: f32[96], %c: f32[96], %r: f32[R, 96]",
        "%u = linear(%x, %w2, %b) %d = add(%u, %r) %g = linear(%x, %w1, %c) %s = sigmoid(%g) "
        "%t = mul(%g, %s) %m = mul(%d, %t) %q = sub(%m, %r)",
        "gemm linear add linear sigmoid mul mul sub",
        "%q",
    ),
    "a gate that ends within a panel": Case(
        "%w1: f32[24, 95], %w2: f32[24, 95]",
        "%g = linear(%x, %w1) %s = gelu(%g) %u = linear(%x, %w2) %q = mul(%s, %u)",
        "gemm linear gelu linear mul",
        "%q",
    ),
    "a gate of eight bits": Case(
        "%w1: i8[24, 95], %w2: i8[24, 95], %s: f32[95], %t: f32[95]",
        '%g = linear(%x, %w1, _, %s) {activation = "silu"} %u = linear(%x, %w2, _, %t) '
        "%q = mul(%g, %u)",
        "gemm linear linear mul",
        "%q",
    ),
    "sums that wait in memory": Case(
        "%w1: f32[3075, 48], %w2: f32[3075, 48], %w3: f32[3075, 95]",
        "%q = linear(%x, %w1) %k = linear(%x, %w2) %v = linear(%x, %w3)",
        "gemm linear linear linear",
        inner="3075",
    ),
    "a gate whose sums wait in memory": Case(
        "%w1: f32[3075, 95], %w2: f32[3075, 95]",
        '%g = linear(%x, %w1) {activation = "silu"} %u = linear(%x, %w2) %q = mul(%g, %u)',
        "gemm linear linear mul",
        "%q",
        inner="3075",
    ),
    "two gated layers, and plain ones, of one value": Case(
        f"{PAIR}, %w3: f32[24, 48], %w4: f32[24, 96], %w5: f32[24, 48], %w6: f32[24, 48]",
        '%g = linear(%x, %w1) {activation = "silu"} %u = linear(%x, %w2) %q = mul(%g, %u) '
        "%a = linear(%x, %w3) %b = linear(%x, %w4) "
        '%h = linear(%x, %w5) {activation = "tanh"} %i = linear(%x, %w6) %k = mul(%i, %h)',
        "gemm linear linear mul linear linear mul | gemm linear linear",
        "%q, %k, %a, %b",
    ),
    "one that needs what is computed later in the file": Case(
        f"{PAIR}, %r: f32[R, 96]",
        "%q = linear(%x, %w1) %s = softmax(%r) %k = linear(%x, %w2) %m = softmax(%q) ",
        "gemm linear linear | rows softmax | rows softmax",
        "%q, %k, %s, %m",
    ),
    "nine": Case(
        ", ".join(f"%w{i}: f32[24, 48]" for i in range(9)),
        " ".join(f"%y{i} = linear(%x, %w{i})" for i in range(9)),
        f"gemm{' linear' * 8} | gemm linear",
        ", ".join(f"%y{i}" for i in range(9)),
    ),
}  # fmt: skip

APART = {
    "rows of something else": Case(
        f"{PAIR}, %z: f32[R, 24]",
        "%q = linear(%x, %w1) %k = linear(%z, %w2)",
        "gemm linear | gemm linear",
        "%q, %k",
    ),
    "a product of another's result": Case(
        "%w1: f32[24, 24], %w2: f32[24, 24]",
        "%q = linear(%x, %w1) %k = linear(%q, %w2)",
        "gemm linear | gemm linear",
        "%q, %k",
    ),
    "an epilogue that reads another's result": Case(
        PAIR,
        "%q = linear(%x, %w1) %l = linear(%x, %w2) %k = add(%l, %q)",
        "gemm linear | gemm linear add",
        "%q, %k",
    ),
    "an epilogue that reads what follows from another's result": Case(
        PAIR,
        "%q = linear(%x, %w1) %s = softmax(%q) %l = linear(%x, %w2) %k = add(%l, %s)",
        "gemm linear | rows softmax | gemm linear add",
        "%q, %k",
    ),
    "a gate that is broadcast": Case(
        f"{PAIR}, %r: f32[1, R, 96]",
        "%g = linear(%x, %w1) %l = linear(%x, %w2) %m = reshape(%l) {shape = [R, 1, 96]} "
        "%q = add(%m, %g)",
        "gemm linear linear reshape | elementwise add",
        "%q",
    ),
    "a gate that two layers read": Case(
        f"{PAIR}, %w3: f32[24, 96]",
        "%g = linear(%x, %w1) %u = linear(%x, %w2) %q = mul(%g, %u) "
        "%l = linear(%x, %w3) %k = mul(%l, %g)",
        "gemm linear | gemm linear mul linear mul",
        "%q, %k",
    ),
    "weights of other types": Case(
        "%w1: f32[24, 96], %w2: i8[24, 96], %s: f32[96]",
        "%q = linear(%x, %w1) %k = linear(%x, %w2, _, %s)",
        "gemm linear | gemm linear",
        "%q, %k",
    ),
    "a product of something else between them": Case(
        f"{PAIR}, %w3: f32[96, 24]",
        "%q = linear(%x, %w1) %k = linear(%q, %w3) %v = linear(%x, %w2)",
        "gemm linear | gemm linear | gemm linear",
    ),
    "widths that want panels of their own": Case(
        "%w1: f32[24, 16], %w2: f32[24, 48]",
        "%q = linear(%x, %w1) %k = linear(%x, %w2)",
        "gemm linear | gemm linear",
        "%q, %k",
    ),
}  # fmt: skip
ALL = {**JOINED, **APART}


@pytest.mark.parametrize("name", ALL)
def test_kernels(name: str) -> None:
    """Of one target: how wide panels are differs, and with it what it pays to join."""
    lowered = TvmBackend().lower(ALL[name].graph(), find_target("x86-64-v4", threads=1))
    assert text_of_kernels(lowered) == ALL[name].kernels


def test_numbers() -> None:
    graph = merge([(name, case.graph()) for name, case in ALL.items()])
    for value in graph.inputs:  # one number of rows in all of them
        assert {symbol.name for symbol in value.type.symbols()} <= {"R"}
    check_guarded(graph, [feeds_of(graph, rows) for rows in ROWS if rows])


def test_no_rows() -> None:
    graph = merge([(n, case.graph()) for n, case in JOINED.items() if "R" not in case.body])
    (wanted, got) = evaluate(graph, feeds_of(graph, 0)), build(graph).run(feeds_of(graph, 0))
    assert [one.shape for one in got] == [other.shape for other in wanted]


@pytest.mark.parametrize("rows", [1, 8, 9, 121])
def test_known_rows(rows: int) -> None:
    graph = merge([(name, pin(case.graph(), {"R": rows})) for name, case in JOINED.items()])
    check_guarded(graph, [feeds_of(graph, rows)])


def test_results_against_float64() -> None:
    """Sums in twice the precision, without a word of ours."""
    graph = JOINED["a gate that ends within a panel"].graph()
    w1, w2 = (
        node.attributes["value"].array.astype(np.float64)  # type: ignore[union-attr]
        for node in graph.nodes
        if node.op.name == "constant"
    )
    feeds = feeds_of(graph, 13)
    (got,) = build(graph).run(feeds)
    x = feeds["x"].astype(np.float64)
    from math import erf

    gate = x @ w1
    want = gate * 0.5 * (1 + np.vectorize(erf)(gate / 2**0.5)) * (x @ w2)
    assert np.abs(got - want).max() < 1e-5 * np.abs(want).max()


@dataclass
class Recorded:
    """Records that have other knobs for every product of several weights."""

    change: Mapping[str, int]
    asked: list[tuple[str, dict[str, int]]]

    def knobs(
        self, template: str, text: str, features: Mapping[str, int]
    ) -> Mapping[str, int] | None:
        self.asked.append((template, dict(features)))
        return {**gemm_knobs.GemmKnobs().numbers(), **self.change}


@pytest.mark.parametrize("name", ["grouped heads", "a gate that ends within a panel"])
def test_one_record_is_for_all_products_of_a_kernel(name: str) -> None:
    records = Recorded({"tile_n": 16, "tile_m": 10, "block_m": 32, "panel_k": 128}, [])
    graph = JOINED[name].graph()
    feeds = feeds_of(graph, 97)
    want = evaluate(graph, feeds)
    backend = TvmBackend()
    lowered = backend.lower(graph, target(), records)
    (row,) = lowered.kernels
    assert row["tuned"] and isinstance(row["knobs"], dict) and row["knobs"]["tile_n"] == 16
    ((template, features),) = records.asked
    assert template == "gemm/4" and features["inner"] == 24
    assert features["cols"] == (240 if name == "grouped heads" else 190)
    from tunesmith.runtime.tvm_module import TvmModule

    library = backend.build(lowered)
    module = TvmModule(library.code, library.entry, [*lowered.weights.values()], 1, exact=False)
    got = module([feeds[value.name] for value in graph.inputs])
    for value, one, other in zip(graph.outputs, got, want, strict=True):
        assert_close(one, other, value.type.dtype)


def test_features_of_products() -> None:
    graph = pin(JOINED["grouped heads"].graph(), {})
    (kernel,) = TvmBackend().lower(graph, target()).tunable.values()
    assert isinstance(kernel, Kernel) and kernel.template is not None
    assert {*kernel.template.features} == {
        "rows", "inner", "cols", "results00", "results10", "results20", "weight_bytes",
    }  # fmt: skip
    assert kernel.template.features["weight_bytes"] == 4
    alone = replace(kernel, group=kernel.group.siblings[0], chosen=None)
    assert alone.template is not None
    assert dict(alone.template.features) == {
        "rows": 0, "inner": 24, "cols": 48, "weight_bytes": 4,
    }  # fmt: skip


def test_panels_of_products_of_one_result_take_turns() -> None:
    random = np.random.default_rng(0)
    one, two, three, four = (random.standard_normal((5, n)) for n in (17, 17, 8, 8))
    knobs = gemm_knobs.GemmKnobs(tile_n=16)
    packed = gemm_knobs.pack_weights([one, two, three, four], knobs, together=2)
    assert packed.shape == (6, 5, 16)
    np.testing.assert_array_equal(packed[0], one[:, :16])
    np.testing.assert_array_equal(packed[1], two[:, :16])
    np.testing.assert_array_equal(packed[2][:, :1], one[:, 16:])
    np.testing.assert_array_equal(packed[3][:, :1], two[:, 16:])
    np.testing.assert_array_equal(packed[4][:, :8], three)
    np.testing.assert_array_equal(packed[5][:, :8], four)
    assert not packed[2][:, 1:].any() and not packed[5][:, 8:].any()


def test_the_cost_of_a_joined_kernel_counts_all_weights() -> None:
    (row,) = TvmBackend().lower(JOINED["grouped heads"].graph(), target()).kernels
    assert row["weight_bytes"] == str(4 * 24 * 240)
    assert row["flops"] == str(2 * 24 * 240) + "*R"
