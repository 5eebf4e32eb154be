"""Nodes that compute the same again."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from tunesmith.ir.constants import Constant
from tunesmith.ir.graph import Graph, Node
from tunesmith.ir.rewriter import Rewriter

from .base import Pass, PassContext

__all__ = ["EliminateDuplicates"]


@dataclass(frozen=True, kw_only=True)
class EliminateDuplicates(Pass):
    """`f(x), f(x)  =>  f(x)`: equal operators, operands and attributes; constants by content."""

    name = "eliminate-duplicates"

    def run(self, graph: Graph, context: PassContext) -> bool:
        """Keep the first of equals: it stands in front of all readers."""
        rewriter = Rewriter(graph)
        first: dict[object, Node] = {}
        for node in list(graph.nodes):
            if "pure" not in node.op.traits:
                continue
            kept = first.setdefault(_key(node), node)
            if kept is not node:
                rewriter.replace_node(node, kept.results)
        return rewriter.changed


def _key(node: Node) -> object:
    operands = [None if value is None else id(value) for value in node.operands]
    if "commutative" in node.op.traits:
        operands.sort(key=lambda item: item or 0)
    attributes = sorted((name, _plain(value)) for name, value in node.attributes.items())
    return node.op.name, tuple(operands), tuple(attributes)


def _plain(value: object) -> tuple[str, object]:
    """A key that tells 0.0 from -0.0, 1 from 1.0 and from True."""
    match value:
        case tuple():
            return "tuple", tuple(_plain(item) for item in value)
        case float():
            return "float", struct.pack("<d", value)
        case Constant():
            return "Constant", _Bytes(value)
        case _:
            return type(value).__name__, value


@dataclass(frozen=True)
class _Bytes:
    """A constant by type and bytes: all of them are read only if the first few are equal."""

    constant: Constant

    def _start(self) -> bytes:
        return self.constant.array.flat[:16].tobytes()

    def __hash__(self) -> int:
        return hash((self.constant.type, self._start()))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Bytes):
            return False
        return self._start() == other._start() and self.constant == other.constant
