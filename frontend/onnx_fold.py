"""Shape arithmetic, worked out at import: ONNX operators on known elements.

A rule gives the elements and their type; `None`, or `Unknown`, leaves the node to its import rule.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tunesmith.ir.types import DType

from . import onnx_content as items
from .limits import LIMITS
from .onnx_call import Call, Tensor
from .onnx_content import Content, Item, Unknown, each, of_items

__all__ = ["fold"]

Fold = Callable[[Call, list[Content]], tuple[Content, DType] | None]


def fold(call: Call) -> Tensor | None:
    """The result of a node whose operands are all known, if it can be told now."""
    rule = FOLDS.get(call.operator) if call.domain == "" else None
    if rule is None or not call.inputs or len(call.outputs) > 1:
        return None
    if call.opset < 7 and "broadcast" in call.attributes:
        return None
    operands = [None if x is None else x.content for x in call.inputs]
    if any(c is None and x is not None for c, x in zip(operands, call.inputs, strict=True)):
        return None
    try:
        found = rule(call, [np.empty(0, object) if c is None else c for c in operands])
    except Unknown:
        return None
    if found is None or found[0].size > LIMITS.content:
        return None
    return call.content(*found)


def _is_small_math(call: Call, operands: list[Content]) -> bool:
    """Whether arithmetic is about sizes: integers, or floats that stand for some."""
    if not call.dtype().is_float:
        return max(c.size for c in operands) <= 64
    flat = [item for c in operands for item in c.reshape(-1).tolist()]
    symbolic = any(not isinstance(item, bool | int | float) for item in flat)
    return symbolic or all(c.size == 1 for c in operands)


def _math(function: Callable[..., Item], dtype: DType | None = None) -> Fold:
    def rule(call: Call, operands: list[Content]) -> tuple[Content, DType] | None:
        if not _is_small_math(call, operands):
            return None
        found = each(function, *operands)
        return _fits(found, dtype or call.dtype())

    return rule


def _fits(found: Content, dtype: DType) -> tuple[Content, DType] | None:
    """The result, if integers stay within the range of their type: wrapping is left to data."""
    if dtype.is_integer:
        limits = np.iinfo(str(dtype.numpy))
        for item in found.reshape(-1).tolist():
            if isinstance(item, int) and not limits.min <= item <= limits.max:
                return None
    return found, dtype


def _divide(call: Call, operands: list[Content]) -> tuple[Content, DType] | None:
    rule = items.true_div if call.dtype().is_float else items.int_div
    return _math(rule)(call, operands)


def _modulo(call: Call, operands: list[Content]) -> tuple[Content, DType] | None:
    if call.integer("fmod", 0) or not call.dtype().is_integer:
        return None
    return _math(items.modulo)(call, operands)


def _variadic(function: Callable[[Item, Item], Item]) -> Fold:
    def rule(call: Call, operands: list[Content]) -> tuple[Content, DType] | None:
        if not _is_small_math(call, operands):
            return None
        found = operands[0]
        for other in operands[1:]:
            found = each(function, found, other)
        return _fits(found, call.dtype())

    return rule


def _flag(item: Item) -> bool:
    if not isinstance(item, bool):
        raise Unknown
    return item


def _cast(call: Call, operands: list[Content]) -> tuple[Content, DType] | None:
    dtype = call.element("to")
    source = call.dtype()
    if source.is_stored or dtype.is_stored:
        return None
    if operands[0].size > 64 and not dtype.is_integer:
        return None
    if dtype is DType.bool:
        return each(lambda a: not items.equal(a, 0), operands[0]), dtype
    if dtype.is_float and not source.is_float:
        return each(lambda a: int(a) if isinstance(a, bool) else a, operands[0]), dtype
    if dtype.is_float:
        narrow = dtype.bytes < source.bytes
        return None if narrow else (operands[0], dtype)
    return _fits(each(items.truncate, operands[0]), dtype)


def _where(call: Call, operands: list[Content]) -> tuple[Content, DType] | None:
    if max(c.size for c in operands) > 64:
        return None
    return each(lambda c, a, b: a if _flag(c) else b, *operands), call.dtype(1)


# Movement.


def _identity(call: Call, operands: list[Content]) -> tuple[Content, DType]:
    return operands[0], call.dtype()


def _gather(call: Call, operands: list[Content]) -> tuple[Content, DType] | None:
    data, indices = operands
    axis = call.axis(call.integer("axis", 0), data.ndim)
    places = _numbers(indices)
    size = data.shape[axis] if data.ndim else 0
    if any(not -size <= i < size for i in places.reshape(-1).tolist()):
        call.fail(f"an index is not one of {size}", hint="the model gathers past the end")
    return np.asarray(np.take(data, places, axis=axis), object), call.dtype()


def _numbers(content: Content) -> np.ndarray[tuple[int, ...], np.dtype[np.int64]]:
    found = content.reshape(-1).tolist()
    if not all(isinstance(i, int) for i in found):
        raise Unknown
    return np.array(found, np.int64).reshape(content.shape)


def _concat(call: Call, operands: list[Content]) -> tuple[Content, DType] | None:
    axis = call.axis(call.integer("axis"), operands[0].ndim)
    return np.concatenate(operands, axis=axis), call.dtype()


def _squeeze(call: Call, operands: list[Content]) -> tuple[Content, DType]:
    axes = call.axes(13)
    data = operands[0]
    chosen = None if axes is None else tuple(call.axis(a, data.ndim) for a in axes)
    return np.asarray(np.squeeze(data, chosen), object), call.dtype()


def _unsqueeze(call: Call, operands: list[Content]) -> tuple[Content, DType]:
    axes = call.axes(13) or ()
    data = operands[0]
    chosen = tuple(call.axis(a, data.ndim + len(axes)) for a in axes)
    return np.expand_dims(data, chosen), call.dtype()


def _reshape(call: Call, operands: list[Content]) -> tuple[Content, DType] | None:
    if call.opset < 5:
        return None
    data, wanted = operands
    shape = _numbers(wanted).tolist()
    if not call.integer("allowzero", 0):
        shape = [data.shape[i] if s == 0 else s for i, s in enumerate(shape)]
    return data.reshape(shape), call.dtype()


def _transpose(call: Call, operands: list[Content]) -> tuple[Content, DType]:
    perm = call.integer_list("perm")
    return np.transpose(operands[0], perm), call.dtype()


def _slice(call: Call, operands: list[Content]) -> tuple[Content, DType] | None:
    if call.opset < 10:
        return None
    data, starts, ends = operands[0], _numbers(operands[1]), _numbers(operands[2])
    axes = _numbers(operands[3]) if call.has(3) else np.arange(starts.size)
    steps = _numbers(operands[4]) if call.has(4) else np.ones(starts.size, np.int64)
    index = [slice(None)] * data.ndim
    for axis, start, end, step in zip(
        axes.tolist(), starts.tolist(), ends.tolist(), steps.tolist(), strict=True
    ):
        if step == 0:
            call.fail("a step of 0 goes nowhere")
        axis = call.axis(axis, data.ndim)
        size = data.shape[axis]
        stop = None if step < 0 and end < -size else end
        index[axis] = slice(start, stop, step)
    return data[tuple(index)], call.dtype()


def _expand(call: Call, operands: list[Content]) -> tuple[Content, DType] | None:
    shape = _numbers(operands[1]).tolist()
    if operands[0].size > 1 and len(shape) > 1 and call.dtype().is_float:
        return None  # a weight, and not sizes
    wide = np.broadcast_shapes(operands[0].shape, tuple(shape))
    if np.prod(wide, dtype=np.float64) > LIMITS.content:
        return None
    return np.broadcast_to(operands[0], wide), call.dtype()


def _tile(call: Call, operands: list[Content]) -> tuple[Content, DType] | None:
    repeats = _numbers(operands[1]).reshape(-1).tolist()
    size = operands[0].size * np.prod(repeats, dtype=np.float64)
    fits = len(repeats) == operands[0].ndim and min(repeats, default=0) >= 0
    if call.opset < 6 or call.dtype().is_float or not fits or size > LIMITS.content:
        return None
    return np.tile(operands[0], repeats), call.dtype()


def _pad(call: Call, operands: list[Content]) -> tuple[Content, DType] | None:
    data = operands[0]
    if call.opset < 11 or call.dtype().is_float or call.text("mode", "constant") != "constant":
        return None
    pads = _numbers(operands[1]).reshape(-1).tolist()
    if call.has(3) or len(pads) != 2 * data.ndim or min(pads, default=0) < 0:
        return None
    low, high = pads[: data.ndim], pads[data.ndim :]
    shape = [a + size + b for a, size, b in zip(low, data.shape, high, strict=True)]
    if np.prod(shape, dtype=np.float64) > LIMITS.content:
        return None
    wide = np.empty(shape, object)
    wide.fill(operands[2].reshape(-1)[0] if call.has(2) else 0)
    wide[tuple(slice(a, a + size) for a, size in zip(low, data.shape, strict=True))] = data
    return wide, call.dtype()


def _reduce(function: Callable[[Item, Item], Item], start: int | None) -> Fold:
    def rule(call: Call, operands: list[Content]) -> tuple[Content, DType] | None:
        data = operands[0]
        if data.ndim > 1 or (data.size == 0 and start is None) or not call.dtype().is_integer:
            return None
        found: Item = data.reshape(-1)[0] if start is None else start
        for item in data.reshape(-1).tolist()[start is None :]:
            found = function(found, item)
        keep = call.integer("keepdims", 1)
        return _fits(of_items([found], (1,) * (data.ndim if keep else 0)), call.dtype())

    return rule


def _not(value: Item) -> bool:
    return not _flag(value)


FOLDS: dict[str, Fold] = {
    "Add": _math(items.add),
    "And": _math(lambda a, b: _flag(a) and _flag(b), DType.bool),
    "Cast": _cast,
    "Ceil": _math(items.ceil),
    "Concat": _concat,
    "Div": _divide,
    "Equal": _math(items.equal, DType.bool),
    "Expand": _expand,
    "Floor": _math(items.floor),
    "Gather": _gather,
    "Greater": _math(lambda a, b: not items.greater_equal(b, a), DType.bool),
    "GreaterOrEqual": _math(items.greater_equal, DType.bool),
    "Identity": _identity,
    "Less": _math(lambda a, b: not items.greater_equal(a, b), DType.bool),
    "LessOrEqual": _math(lambda a, b: items.greater_equal(b, a), DType.bool),
    "Max": _variadic(items.maximum),
    "Min": _variadic(items.minimum),
    "Mod": _modulo,
    "Mul": _math(items.mul),
    "Neg": _math(items.neg),
    "Not": _math(_not, DType.bool),
    "Or": _math(lambda a, b: _flag(a) or _flag(b), DType.bool),
    "Pad": _pad,
    "ReduceMax": _reduce(items.maximum, None),
    "ReduceMin": _reduce(items.minimum, None),
    "ReduceProd": _reduce(items.mul, 1),
    "ReduceSum": _reduce(items.add, 0),
    "Reshape": _reshape,
    "Slice": _slice,
    "Squeeze": _squeeze,
    "Sub": _math(items.sub),
    "Tile": _tile,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    "Where": _where,
}
