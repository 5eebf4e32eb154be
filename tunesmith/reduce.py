"""The least part of a model that still goes wrong: delta debugging over nodes.

Any set of nodes is a graph of its own, whose inputs have the elements that the whole model gave
them; so every step is only the question whether it still goes wrong (Zeller and Hildebrandt, 2002,
"Simplifying and isolating failure-inducing input").
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tunesmith.drift import Check, Drift, Feeds, find_drift, sizes_now
from tunesmith.ir.diagnostics import CompilerError
from tunesmith.ir.graph import Graph, Node, Value
from tunesmith.ir.interpreter import evaluate
from tunesmith.ir.subgraph import subgraph

__all__ = ["Reduced", "reduce_drift"]

Array = NDArray[np.generic]


@dataclass(frozen=True)
class Reduced:
    """A small graph that goes wrong in the same place."""

    graph: Graph
    feeds: Feeds
    drift: Drift
    tried: int  # graphs that were looked at
    complete: bool  # no node can be left out; else the time was over


def reduce_drift(graph: Graph, drift: Drift, check: Check, *, seconds: float = 300.0) -> Reduced:
    """Shrink `graph` while `check` lays a drift to the same pass, or to the backend.

    Sizes are fixed to those of the inputs that showed it, unless it only shows with symbols.

    Raises:
        CompilerError: `graph` does not show the drift at all.
    """
    until = time.monotonic() + seconds
    search = _Search(graph, drift, check, until)
    nodes = [node for node in graph.nodes if node.op.name != "constant"]
    for sizes in (sizes_now(graph, drift.feeds), {}):
        search.sizes = sizes
        if search.shows(nodes):
            break
    else:
        raise CompilerError(
            f"`{drift.name}` drifts in the whole model, and not in a copy of it",
            hint="reduce the model by hand, and report it",
        )
    _ddmin(nodes, search.shows, until)
    return _tidy(search)


class _Search:
    """Whether a set of nodes still shows the drift; remembers the last that does."""

    def __init__(self, graph: Graph, drift: Drift, check: Check, until: float) -> None:
        self.graph = graph
        self.name = drift.name
        self.check = check
        self.until = until
        self.sizes: dict[str, int] = {}
        self.tried = 0
        self.found: Reduced | None = None
        self.arrays = _all_values(graph, drift.feeds)

    def shows(self, nodes: Sequence[Node]) -> bool:
        """Try one set of nodes."""
        if not nodes:
            return False
        self.tried += 1
        try:
            part, sources, _ = subgraph(self.graph, nodes, sizes=self.sizes)
            feeds = {name: self.arrays[value] for name, value in sources.items()}
            return self.keep(part, feeds)
        except CompilerError:  # not a graph by itself, or none that the interpreter can run
            return False

    def keep(self, graph: Graph, feeds: Feeds) -> bool:
        """Remember a graph if it goes wrong."""
        drift = find_drift(graph, [feeds], self.check)
        if drift is None or drift.name != self.name:
            return False
        self.found = Reduced(graph, feeds, drift, self.tried, time.monotonic() < self.until)
        return True


def _all_values(graph: Graph, feeds: Feeds) -> dict[Value, Array]:
    """What every value of the graph is for these inputs."""
    nodes = list(graph.nodes)
    values = [v for node in nodes for v in node.results]
    whole, _, order = subgraph(graph, nodes, outputs=values)
    arrays = dict(zip(order, evaluate(whole, feeds), strict=True))
    return arrays | {value: np.asarray(feeds[value.name]) for value in graph.inputs}


def _ddmin(
    nodes: Sequence[Node], shows: Callable[[Sequence[Node]], bool], until: float
) -> list[Node]:
    """The nodes that are left when no part can be left out, or when the time is over."""
    kept, parts = list(nodes), 2
    while len(kept) > 1 and time.monotonic() < until:
        size = -(-len(kept) // parts)
        pieces = [kept[i : i + size] for i in range(0, len(kept), size)]
        smaller = _first(pieces, shows, until)
        if smaller is not None:
            kept, parts = smaller, 2
            continue
        rests = [[n for n in kept if n not in set(piece)] for piece in pieces]
        smaller = _first(rests, shows, until) if len(pieces) > 2 else None
        if smaller is not None:
            kept, parts = smaller, max(parts - 1, 2)
        elif size == 1:
            break
        else:
            parts = min(len(kept), parts * 2)
    return kept


def _first(
    candidates: Sequence[list[Node]], shows: Callable[[Sequence[Node]], bool], until: float
) -> list[Node] | None:
    for candidate in candidates:
        if time.monotonic() > until:
            return None
        if shows(candidate):
            return candidate
    return None


def _tidy(search: _Search) -> Reduced:
    """Leave out outputs that do not matter, with what only they needed."""
    again = True
    while again and time.monotonic() < search.until:
        assert search.found is not None
        graph, feeds = search.found.graph, search.found.feeds
        again = False
        for value in graph.outputs if len(graph.outputs) > 1 else ():
            outputs = [v for v in graph.outputs if v is not value]
            fewer, sources, _ = subgraph(graph, _needed(outputs), outputs=outputs)
            search.tried += 1
            if search.keep(fewer, {name: feeds[name] for name in sources}):
                again = True
                break
    assert search.found is not None
    return replace(search.found, tried=search.tried)


def _needed(outputs: Sequence[Value]) -> list[Node]:
    """The nodes that these values depend on."""
    found: dict[Node, None] = {}
    work = [value.producer for value in outputs]
    while work:
        node = work.pop()
        if node is not None and node not in found:
            found[node] = None
            work += [value.producer for value in node.present_operands]
    return list(found)
