"""Where the exporter writes ONNX nodes: the main graph, or the body of a function."""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper

from .constants import Constant
from .diagnostics import VerifyError
from .dims import Dim, FloorDiv, Sym, bounds
from .graph import Node, Value
from .symbols import Source
from .types import DType

__all__ = ["ONNX_DTYPES", "FunctionScope", "GraphScope", "Scope", "tensor_of"]

ONNX_DTYPES = {
    DType.f16: onnx.TensorProto.FLOAT16,
    DType.f32: onnx.TensorProto.FLOAT,
    DType.f64: onnx.TensorProto.DOUBLE,
    DType.bf16: onnx.TensorProto.BFLOAT16,
    DType.i8: onnx.TensorProto.INT8,
    DType.i16: onnx.TensorProto.INT16,
    DType.i32: onnx.TensorProto.INT32,
    DType.i64: onnx.TensorProto.INT64,
    DType.u8: onnx.TensorProto.UINT8,
    DType.u16: onnx.TensorProto.UINT16,
    DType.u32: onnx.TensorProto.UINT32,
    DType.u64: onnx.TensorProto.UINT64,
    DType.bool: onnx.TensorProto.BOOL,
    DType.f8e4m3fn: onnx.TensorProto.FLOAT8E4M3FN,
    DType.f8e4m3fnuz: onnx.TensorProto.FLOAT8E4M3FNUZ,
    DType.f8e5m2: onnx.TensorProto.FLOAT8E5M2,
    DType.f8e5m2fnuz: onnx.TensorProto.FLOAT8E5M2FNUZ,
    DType.f8e8m0: onnx.TensorProto.FLOAT8E8M0,
    DType.f4e2m1: onnx.TensorProto.FLOAT4E2M1,
    DType.i4: onnx.TensorProto.INT4,
    DType.u4: onnx.TensorProto.UINT4,
    DType.i2: onnx.TensorProto.INT2,
    DType.u2: onnx.TensorProto.UINT2,
}


def tensor_of(constant: Constant, name: str = "") -> onnx.TensorProto:
    """A constant with its elements inside."""
    if constant.type.dtype.is_stored:  # some lie several to a byte
        return onnx.numpy_helper.from_array(np.asarray(constant.array, order="C"), name)
    tensor = onnx.TensorProto(name=name, data_type=ONNX_DTYPES[constant.type.dtype])
    tensor.dims.extend(constant.array.shape)
    tensor.raw_data = np.asarray(constant.array, order="C").tobytes()
    return tensor


