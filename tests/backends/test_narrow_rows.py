"""Rows with fewer elements than a vector, under sizes known at run time, beside the interpreter."""

from __future__ import annotations

import numpy as np
import pytest

from tunesmith.backends.targets import find_target
from tunesmith.ir.interpreter import evaluate
from tunesmith.ir.text import parse_graph
from tunesmith.ir.types import DType

from .running import assert_close, build

pytestmark = pytest.mark.tvm

# what is read, and the node whose last axis is short; a loop of its own from 16 rows of rows on
BODIES = {
    "depth to space": ("N, 24, 2, 2, H, W", "transpose(%x) {perm = [0, 1, 4, 2, 5, 3]}"),
    "too few rows to share out": ("N, 3, W, H", "transpose(%x) {perm = [0, 3, 2, 1]}"),
    "fifteen": ("N, 16, 15, W", "transpose(%x) {perm = [0, 1, 3, 2]}"),
    "a whole vector": ("N, 16, 16, W", "transpose(%x) {perm = [0, 1, 3, 2]}"),
    "no row": ("N, 16, 0, W", "transpose(%x) {perm = [0, 1, 3, 2]}"),
    "perhaps no image": ("0<=N, 24, 2, 2, H, W", "transpose(%x) {perm = [0, 1, 4, 2, 5, 3]}"),
    "broadcast": ("N, 32, W, 1", "expand(%x) {shape = [N, 32, W, 3]}"),
    "two inputs": ("N, 32, W, 3", "add(%x, %b)"),
    "concat": ("N, 32, W, 3", "concat(%x, %x) {axis = 3}"),
    "slice": ("N, 32, W, 5", "slice(%x) {axis = 3, start = 1, stop = 4, step = 2}"),
}


@pytest.mark.parametrize("name", BODIES)
@pytest.mark.parametrize("threads", [1, 2])
def test_every_size(name: str, threads: int) -> None:
    shape, body = BODIES[name]
    other = ", %b: f32[N, 32, 1, 3]" if "%b" in body else ""
    shape = shape.replace("W", "0<=W")
    text = f"graph @f(%x: f32[{shape}]{other}) {{\n  %y = {body}\n  return %y\n}}"
    built = build(parse_graph(text), find_target("host", threads=threads))
    rng = np.random.default_rng(0)
    for n, h, w in [(1, 1, 1), (2, 3, 17), (1, 16, 15), (3, 5, 2), (2, 2, 0), (1, 7, 61)]:
        sizes = {"N": n, "H": h, "W": w}
        feeds = {}
        for value in built.graph.inputs:
            dims = [d if isinstance(d, int) else sizes[str(d)] for d in value.type.shape]
            feeds[value.name] = rng.standard_normal(dims).astype(np.float32)
        (want,) = evaluate(built.graph, feeds)
        (got,) = built.run(feeds)
        assert_close(got, want, DType.f32, f"{name} at {sizes}")
