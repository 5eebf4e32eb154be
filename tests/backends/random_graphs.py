"""Graphs of operators drawn at random, with values that several others read."""

from __future__ import annotations

import numpy as np

from tunesmith.ir import opset
from tunesmith.ir.builder import Builder
from tunesmith.ir.dims import dim
from tunesmith.ir.graph import Graph
from tunesmith.ir.ops import OPS, Expr
from tunesmith.ir.types import DType, TensorType

__all__ = ["random_graph"]

WIDTH = 12
UNARY = ("tanh", "sigmoid", "relu", "neg", "abs", "gelu", "silu", "sin")
BINARY = ("add", "sub", "mul", "maximum", "minimum")


class _Drawing:
    """A graph while it is drawn: every value is `[B, S, 12]`, or broadcasts to it."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.builder = Builder(Graph(f"random{seed}"))
        shape = (dim("B"), dim("S"), WIDTH)
        self.full = [self.builder.input(n, TensorType(DType.f32, shape)) for n in ("x", "y")]
        small = [(WIDTH,), (dim("S"), 1), (dim("B"), 1, 1)]
        self.small = [
            self.builder.input(f"s{i}", TensorType(DType.f32, s)) for i, s in enumerate(small)
        ]

    def pick(self, recent: bool = True) -> Expr:
        """A value so far, more often a late one."""
        weights = np.arange(1, len(self.full) + 1, dtype=np.float64) ** (2 if recent else 0)
        return self.full[int(self.rng.choice(len(self.full), p=weights / weights.sum()))]

    def other(self) -> Expr:
        """A value, or one that is broadcast."""
        if self.rng.random() < 0.3:
            return self.small[int(self.rng.integers(len(self.small)))]
        return self.pick(recent=False)

    def constant(self, *shape: int) -> Expr:
        """Random numbers that keep values small."""
        data = self.rng.standard_normal(shape) / np.sqrt(shape[0])
        return self.builder.constant(data.astype(np.float32))

    def elementwise(self) -> Expr:
        """One operand or two."""
        if self.rng.random() < 0.4:
            name = UNARY[int(self.rng.integers(len(UNARY)))]
            return self._single(OPS[name](self.pick()))
        name = BINARY[int(self.rng.integers(len(BINARY)))]
        pair = [self.pick(), self.other()]
        self.rng.shuffle(pair)
        return self._single(OPS[name](*pair))

    def product(self) -> Expr:
        """A layer."""
        return opset.linear(self.pick(), self.constant(WIDTH, WIDTH), self.constant(WIDTH))

    def rows(self) -> Expr:
        """A normalization, or a reduction and what is left of it."""
        x = self.pick()
        choice = int(self.rng.integers(4))
        if choice == 0:
            return opset.softmax(x)
        if choice == 1:
            return opset.layer_norm(x, self.constant(WIDTH), self.constant(WIDTH))
        if choice == 2:
            return self.pick() - opset.reduce_mean(x, axes=(-1,), keepdims=True)
        return opset.maximum(x, opset.reduce_max(x, axes=(1,), keepdims=True))

    def movement(self) -> Expr:
        """A transpose and back, a rotation of columns, or rows laid out anew."""
        x, choice = self.pick(), int(self.rng.integers(4))
        if choice == 0:
            turned = opset.tanh(opset.transpose(x, perm=(0, 2, 1)))
            return opset.transpose(turned, perm=(0, 2, 1))
        if choice == 1:
            low = opset.slice_(x, axis=2, start=0, stop=5)
            high = opset.slice_(self.pick(), axis=2, start=5, stop=WIDTH)
            return opset.concat(high, low, axis=2)
        if choice == 2:
            flat = opset.reshape(x, shape=(dim("B") * dim("S"), WIDTH))
            return opset.reshape(opset.neg(flat), shape=x.shape)
        wide = opset.pad(x, low=(0, 0, 1), high=(0, 0, 2), value=0.5)
        return opset.slice_(wide, axis=2, start=2, stop=WIDTH + 2)

    def choice(self) -> Expr:
        """One of two values by a comparison of others."""
        return opset.where(opset.less(self.pick(), self.other()), self.pick(), self.pick())

    def _single(self, result: Expr | tuple[Expr, ...]) -> Expr:
        assert isinstance(result, Expr)
        return result


def random_graph(seed: int) -> Graph:
    """A graph of up to two dozen operators, with one to three outputs."""
    drawing = _Drawing(seed)
    kinds = [drawing.elementwise, drawing.product, drawing.rows, drawing.movement, drawing.choice]
    with drawing.builder:
        for _ in range(int(drawing.rng.integers(6, 24))):
            kind = kinds[int(drawing.rng.choice(len(kinds), p=[0.5, 0.15, 0.1, 0.15, 0.1]))]
            drawing.full.append(kind())
    count = int(drawing.rng.integers(1, 4))
    outputs = [drawing.full[-1], *(drawing.pick() for _ in range(count - 1))]
    return drawing.builder.finish(outputs, [f"out{i}" for i in range(len(outputs))])
