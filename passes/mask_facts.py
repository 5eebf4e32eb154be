"""What can be proved about a mask: which conditions it joins, which are causal, which always hold.

Places are counted from the right: axis -1 are the keys, axis -2 the queries.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from tunesmith.ir.dims import Dim
from tunesmith.ir.graph import Value
from tunesmith.ir.types import DType

from .places import excess
from .views import scalar_of

__all__ = [
    "GREATEST", "Condition", "Fill", "always", "causal_offset", "conditions", "fills", "overflows",
    "swallows",
]  # fmt: skip


GREATEST = {
    DType.f16: 65504.0,
    DType.bf16: 3.3895313892515355e38,
    DType.f32: 3.4028234663852886e38,
    DType.f64: 1.7976931348623157e308,
}


@dataclass(frozen=True)
class Condition:
    """A bool value, or its opposite."""

    value: Value
    negated: bool = False


@dataclass(frozen=True)
class Fill:
    """A float mask that adds 0 where `shown` holds, and `number` elsewhere."""

    shown: Condition
    number: float


def swallows(number: float, dtype: DType) -> bool:
    """Whether `number + score` rounds to `number` for every score below 2^60 in magnitude."""
    if number == -np.inf:
        return True
    if dtype is DType.f16 or not dtype.is_float or number > -1e9:
        return False
    digits = {DType.f32: 24, DType.f64: 53, DType.bf16: 8}[dtype]
    return -number >= 2.0 ** (60 + digits + 1)


def overflows(number: float, dtype: DType) -> bool:
    """Whether `number + score` may be -inf; in f16 the lowest number is no larger than scores."""
    return number < -GREATEST[dtype] * (0.5 if dtype is DType.f16 else 1.0)


def conditions(joined: Condition) -> Iterator[Condition]:
    """The conditions that `joined` joins by `and`, each broadcast like `joined` itself."""
    work = [joined]
    while work:
        condition = work.pop()
        value = condition.value
        node = value.producer
        if node is None:
            yield condition
            continue
        operands = node.present_operands
        if _only_widens(value):
            work.append(Condition(operands[0], condition.negated))
        elif node.op.name == "logical_not":
            work.append(Condition(operands[0], not condition.negated))
        elif node.op.name == "logical_and" and not condition.negated:
            work += [Condition(x) for x in reversed(operands)]
        elif node.op.name == "logical_or" and condition.negated:
            work += [Condition(x, True) for x in reversed(operands)]
        elif node.op.name == "cast" and (inner := _behind_number(operands[0])) is not None:
            work.append(Condition(inner, condition.negated))
        else:
            yield condition


def _only_widens(value: Value) -> bool:
    """Whether the value is its operand, but for axes of size 1 in front and broadcasting."""
    node = value.producer
    assert node is not None
    if node.op.name == "expand":
        return True
    if node.op.name != "reshape":
        return False
    (x,) = node.present_operands
    return _trimmed(x) == _trimmed(value)


def _trimmed(value: Value) -> list[Dim]:
    shape = list(value.type.shape)
    while shape and shape[0] == 1:
        shape.pop(0)
    return shape


def _behind_number(value: Value) -> Value | None:
    """The bool value that a number, 0 or 1, was made from."""
    node = value.producer
    if value.type.dtype is DType.bool:
        return value
    if node is None or node.op.name != "cast":
        return None
    (x,) = node.present_operands
    return x if x.type.dtype is DType.bool else None


def fills(value: Value) -> Fill | None:
    """The float mask as a condition and a number, if that is what it is."""
    while value.producer is not None and _only_widens(value):
        value = value.producer.present_operands[0]
    node = value.producer
    if node is None:
        return None
    if value.constant is not None or node.op.name == "slice":
        return _constant_fill(value)
    if node.op.name == "where":
        condition, x, y = node.present_operands
        a, b = scalar_of(x), scalar_of(y)
        if a == 0.0 and b is not None and b < 0:
            return Fill(Condition(condition), b)
        if a is not None and a < 0 and (b == 0.0 or _is_number_of(y, condition)):
            return Fill(Condition(condition, negated=True), a)
    if node.op.name == "mul":
        x, y = node.present_operands
        for flags, number in ((x, scalar_of(y)), (y, scalar_of(x))):
            hidden = _one_minus(flags)
            if hidden is not None and number is not None and -np.inf < number < 0:
                return Fill(Condition(hidden), number)
    return None


def _constant_fill(value: Value) -> Fill | None:
    """A constant triangle, whole or sliced, of 0 and one other number."""
    root = value
    while root.producer is not None and root.producer.op.name in ("slice", "reshape", "expand"):
        root = root.producer.present_operands[0]
    if root.constant is None or root.constant.array.size == 0:
        return None
    array = root.constant.array
    number = float(array.min())
    hidden = Condition(value, negated=True)
    if not number < 0 or not bool(np.all((array == 0) | (array == number))):
        return None
    return None if _triangle(hidden) is None else Fill(hidden, number)


def _is_number_of(y: Value, condition: Value) -> bool:
    """Whether `y` is 0 wherever `condition` is false: `condition` is `cast(y, bool)`."""
    node = condition.producer
    return node is not None and node.op.name == "cast" and node.operands[0] is y


def _one_minus(value: Value) -> Value | None:
    """The flags of `1 - flags`."""
    while value.producer is not None and _only_widens(value):
        value = value.producer.present_operands[0]
    node = value.producer
    if node is None or node.op.name != "sub":
        return None
    one, flags = node.present_operands
    found = _behind_number(flags)
    return found if scalar_of(one) == 1.0 and found is not None else None


def always(condition: Condition) -> bool:
    """Whether the condition holds for sure everywhere."""
    number = scalar_of(condition.value)
    if number is not None:
        return bool(number) is not condition.negated
    difference = excess(condition.value, condition.negated)
    if difference is not None:
        top = difference.greatest()
        return top is not None and top <= 0
    return False


def causal_offset(condition: Condition) -> Dim | None:
    """`o` if the condition is `key <= query + o`, proved; else `None`."""
    difference = excess(condition.value, condition.negated)
    if difference is not None:
        slopes = {axis: slope for axis, (slope, _) in difference.places.items()}
        return -difference.offset if slopes == {-1: 1, -2: -1} else None
    return _triangle(condition)


def _triangle(condition: Condition) -> Dim | None:
    """The offset of a constant triangle, whole or sliced.

    One row, or one column, is no triangle, even if it looks like one: it is broadcast.
    """
    value = condition.value
    shift: Dim = 0
    if value.type.rank < 2 or 1 in value.type.shape[-2:]:
        return None
    while (node := value.producer) is not None:
        if node.op.name == "slice":
            axis, start, step = (node.attributes[k] for k in ("axis", "start", "step"))
            assert isinstance(axis, int) and not isinstance(start, tuple | str | float)
            place = axis if axis < 0 else axis - value.type.rank
            if place in (-1, -2) and step != 1:
                return None
            if place in (-1, -2):
                shift = shift + (start if place == -2 else -start)  # type: ignore[operator]  # a dim
        elif not (node.op.name == "cast" or _only_widens(value)):
            break
        if node.op.name == "expand" and value.type.shape[-2:] != _last_two(node.operands[0]):
            return None
        value = node.present_operands[0]
    found = value.constant
    if found is None or found.array.ndim < 2 or any(n != 1 for n in found.array.shape[:-2]):
        return None
    visible = (found.array.reshape(found.array.shape[-2:]) != 0) != condition.negated
    rows, keys = map(int, visible.shape)
    first = int(visible[0].sum()) - 1
    if not np.array_equal(visible, np.tri(rows, keys, first) != 0):
        return None
    return shift + first


def _last_two(value: Value | None) -> tuple[Dim, ...]:
    return () if value is None else value.type.shape[-2:]
