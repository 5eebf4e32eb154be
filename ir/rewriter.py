"""The only way to change a graph once it is built."""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from dataclasses import replace

from .builder import Builder
from .graph import Graph, Node, Value, walk_uses
from .ops import Expr
from .types import TensorType

__all__ = ["Rewriter"]


class Rewriter:
    """Inserts, replaces and erases nodes, keeps users and order right, and notes whether it did."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.changed = False

    def before(self, node: Node) -> Builder:
        """A builder that writes in front of `node`, with its location."""
        builder = Builder(self.graph, None if node is self.graph.terminator else node)
        builder.location = node.location
        self.changed = True
        return builder

    def at_start(self) -> Builder:
        """A builder that writes in front of all nodes."""
        self.changed = True
        return Builder(self.graph, next(self.graph.nodes, None))

    def replace(self, old: Value, new: Value | Expr) -> None:
        """Let every reader of `old` read `new`; a name that `old` was given moves to `new`."""
        value = new.value if isinstance(new, Expr) else new
        if value is old:
            return
        if value.type != old.type:
            raise AssertionError(f"{old!r} cannot be replaced by {value!r}: their types differ")
        for node, index in walk_uses(old):
            self.set_operand(node, index, value)
        _move_name(old, value)
        self.changed = True

    def replace_node(self, node: Node, results: Sequence[Value | Expr]) -> None:
        """Replace every result of `node`, then erase it."""
        for old, new in zip(node.results, results, strict=True):
            self.replace(old, new)
        self.erase(node)

    def set_operand(self, node: Node, index: int, value: Value | None) -> None:
        """Change one operand."""
        old = node.operands[index]
        if old is not None:
            del old.users[(node, index)]
        node.operands[index] = value
        if value is not None:
            value.users[(node, index)] = None
        self.changed = True

    def erase(self, node: Node) -> None:
        """Take out a node whose results nobody reads."""
        if any(value.users for value in node.results):
            raise AssertionError(f"{node!r} is still in use")
        for index in range(len(node.operands)):
            self.set_operand(node, index, None)
        self.graph.unlink(node)
        self.changed = True

    def erase_dead(self, roots: Iterable[Node]) -> int:
        """Erase the nodes that nobody reads, from `roots` upwards; tells how many."""
        work, count = list(roots), 0
        while work:
            node = work.pop()
            if node.owner is None or node is self.graph.terminator:
                continue
            if "pure" not in node.op.traits or any(value.users for value in node.results):
                continue
            producers = [v.producer for v in node.present_operands if v.producer is not None]
            self.erase(node)
            count += 1
            work.extend(producers)
        return count

    def drop_outputs(self, places: Container[int]) -> None:
        """Let the graph return all outputs but those at `places`."""
        end = self.graph.terminator
        named = zip(self.graph.output_names, self.graph.outputs, strict=True)
        kept = [pair for place, pair in enumerate(named) if place not in places]
        if len(kept) == len(end.operands):
            return
        for index in range(len(end.operands)):
            self.set_operand(end, index, None)
        end.operands = [None] * len(kept)
        for index, (_, value) in enumerate(kept):
            self.set_operand(end, index, value)
        self.graph.output_names = [name for name, _ in kept]

    def retype_input(self, value: Value, type: TensorType) -> None:
        """Let an input have another type; the caller gives its readers what they had before."""
        assert value.producer is None, f"{value!r} is no input"
        value.type = type
        self.changed = True

    def move_before(self, node: Node, anchor: Node) -> None:
        """Move a node; the caller answers for the order of definitions and uses."""
        self.graph.unlink(node)
        self.graph.link(node, None if anchor is self.graph.terminator else anchor)
        self.changed = True

    def rename_locations(self, nodes: Iterable[Node], source: Node) -> None:
        """Give nodes the location of `source`, keeping a name they already have."""
        for node in nodes:
            if not node.location.name:
                node.location = replace(source.location)


def _move_name(old: Value, new: Value) -> None:
    if new.producer is not None and _generated(new) and not _generated(old):
        old.name, new.name = new.name, old.name


def _generated(value: Value) -> bool:
    """Whether the name was made from the operator, by `Builder`."""
    name = value.producer.op.name if value.producer is not None else ""
    return value.name == name or value.name.startswith(f"{name}.")
