"""Some nodes of a graph as a graph of their own, and copies of graphs."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from .builder import Builder
from .dims import Dim, DimExpr, substitute
from .graph import Graph, Node, Value
from .ops import Attribute, Expr
from .types import TensorType

__all__ = ["subgraph"]


def subgraph(
    graph: Graph,
    keep: Collection[Node],
    *,
    outputs: Collection[Value] | None = None,
    sizes: Mapping[str, int] | None = None,
) -> tuple[Graph, dict[str, Value], list[Value]]:
    """Copy the nodes in `keep`, in their order; the constants that they read come with them.

    What they read from elsewhere becomes an input. Outputs are `outputs`, or those results of the
    nodes that are read elsewhere, returned, or not read at all. `sizes` replaces symbols by
    numbers; without it all inputs of a graph with symbols stay, because they say what these are.

    Returns the copy, the value of `graph` behind each of its inputs, and behind each output.

    Raises:
        VerifyError: an operator cannot have these sizes.
    """
    fixed: Mapping[str, Dim] = dict(sizes or {})
    builder = Builder(Graph(graph.name))
    chosen = set(keep)
    copies: dict[Value, Value] = {}
    sources: dict[str, Value] = {}

    def enter(value: Value) -> None:
        if value not in copies:
            copies[value] = builder.input(value.name, _type(value.type, fixed)).value
            sources[value.name] = value

    known = {result for node in graph.nodes if node in chosen for result in node.results}
    read = [v for n in graph.nodes if n in chosen for v in n.present_operands if v not in known]
    reads = dict.fromkeys([*read, *(v for v in outputs or () if v.producer is None)])
    symbolic = not fixed and bool(graph.symbols())
    for value in graph.inputs:
        if value in reads or symbolic:
            enter(value)
    for value in reads:
        if value.constant is None:
            enter(value)
    for node in graph.nodes:
        if node not in chosen and not any(
            v in reads and v.constant is not None for v in node.results
        ):
            continue
        builder.location = node.location
        builder.hint = node.results[0].name
        attributes = {name: _attribute(a, fixed) for name, a in node.attributes.items()}
        operands = [None if v is None else copies[v] for v in node.operands]
        results = builder.emit_values(node.op, operands, attributes)
        copies.update(zip(node.results, results, strict=True))
    if outputs is None:
        outside = graph.terminator
        outputs = [
            value
            for node in graph.nodes
            if node in chosen
            for value in node.results
            if not value.users or any(n is outside or n not in chosen for n in value.user_nodes)
        ]
    returned = list(outputs)
    names = dict(zip(graph.outputs, graph.output_names, strict=True))
    copy = builder.finish(
        [Expr(builder, copies[v]) for v in returned], [names.get(v, v.name) for v in returned]
    )
    return copy, sources, returned


def _type(type: TensorType, sizes: Mapping[str, Dim]) -> TensorType:
    return type.with_shape(substitute(size, sizes) for size in type.shape)


def _attribute(value: Attribute, sizes: Mapping[str, Dim]) -> Attribute:
    if isinstance(value, DimExpr):
        return substitute(value, sizes)
    if isinstance(value, tuple):
        return tuple(_attribute(item, sizes) for item in value)
    return value
