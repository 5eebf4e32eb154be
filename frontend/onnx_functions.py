"""Operators that ONNX defines by smaller ones: their bodies, for where there is no better rule."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import onnx.defs
from onnx import AttributeProto, FunctionProto, GraphProto, NodeProto, TypeProto

from tunesmith.ir.dims import DimExpr
from tunesmith.ir.types import TensorType

from .onnx_tensors import DTYPES

__all__ = ["function_body", "has_body"]

_ELEMENTS = {dtype: element for element, dtype in DTYPES.items()}


def _schema(domain: str, name: str, version: int) -> onnx.defs.OpSchema | None:
    try:
        return onnx.defs.get_schema(name, version, domain)
    except onnx.defs.SchemaError:
        return None


def has_body(domain: str, name: str, version: int) -> bool:
    """Whether ONNX defines an operator by smaller ones."""
    schema = _schema(domain, name, version)
    return schema is not None and (schema.has_function or schema.has_context_dependent_function)


def function_body(
    node: NodeProto, domain: str, version: int, types: Sequence[TensorType | None]
) -> FunctionProto:
    """The body of an operator for operands of some types, with the node's attributes filled in."""
    schema = _schema(domain, node.op_type, version)
    assert schema is not None
    if schema.has_function:
        since = max(v for v in schema.function_opset_versions if v <= version)
        data = schema.get_function_with_opset_version(since)
    else:
        since = max(v for v in schema.context_dependent_function_opset_versions if v <= version)
        protos = [_type_proto(type).SerializeToString() for type in types]
        data = schema.get_context_dependent_function_with_opset_version(
            since, node.SerializeToString(), protos
        )
    body = FunctionProto()
    body.ParseFromString(data)
    given = {name: a.default_value for name, a in schema.attributes.items() if a.default_value.name}
    given |= {attribute.name: attribute for attribute in node.attribute}
    absent = {
        name for i, name in enumerate(body.input) if i >= len(node.input) or not node.input[i]
    }
    for inner in body.node:
        _fill(inner, given, absent)
    return body


def _type_proto(type: TensorType | None) -> TypeProto:
    found = TypeProto()
    if type is not None:
        found.tensor_type.elem_type = _ELEMENTS[type.dtype]
        found.tensor_type.shape.SetInParent()
        for size in type.shape:
            one = found.tensor_type.shape.dim.add()
            if isinstance(size, DimExpr):
                one.dim_param = str(size)
            else:
                one.dim_value = size
    return found


def _fill(node: NodeProto, given: Mapping[str, AttributeProto], absent: set[str]) -> None:
    """Replace references to attributes of the function, and to operands that are not there."""
    for i, name in enumerate(node.input):
        if name in absent:
            node.input[i] = ""
    kept = []
    for attribute in node.attribute:
        if not attribute.ref_attr_name:
            kept.append(attribute)
        elif attribute.ref_attr_name in given:
            filled = AttributeProto()
            filled.CopyFrom(given[attribute.ref_attr_name])
            filled.name = attribute.name
            kept.append(filled)
    del node.attribute[:]
    node.attribute.extend(kept)
    for attribute in node.attribute:
        graphs: list[GraphProto] = [*attribute.graphs]
        if attribute.HasField("g"):
            graphs.append(attribute.g)
        for graph in graphs:
            for inner in graph.node:
                _fill(inner, given, absent)
