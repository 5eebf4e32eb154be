"""Sequences of tensors: import knows their elements, and no sequence is left in the graph."""

# mypy: disable-error-code="no-any-return"
# (operators hand back `Any`: their results are read from their types)

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

from tunesmith.ir import opset as ops
from tunesmith.ir.diagnostics import FrontendError, Location
from tunesmith.ir.dims import Dim
from tunesmith.ir.types import DType, TensorType

from ..limits import LIMITS
from ..onnx_call import Call, Result, Table, Tensor
from ..onnx_content import of_items
from .building import reshape_to, slice_to
from .movement import equate_parts

__all__ = ["SEQUENCE", "TensorList"]


class TensorList(Tensor):
    """A value that is a sequence; whoever reads it as a tensor is refused."""

    __slots__ = ("items",)

    def __init__(self, items: Sequence[Tensor], where: Location) -> None:
        def refuse() -> NoReturn:
            raise FrontendError("a sequence is read where a tensor is needed", where=where)

        super().__init__(TensorType(DType.bool, (len(items),)), refuse)
        self.items = list(items)


def _items(call: Call, index: int = 0) -> list[Tensor]:
    found = call.tensor(index)
    if not isinstance(found, TensorList):
        call.fail(f"operand {index} is a tensor, not a sequence")
    return found.items


def _place(call: Call, index: int, count: int) -> int:
    """A place in a sequence of `count`, counted from the front."""
    place = call.integers(index, "place in a sequence")[0]
    if not -count <= place < count:
        call.fail(f"place {place} is not one of {count}")
    return place % count


def _construct(call: Call) -> Result:
    return TensorList([call.tensor(i) for i in range(len(call.inputs))], call.location)


def _empty(call: Call) -> Result:
    return TensorList([], call.location)


def _insert(call: Call) -> Result:
    items = list(_items(call))
    place = len(items)
    if call.has(2):
        place = _place(call, 2, len(items) + 1) if items else 0
        if call.integers(2, "place in a sequence")[0] < 0:  # in front of what stands there
            place -= 1
    return TensorList([*items[:place], call.tensor(1), *items[place:]], call.location)


def _erase(call: Call) -> Result:
    items = list(_items(call))
    del items[_place(call, 1, len(items)) if call.has(1) else -1]
    return TensorList(items, call.location)


def _at(call: Call) -> Result:
    items = _items(call)
    return items[_place(call, 1, len(items))]


def _length(call: Call) -> Result:
    return call.content(of_items([len(_items(call))], ()), DType.i64)


def _split(call: Call) -> Result:
    x = call.x()
    axis = call.axis(call.integer("axis", 0), len(x.shape))
    size = x.shape[axis]
    squeeze = not call.has(1) and not call.integer("keepdims", 1)
    parts: tuple[Dim, ...] = (1,) if not call.has(1) else call.sizes(1, "list of sizes")
    if not call.has(1) or call.shape(1) == ():
        each = parts[0]
        if not isinstance(size, int) or not isinstance(each, int) or each < 1:
            call.fail(f"parts of {each} of {size} are not known", hint="fix it with `dims`")
        if -(-size // each) > LIMITS.steps:
            call.fail(f"more than {LIMITS.steps} parts are too many")
        parts = tuple(min(each, size - start) for start in range(0, size, each))
    equate_parts(call, parts, size)
    found, start = [], 0 * size
    for part in parts:
        one = slice_to(x, axis, start, start + part)
        start = start + part
        if squeeze:
            one = reshape_to(one, (*one.shape[:axis], *one.shape[axis + 1 :]))
        found.append(Tensor.of(one))
    return TensorList(found, call.location)


def _concat(call: Call) -> Result:
    parts = [item.expr for item in _items(call)]
    if not parts:
        call.fail("an empty sequence has no elements to join")
    rank = len(parts[0].shape)
    if call.integer("new_axis", 0):
        axis = call.axis(call.integer("axis"), rank + 1)
        parts = [reshape_to(x, (*x.shape[:axis], 1, *x.shape[axis:])) for x in parts]
    else:
        axis = call.axis(call.integer("axis"), rank)
    return parts[0] if len(parts) == 1 else ops.concat(*parts, axis=axis)


def _optional(call: Call) -> Result:
    if not call.has(0):
        call.fail("an optional value that is absent is not supported")
    return call.tensor(0)


def _has_element(call: Call) -> Result:
    """What import knows as a value is there."""
    return call.content(of_items([call.has(0)], ()), DType.bool)


SEQUENCE: Table = {
    "ConcatFromSequence": ((11, _concat),),
    "Optional": ((15, _optional),),
    "OptionalGetElement": ((15, lambda call: call.tensor(0)),),
    "OptionalHasElement": ((15, _has_element),),
    "SequenceAt": ((11, _at),),
    "SequenceConstruct": ((11, _construct),),
    "SequenceEmpty": ((11, _empty),),
    "SequenceErase": ((11, _erase),),
    "SequenceInsert": ((11, _insert),),
    "SequenceLength": ((11, _length),),
    "SplitToSequence": ((11, _split),),
}
