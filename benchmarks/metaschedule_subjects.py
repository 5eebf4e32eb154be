"""Operators for the comparison with stock MetaSchedule: as our graph, as TVM's, in float64."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import te, topi

from tunesmith.backends.tvm.groups import form_groups
from tunesmith.backends.tvm.kernels.kernel import Kernel, build_kernel
from tunesmith.backends.tvm.legalize import legalize
from tunesmith.ir import opset  # noqa: F401  # fills the table of operators
from tunesmith.ir.builder import Builder
from tunesmith.ir.graph import Graph
from tunesmith.ir.ops import OPS, Attribute
from tunesmith.ir.target import Target
from tunesmith.ir.types import DType, TensorType

__all__ = ["SUBJECTS", "Array", "Subject", "gemm"]

Array = NDArray[np.generic]
Doubles = NDArray[np.float64]


@dataclass(frozen=True)
class Subject:
    """One operator in f32; `weights` of its operands are constants, and may be packed by both."""

    name: str
    op: str
    shapes: Mapping[str, tuple[int, ...]]
    result: tuple[int, ...]
    weights: tuple[str, ...]
    exact: Callable[..., Doubles]  # of f64 arrays, in the order of `shapes`
    stock: Callable[..., te.Tensor]  # of placeholders, in the same order
    attributes: Mapping[str, Attribute]

    def data(self, seed: int = 0) -> dict[str, Array]:
        """Unit normals; weights are scaled so that results have the size of the inputs."""
        random = np.random.default_rng(seed)
        found: dict[str, Array] = {}
        for name, shape in self.shapes.items():
            scale = prod(self.shapes[name][1:] if len(shape) == 4 else shape[:1]) ** -0.5
            drawn = random.standard_normal(shape) * (scale if name in self.weights else 1.0)
            found[name] = drawn.astype(np.float32)
        return found

    def graph(self, data: Mapping[str, Array]) -> Graph:
        """Our graph of it."""
        builder = Builder(Graph(self.name))
        operands = [
            builder.constant(data[name]).value
            if name in self.weights
            else builder.input(name, TensorType(DType.f32, shape)).value
            for name, shape in self.shapes.items()
        ]
        (result,) = builder.emit_values(OPS[self.op], operands, self.attributes)
        graph = builder.graph
        graph.terminator.operands.append(result)
        result.users[(graph.terminator, 0)] = None
        graph.output_names.append("y")
        return graph

    def kernel(self, data: Mapping[str, Array], target: Target) -> Kernel:
        """Our kernel; nothing is fused with it."""
        graph = self.graph(data)
        legalize(graph)
        plan = form_groups(graph, target.machine)
        kernels = [
            build_kernel(group, plan.in_memory, target.machine)
            for group in plan.groups
            if group.kind != "bind"
        ]
        (kernel,) = kernels
        return kernel

    def module(self) -> Any:
        """TVM's function; it may choose the layout of the weights."""
        places = [te.placeholder(s, "float32", name) for name, s in self.shapes.items()]
        function = te.create_prim_func([*places, self.stock(*places)])
        free = [i for i, name in enumerate(self.shapes) if name in self.weights]
        if self.op in ("linear", "conv"):
            function = function.with_attr("layout_free_buffers", free)
        return tvm.IRModule({"main": function.with_attr("global_symbol", "main")})


def _product(x: te.Tensor, w: te.Tensor) -> te.Tensor:
    k = te.reduce_axis((0, x.shape[1]), "k")
    return te.compute((x.shape[0], w.shape[1]), lambda i, j: te.sum(x[i, k] * w[k, j], k), "y")


def _attention(q: te.Tensor, k: te.Tensor, v: te.Tensor) -> te.Tensor:
    batch, heads, rows, size = q.shape
    d, s = te.reduce_axis((0, size), "d"), te.reduce_axis((0, rows), "s")
    scale = tvm.tirx.const(float(int(size)) ** -0.5, "float32")
    scores = te.compute(
        (batch, heads, rows, rows),
        lambda b, h, i, j: te.sum(q[b, h, i, d] * scale * k[b, h, j, d], d), "scores",
    )  # fmt: skip
    weights = topi.nn.fast_softmax(scores, axis=-1)  # its exp is vector code; that of softmax not
    return te.compute(
        q.shape, lambda b, h, i, j: te.sum(weights[b, h, i, s] * v[b, h, s, j], s), "y"
    )


def _norm(x: te.Tensor, weight: te.Tensor, bias: te.Tensor) -> te.Tensor:
    return topi.nn.layer_norm(x, weight, bias, [1], 1e-5)


def _conv(x: te.Tensor, w: te.Tensor) -> te.Tensor:
    return topi.nn.conv2d_nchw(x, w, 1, 1, 1)


def _exact_attention(q: Doubles, k: Doubles, v: Doubles) -> Doubles:
    scores = q @ k.swapaxes(-1, -2) * q.shape[-1] ** -0.5
    powers = np.exp(scores - scores.max(-1, keepdims=True))
    return np.asarray(powers / powers.sum(-1, keepdims=True) @ v)


def _exact_norm(x: Doubles, weight: Doubles, bias: Doubles) -> Doubles:
    centered = x - x.mean(-1, keepdims=True)
    return np.asarray(
        centered / np.sqrt((centered**2).mean(-1, keepdims=True) + 1e-5) * weight + bias
    )


def _exact_conv(x: Doubles, w: Doubles) -> Doubles:
    rows, columns = x.shape[2:]
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    found = np.zeros((x.shape[0], w.shape[0], rows, columns))
    for i in range(3):
        for j in range(3):
            part = padded[:, :, i : i + rows, j : j + columns]
            found += np.einsum("nchw,oc->nohw", part, w[:, :, i, j], optimize=True)
    return found


def gemm(rows: int, inner: int, cols: int) -> Subject:
    """A product with a constant matrix."""
    shapes = {"x": (rows, inner), "w": (inner, cols)}
    return Subject(f"gemm {rows}x{inner}x{cols}", "linear", shapes, (rows, cols), ("w",),
                   lambda x, w: np.asarray(x @ w), _product, {})  # fmt: skip


_HEADS = (1, 12, 128, 64)
_WINDOW: dict[str, Attribute] = {
    "strides": (1, 1), "low": (1, 1), "high": (1, 1), "dilations": (1, 1), "groups": 1,
}  # fmt: skip
SUBJECTS = (
    gemm(128, 768, 3072),
    gemm(128, 768, 768),
    Subject("attention 1x12x128x64", "attention", {"q": _HEADS, "k": _HEADS, "v": _HEADS}, _HEADS,
            (), _exact_attention, _attention, {"scale": 0.125}),
    Subject("layer norm 128x768", "layer_norm", {"x": (128, 768), "s": (768,), "b": (768,)},
            (128, 768), ("s", "b"), _exact_norm, _norm, {"epsilon": 1e-5}),
    Subject("conv 64->64 3x3, 56x56", "conv", {"x": (1, 64, 56, 56), "w": (64, 64, 3, 3)},
            (1, 64, 56, 56), ("w",), _exact_conv, _conv, _WINDOW),
)  # fmt: skip
