"""Key/value caches become buffers that are written in place: `tunesmith compile --cache CAPACITY`.

Not a pass, because it changes the interface: an input that held the rows of before holds a buffer
of `capacity` rows afterwards. What the graph gives stays the same, so any oracle still serves.
"""

from __future__ import annotations

from dataclasses import dataclass

from tunesmith.ir.diagnostics import PassError
from tunesmith.ir.dims import Dim, DimExpr, Sym, bounds, dim, symbols_of
from tunesmith.ir.graph import Graph, Node, Value
from tunesmith.ir.ops import OPS
from tunesmith.ir.rewriter import Rewriter
from tunesmith.ir.symbols import symbol_sources
from tunesmith.ir.types import DType, TensorType

from .base import Note, PassContext
from .facts import counts_along, value_bounds

__all__ = ["cache_bounds", "place_caches"]

_NAME = "place-caches"


@dataclass(frozen=True)
class _Pair:
    """A past, and the node that joins new rows to it along an axis."""

    past: Value
    join: Node
    axis: int

    @property
    def length(self) -> Dim:
        """How many rows there were before: a symbol, or what follows from others."""
        return self.past.type.shape[self.axis]

    @property
    def new(self) -> Dim:
        """How many rows are joined."""
        return self.join.present_operands[1].type.shape[self.axis]

    @property
    def total(self) -> Dim:
        """How many rows there are afterwards."""
        return self.join.result.type.shape[self.axis]


def cache_bounds(graph: Graph, capacity: int) -> dict[str, tuple[int, int]]:
    """The bounds of sizes that fit a cache, by name: a past begins with nothing, and ends full.

    For a graph as it was imported: it may be imported again with these.
    """
    found: dict[str, tuple[int, int]] = {}
    for past, join in _joins(graph):
        pair = _pair(graph, past, join)
        if isinstance(pair, str):
            continue
        least = max(bounds(pair.new)[0], 1)
        for size, low, high in (
            (pair.new, least, capacity),
            (pair.total, least, capacity),
            (pair.length, 0, capacity - least),
        ):
            symbol = _plain(size)
            if symbol is not None and high >= low:
                found[symbol.name] = (low, min(high, symbol.high or high))
    return found


def _plain(size: Dim) -> Sym | None:
    """The symbol that a size is."""
    symbol = next(symbols_of(size), None) if isinstance(size, DimExpr) else None
    return symbol if symbol is not None and size == dim(symbol) else None


def place_caches(graph: Graph, capacity: int, context: PassContext) -> int:
    """`concat(past, new)  =>  slice(write_slice(buffer, new), 0, rows)`; tells how many there are.

    An input `[B, H, P, D]` that is joined with new rows to an output becomes a buffer
    `[B, H, capacity, D]`, of which P rows count; new rows are written behind them, and attention
    reads the buffer. Where no other input tells P, a new one does, an i64 called like the symbol.
    What is used otherwise stays as it was, and a note in `context` says why.

    Raises:
        PassError: there is no such input, not even one step fits the capacity, or the model looks
            up places of rows in a table that has fewer.
    """
    rewriter = Rewriter(graph)
    pairs, reasons = [], []
    for past, join in _joins(graph):
        pair = _pair(graph, past, join)
        reason = pair if isinstance(pair, str) else _odd_reader(pair)
        if isinstance(pair, _Pair) and not reason:
            pairs.append(pair)
            _note(context, "match", pair.join, f"`{past.name}` has room for {capacity} rows")
        else:
            reasons.append(f"`{past.name}`: {reason}")
            _note(context, "near-miss", join, reasons[-1])
    if not pairs:
        raise PassError(
            "the model has no key/value cache to write in place",
            hint=reasons[0] if reasons else "an input has to be joined with new rows to an output",
        )
    lengths = [pair.length for pair in pairs]
    _check_tables(graph, lengths, capacity)
    for pair in pairs:
        least = max(bounds(pair.length)[0], 0) + bounds(pair.new)[0]
        if least > capacity:
            raise PassError(f"a cache of {capacity} rows is too small for a single step",
                            where=f"input `{pair.past.name}`", hint=f"it needs {least} or more"
                            )  # fmt: skip
        _place(pair, capacity, rewriter)
    _tell_lengths(graph, lengths, rewriter)
    return len(pairs)


def _joins(graph: Graph) -> list[tuple[Value, Node]]:
    """Inputs, and the nodes that join them with something else to an output."""
    outputs = set(graph.outputs)
    joins = []
    for node in graph.nodes:
        if node.op.name != "concat":
            continue
        if node.result in outputs or _cut_to_output(node, graph):
            past = next((v for v in node.present_operands if v.producer is None), None)
            if past is not None:
                joins.append((past, node))
    return joins


def _cut_to_output(join: Node, graph: Graph) -> bool:
    """Whether an output is a part of what is joined, as that of a sliding window is."""
    users = join.result.user_nodes
    outputs = set(graph.outputs)
    return any(user.op.name == "slice" and user.result in outputs for user in users)


