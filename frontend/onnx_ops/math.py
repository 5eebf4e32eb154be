"""Elementwise arithmetic, comparisons and logic."""

# mypy: disable-error-code="no-any-return"
# (operators hand back `Any`: their results are read from their types)

from __future__ import annotations

from math import inf, pi

from tunesmith.ir import opset as ops
from tunesmith.ir.ops import Expr, OpDef
from tunesmith.ir.types import DType

from ..onnx_call import Call, Result, Rule, Table
from .broadcast import since_1
from .building import by_function, cast_to
from .narrow import converted

__all__ = ["MATH"]


def unary(operator: OpDef) -> Rule:
    """An operator of one operand that is a primitive."""
    return lambda call: operator(call.x())


def binary(operator: OpDef) -> Rule:
    """An operator of two operands that is a primitive."""
    return lambda call: operator(call.x(0), call.x(1))


def _logic(operator: OpDef, neutral: bool) -> Rule:
    """`and` or `or`, without an operand that changes nothing."""

    def rule(call: Call) -> Result:
        x, y = call.x(0), call.x(1)
        for one, other in ((x, y), (y, x)):
            array = one.value.constant
            if array is not None and array.scalar is neutral and len(one.shape) <= len(other.shape):
                return other
        return operator(x, y)

    return rule


def _variadic(operator: OpDef) -> Rule:
    def rule(call: Call) -> Result:
        found = call.x(0)
        for other in call.all()[1:]:
            found = operator(found, other)
        return found

    return rule


def _mean(call: Call) -> Result:
    found = call.x(0)
    for other in call.all()[1:]:
        found = found + other
    return found / len(call.inputs) if len(call.inputs) > 1 else found


def _integer_or(operator: OpDef) -> Rule:
    """A rounding operator, which leaves integers as they are."""
    return lambda call: call.x() if call.dtype().is_integer else operator(call.x())


def _pow(call: Call) -> Result:
    base, exponent = call.x(0), call.tensor(1)
    if exponent.type.dtype is base.dtype:
        return ops.pow_(base, exponent.expr)
    if base.dtype.is_float or not exponent.type.dtype.is_float:
        return ops.pow_(base, cast_to(exponent.expr, base.dtype))
    wide = exponent.type.dtype
    return cast_to(ops.pow_(cast_to(base, wide), exponent.expr), base.dtype)


def _mod(call: Call) -> Result:
    x, y = call.x(0), call.x(1)
    if not call.integer("fmod", 0):
        return ops.mod(x, y)
    if x.dtype in (DType.u8, DType.u16, DType.u32, DType.u64):
        return ops.mod(x, y)
    return ops.sign(x) * ops.mod(ops.abs_(x), ops.abs_(y))


def _isinf(call: Call) -> Result:
    x = call.x()
    low, high = call.integer("detect_negative", 1), call.integer("detect_positive", 1)
    if low and high:
        return ops.isinf(x)
    if low or high:
        return ops.equal(x, inf if high else -inf)
    return ops.not_equal(x, x) if not x.dtype.is_float else ops.logical_and(ops.isinf(x), False)


def _cast(call: Call) -> Result:
    dtype = call.dtype(1) if call.operator == "CastLike" else call.element("to")
    saturate, rounding = bool(call.integer("saturate", 1)), call.text("round_mode", "up")
    return converted(call, call.x(0), dtype, saturate=saturate, rounding=rounding)


def _bitcast(call: Call) -> Result:
    x, dtype = call.x(0), call.element("to")
    if DType.bool in (x.dtype, dtype):  # whose bits are 0 and 1
        if x.dtype.bytes != dtype.bytes:
            call.fail(f"the bits of {x.dtype} do not make {dtype}")
        if dtype is DType.bool:
            return cast_to(x if x.dtype is dtype else ops.bitcast(x, dtype=DType.u8), dtype)
        x = cast_to(x, DType.u8)
    return x if x.dtype is dtype else ops.bitcast(x, dtype=dtype)


def _where(call: Call) -> Result:
    return ops.where(call.x(0), call.x(1), call.x(2))


def _bitshift(call: Call) -> Result:
    x, y = call.x(0), call.x(1)
    if x.dtype.value.startswith("i"):
        return _signed_shift(call, x, y)
    bits = x.dtype.bytes * 8
    inside = ops.less(y, bits)
    power = ops.pow_(ops.where(inside, x * 0 + 2, 1), ops.where(inside, y, 0))
    shifted = ops.div(x, power) if call.text("direction") == "RIGHT" else x * power
    return ops.where(inside, shifted, 0)


def _signed_shift(call: Call, x: Expr, y: Expr) -> Expr:
    """By arithmetic: the sign is kept; a negative distance, or one beyond the width, is far."""
    bits = x.dtype.bytes * 8
    inside = ops.logical_and(ops.greater_equal(y, 0), ops.less(y, bits))
    if call.text("direction") == "RIGHT":
        # halves are taken of what is not negative: ~x is -x - 1, and floors become ceilings
        whole = ops.where(ops.less(x, 0), ops.bitwise_not(x), x)
        most = ops.logical_and(inside, ops.less(y, bits - 1))
        power = ops.pow_(ops.where(most, x * 0 + 2, 1), ops.where(most, y, 0))
        part = ops.where(most, ops.div(whole, power), 0)
        return ops.where(ops.less(x, 0), ops.bitwise_not(part), part)
    power = ops.pow_(ops.where(inside, x * 0 + 2, 1), ops.where(inside, y, 0))
    return ops.where(inside, x * power, 0)


def _sinh(x: Expr) -> Expr:
    return (ops.exp(x) - ops.exp(-x)) * 0.5


