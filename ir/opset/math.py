"""Elementwise primitives; two or three operands broadcast as in NumPy."""

from __future__ import annotations

from ..ops import OpDef, op
from ..types import DType, TensorType, broadcast

__all__ = [
    "abs_", "add", "bitcast", "bitwise_and", "bitwise_not", "bitwise_or", "bitwise_xor", "cast",
    "ceil", "cos", "div", "equal", "erf", "exp", "floor", "greater", "greater_equal", "isinf",
    "isnan", "less", "less_equal", "log", "logical_and", "logical_not", "logical_or",
    "logical_xor", "maximum", "minimum", "mod", "mul", "neg", "not_equal", "pow_", "reciprocal",
    "round_", "rsqrt", "sigmoid", "sign", "sin", "sqrt", "sub", "tanh", "where",
]  # fmt: skip


def _same(x: TensorType) -> TensorType:
    return x


def _float(x: TensorType, /) -> TensorType:
    if not x.dtype.is_float:
        raise ValueError(f"needs a floating-point operand, not {x}")
    return x


def _test(x: TensorType, /) -> TensorType:
    return _float(x).with_dtype(DType.bool)


def _flags(x: TensorType, /) -> TensorType:
    if x.dtype is not DType.bool:
        raise ValueError(f"needs bool operands, not {x}")
    return x


def _integers(x: TensorType, /) -> TensorType:
    if not x.dtype.is_integer:
        raise ValueError(f"needs an integer operand, not {x}")
    return x


def _pair(x: TensorType, y: TensorType, /) -> TensorType:
    if x.dtype is not y.dtype:
        raise ValueError(f"needs equal element types, not {x.dtype} and {y.dtype}")
    return TensorType(x.dtype, broadcast(x.shape, y.shape))


def _compare(x: TensorType, y: TensorType, /) -> TensorType:
    return _pair(x, y).with_dtype(DType.bool)


def _flag_pair(x: TensorType, y: TensorType, /) -> TensorType:
    return _flags(_pair(x, y))


def _integer_pair(x: TensorType, y: TensorType, /) -> TensorType:
    return _integers(_pair(x, y))


def _number(x: TensorType, /) -> TensorType:
    if x.dtype is DType.bool:
        raise ValueError("needs a number, not bool")
    return x


def _elementwise(name: str, infer: object, doc: str, *traits: str) -> OpDef:
    def rule1(x: TensorType, /) -> TensorType:
        return infer(x)  # type: ignore[operator,no-any-return]  # one of the rules above

    def rule2(x: TensorType, y: TensorType, /) -> TensorType:
        return infer(x, y)  # type: ignore[operator,no-any-return]  # one of the rules above

    rule = rule2 if infer in (_pair, _compare, _flag_pair, _integer_pair) else rule1
    rule.__doc__ = doc
    return op(name, "pure", "elementwise", *traits)(rule)


neg = _elementwise("neg", _number, "The opposite number; unsigned integers wrap.")
abs_ = _elementwise("abs", _number, "The magnitude.")
sign = _elementwise("sign", _number, "-1, 0 or 1; NaN stays.")
exp = _elementwise("exp", _float, "e to the power x.")
log = _elementwise("log", _float, "The natural logarithm.")
sqrt = _elementwise("sqrt", _float, "The square root.")
rsqrt = _elementwise("rsqrt", _float, "One over the square root.")
reciprocal = _elementwise("reciprocal", _float, "One over x.")
tanh = _elementwise("tanh", _float, "The hyperbolic tangent.")
sigmoid = _elementwise("sigmoid", _float, "1 / (1 + exp(-x)).")
erf = _elementwise("erf", _float, "The error function.")
sin = _elementwise("sin", _float, "The sine of an angle in radians.")
cos = _elementwise("cos", _float, "The cosine of an angle in radians.")
floor = _elementwise("floor", _float, "The greatest integer that is not above x.")
ceil = _elementwise("ceil", _float, "The least integer that is not below x.")
round_ = _elementwise("round", _float, "The nearest integer, ties to even.")
isnan = _elementwise("isnan", _test, "Whether x is not a number.")
isinf = _elementwise("isinf", _test, "Whether x is infinite, of either sign.")
logical_not = _elementwise("logical_not", _flags, "Whether x is false.")
bitwise_not = _elementwise("bitwise_not", _integers, "Each bit flipped.")

add = _elementwise("add", _pair, "The sum; of bools, whether either is true.", "commutative")
sub = _elementwise("sub", _pair, "The difference.")
mul = _elementwise("mul", _pair, "The product.", "commutative")
div = _elementwise("div", _pair, "The quotient; of integers, rounded towards zero (C).")
mod = _elementwise("mod", _pair, "x - y * floor(x / y): the sign of y, as ONNX Mod with fmod=0.")
pow_ = _elementwise("pow", _pair, "x to the power y.")
maximum = _elementwise("maximum", _pair, "The greater; NaN wins.", "commutative")
minimum = _elementwise("minimum", _pair, "The lesser; NaN wins.", "commutative")
equal = _elementwise("equal", _compare, "Whether x is y.", "commutative")
not_equal = _elementwise("not_equal", _compare, "Whether x is not y.", "commutative")
less = _elementwise("less", _compare, "Whether x < y.")
less_equal = _elementwise("less_equal", _compare, "Whether x <= y.")
greater = _elementwise("greater", _compare, "Whether x > y.")
greater_equal = _elementwise("greater_equal", _compare, "Whether x >= y.")
logical_and = _elementwise("logical_and", _flag_pair, "Whether both are true.", "commutative")
logical_or = _elementwise("logical_or", _flag_pair, "Whether either is true.", "commutative")
logical_xor = _elementwise("logical_xor", _flag_pair, "Whether just one is true.", "commutative")
bitwise_and = _elementwise("bitwise_and", _integer_pair, "Bits set in both.", "commutative")
bitwise_or = _elementwise("bitwise_or", _integer_pair, "Bits set in either.", "commutative")
bitwise_xor = _elementwise("bitwise_xor", _integer_pair, "Bits set in just one.", "commutative")


@op("where", "pure", "elementwise")
def where(condition: TensorType, x: TensorType, y: TensorType, /) -> TensorType:
    """`x` where the condition holds, else `y`."""
    if condition.dtype is not DType.bool:
        raise ValueError(f"needs a bool condition, not {condition}")
    if x.dtype is not y.dtype:
        raise ValueError(f"needs equal element types, not {x.dtype} and {y.dtype}")
    return TensorType(x.dtype, broadcast(condition.shape, x.shape, y.shape))


@op("cast", "pure", "elementwise")
def cast(x: TensorType, /, *, dtype: DType) -> TensorType:
    """Another element type; floats become integers towards zero, numbers bool by `x != 0`."""
    return x.with_dtype(dtype)


@op("bitcast", "pure", "elementwise", "bits")
def bitcast(x: TensorType, /, *, dtype: DType) -> TensorType:
    """The same bits as another element type of that size (ONNX `BitCast`)."""
    if x.dtype.bytes != dtype.bytes or (dtype is DType.bool) != (x.dtype is DType.bool):
        raise ValueError(f"the bits of {x.dtype} do not make {dtype}")
    return x.with_dtype(dtype)
