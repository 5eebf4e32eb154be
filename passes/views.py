"""Where the elements of a moved tensor come from: axes as products of the axes of a root.

Exporters spell one movement in many ways: a key is transposed before or after batch and heads are
merged, heads are repeated by expand, by concat or by gather. A `Chain` reads all of them as one
fact, each axis of the result as a tuple of `Atom`s of the root, and writes the shortest movement
that gives another arrangement of the same atoms.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import isfinite

import numpy as np

from tunesmith.ir.builder import Builder
from tunesmith.ir.dims import Dim, exact_div, product
from tunesmith.ir.graph import Node, Value
from tunesmith.ir.opset import expand, reshape, transpose
from tunesmith.ir.types import DType, Shape

__all__ = ["Atom", "Axes", "Chain", "flat", "moved", "regroup", "resolve", "scalar_of", "sizes_of"]


@dataclass(eq=False)
class Atom:
    """A factor of an axis; `repeated` ones are copies. A later reshape may split it in two."""

    size: Dim
    repeated: bool = False
    parts: tuple[Atom, ...] = ()

    def split(self, outer: Dim, inner: Dim) -> tuple[Atom, Atom]:
        """Two atoms in place of this one."""
        pair = (Atom(outer, self.repeated), Atom(inner, self.repeated))
        self.parts = pair
        return pair

    def leaves(self) -> tuple[Atom, ...]:
        """The atoms that this one has become."""
        if not self.parts:
            return (self,)
        return tuple(leaf for part in self.parts for leaf in part.leaves())


Axes = tuple[tuple[Atom, ...], ...]


def resolve(axes: Axes) -> Axes:
    """The axes in terms of atoms that are not split."""
    return tuple(tuple(leaf for atom in axis for leaf in atom.leaves()) for axis in axes)


def flat(axes: Axes) -> tuple[Atom, ...]:
    """All atoms in row-major order."""
    return tuple(leaf for axis in axes for atom in axis for leaf in atom.leaves())


def sizes_of(axes: Axes) -> Shape:
    """The shape of a tensor with these axes."""
    return tuple(product(atom.size for atom in axis) for axis in axes)


def fresh_axes(shape: Shape) -> Axes:
    """One atom for each axis that is not 1."""
    return tuple(() if size == 1 else (Atom(size),) for size in shape)


def regroup(atoms: Iterable[Atom], shape: Shape) -> Axes | None:
    """The axes after a reshape to `shape`, splitting atoms as needed; `None` if it mixes them."""
    queue = deque(leaf for atom in atoms for leaf in atom.leaves())
    axes: list[tuple[Atom, ...]] = []
    for size in shape:
        group: list[Atom] = []
        left = size
        while left != 1:
            if not queue or left == 0:
                return None
            atom = queue.popleft()
            rest = exact_div(left, atom.size)
            if rest is not None:
                group.append(atom)
                left = rest
                continue
            over = exact_div(atom.size, left)
            if over is None:
                return None
            outer, inner = atom.split(left, over)
            group.append(outer)
            queue.appendleft(inner)
            left = 1
        axes.append(tuple(group))
    return None if queue else tuple(axes)


def scalar_of(value: Value) -> float | None:
    """The number that fills a tensor known to be uniform, whatever its shape."""
    dtype = value.type.dtype
    while (node := value.producer) is not None:
        moves = node.op.name in ("reshape", "expand", "transpose", "slice")
        if not moves and not (node.op.name == "cast" and value.type.dtype.is_float):
            break
        value = node.present_operands[0]
    number = _filled(value)
    if number is None or not dtype.is_float:
        return number
    with np.errstate(over="ignore"):
        return float(np.asarray(number).astype(dtype.numpy))


def _filled(value: Value) -> float | None:
    """`scalar_of` for what a tensor was moved from."""
    if value.producer is not None and value.producer.op.name == "full":
        number = value.producer.attributes["value"]
        assert isinstance(number, bool | int | float)
        return float(number)
    if value.constant is None or not 0 < value.constant.array.size <= 1 << 20:
        return None
    items = value.constant.array.reshape(-1)
    same = items[0] == items[-1] and bool(np.all(items == items[0]))
    return float(items[0]) if same else None


def scaling(node: Node) -> tuple[Value, float] | None:
    """`x` and `c` if the node computes `x * c` for a scalar constant and keeps the shape of `x`."""
    if node.op.name == "neg":
        x = node.operands[0]
        return None if x is None else (x, -1.0)
    if node.op.name not in ("mul", "div"):
        return None
    x, y = node.present_operands
    number = scalar_of(y)
    if number is None and node.op.name == "mul":
        x, y = y, x
        number = scalar_of(y)
    if number is None or x.type != node.result.type or not isfinite(number) or number == 0:
        return None
    return x, number if node.op.name == "mul" else 1.0 / number


def _repeats(node: Node) -> int:
    """How often each slice stands beside itself in `gather(x, [0, 0, 1, 1, …])`; 0 for others."""
    x, indices = node.present_operands
    axis = node.attributes["axis"]
    assert isinstance(axis, int)
    size = x.type.shape[axis]
    found = indices.constant
    if found is None or found.array.ndim != 1 or not isinstance(size, int) or not size:
        return 0
    each, rest = divmod(found.array.size, size)
    expected = np.repeat(np.arange(size), each)
    return each if not rest and np.array_equal(found.array, expected) else 0


def moved(node: Node, axes: Axes) -> Axes | None:
    """The axes of a node's result, given those of its operand; `None` if it does more than move."""
    result = node.result.type.shape
    axes = resolve(axes)
    match node.op.name:
        case "transpose":
            perm = node.attributes["perm"]
            assert isinstance(perm, tuple)
            return tuple(axes[i] for i in perm if isinstance(i, int))
        case "reshape":
            return regroup(flat(axes), result)
        case "expand":
            padded = ((),) * (len(result) - len(axes)) + axes
            return tuple(
                (Atom(size, repeated=True),) if not axis and size != 1 else axis
                for axis, size in zip(padded, result, strict=True)
            )
        case "concat" | "gather":
            place = node.attributes["axis"]
            assert isinstance(place, int)
            place %= len(axes)
            old = axes[place]
            if node.op.name == "concat":
                new = (Atom(len(node.operands), repeated=True), *old)
            else:
                new = (*old, Atom(_repeats(node), repeated=True))
            return (*axes[:place], tuple(a for a in new if a.size != 1), *axes[place + 1 :])
    return None


