"""Where a value comes from while a model is imported: from inputs, or from known numbers only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tunesmith.ir.graph import Graph, Node, Value
from tunesmith.ir.interpreter import evaluate_node

__all__ = ["Origins"]


class Origins:
    """What the values of a growing graph follow from; what was found to vary is remembered."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self._varies: set[Value] = set()

    def inputs_of(self, values: Sequence[Value]) -> tuple[str, ...]:
        """The inputs whose elements decide `values`, in the order of the graph.

        What only sizes decide is no element: `dim_value` reads none.
        """
        seen = set(values)
        work = list(seen)
        while work:
            node = work.pop().producer
            fresh = [] if node is None else [v for v in node.present_operands if v not in seen]
            seen.update(fresh)
            work.extend(fresh)
        return tuple(value.name for value in self.graph.inputs if value in seen)

    def array_of(self, value: Value) -> NDArray[np.generic] | None:
        """The elements of a value that follows from constants and known sizes; else `None`."""
        nodes = self._nodes(value)
        if nodes is None:
            return None
        known: dict[Value, NDArray[np.generic]] = {}
        for node in nodes:
            if (constant := node.results[0].constant) is not None:
                known[node.results[0]] = constant.array
                continue
            operands = [None if v is None else known[v] for v in node.operands]
            try:
                found = evaluate_node(node.op, operands, node.attributes)
            except KeyError:  # it asks for the value of a symbol
                self._varies.update(node.results)
                return None
            known.update(zip(node.results, found, strict=True))
        return known[value]

    def _nodes(self, value: Value) -> list[Node] | None:
        """The nodes that make a value, in order; `None` if one of them is not known now."""
        order: list[Node] = []
        seen: set[Node] = set()
        stack = [(value, False)]
        while stack:
            current, done = stack.pop()
            node = current.producer
            if done:
                assert node is not None
                order.append(node)
            elif node is None or current in self._varies or not _may_be_known(node):
                path = (above for above, entered in stack if entered)
                self._varies.update((current, *path))
                return None
            elif node not in seen:
                seen.add(node)
                stack.append((current, True))
                stack.extend((operand, False) for operand in node.present_operands)
        return order


def _may_be_known(node: Node) -> bool:
    return "pure" in node.op.traits and all(value.type.is_static for value in node.results)
