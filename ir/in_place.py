"""Which nodes write into the memory of an operand, and which results lie in inputs for that reason.

A key/value cache is this: an input that holds rows of before, new ones written behind them, and
an output that is all rows up to here. Nobody has to copy it: input and output are one memory.
"""

from __future__ import annotations

from dataclasses import dataclass

from .dims import Dim, DimExpr
from .graph import Graph, Node, Value

__all__ = ["Kept", "kept_outputs", "overwritten", "storage_of"]


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
    """The outputs that lie in inputs; no other value of a graph does, besides inputs themselves."""
    found = []
    for place, value in enumerate(graph.outputs):
        node = value.producer
        if node is None or node.op.name != "slice":
            continue
        if (node.attributes["start"], node.attributes["step"]) != (0, 1):
            continue
        written = node.present_operands[0]
        root, writer = storage_of(written), written.producer
        if writer is None or root is written or root.producer is not None:
            continue
        axis, start = node.attributes["axis"], writer.attributes["start"]
        assert isinstance(axis, int) and isinstance(start, int | DimExpr)
        rank = written.type.rank
        along = writer.attributes["axis"]
        assert isinstance(along, int)
        if axis % rank == along % rank:
            found.append(Kept(root, place, axis % rank, start))
    return found
