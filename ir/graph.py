"""Values, nodes and graphs: static single assignment with a terminator."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from .constants import Constant
from .diagnostics import UNKNOWN, Location, VerifyError
from .dims import Sym
from .ops import OPS, Attribute, OpDef, op
from .types import TensorType

__all__ = ["RETURN", "Graph", "Node", "Value", "infer_types"]


@op("return")
def RETURN(*values: TensorType) -> tuple[TensorType, ...]:
    """End the graph; its operands are the outputs."""
    return ()


@op("constant", "pure", "source")
def constant(*, value: Constant) -> TensorType:
    """A tensor known at compile time."""
    return value.type


class Value:
    """A tensor in a graph: an input, or a result of a node."""

    __slots__ = ("index", "name", "producer", "type", "users")

    def __init__(self, name: str, type: TensorType, producer: Node | None, index: int) -> None:
        self.name = name
        self.type = type
        self.producer = producer
        self.index = index
        self.users: dict[tuple[Node, int], None] = {}

    @property
    def user_nodes(self) -> list[Node]:
        """The nodes that read the value, each once, the terminator included."""
        return list(dict.fromkeys(node for node, _ in self.users))

    @property
    def constant(self) -> Constant | None:
        """The tensor, if a `constant` node produces the value."""
        if self.producer is None or self.producer.op is not constant:
            return None
        found = self.producer.attributes["value"]
        assert isinstance(found, Constant)
        return found

    def __repr__(self) -> str:
        return f"%{self.name}: {self.type}"


class Node:
    """One operator applied: operands (`None` where one is absent), attributes, results."""

    __slots__ = ("attributes", "location", "next", "op", "operands", "owner", "previous", "results")

    def __init__(
        self,
        op: OpDef,
        operands: Sequence[Value | None],
        attributes: Mapping[str, Attribute],
        location: Location = UNKNOWN,
    ) -> None:
        self.op = op
        self.operands: list[Value | None] = list(operands)
        self.attributes = dict(attributes)
        self.results: list[Value] = []
        self.location = location
        self.previous: Node | None = None
        self.next: Node | None = None
        self.owner: Graph | None = None

    @property
    def result(self) -> Value:
        """The only result."""
        (value,) = self.results
        return value

    @property
    def present_operands(self) -> list[Value]:
        """The operands that are there."""
        return [value for value in self.operands if value is not None]

    def __repr__(self) -> str:
        names = ", ".join("_" if v is None else f"%{v.name}" for v in self.operands)
        return f"{self.op.name}({names})"


class Graph:
    """A program: inputs, nodes in topological order, a terminator. `Rewriter` changes it."""

    def __init__(self, name: str = "main") -> None:
        self.name = name
        self.inputs: list[Value] = []
        self.output_names: list[str] = []
        self.terminator = Node(RETURN, [], {})
        self.terminator.owner = self
        self._first: Node | None = None
        self._last: Node | None = None
        self._count = 0
        self._names: dict[str, int] = {}

    @property
    def nodes(self) -> Iterator[Node]:
        """The nodes in order, without the terminator; erasing the one just given is allowed."""
        node = self._first
        while node is not None:
            yield node
            node = node.next
            while node is not None and node.owner is None:
                node = node.next

    @property
    def nodes_reversed(self) -> Iterator[Node]:
        """The nodes from the last to the first."""
        node = self._last
        while node is not None:
            before = node.previous
            yield node
            node = before

    @property
    def outputs(self) -> list[Value]:
        """The values that the terminator returns."""
        return self.terminator.present_operands

    def __len__(self) -> int:
        return self._count

    def symbols(self) -> dict[str, Sym]:
        """The symbols that the inputs name, in order."""
        return {s.name: s for value in self.inputs for s in value.type.symbols()}

    def fresh_name(self, hint: str) -> str:
        """A value name that is not taken yet: `hint`, or `hint` with a number."""
        hint = hint or "v"
        if hint not in self._names:
            self._names[hint] = 0
            return hint
        while True:
            self._names[hint] += 1
            name = f"{hint}.{self._names[hint]}"
            if name not in self._names:
                self._names[name] = 0
                return name

    def add_input(self, name: str, type: TensorType) -> Value:
        """Append an input; its name is part of the interface and must be new."""
        if name in self._names:
            raise VerifyError(f"two values are named `{name}`", hint="names of inputs are unique")
        value = Value(self.fresh_name(name), type, None, len(self.inputs))
        self.inputs.append(value)
        return value

    def link(self, node: Node, before: Node | None) -> None:
        """Put `node` in front of `before`, or at the end. For `Rewriter` and `Builder` only."""
        node.owner = self
        node.next = before
        node.previous = self._last if before is None else before.previous
        if node.previous is None:
            self._first = node
        else:
            node.previous.next = node
        if before is None:
            self._last = node
        else:
            before.previous = node
        self._count += 1

    def unlink(self, node: Node) -> None:
        """Take `node` out. For `Rewriter` only; its `next` stays, so that walks can go on."""
        if node.previous is None:
            self._first = node.next
        else:
            node.previous.next = node.next
        if node.next is None:
            self._last = node.previous
        else:
            node.next.previous = node.previous
        node.owner = None
        self._count -= 1

    def __str__(self) -> str:
        from .text import print_graph

        return print_graph(self)


def infer_types(
    op: OpDef, operands: Sequence[Value | None], attributes: Mapping[str, Attribute]
) -> tuple[TensorType, ...]:
    """The types of the results; `ValueError` says which rule of the operator is broken."""
    types = tuple(None if value is None else value.type for value in operands)
    if not op.is_composite:
        _refuse_stored(op, types)
        result = op.function(*types, **attributes)
        return result if isinstance(result, tuple) else (result,)
    from .builder import trace

    return tuple(value.type for value in trace(op, types, attributes).outputs)


_MOVES = ("gather", "gather_elements", "gather_nd", "scatter_nd")


def _refuse_stored(op: OpDef, types: Sequence[TensorType | None]) -> None:
    """Elements of types that are only stored are moved, or taken as bits, and never computed."""
    if op.traits & {"movement", "bits"} or op.name in (*_MOVES, "return"):
        return
    for type in types:
        if type is not None and type.dtype.is_stored:
            raise ValueError(f"cannot compute with elements of {type.dtype}: they are only stored")


def walk_uses(value: Value) -> Iterable[tuple[Node, int]]:
    """The uses of a value, safe against changes while walking."""
    return list(value.users)


assert OPS["constant"] is constant
