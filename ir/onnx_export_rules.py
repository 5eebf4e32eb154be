"""The ONNX nodes for each primitive: a table from its name to a rule.

A rule lists the element types that ONNX Runtime 1.31 computes on a CPU. Others are computed in
another type between casts: the same bits for integers (they wrap; but u64 above 2**63 compares and
divides as i64), the rounding of f32 for bf16, and f32 for the f64 of `erf`, `conv`, `average_pool`.
ONNX Runtime itself lets NaN lose in `reduce_max`, `topk`, `argmax` and `max_pool`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .constants import Constant
from .diagnostics import VerifyError
from .dims import Dim, product
from .graph import Node
from .onnx_export_scope import GraphScope, Scope, tensor_of
from .symbols import bound_symbol
from .types import DType

__all__ = ["ONNX_RULES", "Call", "OnnxRule", "write_primitive"]


@dataclass(frozen=True)
class Call:
    """One primitive to write: where, with which names, and the element type to compute in."""

    scope: Scope
    node: Node
    inputs: Sequence[str]
    outputs: Sequence[str]
    dtype: DType

    def __getitem__(self, attribute: str) -> Any:
        return self.node.attributes[attribute]

    @property
    def rank(self) -> int:
        """The rank of the first operand."""
        return self.node.present_operands[0].type.rank

    def emit(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Write an ONNX node on the way to the result."""
        return self.scope.emit(operator, inputs, **attributes)

    def finish(self, operator: str, *inputs: str, **attributes: Any) -> None:
        """Write the ONNX node that gives the results."""
        self.scope.emit(operator, inputs, self.outputs, **attributes)


@dataclass(frozen=True)
class OnnxRule:
    """How to write a primitive, and the element types that ONNX Runtime has for it."""

    write: Callable[[Call], None]
    dtypes: frozenset[DType]


def _types(text: str) -> frozenset[DType]:
    return frozenset(DType(name) for name in text.split())


_ALL = frozenset(DType)
_FLOATS = _types("f16 f32 f64")
_F32 = _types("f16 f32")  # ONNX Runtime puts casts around f16 by itself
_MATH = _types("f16 f32 f64 i32 i64")
_ORDERED = _types("f16 f32 f64 i32 i64 u32 u64")
_MOVED = _types("f16 f32 f64 i8 i16 i32 i64 u8 u16 u32 u64 bool")
_WIDER = {
    DType.bf16: DType.f32, DType.f16: DType.f32, DType.f64: DType.f32, DType.bool: DType.i32,
    DType.i8: DType.i32, DType.i16: DType.i32, DType.u8: DType.i32, DType.u16: DType.i32,
    DType.u32: DType.i64, DType.u64: DType.i64, DType.i32: DType.i64, DType.i64: DType.i32,
}  # fmt: skip


def write_primitive(
    scope: Scope, node: Node, inputs: Sequence[str], outputs: Sequence[str]
) -> None:
    """Write the ONNX nodes of a primitive, `inputs` with "" for an absent operand."""
    rule = ONNX_RULES[node.op.name]
    if node.op.name in _TYPED_BY_RESULT:
        typed = node.results[0]
    else:  # the last, because the first operand of `where` is a condition
        typed = node.present_operands[0 if node.op.name in _TYPED_BY_FIRST else -1]
    dtype = typed.type.dtype
    if dtype in rule.dtypes:
        rule.write(Call(scope, node, inputs, outputs, dtype))
        return
    wide = _WIDER[dtype]
    if wide not in rule.dtypes and _WIDER.get(wide) in rule.dtypes:
        wide = _WIDER[wide]
    condition = node.operands[0] if node.op.name == "where" else None
    cast_inputs = [
        name
        if value is None or value is condition or value.type.dtype is not dtype
        else scope.cast(name, wide)
        for name, value in zip(inputs, node.operands, strict=False)
    ]
    narrowed = [value.type.dtype is dtype for value in node.results]
    wide_outputs = [
        scope.fresh(f"{name}.wide") if narrow else name
        for name, narrow in zip(outputs, narrowed, strict=True)
    ]
    rule.write(Call(scope, node, cast_inputs, wide_outputs, wide))
    for name, wide_name, narrow in zip(outputs, wide_outputs, narrowed, strict=True):
        if narrow:
            scope.cast(wide_name, dtype, name)


_TYPED_BY_RESULT = {"full", "iota", "dim_value"}
_TYPED_BY_FIRST = {"suppress", "gather", "gather_elements", "gather_nd", "scatter_nd"}


