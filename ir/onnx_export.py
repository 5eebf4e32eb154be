"""From a graph, at any stage, to an ONNX model: composites become functions of the model.

Domain `tunesmith` holds one function for each (operator, operand types, attributes); its inputs
are the operands that are present, then the sizes that its body needs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import helper

from .builder import trace
from .constants import Constant
from .dims import Sym
from .graph import Graph, Node, Value
from .onnx_export_rules import write_primitive
from .onnx_export_scope import ONNX_DTYPES, FunctionScope, GraphScope, Scope, tensor_of
from .ops import Attribute
from .symbols import symbol_sources
from .types import TensorType

__all__ = ["DOMAIN", "IR_VERSION", "OPSET", "export_onnx", "save_onnx"]

OPSET = 18
IR_VERSION = 10  # the newest that ONNX Runtime 1.31 is sure to read
DOMAIN = "tunesmith"
EXTERNAL_ABOVE = 2**30  # bytes of weights; protobuf itself ends at 2 GiB


def export_onnx(graph: Graph) -> onnx.ModelProto:
    """The model that computes what the graph computes, weights inside."""
    return _export(graph, tensor_of)


def save_onnx(graph: Graph, path: str | Path, external_above: int = EXTERNAL_ABOVE) -> None:
    """Write the model; if the weights take more bytes than that, they go to `<path>.data`."""
    path = Path(path)
    values = [node.attributes.get("value") for node in graph.nodes]
    total = sum(value.nbytes for value in values if isinstance(value, Constant))
    if total <= external_above:
        path.write_bytes(export_onnx(graph).SerializeToString())
        return
    with open(f"{path}.data", "wb") as data:

        def store(constant: Constant, name: str) -> onnx.TensorProto:
            if constant.nbytes < 1024:
                return tensor_of(constant, name)
            tensor = onnx.TensorProto(name=name, data_type=ONNX_DTYPES[constant.type.dtype])
            tensor.dims.extend(constant.array.shape)
            tensor.data_location = onnx.TensorProto.EXTERNAL
            data.seek(-data.tell() % 64, 1)
            entries = {"location": f"{path.name}.data", "offset": data.tell()}
            for key, value in {**entries, "length": constant.nbytes}.items():
                tensor.external_data.add(key=key, value=str(value))
            data.write(np.asarray(constant.array, order="C").reshape(-1).view(np.uint8).data)
            return tensor

        model = _export(graph, store)
    path.write_bytes(model.SerializeToString())


def _export(graph: Graph, store: Callable[[Constant, str], onnx.TensorProto]) -> onnx.ModelProto:
    functions = _Functions()
    scope = GraphScope(graph.inputs, symbol_sources([value.type for value in graph.inputs]))
    for value in graph.inputs:
        scope.taken.add(value.name)
        scope.values[value] = value.name
    _write_body(graph, scope, functions, graph.output_names)
    types = {scope.values[v]: v.type for node in graph.nodes for v in node.results}
    outputs = zip(graph.output_names, graph.outputs, strict=True)
    body = helper.make_graph(
        scope.nodes,
        graph.name,
        [_value_info(value.name, value.type) for value in graph.inputs],
        [_value_info(name, value.type) for name, value in outputs],
        [store(constant, name) for name, constant in scope.initializers.items()],
        value_info=[
            _value_info(name, type)
            for name, type in types.items()
            if name not in scope.initializers and name not in graph.output_names
        ],
    )
    return helper.make_model(
        body,
        functions=list(functions.protos.values()),
        ir_version=IR_VERSION,
        opset_imports=_opsets(),
        producer_name="tunesmith",
    )


def _opsets() -> list[onnx.OperatorSetIdProto]:
    return [helper.make_opsetid("", OPSET), helper.make_opsetid(DOMAIN, 1)]


def _value_info(name: str, type: TensorType) -> onnx.ValueInfoProto:
    shape = [size if isinstance(size, int) else str(size) for size in type.shape]
    return helper.make_tensor_value_info(name, ONNX_DTYPES[type.dtype], shape)


class _Functions:
    """The functions of a model, written when first called."""

    def __init__(self) -> None:
        self.protos: dict[object, onnx.FunctionProto] = {}
        self.sizes: dict[object, list[Sym]] = {}
        self.names: dict[str, int] = {}

    def call(self, scope: Scope, node: Node, inputs: Sequence[str], outputs: Sequence[str]) -> None:
        """Write the call of a composite into `scope`."""
        types = tuple(None if value is None else value.type for value in node.operands)
        key = (node.op.name, types, repr(sorted(node.attributes.items())))
        if key not in self.protos:
            self._define(key, node, types)
        sizes = [scope.symbol(symbol) for symbol in self.sizes[key]]
        present = [name for name in inputs if name]
        attributes = {k: _onnx_attribute(v) for k, v in node.attributes.items()}
        name = self.protos[key].name
        scope.emit(name, [*present, *sizes], outputs, domain=DOMAIN, **attributes)

    def _define(self, key: object, node: Node, types: Sequence[TensorType | None]) -> None:
        body = trace(node.op, types, node.attributes)
        scope = FunctionScope()
        for value in body.inputs:
            scope.values[value] = scope.fresh(value.name)
        output_names = [f"result{i}" if i else "result" for i in range(len(body.outputs))]
        _write_body(body, scope, self, output_names)
        count = self.names.get(node.op.name, 0)
        self.names[node.op.name] = count + 1
        shown = ", ".join("_" if type is None else str(type) for type in types)
        self.sizes[key] = list(scope.symbols.values())
        self.protos[key] = helper.make_function(
            DOMAIN,
            f"{node.op.name}_{count}" if count else node.op.name,
            [*(scope.values[value] for value in body.inputs), *scope.size_names],
            output_names,
            scope.nodes,
            _opsets(),
            attributes=sorted(node.attributes),
            doc_string=f"{node.op.name}({shown})",
        )


def _onnx_attribute(value: Attribute) -> int | float | str | list[int]:
    """An attribute for readers of the model: the body of the function has it built in."""
    if isinstance(value, float | str):
        return value
    if isinstance(value, bool | int):
        return int(value)
    if isinstance(value, tuple) and value and all(isinstance(item, int) for item in value):
        return [item for item in value if isinstance(item, int)]
    return str(value)


def _write_body(
    graph: Graph, scope: Scope, functions: _Functions, output_names: Sequence[str]
) -> None:
    """Write every node, and see to it that the outputs have their names."""
    scope.taken.update(output_names)
    named: dict[Value, str] = {}
    for name, value in zip(output_names, graph.outputs, strict=True):
        if value.producer is not None and "source" not in value.producer.op.traits:
            named.setdefault(value, name)
    for node in graph.nodes:
        scope.begin(node)
        for value in node.results:
            scope.values[value] = named.get(value) or scope.fresh(value.name)
        inputs = ["" if value is None else scope.values[value] for value in node.operands]
        outputs = [scope.values[value] for value in node.results]
        constant = node.attributes.get("value")
        if node.op.is_composite:
            functions.call(scope, node, inputs, outputs)
        elif isinstance(constant, Constant):
            scope.taken.discard(outputs[0])
            scope.values[node.result] = scope.constant(constant, outputs[0])
        else:
            while inputs and not inputs[-1]:
                inputs.pop()
            write_primitive(scope, node, inputs, outputs)
    for name, value in zip(output_names, graph.outputs, strict=True):
        if named.get(value) != name:
            scope.node_name = name
            scope.emit("Identity", [scope.values[value]], [name])
