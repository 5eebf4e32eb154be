"""Which nodes write into the memory of an operand, and which results lie in inputs for that reason.

A key/value cache is this: an input that holds rows of before, new ones written behind them, and
an output that is all rows up to here. Nobody has to copy it: input and output are one memory.
"""

from __future__ import annotations

from dataclasses import dataclass

from .dims import Dim, DimExpr, bounds
from .graph import Graph, Node, Value

__all__ = ["Kept", "along", "kept_outputs", "overwritten", "storage_of", "surely_fits"]


@dataclass(frozen=True)
class Kept:
    """An output that lies in the memory of an input: its first elements along one axis."""

    input: Value
    output: int  # place among the outputs
    axis: int
    before: Dim  # elements along the axis that counted already


def overwritten(node: Node) -> Value | None:
    """The operand whose memory the result of `node` takes over, if it does."""
    return node.operands[0] if "in_place" in node.op.traits else None


def storage_of(value: Value) -> Value:
    """The value in whose memory `value` lies: itself, unless it was written in place."""
    while value.producer is not None:
        taken = overwritten(value.producer)
        if taken is None:
            return value
        value = taken
    return value


def kept_outputs(graph: Graph) -> list[Kept]:
    """The outputs that lie in inputs; no other value of a graph does, besides inputs themselves.

    Such an output is all rows up to the end of those that were written, so that whoever runs the
    graph can tell from its size whether they fit.
    """
    found = []
    for place, value in enumerate(graph.outputs):
        cut = value.producer
        writer = cut.present_operands[0].producer if cut and cut.op.name == "slice" else None
        taken = overwritten(writer) if writer is not None else None
        if cut is None or writer is None or taken is None or taken.producer is not None:
            continue
        axis, start = along(writer)
        rows = writer.present_operands[1].type.shape[axis]
        wanted = {"axis": axis, "start": 0, "stop": start + rows, "step": 1}
        if {**cut.attributes, "axis": along(cut)[0]} == wanted:
            found.append(Kept(taken, place, axis, start))
    return found


def along(node: Node) -> tuple[int, Dim]:
    """The axis and the start of a `slice` or `write_slice`."""
    axis, start = node.attributes["axis"], node.attributes["start"]
    assert isinstance(axis, int) and isinstance(start, int | DimExpr)
    return axis % node.result.type.rank, start


def surely_fits(node: Node) -> bool:
    """Whether a write ends inside of what it writes to, whatever the sizes are."""
    x, update = node.present_operands
    axis, start = along(node)
    left = x.type.shape[axis] - start - update.type.shape[axis]
    return bounds(start)[0] >= 0 and bounds(left)[0] >= 0