def _plain(operator: str, dtypes: frozenset[DType]) -> OnnxRule:
    return OnnxRule(lambda call: call.finish(operator, *call.inputs), dtypes)


def _rsqrt(call: Call) -> None:
    call.finish("Reciprocal", call.emit("Sqrt", *call.inputs))


def _sign(call: Call) -> None:
    """ONNX Runtime gives 0 for NaN."""
    if not call.dtype.is_float:
        call.finish("Sign", *call.inputs)
        return
    (x,) = call.inputs
    call.finish("Where", call.emit("IsNaN", x), x, call.emit("Sign", x))


def _not_equal(call: Call) -> None:
    call.finish("Not", call.emit("Equal", *call.inputs))


def _mod(call: Call) -> None:
    """The remainder of C, moved to the sign of the divisor."""
    if not call.dtype.is_float:
        call.finish("Mod", *call.inputs)
        return
    x, y = call.inputs
    zero = call.scope.array(np.zeros((), call.dtype.numpy))
    rest = call.emit("Mod", x, y, fmod=1)
    signs = call.emit("Xor", call.emit("Less", rest, zero), call.emit("Less", y, zero))
    nonzero = call.emit("Not", call.emit("Equal", rest, zero))
    moved = call.emit("And", signs, nonzero)
    call.finish("Where", moved, call.emit("Add", rest, y), rest)


def _cast(call: Call) -> None:
    call.scope.cast(call.inputs[0], call["dtype"], call.outputs[0])


def _bitcast(call: Call) -> None:
    """Integers of one size are each other's bits; the rest came with an opset beyond ours."""
    source, dtype = call.node.present_operands[0].type.dtype, call["dtype"]
    if not (source.is_integer and dtype.is_integer):
        raise VerifyError(f"ONNX has no `bitcast` from {source} to {dtype} in the opset we write")
    call.scope.cast(call.inputs[0], dtype, call.outputs[0])


def _full(call: Call) -> None:
    value = Constant(np.asarray([call["value"]]).astype(call.dtype.numpy))
    shape = call.scope.shape(call["shape"])
    call.finish("ConstantOfShape", shape, value=tensor_of(value))


def _iota(call: Call) -> None:
    scope = call.scope
    zero, one = (scope.array(np.asarray(i, np.int64)) for i in (0, 1))
    places = call.emit("Range", zero, scope.scalar(call["size"]), one)
    scope.cast(places, call.dtype, call.outputs[0])


def _dim_value(call: Call) -> None:
    call.scope.cast(call.scope.scalar(call["size"]), call.dtype, call.outputs[0])


def _bind_size(call: Call) -> None:
    """A size that must be equal is left to the operators that use it."""
    symbol = bound_symbol(call.node)
    if symbol is not None and isinstance(call.scope, GraphScope):
        call.scope.bind(symbol, call.inputs[0])
    call.finish("Identity", call.inputs[0])


def _suppress(call: Call) -> None:
    """What `NonMaxSuppression` selects, of one class in each row, as flags."""
    boxes, scores, *limits = call.inputs
    rows = call.emit("Unsqueeze", scores, call.scope.integers([1]))
    center = int(call["center"])
    found = call.emit("NonMaxSuppression", boxes, rows, *limits, center_point_box=center)
    places = call.emit("Gather", found, call.scope.integers([0, 2]), axis=1)
    count = call.emit("Shape", found, start=0, end=1)
    blank = call.emit("ConstantOfShape", call.emit("Shape", scores),
                      value=tensor_of(Constant(np.zeros(1, np.int64))))  # fmt: skip
    ones = call.emit("ConstantOfShape", count, value=tensor_of(Constant(np.ones(1, np.int64))))
    flags = call.emit("ScatterND", blank, places, ones)
    call.scope.cast(flags, DType.bool, call.outputs[0])


def _reshape(call: Call) -> None:
    call.finish("Reshape", call.inputs[0], call.scope.shape(call["shape"]), allowzero=1)


def _transpose(call: Call) -> None:
    call.finish("Transpose", *call.inputs, perm=call["perm"])


def _expand(call: Call) -> None:
    call.finish("Expand", call.inputs[0], call.scope.shape(call["shape"]))


