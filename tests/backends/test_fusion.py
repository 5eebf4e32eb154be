"""Which operators become one kernel, which do not, and that the numbers are right either way."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from tunesmith.backends.tvm.compile import TvmBackend
from tunesmith.backends.tvm.groups import form_groups
from tunesmith.backends.tvm.legalize import legalize
from tunesmith.backends.tvm.siblings import join_products
from tunesmith.ir.graph import Graph
from tunesmith.ir.target import HOST_LIKE
from tunesmith.ir.text import parse_graph

from .guarded import check_guarded
from .random_graphs import random_graph
from .running import Array, merge, pin, target, text_of_kernels

pytestmark = pytest.mark.tvm

ROWS = "%x: f32[B, S, 24], %w: f32[24, 40], %b: f32[40]"
TWO = "%x: f32[B, S], %z: f32[7, B, S]"
HEADS = "%q: f32[B, S, 2, 8], %k: f32[B, S, 2, 8], %v: f32[B, S, 2, 8]"
TURNED = (
    "%a = transpose(%q) {perm = [0, 2, 1, 3]} %c = transpose(%k) {perm = [0, 2, 1, 3]} "
    "%d = transpose(%v) {perm = [0, 2, 1, 3]} %t = attention(%a, %c, %d) {scale = 0.5} "
)
NORM = "%x: f32[B, S, 24], %r: f32[B, S, 24], %g: f32[24], %b: f32[24]"


@dataclass(frozen=True)
class Fused:
    """A graph, and the operators of each kernel that it becomes."""

    inputs: str
    body: str
    kernels: str  # the nodes of a kernel after its kind; kernels apart by a bar
    results: str = "%y"

    def graph(self) -> Graph:
        """The graph, the weights of its products constants."""
        text = f"graph @g({self.inputs}) {{ {self.body} return {self.results} }}"
        graph = parse_graph(text)
        rng = np.random.default_rng(0)
        weights: dict[str, Array] = {
            value.name: rng.standard_normal([int(str(d)) for d in value.type.shape]).astype("f4")
            for value in graph.inputs
            if value.name in ("w", "u")
        }
        return pin(graph, {}, weights)


TOGETHER = {
    "linear, gelu and residual": Fused(
        f"{ROWS}, %r: f32[B, S, 40]",
        "%l = linear(%x, %w, %b) %g = gelu(%l) %y = add(%r, %g)",
        "gemm linear gelu add",
    ),
    "the product of a value and its sigmoid": Fused(
        ROWS,
        "%l = linear(%x, %w) %s = sigmoid(%l) %y = mul(%l, %s)",
        "gemm linear sigmoid mul",
    ),
    "a constant on the left": Fused(
        f"{ROWS}, %r: f32[40]", "%l = linear(%x, %w) %y = sub(%r, %l)", "gemm linear sub"
    ),
    "gated": Fused(
        f"{ROWS}, %u: f32[24, 40]",
        "%l = linear(%x, %w) %m = linear(%x, %u) %s = silu(%l) %y = mul(%s, %m)",
        "gemm linear silu linear mul",
    ),
    "a reshape of a product": Fused(
        ROWS,
        "%l = linear(%x, %w) %t = reshape(%l) {shape = [B*S, 40]} %y = neg(%t)",
        "gemm linear reshape neg",
    ),
    "normalization of a sum": Fused(
        NORM, "%s = add(%x, %r) %y = layer_norm(%s, %g, %b)", "rows add layer_norm"
    ),
    "scores": Fused("%x: f32[B, S]", "%a = softmax(%x) %y = log(%a)", "rows softmax log"),
    "a mean of everything": Fused(
        "%x: f32[B, S]",
        "%a = reduce_mean(%x) {axes = [0, 1]} %y = neg(%a)",
        "rows reshape reduce_mean reshape neg",
    ),
    "attention and its layout": Fused(
        HEADS,
        f"{TURNED} %e = transpose(%t) {{perm = [0, 2, 1, 3]}} "
        "%y = reshape(%e) {shape = [B, S, 16]}",
        "elementwise transpose | elementwise transpose | "
        "attention transpose attention transpose reshape",
    ),
    "keys and values that a product lays out": Fused(
        "%q: f32[B, S, 32], %x: f32[B, S, 24], %w: f32[24, 32], %u: f32[24, 32], %b: f32[32]",
        "%k = linear(%x, %w, %b) %l = reshape(%k) {shape = [B, S, 2, 16]} "
        "%m = transpose(%l) {perm = [0, 2, 1, 3]} %v = linear(%x, %u) %n = neg(%v) "
        "%o = reshape(%n) {shape = [B, S, 2, 16]} %p = transpose(%o) {perm = [0, 2, 1, 3]} "
        "%r = reshape(%q) {shape = [B, S, 2, 16]} %s = transpose(%r) {perm = [0, 2, 1, 3]} "
        "%y = attention(%s, %m, %p) {scale = 0.5}",
        "gemm linear reshape transpose linear neg reshape transpose | "
        "attention reshape transpose attention",
    ),
    "a product of two values": Fused(
        "%x: f32[B, 4, 8], %z: f32[B, 8, 5], %r: f32[B, 4, 5]",
        "%m = matmul(%x, %z) %y = add(%m, %r)",
        "matmul matmul add",
    ),
    "halves of a value": Fused(
        "%x: f32[B, S, 24], %w: f32[24, 48]",
        "%l = linear(%x, %w) %a = slice(%l) {axis = 2, start = 0, stop = 24} "
        "%c = slice(%l) {axis = 2, start = 24, stop = 48} %d = silu(%a) %y = mul(%d, %c)",
        "gemm linear | elementwise slice silu slice mul",
    ),
    "a cheap value that is broadcast": Fused(
        TWO, "%a = neg(%x) %y = add(%a, %z)", "elementwise neg add"
    ),
}  # fmt: skip

APART = {
    "a result that is an output too": Fused(
        ROWS, "%l = linear(%x, %w, %b) %y = tanh(%l)", "gemm linear | elementwise tanh", "%y, %l"
    ),
    "an operand of a sum that is read again": Fused(
        NORM,
        "%s = add(%x, %r) %n = layer_norm(%s, %g, %b) %y = add(%n, %s)",
        "elementwise add | rows layer_norm add",
    ),
    "a costly value with two readers": Fused(
        "%x: f32[B, S]",
        "%a = exp(%x) %b = tanh(%a) %y = mul(%a, %b)",
        "elementwise exp | elementwise tanh mul",
    ),
    "a costly value that is broadcast": Fused(
        TWO, "%a = exp(%x) %y = add(%a, %z)", "elementwise exp | elementwise add"
    ),
    "what a product reads over and over": Fused(
        ROWS, "%a = tanh(%x) %y = linear(%a, %w)", "elementwise tanh | gemm linear"
    ),
    "a transpose behind a product": Fused(
        ROWS,
        "%l = linear(%x, %w) %t = transpose(%l) {perm = [0, 2, 1]} %y = neg(%t)",
        "gemm linear | elementwise transpose neg",
    ),
    "a result that grows": Fused(
        f"{ROWS}, %r: f32[3, B, S, 40]",
        "%l = linear(%x, %w) %y = sub(%r, %l)",
        "gemm linear | elementwise sub",
    ),
    "a value and a sum over it": Fused(
        ROWS,
        "%l = linear(%x, %w) %s = reduce_sum(%l) {axes = [2], keepdims = true} %y = sub(%l, %s)",
        "gemm linear | rows reduce_sum | elementwise sub",
    ),
    "a value and its softmax": Fused(
        ROWS,
        "%l = linear(%x, %w) %s = softmax(%l) %y = sub(%l, %s)",
        "gemm linear | rows softmax sub",
    ),
    "loops without a schedule": Fused(
        "%x: f32[B, S]", "%a = argmax(%x) {axis = 1} %y = neg(%a)", "loops argmax | elementwise neg"
    ),
    "an output that is an input": Fused(
        "%x: f32[B, S]", "%y = neg(%x)", "elementwise neg | elementwise reshape", "%y, %x"
    ),
    "one output twice": Fused(
        "%x: f32[B, S]", "%y = neg(%x)", "elementwise neg | elementwise reshape", "%y, %y"
    ),
    "two layers with one mask": Fused(
        "%q: f32[B, 2, S, 8], %k: f32[B, 2, S, 8], %m: f32[S, S]",
        "%a = attention(%q, %k, %k, %m) {scale = 0.5} %y = attention(%a, %k, %q, %m) {scale = 0.5}",
        "elementwise transpose | attention transpose attention | attention transpose attention",
    ),
}
ALL = {**TOGETHER, **APART}


@pytest.mark.parametrize(("length", "kernels"), [(512, 1), (513, 3)])
def test_few_keys_are_read_where_they_are(length: int, kernels: int) -> None:
    """Their layout matters only where there are many."""
    graph = pin(parse_graph(f"graph @g({HEADS}) {{ {TURNED} return %t }}"), {"S": length})
    assert len(TvmBackend().lower(graph, target()).kernels) == kernels


@pytest.mark.parametrize("name", ALL)
def test_kernels(name: str) -> None:
    lowered = TvmBackend().lower(ALL[name].graph(), target())
    assert text_of_kernels(lowered) == ALL[name].kernels


def random_feeds(graph: Graph, batch: int, length: int) -> dict[str, Array]:
    rng = np.random.default_rng(batch * 100 + length)
    feeds: dict[str, Array] = {}
    for value in graph.inputs:
        type = value.type.substitute({"B": batch, "S": length})
        shape = [int(str(d)) for d in type.shape]
        feeds[value.name] = rng.uniform(0.3, 1.5, shape).astype(type.dtype.numpy)
    return feeds


def test_numbers() -> None:
    graph = merge([(name, case.graph()) for name, case in ALL.items()])
    check_guarded(graph, [random_feeds(graph, *sizes) for sizes in ((1, 1), (2, 17), (3, 16))])


def test_every_value_is_written_before_it_is_read() -> None:
    joined = 0
    for seed in range(120):
        graph = random_graph(seed)
        legalize(graph)
        plan = join_products(form_groups(graph, HOST_LIKE.machine), HOST_LIKE.machine)
        joined += sum(len(group.feeding) + len(group.siblings) for group in plan.groups)
        written = set(graph.inputs)
        for group in plan.groups:
            work = [v for node in group.nodes for v in node.present_operands]
            inside = {v for node in group.nodes for v in node.results}
            while work:
                value = work.pop()
                if value in plan.in_memory and value not in inside:
                    assert value in written, f"seed {seed}: {value!r}"
                elif value.producer is not None and value not in inside:
                    work.extend(value.producer.present_operands)
            written.update(group.outputs)
        assert set(graph.outputs) <= written, f"seed {seed}"
    assert joined > 10


@pytest.mark.parametrize("first", [0, 8])
def test_random_graphs(first: int) -> None:
    graph = merge([(f"seed {seed}", random_graph(seed)) for seed in range(first, first + 8)])
    check_guarded(graph, [random_feeds(graph, *sizes) for sizes in ((1, 1), (2, 17))])
