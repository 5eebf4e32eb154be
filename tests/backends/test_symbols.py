"""Symbols that no axis is, and bounds that are no sizes to allocate."""

from __future__ import annotations

import numpy as np
import pytest

from tunesmith.ir.text import parse_graph

from .running import check

pytestmark = pytest.mark.tvm

MULTIPLES = """graph @f(%x: f32[B, 4*S, 3*T + 1], %y: f32[4*S, 1]) {
  %s = mul(%x, %y)
  %w = iota() {size = S, dtype = f32}
  %v = reshape(%s) {shape = [B, 4, S, 3*T + 1]}
  %u = transpose(%v) {perm = [0, 1, 3, 2]}
  %t = mul(%u, %w)
  %z = reduce_sum(%t) {axes = [-1]}
  return %z
}"""


@pytest.mark.parametrize(("s", "t"), [(1, 1), (2, 5), (17, 3)])
def test_a_symbol_follows_from_an_axis(s: int, t: int) -> None:
    rng = np.random.default_rng(3)
    feeds = {
        "x": rng.standard_normal((2, 4 * s, 3 * t + 1)).astype(np.float32),
        "y": rng.standard_normal((4 * s, 1)).astype(np.float32),
    }
    check(parse_graph(MULTIPLES), feeds)


def test_a_far_bound_is_not_allocated() -> None:
    graph = parse_graph("""graph @f(%x: f32[B<=1000000000, 64]) {
  %s = softmax(%x)
  %y = reduce_sum(%s) {axes = [0]}
  return %y
}""")
    check(graph, {"x": np.ones((3, 64), np.float32)})