class Scope(abc.ABC):
    """A list of ONNX nodes, with names that are free and sizes that are computed once."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.values: dict[Value, str] = {}
        self.taken: set[str] = set()
        self._node_names: dict[str, int] = {}
        self.node_name = ""
        self._dims: dict[Dim | str, str] = {}

    @abc.abstractmethod
    def constant(self, constant: Constant, hint: str) -> str:
        """The name of a tensor with these elements."""

    @abc.abstractmethod
    def symbol(self, symbol: Sym) -> str:
        """The name of an i64 tensor of one element, the size of a symbol."""

    def fresh(self, hint: str) -> str:
        """A name that is not taken."""
        name, count = hint, 0
        while name in self.taken:
            count += 1
            name = f"{hint}.{count}"
        self.taken.add(name)
        return name

    def begin(self, node: Node) -> None:
        """Name the ONNX nodes that follow after a node."""
        named = node.location.name or (node.results[0].name if node.results else node.op.name)
        self.node_name = named

    def emit(
        self,
        operator: str,
        inputs: Sequence[str],
        outputs: Sequence[str] = (),
        domain: str = "",
        **attributes: Any,
    ) -> str:
        """Write one ONNX node, and give the name of its first output."""
        names = list(outputs) or [self.fresh(f"{self.node_name or 'v'}.{operator.lower()}")]
        proto = helper.make_node(
            operator, list(inputs), names, name=self._next_name(), domain=domain, **attributes
        )
        self.nodes.append(proto)
        return names[0]

    def _next_name(self) -> str:
        count = self._node_names.get(self.node_name, 0)
        self._node_names[self.node_name] = count + 1
        return f"{self.node_name}#{count}" if count else self.node_name

    def cast(self, name: str, dtype: DType, output: str = "") -> str:
        """A tensor with another element type."""
        outputs = [output] if output else []
        return self.emit("Cast", [name], outputs, to=int(ONNX_DTYPES[dtype]))

    def array(self, array: NDArray[np.generic], hint: str = "") -> str:
        """The name of a small constant."""
        return self.constant(Constant(array), hint or f"{self.node_name}.constant")

    def integers(self, values: Sequence[int]) -> str:
        """The name of an i64 vector."""
        key = f"{list(values)}"
        if key not in self._dims:
            self._dims[key] = self.array(np.asarray(values, np.int64).reshape(-1), f"i64{key}")
        return self._dims[key]

    def dim(self, size: Dim) -> str:
        """The name of an i64 tensor of one element, the value of a size."""
        if isinstance(size, int):
            return self.integers([size])
        if size not in self._dims:
            self._dims[size] = self._polynomial(size)
        return self._dims[size]

    def _polynomial(self, size: Dim) -> str:
        if isinstance(size, int):
            return self.integers([size])
        total = ""
        for monomial, factor in size.terms:
            term = "" if factor == 1 and monomial else self.integers([factor])
            for atom in monomial:
                name = self.symbol(atom) if isinstance(atom, Sym) else self._floor_div(atom)
                term = self.emit("Mul", [term, name]) if term else name
            total = self.emit("Add", [total, term]) if total else term
        return total

    def _floor_div(self, atom: FloorDiv) -> str:
        numerator, denominator = self.dim(atom.numerator), self.integers([atom.denominator])
        if bounds(atom.numerator)[0] < 0:  # ONNX rounds towards zero
            rest = self.emit("Mod", [numerator, denominator])
            numerator = self.emit("Sub", [numerator, rest])
        return self.emit("Div", [numerator, denominator])

    def scalar(self, size: Dim) -> str:
        """The name of a rank-0 i64 tensor, the value of a size."""
        if isinstance(size, int):
            return self.array(np.asarray(size, np.int64))
        return self.emit("Squeeze", [self.dim(size), self.integers([0])])

    def shape(self, sizes: Sequence[Dim]) -> str:
        """The name of an i64 vector of sizes."""
        known = [size for size in sizes if isinstance(size, int)]
        if len(known) == len(sizes):
            return self.integers(known)
        parts: list[str] = []
        run: list[int] = []
        for size in [*sizes, None]:
            if isinstance(size, int):
                run.append(size)
                continue
            if run:
                parts.append(self.integers(run))
                run = []
            if size is not None:
                parts.append(self.dim(size))
        return parts[0] if len(parts) == 1 else self.emit("Concat", parts, axis=0)


class GraphScope(Scope):
    """The main graph: constants are initializers, sizes come from the shapes of inputs."""

    def __init__(self, inputs: Sequence[Value], sources: Sequence[Source]) -> None:
        super().__init__()
        self.inputs = inputs
        self.sources = {source.symbol.name: source for source in sources}
        self.initializers: dict[str, Constant] = {}
        self._sizes: dict[str, str] = {}

    def constant(self, constant: Constant, hint: str) -> str:
        name = self.fresh(hint)
        self.initializers[name] = constant
        return name

    def bind(self, symbol: Sym, count: str) -> None:
        """A rank-0 tensor is the value of a symbol from here on."""
        if symbol.name not in self.sources and symbol.name not in self._sizes:
            self._sizes[symbol.name] = self.emit("Unsqueeze", [count, self.integers([0])])

    def symbol(self, symbol: Sym) -> str:
        if symbol.name in self._sizes:
            return self._sizes[symbol.name]
        source = self.sources.get(symbol.name)
        if source is None:
            raise VerifyError(f"no input determines the symbol `{symbol.name}`")
        if symbol.name not in self._sizes:
            value = self.inputs[source.input]
            saved, self.node_name = self.node_name, f"size of {symbol.name}"
            size = self.emit("Shape", [self.values[value]], [self.fresh(f"size.{symbol.name}")],
                             start=source.axis, end=source.axis + 1)  # fmt: skip
            if source.rest != 0:
                size = self.emit("Sub", [size, self.dim(source.rest)])
            if source.factor != 1:
                size = self.emit("Div", [size, self.dim(source.factor)])
            self._sizes[symbol.name] = size
            self.node_name = saved
        return self._sizes[symbol.name]


class FunctionScope(Scope):
    """The body of a function: constants are nodes; sizes that it needs are further inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.symbols: dict[str, Sym] = {}
        self._sizes: dict[str, str] = {}

    def constant(self, constant: Constant, hint: str) -> str:
        return self.emit("Constant", [], [self.fresh(hint)], value=tensor_of(constant))

    def symbol(self, symbol: Sym) -> str:
        if symbol.name not in self._sizes:
            self.symbols[symbol.name] = symbol
            self._sizes[symbol.name] = self.fresh(f"size.{symbol.name}")
        return self._sizes[symbol.name]

    @property
    def size_names(self) -> list[str]:
        """The names of the inputs that hold sizes, in the order of `symbols`."""
        return list(self._sizes.values())
