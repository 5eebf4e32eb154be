"""Integer tensors as sums of places: what is known of comparisons between positions.

Axes are counted from the right: -1 are the keys, -2 the queries, whatever the rank.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from tunesmith.ir.dims import Dim, bounds
from tunesmith.ir.graph import Value
from tunesmith.ir.types import DType

from .views import fresh_axes, moved, resolve, scalar_of

__all__ = ["Affine", "excess"]


@dataclass(frozen=True)
class Affine:
    """An integer tensor as a sum of places times numbers, and a size."""

    places: dict[int, tuple[int, Dim]] = field(default_factory=dict)  # axis → (factor, its length)
    offset: Dim = 0

    def plus(self, other: Affine, factor: int) -> Affine:
        """The sum with `other`, that many times."""
        places = dict(self.places)
        for axis, (slope, size) in other.places.items():
            old = places.get(axis, (0, size))[0]
            places[axis] = (old + factor * slope, size)
        kept = {axis: pair for axis, pair in places.items() if pair[0]}
        return Affine(kept, self.offset + factor * other.offset)

    def greatest(self) -> int | None:
        """An upper bound, if there is one."""
        top = bounds(self.offset)[1]
        for slope, size in self.places.values():
            last = 0 if slope < 0 else bounds(size)[1]
            if top is None or last is None:
                return None
            top += slope * (last - 1) if slope > 0 else 0
        return top


def excess(value: Value, negated: bool) -> Affine | None:
    """`d` such that the condition, or its opposite, is `d <= 0`, for comparisons of places."""
    value, mapping = _behind_movement(value)
    node = value.producer
    if node is None or node.op.name not in ("less", "less_equal", "greater", "greater_equal"):
        return None
    x, y = node.present_operands
    a, b = _affine(x), _affine(y)
    if a is None or b is None:
        return None
    name = node.op.name
    if name.startswith("greater"):
        a, b = b, a
    strict = not name.endswith("equal")
    if negated:
        a, b, strict = b, a, not strict
    result = a.plus(b, -1).plus(Affine(offset=int(strict)), 1)
    if any(axis not in mapping for axis in result.places):
        return None
    return Affine({mapping[a]: pair for a, pair in result.places.items()}, result.offset)


def _behind_movement(value: Value) -> tuple[Value, dict[int, int]]:
    """The value that was moved, and where its axes went; lost and merged axes are left out."""
    whole, chain = value, []
    while (node := value.producer) is not None and node.op.name in (
        "reshape",
        "transpose",
        "expand",
    ):
        chain.append(node)
        value = node.present_operands[0]
    axes = first = fresh_axes(value.type.shape)
    for node in reversed(chain):
        after = moved(node, axes)
        if after is None:
            return whole, {-i: -i for i in range(1, whole.type.rank + 1)}
        axes = after
    first = resolve(first)
    mapping = {}
    for old, axis in enumerate(first):
        places = [new for new, atoms in enumerate(axes) if atoms == axis]
        if axis and len(places) == 1:
            mapping[old - len(first)] = places[0] - len(axes)
    return value, mapping


def _affine(value: Value) -> Affine | None:
    """The value as a sum of places, by its producers; the recursion is as deep as the sum."""
    value, mapping = _behind_movement(value)
    found = _affine_root(value)
    if found is None or any(axis not in mapping for axis in found.places):
        return None
    return Affine({mapping[a]: pair for a, pair in found.places.items()}, found.offset)


def _affine_root(value: Value) -> Affine | None:
    number = scalar_of(value)
    if number is not None:
        return Affine(offset=int(number)) if number.is_integer() else None
    node = value.producer
    if node is None:
        return None
    operands = node.present_operands
    shape = value.type.shape
    match node.op.name:
        case "iota":
            return Affine({} if shape[0] == 1 else {-1: (1, shape[0])})
        case "dim_value":
            size = node.attributes["size"]
            return Affine(offset=size)  # type: ignore[arg-type]  # the operator checks it
        case "constant" if value.constant is not None:
            return _counting(value.constant.array)
        case "cast" if value.type.dtype not in (DType.f16, DType.bf16, DType.bool, DType.i8):
            return None if operands[0].type.dtype is DType.bool else _affine(operands[0])
        case "add" | "sub":
            a, b = _affine(operands[0]), _affine(operands[1])
            sign = 1 if node.op.name == "add" else -1
            return None if a is None or b is None else a.plus(b, sign)
        case "neg":
            a = _affine(operands[0])
            return None if a is None else Affine().plus(a, -1)
        case "slice":
            return _sliced(node.attributes, operands[0], value)
    return None


def _sliced(attributes: object, x: Value, result: Value) -> Affine | None:
    assert isinstance(attributes, dict)
    found, axis = _affine(x), attributes["axis"]
    if found is None or attributes["step"] != 1:
        return None
    place = axis if axis < 0 else axis - x.type.rank
    if place not in found.places:
        return found
    slope = found.places[place][0]
    places = found.places | {place: (slope, result.type.shape[place])}
    return Affine(places, found.offset + attributes["start"] * slope)


def _counting(array: NDArray[np.generic]) -> Affine | None:
    """A constant that counts up along its only axis that is not 1."""
    long = [axis for axis, size in enumerate(array.shape) if size != 1]
    if len(long) != 1 or array.dtype.kind not in "iu":
        return None
    items = array.reshape(-1).astype(np.int64)
    if not np.array_equal(items, np.arange(items.size) + items[0]):
        return None
    return Affine({long[0] - array.ndim: (1, items.size)}, int(items[0]))
