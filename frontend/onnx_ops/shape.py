"""Sizes as values, constants, and ranges."""

# mypy: disable-error-code="no-any-return"
# (operators hand back `Any`: their results are read from their types)

from __future__ import annotations

from math import prod

import numpy as np
from onnx import AttributeProto

from tunesmith.ir import opset as ops
from tunesmith.ir.dims import Dim, DimExpr, exact_div, floor_div, product
from tunesmith.ir.ops import Expr
from tunesmith.ir.types import DType, TensorType

from ..limits import LIMITS
from ..onnx_call import Call, Result, Table, constant_tensor
from ..onnx_content import of_items
from ..onnx_shapes import at_least
from ..onnx_tensors import read_tensor
from .building import cast_to, reshape_to
from .data_sizes import numbers_from

__all__ = ["SHAPE"]


def _shape(call: Call) -> Result:
    shape = call.shape()
    rank = len(shape)
    start, stop = call.integer("start", 0), call.integer("end", rank)
    chosen = shape[slice(start, stop)]
    return call.content(of_items(chosen, (len(chosen),)), DType.i64)


def _size(call: Call) -> Result:
    return call.content(of_items([product(call.shape())], ()), DType.i64)


def _constant(call: Call) -> Result:
    if len(call.attributes) != 1:
        call.fail(f"it has {len(call.attributes)} values instead of one")
    name, attribute = next(iter(call.attributes.items()))
    where = f"{call.location}"
    match name:
        case "value":
            array = read_tensor(attribute.t, None, where)
        case "value_int":
            array = np.asarray(call.integer(name), np.int64)
        case "value_ints":
            array = np.asarray(call.integer_list(name), np.int64)
        case "value_float":
            array = np.asarray(call.number(name), np.float32)
        case "value_floats" if attribute.type == AttributeProto.FLOATS:
            array = np.asarray(list(attribute.floats), np.float32)
        case _:
            call.fail(f"a constant given as `{name}` is not supported", hint="store a dense tensor")
    return constant_tensor(call.builder, array, "", call.location)


def _constant_of_shape(call: Call) -> Result:
    shape = call.counts(0, "shape")
    value = call.array("value")
    filled = np.zeros(1, np.float32) if value is None else value
    if filled.size != 1:
        call.fail(f"its value has {filled.size} elements instead of one")
    dtype = DType.of(filled.dtype)
    item = filled.reshape(-1)[0].item()
    for size in shape:
        if isinstance(size, int) and size < 0:
            call.fail(f"its shape has the size {size}")
    if len(shape) > LIMITS.rank or prod(s for s in shape if isinstance(s, int)) > LIMITS.elements:
        call.fail("its shape is out of range", hint="the limits are in `frontend/limits.py`")
    known = [size for size in shape if isinstance(size, int)]
    content = None
    if len(known) == len(shape) and prod(known) <= 64:
        content = of_items([item] * prod(known), known)
        if not shape:
            return call.content(content, dtype)
    return call.later(
        TensorType(dtype, shape), lambda: ops.full(value=item, shape=shape, dtype=dtype), content
    )


def _range(call: Call) -> Result:
    dtype = call.dtype()
    items = [call.settled(call.tensor(i)).content for i in range(3)]
    if any(item is None for item in items):
        return numbers_from(call, *(reshape_to(call.x(i), ()) for i in range(3)))
    start, limit, delta = (item.reshape(-1)[0] for item in items if item is not None)
    if isinstance(delta, DimExpr) or delta == 0:
        call.fail("its step is not a known number")
    length = _length(call, start, limit, delta)

    def emit() -> Expr:
        line: Expr = ops.iota(size=length, dtype=dtype)
        if delta != 1:
            line = line * delta
        if isinstance(start, DimExpr):
            return line + ops.dim_value(size=start, dtype=dtype)
        return line + start if start != 0 else line

    content = None
    if isinstance(length, int) and length <= 8 and isinstance(start, int):
        content = of_items([start + i * delta for i in range(length)], (length,))
    return call.later(TensorType(dtype, (length,)), emit, content)


def _length(call: Call, start: object, limit: object, delta: float) -> Dim:
    """`max(ceil((limit - start) / delta), 0)`."""
    if all(isinstance(v, int | float) for v in (start, limit)):
        assert isinstance(start, int | float) and isinstance(limit, int | float)
        return max(int(np.ceil((limit - start) / delta)), 0)
    if not all(isinstance(v, int | DimExpr) for v in (start, limit)) or delta != int(delta):
        call.fail("its length is not a whole number of known sizes")
    assert isinstance(start, int | DimExpr) and isinstance(limit, int | DimExpr)
    step = int(delta)
    span = limit - start if step > 0 else start - limit
    exact = exact_div(span, abs(step))
    found = exact if exact is not None else floor_div(span + (abs(step) - 1), abs(step))
    if at_least(found, 0) is not True:
        call.builder.facts.require(span, 0, f"{call.location} makes a range of {span} elements")
    return found


def _eye_like(call: Call) -> Result:
    rows, columns = call.shape()
    dtype = call.element("dtype") if "dtype" in call.attributes else call.dtype()
    row = reshape_to(ops.iota(size=rows, dtype=DType.i64), (rows, 1))
    column = reshape_to(ops.iota(size=columns, dtype=DType.i64), (1, columns))
    return cast_to(ops.equal(column, row + call.integer("k", 0)), dtype)


def _trilu(call: Call) -> Result:
    x = call.x()
    rows, columns = x.shape[-2:]
    offset: Dim | None = 0
    if call.has(1):
        offset = call.sizes(1, "diagonal")[0] if call.known(1) is not None else None
    row = reshape_to(ops.iota(size=rows, dtype=DType.i64), (rows, 1))
    column = reshape_to(ops.iota(size=columns, dtype=DType.i64), (1, columns))
    if offset is None:
        row = row + reshape_to(cast_to(call.x(1), DType.i64), ())
    elif isinstance(offset, DimExpr):
        row = row + ops.dim_value(size=offset, dtype=DType.i64)
    elif offset:
        row = row + offset
    compare = ops.greater_equal if call.integer("upper", 1) else ops.less_equal
    return ops.where(compare(column, row), x, 0)


def _one_hot(call: Call) -> Result:
    indices, values = call.x(0), call.x(2)
    depth = call.counts(1, "depth")[0]
    axis = call.integer("axis", -1)
    rank = len(indices.shape) + 1
    axis = call.axis(axis, rank)
    places = cast_to(indices, DType.i64)
    size = ops.dim_value(size=depth, dtype=DType.i64)
    places = ops.where(ops.less(places, 0), places + size, places)
    places = reshape_to(places, (*indices.shape[:axis], 1, *indices.shape[axis:]))
    line = [depth if i == axis else 1 for i in range(rank)]
    hot = ops.equal(places, reshape_to(ops.iota(size=depth, dtype=DType.i64), line))
    off = reshape_to(ops.slice_(values, axis=0, start=0, stop=1), ())
    on = reshape_to(ops.slice_(values, axis=0, start=1, stop=2), ())
    return ops.where(hot, on, off)


SHAPE: Table = {
    "Constant": ((1, _constant),),
    "ConstantOfShape": ((9, _constant_of_shape),),
    "EyeLike": ((9, _eye_like),),
    "OneHot": ((9, _one_hot),),
    "Range": ((11, _range),),
    "Shape": ((1, _shape),),
    "Size": ((1, _size),),
    "Trilu": ((14, _trilu),),
}
