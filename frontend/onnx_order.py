"""Nodes in the order in which they can run.

ONNX wants each node behind those that it reads. Tools that write models do not all see to that:
ONNX Runtime's own converter to half precision appends its casts, and runtimes sort what they load.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, MutableSequence, Sequence

from onnx import GraphProto, ModelProto, NodeProto

from .onnx_check import subgraphs

__all__ = ["in_order"]


def in_order(model: ModelProto) -> ModelProto:
    """The model with its nodes sorted, as near to the order they had as can be.

    It is the model itself if nothing is to sort; else a copy. What cannot be sorted, because
    nodes depend on each other or two results have one name, stays for the checks to explain.
    """
    if all(_order(nodes) is None for nodes in _lists(model)):
        return model
    copy = ModelProto()
    copy.CopyFrom(model)
    for nodes in _lists(copy):
        order = _order(nodes)
        if order is not None:
            kept = [NodeProto.FromString(nodes[place].SerializeToString()) for place in order]
            del nodes[:]
            nodes.extend(kept)
    return copy


def _lists(model: ModelProto) -> Iterator[MutableSequence[NodeProto]]:
    """The nodes of every graph and function; of the inner ones first, as they move with a node."""
    graphs: list[GraphProto] = [model.graph]
    for graph in graphs:
        graphs += (inner for node in graph.node for inner in subgraphs(node))
    yield from (graph.node for graph in reversed(graphs))
    yield from (function.node for function in model.functions)


def _order(nodes: Sequence[NodeProto]) -> list[int] | None:
    """The places of the nodes in a sorted order; `None` if they are sorted, or cannot be."""
    producers: dict[str, int] = {}
    for place, node in enumerate(nodes):
        for name in filter(None, node.output):
            if producers.setdefault(name, place) != place:
                return None
    needs = [{producers[name] for name in _reads(node) if name in producers} for node in nodes]
    if all(place > max(before, default=-1) for place, before in enumerate(needs)):
        return None
    readers: list[list[int]] = [[] for _ in nodes]
    for place, before in enumerate(needs):
        for other in before:
            readers[other].append(place)
    waiting = [len(before) for before in needs]
    ready = [place for place, count in enumerate(waiting) if count == 0]
    order = []
    while ready:
        place = heapq.heappop(ready)
        order.append(place)
        for reader in readers[place]:
            waiting[reader] -= 1
            if waiting[reader] == 0:
                heapq.heappush(ready, reader)
    return order if len(order) == len(needs) else None


def _reads(node: NodeProto) -> set[str]:
    """What a node reads; of its graphs, what they do not define themselves."""
    read, graphs = set(node.input), [(graph, frozenset[str]()) for graph in subgraphs(node)]
    for graph, outer in graphs:
        own = {value.name for value in (*graph.input, *graph.initializer)}
        own |= {tensor.values.name for tensor in graph.sparse_initializer}
        known = outer | own | {name for inner in graph.node for name in inner.output}
        read |= {value.name for value in graph.output} - known
        for inner in graph.node:
            read |= set(inner.input) - known
            graphs += [(deeper, known) for deeper in subgraphs(inner)]
    return read