def _slice(call: Call) -> None:
    scope, step, stop = call.scope, call["step"], call["stop"]
    if step < 0 and stop == -1:
        stop = -(2**63)  # -1 would be the last element
    ends: list[Dim] = [call["start"], stop]
    starts, stops = map(scope.dim, ends)
    axes, steps = scope.integers([call["axis"]]), scope.integers([step])
    call.finish("Slice", call.inputs[0], starts, stops, axes, steps)


def _concat(call: Call) -> None:
    call.finish("Concat", *call.inputs, axis=call["axis"])


def _pad(call: Call) -> None:
    widths = call.scope.integers([*call["low"], *call["high"]])
    value = call.scope.array(np.asarray(call["value"]).astype(call.dtype.numpy))
    call.finish("Pad", call.inputs[0], widths, value)


def _indexed(operator: str, attribute: str, onnx_attribute: str) -> Callable[[Call], None]:
    """A rule for operators whose second operand holds indices."""

    def write(call: Call) -> None:
        x, indices, *others = call.inputs
        index_value = call.node.operands[1]
        assert index_value is not None
        if index_value.type.dtype is not DType.i64:
            indices = call.scope.cast(indices, DType.i64)
        call.finish(operator, x, indices, *others, **{onnx_attribute: call[attribute]})

    return write


def _reduce(operator: str) -> Callable[[Call], None]:
    def write(call: Call) -> None:
        if not call["axes"]:
            call.finish("Identity", *call.inputs)
            return
        axes = call.scope.integers(call["axes"])
        call.finish(operator, call.inputs[0], axes, keepdims=int(call["keepdims"]))

    return write


def _mean(call: Call) -> None:
    """ONNX Runtime has few means of integers: theirs is the sum over the count, towards zero."""
    if call.dtype.is_float or not call["axes"]:
        _reduce("ReduceMean")(call)
        return
    scope, shape = call.scope, call.node.present_operands[0].type.shape
    count = scope.cast(scope.dim(product(shape[axis] for axis in call["axes"])), call.dtype)
    axes = scope.integers(call["axes"])
    total = call.emit("ReduceSum", call.inputs[0], axes, keepdims=int(call["keepdims"]))
    quotient = call.emit("Div", total, count)  # the count has one axis, so shape it back
    call.finish("Reshape", quotient, scope.shape(call.node.result.type.shape))


def _place(operator: str) -> Callable[[Call], None]:
    def write(call: Call) -> None:
        call.finish(operator, *call.inputs, axis=call["axis"], keepdims=int(call["keepdims"]),
                    select_last_index=int(call["last"]))  # fmt: skip

    return write


def _cumsum(call: Call) -> None:
    axis = call.scope.array(np.asarray(call["axis"], np.int64))
    flags = {name: int(call[name]) for name in ("exclusive", "reverse")}
    call.finish("CumSum", call.inputs[0], axis, **flags)


def _topk(call: Call) -> None:
    call.finish("TopK", call.inputs[0], call.scope.dim(call["k"]), axis=call["axis"],
                largest=int(call["largest"]))  # fmt: skip


def _conv(call: Call) -> None:
    kernel = call.node.present_operands[1].type.shape[2:]
    call.finish("Conv", *call.inputs, kernel_shape=kernel, strides=call["strides"],
                pads=[*call["low"], *call["high"]], dilations=call["dilations"],
                group=call["groups"])  # fmt: skip


def _max_pool(call: Call) -> None:
    call.finish("MaxPool", *call.inputs, kernel_shape=call["kernel"], strides=call["strides"],
                pads=[*call["low"], *call["high"]], dilations=call["dilations"])  # fmt: skip


def _average_pool(call: Call) -> None:
    call.finish("AveragePool", *call.inputs, kernel_shape=call["kernel"], strides=call["strides"],
                pads=[*call["low"], *call["high"]],
                count_include_pad=int(call["count_padding"]))  # fmt: skip


