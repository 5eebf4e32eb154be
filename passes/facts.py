"""What can be proved about a value without running the graph."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tunesmith.ir.dims import Dim, dim
from tunesmith.ir.graph import Node, Value
from tunesmith.ir.ops import Scalar
from tunesmith.ir.types import DType, Shape

__all__ = ["Range", "counts", "counts_along", "single", "uniform", "value_bounds", "widens"]

_MOVES = ("reshape", "expand", "transpose", "slice")
_SCAN = 1 << 18  # elements of a constant that are looked at, at most


def widens(source: DType, target: DType) -> bool:
    """Whether every value of `source` is one of `target`."""
    if source is target or source is DType.bool:
        return True
    if target is DType.bool:
        return False
    if source.is_integer and target.is_integer:
        low, high = _limits(source)
        least, most = _limits(target)
        return least <= low and high <= most
    order = {DType.f16: 11, DType.bf16: 8, DType.f32: 24, DType.f64: 53}
    if source.is_integer:
        low, high = _limits(source)
        return target in order and max(-low, high) <= 2 ** order[target]
    if not target.is_float:
        return False
    return target is DType.f64 or (target is DType.f32 and source is not DType.f64)


def _limits(dtype: DType) -> tuple[int, int]:
    """The least and the greatest integer of a type."""
    bits = 8 * dtype.bytes
    return (
        (0, 2**bits - 1)
        if dtype.value.startswith("u")
        else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    )


def uniform(value: Value) -> Scalar | None:
    """The one element that `value` repeats, if it is known."""
    for _ in range(64):
        node = value.producer
        if node is None:
            return None
        if node.op.name == "full":
            found = node.attributes["value"]
            return found if isinstance(found, bool | int | float) else None
        constant = value.constant
        if constant is not None:
            array = constant.array
            if not 0 < array.size <= _SCAN or not np.all(array == array.flat[0]):
                return None
            if array.flat[0] == 0 and constant.type.dtype.is_float:
                if np.any(np.signbit(array) != np.signbit(array.flat[0])):
                    return None
            item = array.flat[0].item() if constant.type.dtype is not DType.bf16 else array.flat[0]
            return item if isinstance(item, bool | int | float) else float(item)
        if node.op.name not in _MOVES:
            return None
        moved = node.operands[0]
        assert moved is not None
        value = moved
    return None


def single(value: Value) -> Scalar | None:
    """`uniform`, but a constant of several elements stays what it is: a bias of zeros is a bias."""
    constant = _source(value).constant
    return None if constant is not None and constant.array.size != 1 else uniform(value)


def _source(value: Value) -> Value:
    """What a value is moved from."""
    while value.producer is not None and value.producer.op.name in _MOVES:
        value = value.producer.present_operands[0]
    return value


def value_bounds(value: Value, depth: int = 16) -> tuple[Dim, Dim] | None:
    """The least and the greatest that an integer value can be, as sizes; `None` if not known."""
    node = value.producer
    if node is None or depth == 0 or not value.type.dtype.is_integer:
        return None
    if value.constant is not None:
        array = value.constant.array
        return (int(array.min()), int(array.max())) if 0 < array.size <= _SCAN else None
    match node.op.name:
        case "iota":
            return 0, _size(node) - 1
        case "dim_value":
            return _size(node), _size(node)
        case "full":
            number = node.attributes["value"]
            return (number, number) if isinstance(number, int) else None
        case "reshape" | "expand" | "transpose" | "slice":
            return value_bounds(node.present_operands[0], depth - 1)
        case "concat":
            found = {value_bounds(x, depth - 1) for x in node.present_operands}
            return found.pop() if len(found) == 1 else None
        case "cast":
            source = node.present_operands[0]
            if source.type.dtype is DType.bool:
                return 0, 1
            if source.type.dtype.is_integer and widens(source.type.dtype, value.type.dtype):
                return value_bounds(source, depth - 1)
    return None


def _size(node: Node) -> Dim:
    size = node.attributes["size"]
    return dim(size)  # type: ignore[arg-type]  # the attribute is a `Dim` by the operator's hint


@dataclass(frozen=True)
class Range:
    """Integers that count upwards one by one: `start`, `start + 1`, … `size` of them."""

    start: Dim
    size: Dim


def counts(value: Value) -> Range | None:
    """The range whose elements `value` holds in row-major order."""
    for _ in range(16):
        node = value.producer
        if node is None or not value.type.dtype.is_integer:
            return None
        if value.constant is not None:
            array = value.constant.array.reshape(-1)
            if not 0 < array.size <= _SCAN or np.any(np.diff(array) != 1):
                return None
            return Range(int(array[0]), int(array.size))
        match node.op.name:
            case "iota":
                return Range(0, _size(node))
            case "cast":
                source = node.present_operands[0]
                if not widens(source.type.dtype, value.type.dtype):
                    return None
            case "slice":
                inner = counts(node.present_operands[0])
                axis, step = node.attributes["axis"], node.attributes["step"]
                shape = node.present_operands[0].type.shape
                assert isinstance(axis, int)
                rest = [s for i, s in enumerate(shape) if i != axis % len(shape)]
                if inner is None or step != 1 or any(s != 1 for s in rest):
                    return None
                start: Dim = node.attributes["start"]  # type: ignore[assignment]  # a `Dim`
                return Range(inner.start + start, value.type.size)
            case "reshape":
                pass
            case _:
                return None
        value = node.present_operands[0]
    return None


def counts_along(value: Value) -> tuple[int, Range] | None:
    """The one axis along which `value` counts, if it is the same along all others."""
    node = value.producer
    shape = value.type.shape
    wide = [i for i, size in enumerate(shape) if size != 1]
    found = counts(value)
    if found is not None:
        if len(wide) == 1 and shape[wide[0]] == found.size:
            return wide[0], found
        return None
    if node is None or node.op.name not in ("expand", "reshape", "cast", "transpose"):
        return None
    source = node.present_operands[0]
    if node.op.name == "cast" and not widens(source.type.dtype, value.type.dtype):
        return None
    inner = counts_along(source) if source.type.dtype.is_integer else None
    if inner is None:
        return None
    axis, found = inner
    match node.op.name:
        case "expand":
            return axis + len(shape) - source.type.rank, found
        case "transpose":
            perm: tuple[int, ...] = node.attributes["perm"]  # type: ignore[assignment]  # integers
            return perm.index(axis), found
        case "reshape":
            place = _same_axis(source.type.shape, shape, axis)
            return None if place is None else (place, found)
    return axis, found


def _same_axis(source: Shape, target: Shape, axis: int) -> int | None:
    """Where an axis goes in a reshape that only adds or drops axes of size 1."""
    wide = [i for i, size in enumerate(source) if size != 1]
    placed = [i for i, size in enumerate(target) if size != 1]
    if [source[i] for i in wide] != [target[i] for i in placed] or axis not in wide:
        return None
    return placed[wide.index(axis)]