def _is_movement(node: Node) -> bool:
    if node.op.name == "concat":
        return len(set(node.operands)) == 1
    if node.op.name == "gather":
        return _repeats(node) > 0
    return node.op.name in ("transpose", "reshape", "expand")


@dataclass(frozen=True)
class Step:
    """One value on the way from the root to the target."""

    value: Value
    axes: Axes


class Chain:
    """How a value is moved, and perhaps scaled, from a root.

    `steps` lead from the root to the last value before any scaling; `axes` are those of the value
    itself, `factor` is what it was multiplied by on the way.
    """

    def __init__(self, value: Value, *, scales: bool = False) -> None:
        nodes: list[Node] = []
        root = value
        while (node := root.producer) is not None:
            scaled = scaling(node) if scales and value.type.dtype is not DType.f16 else None
            operand = scaled[0] if scaled else node.operands[0] if _is_movement(node) else None
            if operand is None:
                break
            nodes.append(node)
            root = operand
        self._follow(root, nodes[::-1])

    def _follow(self, root: Value, nodes: list[Node]) -> None:
        axes = fresh_axes(root.type.shape)
        self.factor = 1.0
        self.steps = [Step(root, axes)]
        scaled = False
        for index, node in enumerate(nodes):
            found = None if _is_movement(node) else scaling(node)
            if found is not None:
                self.factor *= found[1]
                scaled = True
                continue
            after = moved(node, axes)
            if after is None:
                return self._follow(node.result, nodes[index + 1 :])
            axes = after
            if not scaled:
                self.steps.append(Step(node.result, axes))
        self._axes = axes
        return None

    @property
    def axes(self) -> Axes:
        """The axes of the value, in atoms of the root."""
        return resolve(self._axes)

    def build(self, builder: Builder, wanted: Axes, *, loose: bool = False) -> Value:
        """A value with the wanted axes, without the scaling, in as few nodes as possible.

        With `loose`, leading axes of size 1 do not count: the value is broadcast anyway.
        """
        wanted = resolve(wanted)
        for step in reversed(self.steps):
            have = resolve(step.axes)
            if have == wanted:
                return step.value
            if loose and len(have) <= len(wanted) and _trim(have) == _trim(wanted):
                return step.value
        for step in reversed(self.steps):
            have = resolve(step.axes)
            if flat(have) == flat(wanted):
                return _emit(builder, reshape, step.value, shape=sizes_of(wanted))
            perm = _permutation(have, wanted)
            if perm is not None:
                return _emit(builder, transpose, step.value, perm=perm)
        return self._rebuild(builder, wanted)

    def _rebuild(self, builder: Builder, wanted: Axes) -> Value:
        value = self.steps[0].value
        have, order = flat(self.steps[0].axes), flat(wanted)
        kept = [atom for atom in order if not atom.repeated]
        value = _emit(builder, reshape, value, shape=tuple(atom.size for atom in have))
        value = _emit(builder, transpose, value, perm=tuple(have.index(atom) for atom in kept))
        if len(kept) < len(order):
            narrow = tuple(1 if atom.repeated else atom.size for atom in order)
            value = _emit(builder, reshape, value, shape=narrow)
            value = _emit(builder, expand, value, shape=tuple(atom.size for atom in order))
        return _emit(builder, reshape, value, shape=sizes_of(wanted))


def _trim(axes: Axes) -> Axes:
    first = next((i for i, axis in enumerate(axes) if axis), len(axes))
    return axes[first:]


def _permutation(have: Axes, wanted: Axes) -> tuple[int, ...] | None:
    if len(have) != len(wanted):
        return None
    left = list(range(len(have)))
    perm: list[int] = []
    for axis in wanted:
        found = next((i for i in left if have[i] == axis), None)
        if found is None:
            return None
        left.remove(found)
        perm.append(found)
    return tuple(perm)


def _emit(builder: Builder, op: object, value: Value, **attributes: object) -> Value:
    """One movement, unless it does nothing."""
    if attributes.get("shape") == value.type.shape:
        return value
    perm = attributes.get("perm")
    if isinstance(perm, Sequence) and list(perm) == list(range(len(perm))):
        return value
    (result,) = builder.emit_values(op, [value], attributes)  # type: ignore[arg-type]  # as in `bind`
    return result
