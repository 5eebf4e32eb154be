"""The rules of a graph, as named checks; each takes time linear in the size of the graph."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NoReturn

from .diagnostics import UNKNOWN, CompilerError, VerifyError
from .dims import DimExpr, Sym, symbols_of
from .graph import RETURN, Graph, Node, Value, infer_types
from .in_place import overwritten
from .ops import OPS, Attribute
from .symbols import bound_symbol, symbol_sources
from .text import print_node, value_text

__all__ = ["CHECKS", "verify"]


def verify(graph: Graph) -> None:
    """Run every check; `VerifyError` names the first that fails, the node, and a way out."""
    for check in CHECKS.values():
        check(graph)


def _broken(check: str, message: str, node: Node | None = None, hint: str = "") -> NoReturn:
    where = None
    if node is not None and node.location != UNKNOWN:
        where = node.location
    text = f"check `{check}`: {message}"
    if node is not None and node.op is not RETURN:
        text += f"\n    {print_node(node)}"
    raise VerifyError(text, where=where, hint=hint or None)


def _order(graph: Graph) -> None:
    """The list of nodes is whole: links go both ways, every node is owned, the count is right."""
    previous: Node | None = None
    count = 0
    for node in graph.nodes:
        count += 1
        if count > len(graph):
            _broken("order", f"more nodes are linked than the {len(graph)} that were added", node,
                    "change a graph through `Rewriter` only")  # fmt: skip
        if node.previous is not previous or node.owner is not graph:
            _broken("order", "a node is not linked to its neighbour or to its graph", node,
                    "change a graph through `Rewriter` only")  # fmt: skip
        previous = node
    if count != len(graph):
        _broken("order", f"{count} nodes are linked, but {len(graph)} were added")


def _terminator(graph: Graph) -> None:
    """The graph ends in `return`, stands nowhere else, and gives each output its own name."""
    end = graph.terminator
    if end.op is not RETURN or end.owner is not graph or end.results or end.attributes:
        _broken("terminator", "the graph does not end in a plain `return`", end)
    if None in end.operands:
        _broken("terminator", "an output is absent", end, "`return` takes values only")
    if len(graph.output_names) != len(end.operands):
        _broken("terminator", f"{len(end.operands)} outputs have {len(graph.output_names)} names")
    twice = _first_twice(graph.output_names)
    if twice is not None:
        _broken("terminator", f"two outputs are named `{twice}`", hint="names of outputs differ")
    for node in graph.nodes:
        if node.op is RETURN:
            _broken("terminator", "`return` stands before the end", node)


def _results(graph: Graph) -> None:
    """Values know their place: inputs by index, results by producer and index."""
    for index, value in enumerate(graph.inputs):
        if value.producer is not None or value.index != index:
            _broken("results", f"{value_text(value)} is not input {index}")
    for node in graph.nodes:
        for index, value in enumerate(node.results):
            if value.producer is not node or value.index != index:
                _broken("results", f"{value_text(value)} is not result {index} of its node", node)


def _ssa(graph: Graph) -> None:
    """A value is defined above its first use, in the same graph."""
    defined = set(graph.inputs)
    for node in _all_nodes(graph):
        for value in node.present_operands:
            if value not in defined:
                _broken("ssa", f"{value_text(value)} is not defined above its use", node,
                        "move its definition up, or pass it in as an input")  # fmt: skip
        defined.update(node.results)


def _users(graph: Graph) -> None:
    """`Value.users` lists every use, `return` included, and nothing else."""
    uses: dict[Value, set[tuple[Node, int]]] = {value: set() for value in _all_values(graph)}
    for node in _all_nodes(graph):
        for index, value in enumerate(node.operands):
            if value is not None:
                uses[value].add((node, index))
    for value, expected in uses.items():
        if value.users.keys() != expected:
            _broken("users", f"{value_text(value)} lists {len(value.users)} uses, the graph has "
                    f"{len(expected)} or others", value.producer,
                    "change operands through `Rewriter.set_operand`")  # fmt: skip


def _names(graph: Graph) -> None:
    """Every value has a name of its own."""
    twice = _first_twice([value.name for value in _all_values(graph)])
    if twice is not None:
        _broken("names", f"two values are named `%{twice}`", hint="use `Graph.fresh_name`")
    if any(not value.name for value in _all_values(graph)):
        _broken("names", "a value has no name", hint="use `Graph.fresh_name`")


def _operands(graph: Graph) -> None:
    """The operator is in the table, and has the operands and attributes that it declares."""
    for node in graph.nodes:
        if OPS.get(node.op.name) is not node.op:
            _broken("operands", f"`{node.op.name}` is not an operator of the table", node)
        try:
            bound = node.op.bind(len(node.operands), node.attributes)
        except ValueError as error:
            _broken("operands", str(error), node)
        if bound.keys() != node.attributes.keys():
            missing = min(bound.keys() - node.attributes.keys())
            _broken("operands", f"the attribute `{missing}` is not set", node,
                    "complete attributes with `OpDef.bind`")  # fmt: skip
        for name, value in zip(node.op.operand_names, node.operands, strict=False):
            required = node.op.operand_names.index(name) < node.op.required_operands
            if value is None and (required or name.startswith("*")):
                _broken("operands", f"the operand `{name.lstrip('*')}` is absent", node)


def _types(graph: Graph) -> None:
    """The type of each result is the inferred one."""
    for node in graph.nodes:
        try:
            types = infer_types(node.op, node.operands, node.attributes)
        except (ValueError, CompilerError) as error:
            text = error.message if isinstance(error, CompilerError) else str(error)
            _broken("types", f"`{node.op.name}`: {text}", node)
        written = tuple(value.type for value in node.results)
        if written != types:
            _broken("types", f"inference gives {', '.join(map(str, types))}, the node has "
                    f"{', '.join(map(str, written))}", node,
                    "a symbol with other bounds is another symbol")  # fmt: skip


def _in_place(graph: Graph) -> None:
    """A value whose memory a node takes over is no constant, and nothing else reads it."""
    for node in graph.nodes:
        taken = overwritten(node)
        if taken is None:
            continue
        if taken.constant is not None:
            _broken("in_place", f"{value_text(taken)} is a constant, and cannot be written to",
                    node, "copy it into a value of its own")  # fmt: skip
        if len(taken.users) > 1:
            _broken("in_place", f"{value_text(taken)} is overwritten, yet read elsewhere", node,
                    "read the result of the write instead")  # fmt: skip


def _symbols(graph: Graph) -> None:
    """A symbol follows from the inputs or a node above, and has the same bounds everywhere."""
    bound: dict[str, Sym] = {
        source.symbol.name: source.symbol
        for source in symbol_sources([value.type for value in graph.inputs])
    }
    for value in graph.inputs:
        for symbol in value.type.symbols():
            _check_symbol(symbol, bound, f"input {value_text(value)}", None)
    for node in graph.nodes:
        if (fresh := bound_symbol(node)) is not None:
            bound.setdefault(fresh.name, fresh)
        for result in node.results:
            for symbol in result.type.symbols():
                _check_symbol(symbol, bound, value_text(result), node)
        for name, attribute in node.attributes.items():
            for symbol in _attribute_symbols(attribute):
                _check_symbol(symbol, bound, f"attribute `{name}`", node)


def _check_symbol(symbol: Sym, bound: dict[str, Sym], what: str, node: Node | None) -> None:
    known = bound.get(symbol.name)
    if known is None:
        _broken("symbols", f"{what} has the symbol `{symbol.name}`, which nothing above determines",
                node, "name it alone in the shape of an input, or in `bind_size`")  # fmt: skip
    if known != symbol:
        text = " and ".join(f"{s.low}<={s}" + f"<={s.high}" * (s.high > 0) for s in (known, symbol))
        _broken("symbols", f"{what} has other bounds: {text}", node)


def _attribute_symbols(value: Attribute) -> Iterator[Sym]:
    if isinstance(value, DimExpr):
        yield from symbols_of(value)
    elif isinstance(value, tuple):
        for item in value:
            yield from _attribute_symbols(item)


def _all_nodes(graph: Graph) -> Iterator[Node]:
    yield from graph.nodes
    yield graph.terminator


def _all_values(graph: Graph) -> Iterator[Value]:
    yield from graph.inputs
    for node in graph.nodes:
        yield from node.results


def _first_twice(names: list[str]) -> str | None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


CHECKS: dict[str, Callable[[Graph], None]] = {
    "order": _order,
    "terminator": _terminator,
    "results": _results,
    "ssa": _ssa,
    "users": _users,
    "names": _names,
    "operands": _operands,
    "types": _types,
    "in_place": _in_place,
    "symbols": _symbols,
}