def _pair(graph: Graph, past: Value, join: Node) -> _Pair | str:
    """The pair, or why there is none."""
    if join.result not in graph.outputs:
        return "the output is only a part of the rows, so old ones move"
    if sum(node is graph.terminator for node, _ in join.result.users) > 1:
        return "the rows are two outputs, and a buffer can be one"
    if join.operands[0] is not past:
        return "new rows stand before the past"
    if len(join.operands) != 2:
        return f"{len(join.operands)} tensors are joined, not a past and new rows"
    if len(past.users) > 1:
        return "the past is read elsewhere too"
    axis = join.attributes["axis"]
    assert isinstance(axis, int)
    axis %= past.type.rank
    size = past.type.shape[axis]
    if not isinstance(size, DimExpr):
        return f"its length {size} is not a size that may grow"
    others = (*past.type.shape[:axis], *past.type.shape[axis + 1 :])
    symbols = {*symbols_of(size)}
    if any(symbols & {*symbols_of(d)} for d in others if isinstance(d, DimExpr)):
        return f"its length {size} is the size of another axis too"
    return _Pair(past, join, axis)


def _odd_reader(pair: _Pair) -> str:
    """Why a reader of all rows cannot read them in a buffer; empty if each can."""
    for node, place in pair.join.result.users:
        if node.owner is not None and node is node.owner.terminator:
            continue
        if node.op.name != "attention" or place not in (1, 2):
            return f"`{node.op.name}` reads the rows, and needs them without a gap"
        if pair.past.type.dtype is not DType.f32:
            return f"attention of {pair.past.type.dtype} reads a copy of the rows"
        if pair.axis != 2:
            return f"rows are joined along axis {pair.axis}, keys of attention along 2"
    return ""


def _place(pair: _Pair, capacity: int, rewriter: Rewriter) -> None:
    shape = pair.past.type.shape
    buffer = pair.past.type.with_shape((*shape[: pair.axis], capacity, *shape[pair.axis + 1 :]))
    total, before = pair.total, pair.length
    rewriter.retype_input(pair.past, buffer)
    builder = rewriter.before(pair.join)
    past, new = pair.join.present_operands
    attributes: dict[str, Dim] = {"axis": pair.axis, "start": before}
    joined = pair.join.result
    rewriter.set_operand(pair.join, 0, new)  # the write is the only reader of the buffer
    (written,) = builder.emit_values(OPS["write_slice"], [past, new], attributes)
    attributes = {"axis": pair.axis, "start": 0, "stop": total}
    (rows,) = builder.emit_values(OPS["slice"], [written], attributes)
    rewriter.replace(joined, rows)
    rewriter.erase(pair.join)


def _check_tables(graph: Graph, lengths: list[Dim], capacity: int) -> None:
    """Refuse a capacity whose last rows have no position in a table: a gather would clamp them."""
    symbols = {s for size in lengths if isinstance(size, DimExpr) for s in symbols_of(size)}
    for node in graph.nodes:
        if node.op.name != "gather":
            continue
        table, places = node.present_operands
        axis = node.attributes["axis"]
        assert isinstance(axis, int)
        rows, last = table.type.shape[axis], _last(places)
        if not isinstance(rows, int) or not isinstance(last, DimExpr):
            continue
        most = bounds(last)[1]
        if most is not None and most >= rows and symbols & {*symbols_of(last)}:
            raise PassError(
                f"a cache of {capacity} rows reaches place {most} of a table of {rows} rows",
                where=node.location, hint=f"use `--cache {rows}`, or fewer",
            )  # fmt: skip


def _last(places: Value) -> Dim | None:
    """The greatest of places that follow from sizes."""
    found = value_bounds(places)
    if found is not None:
        return found[1]
    line = counts_along(places)
    return None if line is None else line[1].start + line[1].size - 1


def _tell_lengths(graph: Graph, lengths: list[Dim], rewriter: Rewriter) -> None:
    """Add an input for each symbol in a length that the shapes of the others do not tell."""
    known = {s.symbol.name for s in symbol_sources([value.type for value in graph.inputs])}
    found = (s for size in lengths if isinstance(size, DimExpr) for s in symbols_of(size))
    for symbol in dict.fromkeys(found):
        if symbol.name in known:
            continue
        taken = {value.name for value in graph.inputs}
        taken |= {value.name for node in graph.nodes for value in node.results}
        name = symbol.name
        while name in taken:
            name += "_length"
        count = graph.add_input(name, TensorType(DType.i64, ()))
        rewriter.at_start().emit_values(OPS["bind_size"], [count], {"size": dim(symbol)})


def _note(context: PassContext, kind: str, node: Node, reason: str) -> None:
    context.notes.append(Note(_NAME, kind, "cache", str(node.location), reason))
