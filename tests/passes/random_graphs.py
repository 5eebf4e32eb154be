"""Random graphs: what models hold, between the noise that exporters write around it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from hypothesis import strategies as st

from tunesmith.ir.builder import Builder
from tunesmith.ir.dims import dim
from tunesmith.ir.graph import Graph
from tunesmith.ir.ops import Expr
from tunesmith.ir.opset import (
    cast,
    clip,
    concat,
    cos,
    expand,
    gather,
    gelu,
    greater,
    greater_equal,
    iota,
    layer_norm,
    linear,
    logical_and,
    logical_not,
    matmul,
    maximum,
    minimum,
    neg,
    pow_,
    relu,
    reshape,
    rms_norm,
    rsqrt,
    sigmoid,
    silu,
    slice_,
    softmax,
    sqrt,
    tanh,
    transpose,
    where,
)  # fmt: skip
from tunesmith.ir.types import DType, TensorType

__all__ = ["graphs"]

B, S = dim("B"), dim("S")
WIDTH = 4
ROWS = TensorType(DType.f32, (B, S, WIDTH))

Step = Callable[[Builder, Expr, Expr, int], Expr]


def _vector(build: Builder, seed: int, *shape: int) -> Expr:
    array = np.random.default_rng(seed).standard_normal(shape or (WIDTH,))
    return build.constant(array.astype(np.float32))


def _scalar(build: Builder, value: float, rank: int = 0) -> Expr:
    return build.constant(np.full((1,) * rank, value, np.float32))


def _heads(build: Builder, x: Expr, y: Expr, k: int) -> Expr:
    """`[B, S, 4] → [B, 2, S, 2]`, turned a few times by the longest way, and back."""
    z = transpose(reshape(x, shape=(B, S, 2, 2)), perm=(0, 2, 1, 3))
    if k % 2:
        flat = transpose(reshape(z, shape=(2 * B, S, 2)), perm=(0, 2, 1))
        z = transpose(reshape(flat, shape=(B, 2, 2, S)), perm=(0, 1, 3, 2))
    return reshape(transpose(z, perm=(0, 2, 1, 3)), shape=(B, S, WIDTH))


def _flat_layer(build: Builder, x: Expr, y: Expr, k: int) -> Expr:
    z = matmul(reshape(x, shape=(B * S, WIDTH)), _vector(build, k, WIDTH, WIDTH))
    z = z + _vector(build, k) if k % 2 else z
    return reshape(z, shape=(B, S, WIDTH))


def _mask(build: Builder, x: Expr, y: Expr, k: int) -> Expr:
    rows = reshape(iota(size=S, dtype=DType.i64), shape=(1, S, 1))
    inside = greater_equal(rows, build.constant(np.asarray(0)))
    flags = logical_and(expand(inside, shape=(B, S, WIDTH)), greater(x, _scalar(build, 0.25, 1)))
    flags = logical_not(logical_not(flags)) if k % 2 else logical_not(flags)
    flags = cast(cast(flags, dtype=DType.i64), dtype=DType.bool) if k % 3 else flags
    position = cast(expand(rows, shape=(B, S, 1)), dtype=DType.f32)
    return where(flags, x, y) + position * _scalar(build, 0.125)


def _table(build: Builder, x: Expr, y: Expr, k: int) -> Expr:
    table = _vector(build, k, 8, WIDTH)
    index = build.constant(np.arange(k % 3, k % 3 + 2, dtype=np.int64))
    rows = gather(table, index)
    first = gather(x, build.constant(np.asarray(-1 if k % 2 else 0, np.int64)), axis=1)
    return x + reshape(first, shape=(B, 1, WIDTH)) + slice_(rows, axis=0, start=1, stop=2)


STEPS: tuple[Step, ...] = (
    lambda b, x, y, k: x + y,
    lambda b, x, y, k: x * tanh(y),
    lambda b, x, y, k: x - y * _scalar(b, 0.0, k % 3),
    lambda b, x, y, k: _scalar(b, -0.0, k % 2) + x,
    lambda b, x, y, k: softmax(x + _scalar(b, 0.0, 1)),
    lambda b, x, y, k: x * _scalar(b, 1.0, k % 3) / _scalar(b, float(k % 5 + 1)),
    lambda b, x, y, k: neg(neg(x)) * _vector(b, k, 1, 1, WIDTH),
    lambda b, x, y, k: tanh(pow_(x, float(k % 2 + 2))),
    lambda b, x, y, k: x / sqrt(sigmoid(y)) if k % 2 else x * (1.0 / sqrt(sigmoid(y))),
    lambda b, x, y, k: x * rsqrt(sigmoid(y)) + cos(y),
    lambda b, x, y, k: maximum(minimum(x, 1.5), y) if k % 2 else clip(x, low=-1.0, high=1.5),
    lambda b, x, y, k: gelu(x, approximate=("none", "tanh", "sigmoid")[k % 3]),
    lambda b, x, y, k: silu(x) * y if k % 2 else relu(x),
    lambda b, x, y, k: rms_norm(x, _vector(b, k), epsilon=1e-3),
    lambda b, x, y, k: layer_norm(x, _vector(b, k), _vector(b, k + 1) if k % 2 else None,
                                  epsilon=1e-3),
    lambda b, x, y, k: linear(x, _vector(b, k, WIDTH, WIDTH), _vector(b, k),
                              activation=("none", "gelu", "relu", "tanh")[k % 4]),
    lambda b, x, y, k: concat(slice_(x, axis=2, start=0, stop=k % 3 + 1),
                              slice_(x, axis=-1, start=k % 3 + 1, stop=WIDTH), axis=2),
    lambda b, x, y, k: slice_(concat(y, x, axis=2), axis=2, start=WIDTH * (k % 2),
                              stop=WIDTH * (k % 2 + 1)),
    _heads,
    _flat_layer,
    _mask,
    _table,
)  # fmt: skip


@st.composite
def graphs(draw: st.DrawFn) -> Graph:
    """A graph of up to a dozen steps; each reads two of the tensors there are."""
    build = Builder(Graph("random"))
    with build:
        tensors = [build.input("x", ROWS), build.input("y", ROWS)]
        for _ in range(draw(st.integers(1, 12))):
            step = draw(st.sampled_from(STEPS))
            x, y = draw(st.sampled_from(tensors)), draw(st.sampled_from(tensors[-3:]))
            result = step(build, x, y, draw(st.integers(0, 29)))
            assert result.type == ROWS
            tensors.append(result)
        outputs = [tensors[-1], draw(st.sampled_from(tensors))]
    return build.finish(outputs, ["first", "second"])