def _cosh(x: Expr) -> Expr:
    return (ops.exp(x) + ops.exp(-x)) * 0.5


def _asinh(x: Expr) -> Expr:
    size = ops.abs_(x)
    return ops.sign(x) * ops.log(size + ops.sqrt(size * size + 1.0))


def _acosh(x: Expr) -> Expr:
    return ops.log(x + ops.sqrt(x * x - 1.0))


def _atanh(x: Expr) -> Expr:
    return ops.log((x + 1.0) / (1.0 - x)) * 0.5


def _tan(x: Expr) -> Expr:
    return ops.sin(x) / ops.cos(x)


# Cephes (Moshier 1989): of single, and of double precision; the highest power first.
_ATAN_F32 = (8.05374449538e-2, -1.38776856032e-1, 1.99777106478e-1, -3.33329491539e-1)
_ATAN_P = (-8.750608600031904122785e-1, -1.615753718733365076637e1, -7.500855792314704667340e1,
           -1.228866684490136173410e2, -6.485021904942025371773e1)  # fmt: skip
_ATAN_Q = (1.0, 2.485846490142306297962e1, 1.650270098316988542046e2, 4.328810604912902668951e2,
           4.853903996359136964868e2, 1.945506571482613964425e2)  # fmt: skip


def _horner(x: Expr, factors: tuple[float, ...]) -> Expr:
    found = x * factors[0] + factors[1]
    for factor in factors[2:]:
        found = found * x + factor
    return found


def _atan(x: Expr) -> Expr:
    """By a third of the quarter circle that is near 0, and what was turned away."""
    size = ops.abs_(x)
    steep = ops.greater(size, 2.414213562373095)
    near = ops.less_equal(size, 0.4142135623730950 if x.dtype is DType.f32 else 0.66)
    angle = ops.where(steep, x * 0.0 + pi / 2, ops.where(near, x * 0.0, x * 0.0 + pi / 4))
    angle = ops.where(ops.isinf(x), pi / 2, angle)
    turned = ops.where(steep, -1.0 / size, ops.where(near, size, (size - 1.0) / (size + 1.0)))
    square = turned * turned
    if x.dtype is DType.f32:
        series = _horner(square, _ATAN_F32) * square * turned + turned
    else:
        series = square * _horner(square, _ATAN_P) / _horner(square, _ATAN_Q) * turned + turned
    found = angle + series
    return ops.where(ops.less(x, 0.0), -found, ops.where(ops.equal(x, 0.0), x, found))


def _asin(x: Expr) -> Expr:
    return _atan(x / ops.sqrt((1.0 - x) * (1.0 + x)))


def _acos(x: Expr) -> Expr:
    return _atan(ops.sqrt((1.0 - x) / (1.0 + x))) * 2.0


MATH: Table = {
    "Abs": ((1, unary(ops.abs_)),),
    "Acos": ((7, by_function(_acos)),),
    "Acosh": ((9, by_function(_acosh)),),
    "Add": since_1(binary(ops.add)),
    "And": since_1(_logic(ops.logical_and, True)),
    "Asinh": ((9, by_function(_asinh)),),
    "Asin": ((7, by_function(_asin)),),
    "Atan": ((7, by_function(_atan)),),
    "Atanh": ((9, by_function(_atanh)),),
    "BitShift": ((11, _bitshift),),
    "BitwiseAnd": ((18, binary(ops.bitwise_and)),),
    "BitwiseNot": ((18, unary(ops.bitwise_not)),),
    "BitwiseOr": ((18, binary(ops.bitwise_or)),),
    "BitwiseXor": ((18, binary(ops.bitwise_xor)),),
    "BitCast": ((26, _bitcast),),
    "Cast": ((6, _cast),),
    "CastLike": ((15, _cast),),
    "Ceil": ((1, _integer_or(ops.ceil)),),
    "Cos": ((7, unary(ops.cos)),),
    "Cosh": ((9, by_function(_cosh)),),
    "Div": since_1(binary(ops.div)),
    "Equal": since_1(binary(ops.equal)),
    "Erf": ((9, unary(ops.erf)),),
    "Exp": ((1, unary(ops.exp)),),
    "Floor": ((1, _integer_or(ops.floor)),),
    "Greater": since_1(binary(ops.greater)),
    "GreaterOrEqual": ((12, binary(ops.greater_equal)),),
    "IsInf": ((10, _isinf),),
    "IsNaN": ((9, unary(ops.isnan)),),
    "Less": since_1(binary(ops.less)),
    "LessOrEqual": ((12, binary(ops.less_equal)),),
    "Log": ((1, unary(ops.log)),),
    "Max": ((6, _variadic(ops.maximum)),),
    "Mean": ((6, _mean),),
    "Min": ((6, _variadic(ops.minimum)),),
    "Mod": ((10, _mod),),
    "Mul": since_1(binary(ops.mul)),
    "Neg": ((1, unary(ops.neg)),),
    "Not": ((1, unary(ops.logical_not)),),
    "Or": since_1(_logic(ops.logical_or, False)),
    "Pow": since_1(_pow),
    "Reciprocal": ((1, unary(ops.reciprocal)),),
    "Round": ((11, _integer_or(ops.round_)),),
    "Sign": ((9, unary(ops.sign)),),
    "Sin": ((7, unary(ops.sin)),),
    "Sinh": ((9, by_function(_sinh)),),
    "Sqrt": ((1, unary(ops.sqrt)),),
    "Sub": since_1(binary(ops.sub)),
    "Sum": ((6, _variadic(ops.add)),),
    "Tan": ((7, by_function(_tan)),),
    "Tanh": ((1, unary(ops.tanh)),),
    "Where": ((9, _where),),
    "Xor": since_1(binary(ops.logical_xor)),
}
