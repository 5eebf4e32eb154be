"""Which nodes become one kernel, and which values are never in memory."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, field

from tunesmith.ir.dims import bounds
from tunesmith.ir.graph import Graph, Node, Value
from tunesmith.ir.in_place import overwritten
from tunesmith.ir.target import Machine

from .chains import join_chains
from .evaluator import can_inline
from .kernels.movement import is_guarded
from .legalize import has_windows, is_row_operator
from .schedule.attention import AttentionKnobs

__all__ = ["Group", "Plan", "form_groups"]

_FREE = frozenset({"full", "iota", "dim_value"})
_MAX_INLINED = 24
_PICKING = ("gather", "gather_elements", "gather_nd")


@dataclass(eq=False)
class Group:
    """One kernel: what it computes first, and what is done to each element before it is stored.

    A kernel may have several: others whose results only this one reads (`siblings.py` of products,
    `chains.py` of convolutions), and products with results of their own.
    """

    kind: str  # elementwise, rows, gemm, conv, pool, attention, matmul, loops, write or bind
    anchor: Node
    epilogue: list[Node] = field(default_factory=list)
    by_rows: bool = False  # attention: the result is stored as [B, T, H, E]
    feeding: list[Group] = field(default_factory=list)  # gemm, conv: what only this one reads
    siblings: list[Group] = field(default_factory=list)  # gemm: further results of the kernel

    @property
    def parts(self) -> list[Group]:
        """What has a result of its own in this kernel, itself first."""
        return [self, *self.siblings]

    @property
    def products(self) -> list[Group]:
        """What its own result is computed from: those that feed it, then itself."""
        return [*self.feeding, self]

    @property
    def everything(self) -> list[Group]:
        """All that the kernel computes, itself and the others in it, each after what feeds it."""
        return [product for part in self.parts for product in part.products]

    @property
    def nodes(self) -> list[Node]:
        """All nodes of the kernel, each after what it reads."""
        return [node for one in self.everything for node in (one.anchor, *one.epilogue)]

    @property
    def outputs(self) -> list[Value]:
        """The values that the kernel writes."""
        return [value for part in self.parts for value in part.last.results]

    @property
    def overwritten(self) -> Value | None:
        """The value whose memory the kernel writes to, instead of memory of its own."""
        return overwritten(self.anchor)

    @property
    def last(self) -> Node:
        """The node in whose place the kernel runs."""
        return self.epilogue[-1] if self.epilogue else self.anchor


@dataclass
class Plan:
    """The kernels of a graph in order; every other value is computed where it is read."""

    groups: list[Group]
    in_memory: set[Value]


def kind_of(node: Node) -> str:
    """The sort of kernel that has `node` as its anchor."""
    if node.op.name == "linear":
        return "gemm"
    if node.op.name in ("attention", "matmul"):
        return node.op.name
    if "binds" in node.op.traits:
        return "bind"
    if overwritten(node) is not None:
        return "write"
    if is_row_operator(node):
        return "rows"
    if has_windows(node):
        return "conv" if node.op.name == "conv" else "pool"
    return "elementwise" if can_inline(node) else "loops"


def is_elementwise(node: Node) -> bool:
    """Whether each element of the result depends on one element of each operand."""
    return "elementwise" in node.op.traits


_COSTLY = frozenset(
    {"cos", "div", "erf", "exp", "log", "mod", "pow", "rotary", "sigmoid", "sin", "sqrt", "tanh"}
)


def is_costly(node: Node) -> bool:
    """Whether computing an element again costs more than to load it."""
    return node.op.name in _COSTLY or node.op.is_composite


def form_groups(graph: Graph, machine: Machine) -> Plan:
    """Fuse elementwise chains into the kernels before them, and the rest into those after them.

    A chain hangs on a value with a single reader, or all readers of its values end in one node, so
    nothing outside the kernel can depend on the inside and feed it again: every group is convex.
    """
    groups = join_chains(_with_epilogues(graph), machine)
    last = {group.last: group for group in groups}
    parts = [part for group in groups for part in group.products]
    owner = {node: part for part in parts for node in (part.anchor, *part.epilogue)}
    in_memory = _materialized(graph, owner)
    result: list[Group] = []
    for node in graph.nodes:
        if node.op.name == "constant":
            continue
        if node in last:
            result.append(last[node])
        elif node not in owner and node.result in in_memory:
            result.append(Group("elementwise", node))
    return Plan(result, in_memory | {v for group in groups for v in group.outputs})


def _with_epilogues(graph: Graph) -> list[Group]:
    groups: list[Group] = []
    tail: dict[Value, Group] = {}
    order: dict[Group, int] = {}
    taken: dict[Node, None] = {}
    for node in graph.nodes:
        if node.op.name == "constant":
            continue
        kind = kind_of(node)
        if kind != "elementwise":
            group = Group(kind, node)
            order[group] = len(groups)
            groups.append(group)
            if kind not in ("loops", "write", "bind") and len(node.results) == 1:
                tail[node.result] = group
            continue
        joined, nodes = _join(node, tail, order), [node]
        if joined is None:
            joined, nodes = _join_all(node, tail, order, taken)
        if joined is not None:
            del tail[joined.outputs[0]]
            joined.epilogue.extend(nodes)
            taken.update(dict.fromkeys(nodes))
            if node.op.name != "transpose" or joined.kind == "attention":
                tail[node.result] = joined
    return groups


def _join(node: Node, tail: dict[Value, Group], order: dict[Group, int]) -> Group | None:
    """The latest kernel whose result `node` alone reads, elementwise and in the same shape."""
    ready = [(order[tail[v]], v) for v in node.present_operands if v in tail and len(v.users) == 1]
    for _, value in sorted(ready, key=lambda item: -item[0]):
        group = tail[value]
        if node.op.name == "reshape":
            if not (group.kind == "attention" and not group.by_rows):
                return group
        elif node.op.name == "transpose":
            if (
                group.kind == "attention"
                and not group.epilogue
                and node.attributes["perm"] == (0, 2, 1, 3)
            ):
                group.by_rows = True
                return group
            if group.kind == "gemm" and _fills_lines(node) and _feeds_long_keys(node):
                return group
        elif (
            is_elementwise(node)
            and value.type.size == node.result.type.size
            and value.type.shape == node.result.type.shape
            and group.kind != "attention"
        ):
            return group
    return None


_LONG = 512  # keys; fewer of a head are in the second cache, however far they lie apart
_LINE = 16  # elements that a vector may store side by side


def _is_long(attention: Node) -> bool:
    """Whether keys and values are read so often, and are so many, that their layout matters."""
    q, k = (v.type.shape[2] for v in attention.present_operands[:2])
    most = bounds(k)[1]
    few = isinstance(q, int) and q <= AttentionKnobs.few_queries
    return (most is None or most > _LONG) and not few


def _feeds_long_keys(node: Node) -> bool:
    users = list(node.result.users)
    return len(users) == 1 and all(
        user.op.name == "attention" and place in (1, 2) and _is_long(user) for user, place in users
    )


def _fills_lines(node: Node) -> bool:
    """Whether a transpose leaves the last axis, of whole vectors, in its place."""
    perm, width = node.attributes["perm"], node.result.type.shape[-1]
    assert isinstance(perm, tuple)
    return perm[-1] == len(perm) - 1 and isinstance(width, int) and width % _LINE == 0


def _join_all(
    node: Node, tail: dict[Value, Group], order: dict[Group, int], taken: Container[Node]
) -> tuple[Group | None, list[Node]]:
    """The latest kernel whose result several nodes read that all end in `node`, and those nodes.

    `x * sigmoid(x + 1)` is one: nothing but the product leaves it.
    """
    shape = node.result.type.shape
    if not is_elementwise(node):
        return None, []
    before: dict[Node, None] = {node: None}
    found: dict[Value, None] = {}
    work = [node]
    while work:
        for value in work.pop().present_operands:
            producer = value.producer
            if value in tail:
                found[value] = None
            elif (
                producer is not None
                and producer not in before
                and producer not in taken
                and is_elementwise(producer)
                and producer.result.type.shape == shape
            ):
                before[producer] = None
                work.append(producer)
        if len(before) > _MAX_INLINED:
            return None, []
    for value in sorted(found, key=lambda v: -order[tail[v]]):
        group = tail[value]
        if group.kind == "attention" or value.type.shape != shape:
            continue
        inside = _between(value, node, before)
        if inside is not None:
            return group, inside
    return None, []


def _between(value: Value, node: Node, allowed: Container[Node]) -> list[Node] | None:
    """The nodes that depend on `value`, in order, if all are allowed and `node` is the last."""
    inside: dict[Node, None] = {node: None}
    work = [value]
    while work:
        for user, _ in work.pop().users:
            if user not in allowed:
                return None
            if user not in inside:
                inside[user] = None
                work.append(user.result)
    result: list[Node] = []
    while inside:
        ready = [n for n in inside if not any(v.producer in inside for v in n.present_operands)]
        for one in ready:
            del inside[one]
        result += ready
    return result


def _materialized(graph: Graph, owner: dict[Node, Group]) -> set[Value]:
    """Decide from the outputs upwards; what a value's readers allow decides about the value."""
    contexts: dict[Value, set[str]] = {}
    depth: dict[Value, int] = {}
    picked: set[Value] = set()  # whose elements are read at places that come from data
    in_memory: set[Value] = set()
    for node in graph.nodes_reversed:
        if node in owner or node.op.name == "constant":
            continue
        value = node.result
        seen: set[str] = set()
        level = 0
        if any(_picks(user, operand) or user.result in picked for user, operand in value.users
               if user is not graph.terminator and user not in owner):  # fmt: skip
            picked.add(value)
        for user, operand in value.users:
            if user is graph.terminator:
                seen.add("output")
            elif user in owner:
                seen.add(_role(user, operand, owner[user]))
            elif is_guarded(user):
                seen.add("again")
            elif user.result in in_memory:
                seen.add("stream")
                if value.type.size != user.result.type.size:
                    seen.add("repeated")
            else:
                if value.type.size != user.result.type.size:
                    seen.add("repeated")
                seen |= contexts[user.result]
                level = max(level, depth[user.result])
        # Such a place is written out a few times to be wrapped: of places in places, all of them.
        again = value in picked and node.op.name in _PICKING
        if not again and _inline(node, seen, len(value.users), level):
            contexts[value] = seen
            depth[value] = level + 1
        else:
            in_memory.add(value)
            picked.discard(value)
    return in_memory


