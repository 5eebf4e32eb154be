"""Graphs put together, compiled by the backend, run, and compared with the interpreter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tunesmith.backends.base import Library, Lowered
from tunesmith.backends.targets import find_target
from tunesmith.backends.tvm.compile import TvmBackend
from tunesmith.ir.builder import Builder
from tunesmith.ir.dims import Dim, substitute
from tunesmith.ir.graph import Graph, Value
from tunesmith.ir.interpreter import evaluate
from tunesmith.ir.ops import OPS, Attribute
from tunesmith.ir.target import Target
from tunesmith.ir.types import DType
from tunesmith.runtime.tvm_module import TvmModule

__all__ = [
    "Array",
    "Built",
    "assert_close",
    "build",
    "check",
    "merge",
    "pin",
    "target",
    "text_of_kernels",
]

Array = NDArray[np.generic]

# rtol and atol of each type (torch.testing); atol is for values of the size of the greatest
TOLERANCES = {
    DType.f64: (1e-7, 1e-7),
    DType.f32: (1.3e-6, 1e-5),
    DType.f16: (1e-3, 1e-3),
    DType.bf16: (1.6e-2, 1.6e-2),
}


def target(name: str = "host") -> Target:
    """A target of this machine, for one thread of it."""
    return find_target(name, threads=1)


@dataclass
class Built:
    """A graph, and the code that was made of it."""

    graph: Graph
    lowered: Lowered
    library: Library

    @property
    def kinds(self) -> list[str]:
        """The kind of each kernel, in order."""
        return [str(kernel["kind"]) for kernel in self.lowered.kernels]

    def run(self, feeds: Mapping[str, Array]) -> list[Array]:
        """The outputs for some inputs."""
        weights = [*self.lowered.weights.values()]
        module = TvmModule(self.library.code, self.library.entry, weights, 1, exact=False)
        return module([np.asarray(feeds[value.name], order="C") for value in self.graph.inputs])


def build(graph: Graph, on: Target | None = None) -> Built:
    """Compile a graph as it is, without a pass before; the graph is changed."""
    backend = TvmBackend()
    lowered = backend.lower(graph, on or target())
    return Built(graph, lowered, backend.build(lowered))


def text_of_kernels(lowered: Lowered) -> str:
    """The kind and the operators of each kernel."""
    found = []
    for kernel in lowered.kernels:
        nodes = kernel["nodes"]
        assert isinstance(nodes, list)
        found.append(" ".join([str(kernel["kind"]), *map(str, nodes)]))
    return " | ".join(found)


def check(graph: Graph, feeds: Mapping[str, Array], on: Target | None = None) -> Built:
    """Compile a graph, run it, and compare it with the interpreter."""
    want = evaluate(graph, feeds)
    names, types = list(graph.output_names), [value.type.dtype for value in graph.outputs]
    built = build(graph, on)
    got = built.run(feeds)
    for name, one, other, dtype in zip(names, got, want, types, strict=True):
        assert_close(one, other, dtype, name)
    return built


def assert_close(got: Array, want: Array, dtype: DType, what: str = "") -> None:
    """Integers and flags are exact, NaN and infinities in their places, floats within bounds."""
    assert got.dtype == want.dtype and got.shape == want.shape, (what, got.dtype, got.shape)
    if not dtype.is_float:
        np.testing.assert_array_equal(got, want, err_msg=what)
        return
    one, other = got.astype(np.float64), want.astype(np.float64)
    rtol, atol = TOLERANCES[dtype]
    finite = np.abs(other[np.isfinite(other)])
    scale = max(1.0, float(finite.max(initial=0.0)))
    np.testing.assert_allclose(one, other, rtol, atol * scale, err_msg=what)


def merge(graphs: Sequence[tuple[str, Graph]]) -> Graph:
    """One graph that computes what many do, the names of each behind a prefix.

    bf16 stays inside: inputs and outputs are f32, which feeds and comparisons share.
    """
    builder = Builder(Graph("merged"))
    names, outputs = [], []
    for prefix, graph in graphs:
        known: dict[Value, Value] = {}
        for value in graph.inputs:
            narrow = value.type.dtype is DType.bf16
            type = value.type.with_dtype(DType.f32) if narrow else value.type
            expr = builder.input(f"{prefix}.{value.name}", type)
            (known[value],) = _cast(builder, expr.value, DType.bf16) if narrow else (expr.value,)
        for node in graph.nodes:
            operands = [None if v is None else known[v] for v in node.operands]
            results = builder.emit_values(node.op, operands, node.attributes)
            known.update(zip(node.results, results, strict=True))
        for name, value in zip(graph.output_names, graph.outputs, strict=True):
            narrow = value.type.dtype is DType.bf16
            (out,) = _cast(builder, known[value], DType.f32) if narrow else (known[value],)
            outputs.append(out)
            names.append(f"{prefix}.{name}")
    merged = builder.graph
    for index, (name, out) in enumerate(zip(names, outputs, strict=True)):
        merged.terminator.operands.append(out)
        out.users[(merged.terminator, index)] = None
        merged.output_names.append(name)
    return merged


def _cast(builder: Builder, value: Value, dtype: DType) -> list[Value]:
    return builder.emit_values(OPS["cast"], [value], {"dtype": dtype})


def pin(
    graph: Graph, sizes: Mapping[str, Dim], weights: Mapping[str, Array] | None = None
) -> Graph:
    """The graph with some symbols replaced, and some inputs turned into constants."""
    builder = Builder(Graph(graph.name))
    known: dict[Value, Value] = {}
    for value in graph.inputs:
        type = value.type.substitute(sizes)
        frozen = (weights or {}).get(value.name)
        expr = builder.input(value.name, type) if frozen is None else builder.constant(frozen)
        known[value] = expr.value
    for node in graph.nodes:
        operands = [None if v is None else known[v] for v in node.operands]
        attributes = {name: _pinned(item, sizes) for name, item in node.attributes.items()}
        results = builder.emit_values(node.op, operands, attributes)
        known.update(zip(node.results, results, strict=True))
    pinned = builder.graph
    for index, value in enumerate(graph.outputs):
        pinned.terminator.operands.append(known[value])
        known[value].users[(pinned.terminator, index)] = None
    pinned.output_names.extend(graph.output_names)
    return pinned


def _pinned(value: Attribute, sizes: Mapping[str, Dim]) -> Attribute:
    if isinstance(value, tuple):
        return tuple(_pinned(item, sizes) for item in value)
    if isinstance(value, bool | float | str) or not isinstance(value, Dim):
        return value
    return substitute(value, sizes)
