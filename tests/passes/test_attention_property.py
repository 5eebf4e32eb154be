"""Random spellings of attention: what fuses means the same, NaNs included."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import TypeVar

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tunesmith.ir.builder import Builder
from tunesmith.ir.dims import Dim, dim, evaluate_dim
from tunesmith.ir.graph import Graph
from tunesmith.ir.interpreter import evaluate
from tunesmith.ir.ops import Expr
from tunesmith.ir.opset import (
    concat,
    expand,
    iota,
    isnan,
    less,
    less_equal,
    logical_and,
    logical_not,
    matmul,
    neg,
    reshape,
    softmax,
    tanh,
    transpose,
    where,
)
from tunesmith.ir.types import DType, Shape, TensorType
from tunesmith.ir.verifier import verify
from tunesmith.passes.base import PassContext
from tunesmith.passes.pipeline import Pipeline

Array = NDArray[np.generic]
T = TypeVar("T")
LOWEST = float(np.finfo(np.float32).min)
WIDTH = 4


class _Spelling:
    """One random graph that computes an attention, and inputs for it."""

    def __init__(self, data: st.DataObject) -> None:
        self.data = data
        self.build = Builder(Graph("spelling"))
        self.feeds: dict[str, Array] = {}
        self.sizes = {"B": self.one(1, 2, 3), "T": self.one(1, 2, 4), "S": self.one(1, 3)}
        self.batch: Dim = self.one(dim("B"), 2)
        self.rows: Dim = self.one(dim("T"), 3)
        self.keys: Dim = self.one(self.rows, self.rows, dim("S"))
        self.groups, self.each = self.one(1, 2, 3), self.one(1, 2)
        self.outer: Shape = ()  # the leading axes of the scores

    def one(self, *choices: T) -> T:
        """One of the choices."""
        return self.data.draw(st.sampled_from(choices))

    def input(self, name: str, shape: Shape, dtype: DType = DType.f32) -> Expr:
        """An input, and something to feed it."""
        sizes = tuple(evaluate_dim(size, self.sizes) for size in shape)
        random = np.random.default_rng(len(self.feeds))
        flags = dtype is DType.bool
        self.feeds[name] = (
            random.random(sizes) < 0.6 if flags else random.standard_normal(sizes).astype("f")
        )
        return self.build.input(name, TensorType(dtype, shape))

    def scaled(self, x: Expr) -> Expr:
        """`x`, or a multiple of it."""
        ways: tuple[Callable[[], Expr], ...] = (
            lambda: x,
            lambda: x * 0.5,
            lambda: x / 4.0,
            lambda: neg(x),
        )
        return self.one(*ways)()

    def heads(self, name: str, heads: int, rows: Dim) -> Expr:
        """Queries, keys or values by heads."""
        if self.one(True, False):
            return self.input(name, (self.batch, heads, rows, WIDTH))
        x = self.scaled(self.input(name, (self.batch, rows, heads * WIDTH)))
        x = reshape(x, shape=(self.batch, rows, heads, WIDTH))
        return self.scaled(transpose(x, perm=(0, 2, 1, 3)))

    def repeated(self, x: Expr) -> Expr:
        """A head for each head of the queries."""
        if self.each == 1:
            return x
        shape = (self.batch, self.groups, 1, self.keys, WIDTH)
        x = reshape(x, shape=shape)
        if self.one(True, False):
            x = concat(x, x, axis=2)
        else:
            x = expand(x, shape=(*shape[:2], self.each, *shape[3:]))
        whole = (self.batch, self.groups * self.each, self.keys, WIDTH)
        return reshape(x, shape=whole)

    def condition(self) -> Expr:
        """A mask of flags: an input, a triangle, both, or the opposite."""
        kind = self.one("input", "triangle", "triangle", "both", "opposite")
        if kind == "both":
            return logical_and(self.condition(), self.condition())
        if kind == "opposite":
            return logical_not(self.condition())
        if kind == "input":
            full = (*self.outer, self.rows, self.keys)
            shape = tuple(self.one(1, size) for size in full)[self.one(0, len(self.outer)) :]
            return self.input(f"flags{len(self.feeds)}", shape, DType.bool)
        place = reshape(iota(size=self.rows, dtype=DType.i64), shape=(self.rows, 1))
        place = place + self.one(0, 1, -1)
        keys = iota(size=self.keys, dtype=DType.i64)
        if self.one(True, False):
            return less_equal(keys, place)
        return logical_not(less(place, keys))

    def masked(self, scores: Expr) -> Expr:
        """Scores after one more mask."""
        kind = self.one("fill", "hide", "sum", "input", "scale")
        number = self.one(-inf, LOWEST, -1e30)
        if kind == "scale":
            return scores * 0.5
        if kind == "input":
            shape = tuple(self.one(1, size) for size in (*self.outer, self.rows, self.keys))
            return scores + self.input(f"mask{len(self.feeds)}", shape)
        shown = self.condition()
        if kind == "sum":
            zero = self.build.constant(np.zeros(1, np.float32))
            return scores + where(shown, zero, number)
        pair = (scores, number) if kind == "fill" else (number, scores)
        return where(shown, *pair)

    def graph(self) -> Graph:
        """The whole graph."""
        heads = self.groups * self.each
        with self.build:
            q = self.heads("q", heads, self.rows)
            k = self.repeated(self.heads("k", self.groups, self.keys))
            v = self.repeated(self.heads("v", self.groups, self.keys))
            self.outer = self.one((self.batch, heads), (self.batch * heads,))
            q, k, v = (reshape(x, shape=(*self.outer, *x.shape[-2:])) for x in (q, k, v))
            perm = (0, 1, 3, 2)[: len(self.outer) + 2] if len(self.outer) == 2 else (0, 2, 1)
            scores = self.scaled(matmul(q, self.scaled(transpose(k, perm=perm))))
            if self.one(True, False, False):
                scores = tanh(scores / 5.0) * 5.0
            for _ in range(self.one(0, 1, 2)):
                scores = self.masked(scores)
            weights = softmax(scores, axis=-1)
            if self.one(True, False):
                weights = where(isnan(weights), 0.0, weights)
            return self.build.finish([matmul(weights, v)], ["y"])


@given(st.data())
@settings(max_examples=150)
def test_fused_is_unfused(data: st.DataObject) -> None:
    """A spelling gives the same before and after, and is one attention unless a note says why."""
    spelling = _Spelling(data)
    graph = spelling.graph()
    (want,) = evaluate(graph, spelling.feeds)
    context = PassContext()
    Pipeline.parse("fuse-attention,eliminate-dead-code").run(graph, context)
    verify(graph)
    (have,) = evaluate(graph, spelling.feeds)
    np.testing.assert_allclose(have.astype("f"), want.astype("f"), rtol=1e-4, atol=1e-4)
    names = [node.op.name for node in graph.nodes]
    told = any(n.kind == "near-miss" and n.what == "attention" for n in context.notes)
    assert names.count("attention") == (0 if told else 1)
    assert names.count("softmax") == (1 if told else 0)
