"""Writing graphs: the builder, and the body of a composite as a graph."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
from numpy.typing import NDArray

from .constants import Constant
from .diagnostics import UNKNOWN, Location, VerifyError
from .graph import Graph, Node, Value, infer_types
from .graph import constant as constant_op
from .ops import Attribute, Expr, OpDef, Scalar, pop_emitter, push_emitter
from .types import TensorType

__all__ = ["Builder", "as_tuple", "trace"]


def as_tuple(result: Expr | tuple[Expr, ...]) -> tuple[Expr, ...]:
    """The results of an operator as a tuple, however many there are."""
    return result if isinstance(result, tuple) else (result,)


class Builder:
    """Writes nodes into a graph, at its end or in front of a node.

    `with builder:` makes it the one that operators without operands write into.
    """

    def __init__(self, graph: Graph, before: Node | None = None) -> None:
        self.graph = graph
        self.before = before
        self.location = before.location if before is not None else UNKNOWN
        self.hint = ""

    def __enter__(self) -> Builder:
        push_emitter(self)
        return self

    def __exit__(self, *_: object) -> None:
        pop_emitter()

    @contextmanager
    def at(self, location: Location) -> Iterator[Builder]:
        """Give the nodes written inside this location."""
        saved, self.location = self.location, location
        try:
            yield self
        finally:
            self.location = saved

    def input(self, name: str, type: TensorType) -> Expr:
        """Append an input."""
        return Expr(self, self.graph.add_input(name, type))

    def constant(self, array: NDArray[np.generic] | Constant, name: str = "") -> Expr:
        """Write a constant."""
        value = array if isinstance(array, Constant) else Constant(array)
        saved, self.hint = self.hint, name or self.hint
        try:
            (result,) = as_tuple(self.emit(constant_op, [], {"value": value}))
        finally:
            self.hint = saved
        return result

    def literal(self, value: Scalar, like: Expr) -> Expr:
        """A rank-0 constant of the element type of `like`."""
        with np.errstate(over="ignore"):  # the lowest f32, in f16, is -inf
            return self.constant(np.asarray(value).astype(like.dtype.numpy))

    def emit(
        self, op: OpDef, operands: Sequence[Expr | None], attributes: Mapping[str, Attribute]
    ) -> Expr | tuple[Expr, ...]:
        """Write one node; a broken rule of the operator is a `VerifyError` with the location."""
        values: list[Value | None] = [None if x is None else x.value for x in operands]
        results = self.emit_values(op, values, attributes)
        exprs = tuple(Expr(self, value) for value in results)
        return exprs[0] if len(exprs) == 1 else exprs

    def emit_values(
        self, op: OpDef, operands: Sequence[Value | None], attributes: Mapping[str, Attribute]
    ) -> list[Value]:
        """`emit` for values."""
        try:
            attributes = op.bind(len(operands), attributes)
            types = infer_types(op, operands, attributes)
        except ValueError as error:
            raise VerifyError(f"`{op.name}`: {error}", where=self.location) from error
        node = Node(op, operands, attributes, self.location)
        for index, type in enumerate(types):
            name = self.graph.fresh_name(self.hint or op.name)
            node.results.append(Value(name, type, node, index))
        for index, value in enumerate(operands):
            if value is not None:
                value.users[(node, index)] = None
        self.graph.link(node, self.before)
        return node.results

    def inline(self, body: Graph, operands: Sequence[Value | None]) -> list[Value]:
        """Write the nodes of `body` on `operands`, one for each of its inputs; give its outputs."""
        present = [value for value in operands if value is not None]
        known: dict[Value, Value] = dict(zip(body.inputs, present, strict=True))
        for node in body.nodes:
            mapped = [None if v is None else known[v] for v in node.operands]
            results = self.emit_values(node.op, mapped, node.attributes)
            known.update(zip(node.results, results, strict=True))
        return [known[value] for value in body.outputs]

    def finish(self, outputs: Iterable[Expr], names: Sequence[str] = ()) -> Graph:
        """End the graph with these outputs; their names are part of the interface."""
        graph = self.graph
        for expr in outputs:
            index = len(graph.terminator.operands)
            graph.terminator.operands.append(expr.value)
            expr.value.users[(graph.terminator, index)] = None
            graph.output_names.append(names[index] if names else expr.value.name)
        return graph


_BODIES: dict[object, Graph] = {}


def trace(
    op: OpDef, types: Sequence[TensorType | None], attributes: Mapping[str, Attribute]
) -> Graph:
    """The body of a composite for given operand types; absent operands have no input in it.

    The graph is shared: do not change it.
    """
    key = (op.name, tuple(types), tuple(sorted(attributes.items())))
    if key in _BODIES:
        return _BODIES[key]
    names = [name.lstrip("*") for name in op.operand_names]
    builder = Builder(Graph(op.name))
    exprs: list[Expr | None] = []
    for index, type in enumerate(types):
        name = names[min(index, len(names) - 1)]
        name = name if index < len(names) else f"{name}{index}"
        exprs.append(None if type is None else builder.input(name, type))
    with builder:
        body = builder.finish(as_tuple(op.function(*exprs, **attributes)))
    if len(_BODIES) >= 4096:
        _BODIES.clear()
    _BODIES[key] = body
    return body