ONNX_RULES: dict[str, OnnxRule] = {
    "neg": _plain("Neg", _types("f16 f32 f64 i8 i32 i64")),
    "abs": _plain("Abs", _types("f16 f32 f64 i8 i16 i32 i64 u8 u16 u32 u64")),
    "sign": OnnxRule(_sign, _MATH),
    "exp": _plain("Exp", _FLOATS),
    "log": _plain("Log", _FLOATS),
    "sqrt": _plain("Sqrt", _FLOATS),
    "rsqrt": OnnxRule(_rsqrt, _FLOATS),
    "reciprocal": _plain("Reciprocal", _FLOATS),
    "tanh": _plain("Tanh", _FLOATS),
    "sigmoid": _plain("Sigmoid", _FLOATS),
    "erf": _plain("Erf", _F32),
    "sin": _plain("Sin", _FLOATS),
    "cos": _plain("Cos", _FLOATS),
    "floor": _plain("Floor", _FLOATS),
    "ceil": _plain("Ceil", _FLOATS),
    "round": _plain("Round", _FLOATS),
    "isnan": _plain("IsNaN", _FLOATS),
    "isinf": _plain("IsInf", _types("f32 f64")),
    "logical_not": _plain("Not", _ALL),
    "bitwise_not": _plain("BitwiseNot", _ALL),
    "add": _plain("Add", _MATH),
    "sub": _plain("Sub", _MATH),
    "mul": _plain("Mul", _MATH),
    "div": _plain("Div", _MATH),
    "mod": OnnxRule(_mod, _ORDERED),
    "pow": _plain("Pow", _MATH),
    "maximum": _plain("Max", _ORDERED),
    "minimum": _plain("Min", _ORDERED),
    "equal": _plain("Equal", _types("f16 f32 f64 i32 i64 bool")),
    "not_equal": OnnxRule(_not_equal, _types("f16 f32 f64 i32 i64 bool")),
    "less": _plain("Less", _MATH),
    "less_equal": _plain("LessOrEqual", _MATH),
    "greater": _plain("Greater", _MATH),
    "greater_equal": _plain("GreaterOrEqual", _MATH),
    "logical_and": _plain("And", _ALL),
    "logical_or": _plain("Or", _ALL),
    "logical_xor": _plain("Xor", _ALL),
    "bitwise_and": _plain("BitwiseAnd", _ALL),
    "bitwise_or": _plain("BitwiseOr", _ALL),
    "bitwise_xor": _plain("BitwiseXor", _ALL),
    "where": _plain("Where", _types("f16 f32 f64 i32 i64 u8")),
    "cast": OnnxRule(_cast, _ALL),
    "bitcast": OnnxRule(_bitcast, _ALL),
    "full": OnnxRule(_full, _MOVED),
    "iota": OnnxRule(_iota, _ALL),
    "dim_value": OnnxRule(_dim_value, _ALL),
    "bind_size": OnnxRule(_bind_size, _types("i64")),
    "suppress": OnnxRule(_suppress, _types("f32")),
    "matmul": _plain("MatMul", _ORDERED),
    "reshape": OnnxRule(_reshape, _ALL),
    "transpose": OnnxRule(_transpose, _ALL),
    "expand": OnnxRule(_expand, _MOVED),
    "slice": OnnxRule(_slice, _MOVED),
    "concat": OnnxRule(_concat, _ALL),
    "pad": OnnxRule(_pad, _types("f16 f32 f64 i8 i32 i64 u8 u32 u64 bool")),
    "gather": OnnxRule(_indexed("Gather", "axis", "axis"), _MOVED),
    "gather_elements": OnnxRule(_indexed("GatherElements", "axis", "axis"), _MOVED),
    "gather_nd": OnnxRule(_indexed("GatherND", "batch_dims", "batch_dims"), _MOVED),
    "scatter_nd": OnnxRule(_indexed("ScatterND", "reduction", "reduction"), _MOVED),
    "reduce_sum": OnnxRule(_reduce("ReduceSum"), _MATH),
    "reduce_mean": OnnxRule(_mean, _MATH),
    "reduce_max": OnnxRule(_reduce("ReduceMax"), _types("f16 f32 f64 i32 i64")),
    "reduce_min": OnnxRule(_reduce("ReduceMin"), _types("f16 f32 f64 i32 i64")),
    "reduce_prod": OnnxRule(_reduce("ReduceProd"), _types("f16 f32 f64 i32 i64")),
    "reduce_all": OnnxRule(_reduce("ReduceMin"), _types("i32")),
    "argmax": OnnxRule(_place("ArgMax"), _types("f16 f32 f64 i32")),
    "argmin": OnnxRule(_place("ArgMin"), _types("f16 f32 f64 i32")),
    "cumsum": OnnxRule(_cumsum, _types("f32 f64 i32 i64")),
    "topk": OnnxRule(_topk, _types("f32 f64 i32 i64")),
    "conv": OnnxRule(_conv, _F32),
    "max_pool": OnnxRule(_max_pool, _FLOATS),
    "average_pool": OnnxRule(_average_pool, _F32),
}