def _picks(user: Node, operand: int) -> bool:
    return operand == 0 and user.op.name in _PICKING


def _role(user: Node, operand: int, group: Group) -> str:
    if user is not group.anchor:
        x = user.operands[operand]
        return "stream" if x is not None and x.type.size == user.result.type.size else "repeated"
    if group.kind == "bind":
        return "output"  # it is read outside of kernels
    if group.kind == "write":
        return "output" if operand == 0 else "stream"
    if group.kind == "attention":
        if operand in (1, 2) and _is_long(user):
            return "keys"
        return "heads" if operand < 3 else "mask"
    if group.kind == "rows":
        return "stream" if operand == 0 else "again"
    if group.kind in ("conv", "pool"):
        return "gathered" if operand == 0 else "again"
    return "again"


def _inline(node: Node, contexts: set[str], readers: int, level: int) -> bool:
    name = node.op.name
    if "output" in contexts:
        return False
    if name in _FREE:
        return True
    if level > _MAX_INLINED or is_guarded(node):
        return False
    if name == "reshape":
        return True
    if "gathered" in contexts:  # the kernel copies its image, which is when it is computed
        single = readers == 1 and contexts <= {"stream", "gathered"}
        return single and (name == "expand" or is_elementwise(node))
    if contexts <= {"stream", "repeated"}:
        if "repeated" in contexts and is_costly(node):
            return False
        return readers == 1 or name in ("expand", "slice")
    if name == "expand":
        return not contexts & {"heads", "keys"}
    if name == "transpose":
        perm = node.attributes["perm"]
        assert isinstance(perm, tuple)
        if contexts == {"mask"}:
            return level == 0
        return contexts <= {"heads", "stream"} and perm[-1] == len(perm) - 1
    if name == "slice":
        return contexts <= {"heads", "keys", "stream"}
    return False
