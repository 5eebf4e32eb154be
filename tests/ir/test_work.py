"""FLOPs and bytes, counted by hand."""

from __future__ import annotations

import pytest

from tunesmith.ir.graph import Node
from tunesmith.ir.text import parse_graph
from tunesmith.ir.work import bytes_moved, flops

from .cases import CASES, Case

ROWS = [
    ("%x: f32[B, 4], %w: f32[4, 3]", "matmul(%x, %w)", "24*B", "28*B + 48"),
    ("%x: f32[B, 4], %w: f16[4]", "exp(%x)", "4*B", "32*B"),
    ("%x: f32[B, 4], %w: f16[4]", "add(%x, %x)", "4*B", "32*B"),
    ("%x: f32[B, 4]", "reduce_sum(%x) {axes = [1]}", "4*B", "20*B"),
    ("%x: f32[B, 4]", "reshape(%x) {shape = [4*B]}", "0", "0"),
    ("%x: f16[B, 4]", "transpose(%x) {perm = [1, 0]}", "0", "16*B"),
    ("%x: f16[B, 4]", "slice(%x) {axis = 1, start = 0, stop = 1}", "0", "4*B"),
    ("%x: f16[99, 4], %i: i64[B]", "gather(%x, %i)", "0", "24*B"),
    ("%x: f32[B, 4]", "silu(%x)", "8*B", "32*B"),
    ("%x: f32[B, 4], %w: f32[4, 3], %b: f32[3]", "linear(%x, %w, %b)", "27*B", "28*B + 60"),
    ("%x: f32[1, 2, 8], %w: f32[3, 2, 5]",
     "conv(%x, %w) {strides = [1], low = [0], high = [0], dilations = [1]}", "240", "232"),
]  # fmt: skip


def _node(inputs: str, node: str) -> Node:
    return next(parse_graph(f"graph @g({inputs}) {{ %out = {node} return %out }}").nodes)


@pytest.mark.parametrize(("inputs", "node", "operations", "moved"), ROWS)
def test_work(inputs: str, node: str, operations: str, moved: str) -> None:
    found = _node(inputs, node)
    assert str(flops(found)) == operations
    assert str(bytes_moved(found)) == moved


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_operator_has_work(case: Case) -> None:
    for node in case.graph(case.dtypes.split()[0], static=True).nodes:
        for amount in (flops(node), bytes_moved(node)):
            assert isinstance(amount, int)
            assert amount >= 0
