"""What a graph means: primitives by NumPy, composites by their decomposition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from .builder import trace
from .diagnostics import InputError
from .dims import DimExpr, evaluate_dim
from .graph import Graph, Value
from .numpy_rules import NUMPY_RULES
from .ops import Attribute, OpDef
from .symbols import bind_symbols, bound_symbol
from .types import DType, TensorType

__all__ = ["evaluate", "evaluate_node"]

Array = NDArray[np.generic]


def evaluate(graph: Graph, feeds: Mapping[str, Array]) -> list[Array]:
    """The outputs of a graph, in order; a tensor is dropped after its last use.

    `InputError` tells which feed does not fit. Outputs may share memory with feeds and constants.
    """
    names = [value.name for value in graph.inputs]
    if feeds.keys() != set(names):
        odd = sorted(feeds.keys() ^ set(names))
        raise InputError(f"the inputs are {_quoted(names)}; missing or unknown: {_quoted(odd)}")
    arrays = [np.asarray(feeds[name]) for name in names]
    for value, array in zip(graph.inputs, arrays, strict=True):
        if array.dtype != value.type.dtype.numpy:
            raise InputError(f"input `{value.name}` is {value.type}, not of type {array.dtype}")
    types = [value.type for value in graph.inputs]
    sizes = bind_symbols(types, [array.shape for array in arrays], names)
    with np.errstate(all="ignore"):
        return [np.asarray(x, order="C") for x in _run(graph, arrays, sizes)]


def evaluate_node(
    op: OpDef,
    arrays: Sequence[Array | None],
    attributes: Mapping[str, Attribute],
    sizes: Mapping[str, int] | None = None,
) -> list[Array]:
    """The results of one operator; `KeyError` names a symbol that is not among `sizes`."""
    known = {name: _known(value, sizes or {}) for name, value in attributes.items()}
    types = [None if x is None else _type_of(x) for x in arrays]
    with np.errstate(all="ignore"):
        if op.is_composite:
            body = trace(op, types, known)
            return _run(body, [x for x in arrays if x is not None], {})
        inferred = op.function(*types, **known)
        expected = inferred if isinstance(inferred, tuple) else (inferred,)
        return _apply(op, arrays, known, expected)


def _run(graph: Graph, arrays: Sequence[Array], sizes: Mapping[str, int]) -> list[Array]:
    """Evaluate the nodes in order; recursion is as deep as composites are nested."""
    env: dict[Value, Array] = dict(zip(graph.inputs, arrays, strict=True))
    uses = {value: len(value.users) for value in graph.inputs}
    for node in graph.nodes:
        operands = [None if value is None else env[value] for value in node.operands]
        if (symbol := bound_symbol(node)) is not None and symbol.name not in sizes:
            sizes = {**sizes, symbol.name: int(env[node.present_operands[0]])}
        if node.op.is_composite:
            types = [None if value is None else value.type for value in node.operands]
            body = trace(node.op, types, node.attributes)
            results = _run(body, [x for x in operands if x is not None], sizes)
        else:
            known = {name: _known(value, sizes) for name, value in node.attributes.items()}
            types_now = [_at_sizes(value.type, sizes) for value in node.results]
            results = _apply(node.op, operands, known, types_now)
        for value, array in zip(node.results, results, strict=True):
            env[value] = array
            uses[value] = len(value.users)
        operands.clear()
        for value in [*node.present_operands, *(v for v in node.results if not v.users)]:
            uses[value] -= 1
            if uses[value] <= 0:
                env.pop(value, None)
    return [env[value] for value in graph.outputs]


def _apply(
    op: OpDef,
    arrays: Sequence[Array | None],
    attributes: Mapping[str, Attribute],
    types: Sequence[TensorType],
) -> list[Array]:
    """Run a primitive; its results must be what inference said."""
    raw = NUMPY_RULES[op.name](*arrays, **attributes)
    results = [np.asarray(x) for x in (raw if isinstance(raw, tuple) else (raw,))]
    for array, type in zip(results, types, strict=True):
        assert array.dtype == type.dtype.numpy, f"`{op.name}` gave {array.dtype} for {type}"
        assert array.shape == type.shape, f"`{op.name}` gave {array.shape} for {type}"
    return results


def _known(value: Attribute, sizes: Mapping[str, int]) -> Attribute:
    if isinstance(value, DimExpr):
        return evaluate_dim(value, sizes)
    if isinstance(value, tuple):
        return tuple(_known(item, sizes) for item in value)
    return value


def _at_sizes(type: TensorType, sizes: Mapping[str, int]) -> TensorType:
    return type.with_shape(evaluate_dim(size, sizes) for size in type.shape)


def _type_of(array: Array) -> TensorType:
    return TensorType(DType.of(array.dtype), tuple(map(int, array.shape)))


def _quoted(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names) or "none"
