"""What ONNX Runtime's optimizer makes of neighbours: an operator with an activation behind it, and
operators between a `DequantizeLinear` for each operand and a `QuantizeLinear`.

Each is the standard operator with something around it. Meanings are those of ONNX Runtime's
`docs/ContribOperators.md`; ONNX Runtime rounds some in another order, by one unit at most.
"""

# mypy: disable-error-code="no-any-return"
# (operators hand back `Any`: their results are read from their types)

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from tunesmith.ir import opset as ops
from tunesmith.ir.ops import Expr
from tunesmith.ir.types import DType

from ..onnx_call import Call, Result, Rule, Table, Tensor
from .activation import ACTIVATION
from .building import cast_to, permute, reshape_to
from .convolution import CONVOLUTION
from .linear import LINEAR, integer_product
from .math import MATH
from .movement import MOVEMENT
from .norm import NORM
from .quantize import QUANTIZE, quantized
from .reduce import REDUCE

__all__ = ["MICROSOFT_FUSED"]

_STANDARD: Table = {**REDUCE, **NORM, **MOVEMENT, **MATH, **LINEAR, **CONVOLUTION, **ACTIVATION}
_OPSET = 19  # as which a standard operator is taken, where nothing says another one


def _standard(call: Call, name: str, operands: Sequence[Expr], opset: int = _OPSET) -> Expr:
    """A standard operator on other operands, with the attributes of this node."""
    rule = [rule for since, rule in _STANDARD[name] if since <= opset][-1]
    inner = replace(call, operator=name, domain="", opset=opset, outputs=call.outputs[:1],
                    inputs=[Tensor.of(x) for x in operands])  # fmt: skip
    result = rule(inner)
    found = result if isinstance(result, Expr | Tensor) else result[0]
    return found if isinstance(found, Expr) else found.expr


# An activation behind an operator.

Activation = Callable[[Expr, Sequence[float]], Expr]

_ACTIVATIONS: dict[str, tuple[int, Activation]] = {  # parameters, and the meaning
    "Relu": (0, lambda x, p: ops.relu(x)),
    "Tanh": (0, lambda x, p: ops.tanh(x)),
    "Sigmoid": (0, lambda x, p: ops.sigmoid(x)),
    "LeakyRelu": (1, lambda x, p: ops.where(ops.less(x, 0.0), x * p[0], x)),
    "Clip": (2, lambda x, p: ops.clip(x, low=p[0], high=p[1])),
    "HardSigmoid": (2, lambda x, p: ops.clip(x * p[0] + p[1], low=0.0, high=1.0)),
}


def _activated(call: Call, x: Expr, parameters: Sequence[float]) -> Expr:
    name = call.text("activation", "")
    if not name:
        return x
    if name not in _ACTIVATIONS:
        call.fail(f"its activation `{name}` is not one of {', '.join(_ACTIVATIONS)}")
    count, meaning = _ACTIVATIONS[name]
    if len(parameters) < count:
        call.fail(f"its activation `{name}` needs {count} parameters, not {len(parameters)}")
    return meaning(x, parameters)


def _fused_conv(call: Call) -> Result:
    """A convolution, another image that is added, and an activation."""
    y = _standard(call, "Conv", [call.x(i) for i in range(3) if call.has(i)])
    if call.has(3):
        y = y + call.x(3)
    return _activated(call, y, call.number_list("activation_params") or [])


def _fused_gemm(call: Call) -> Result:
    """A product with what is added, and an activation."""
    y = _standard(call, "Gemm", [call.x(i) for i in range(3) if call.has(i)])
    given = [call.number(name) for name in ("activation_alpha", "activation_beta")
             if name in call.attributes]  # fmt: skip
    return _activated(call, y, given)


# Operators between integers.


def _real(call: Call, index: int) -> Expr:
    """Operands `index` to `index + 2`: codes, a scale, and a zero point."""
    whole = cast_to(call.x(index), DType.i32)
    if call.has(index + 2):
        whole = whole - cast_to(_single(call, index + 2), DType.i32)
    return ops.dequantize(whole, _single(call, index + 1))


def _single(call: Call, index: int) -> Expr:
    x = call.x(index)
    if x.type.size != 1:
        call.fail(f"operand {index}, {x.type}, is not one number")
    return reshape_to(x, ())


def _codes(call: Call, y: Expr, scale: int, dtype: DType) -> Expr:
    """`y` as integers; their scale is operand `scale`, and their zero point comes behind it."""
    zero = _single(call, scale + 1) if call.has(scale + 1) else None
    return quantized(call, y, _single(call, scale), zero, dtype)


def _between(name: str, operands: int) -> Rule:
    """A standard operator on so many operands of integers."""

    def rule(call: Call) -> Result:
        if call.integer("channels_last", 0):
            call.fail("channels that come last are not supported")
        reals = [_real(call, 3 * i) for i in range(operands)]
        opset = call.integer("opset", _OPSET)
        y = _standard(call, name, reals, opset)
        return _codes(call, y, 3 * operands if operands > 1 else 3, call.dtype(0))

    return rule


def _concat(call: Call) -> Result:
    parts = [_real(call, i) for i in range(2, len(call.inputs), 3)]
    return _codes(call, _standard(call, "Concat", parts), 0, call.dtype(2))


def _where(call: Call) -> Result:
    y = ops.where(call.x(0), _real(call, 1), _real(call, 4))
    return _codes(call, y, 7, call.dtype(1))


def _gemm(call: Call) -> Result:
    """A product of integers, an i32 that is added to it, and its scale; codes if it has one."""
    a, b = call.x(0), call.x(3)
    a = permute(a, (1, 0)) if call.integer("transA", 0) else a
    b = permute(b, (1, 0)) if call.integer("transB", 0) else b
    zeros = [cast_to(_flat(call.x(i)), DType.i32) if call.has(i) else None for i in (2, 5)]
    total = integer_product(call, a, zeros[0], b, zeros[1])
    if call.has(6):
        total = total + call.x(6)
    y = cast_to(total, DType.f32) * (_flat(call.x(1)) * _flat(call.x(4)))
    alpha = call.number("alpha", 1.0)
    y = y if alpha == 1.0 else y * alpha
    return _codes(call, y, 7, call.dtype(0)) if call.has(7) else y


def _flat(x: Expr) -> Expr:
    """One number, or one for each column."""
    return reshape_to(x, ()) if x.type.size == 1 else x


def _same(name: str) -> Rule:
    """The standard operator of the time before blocks."""

    def rule(call: Call) -> Result:
        if call.integer("block_size", 0):
            call.fail("blocks are not supported")
        rule = [rule for since, rule in QUANTIZE[name] if since <= _OPSET][-1]
        return rule(replace(call, opset=_OPSET))

    return rule


MICROSOFT_FUSED: Table = {
    "DequantizeLinear": ((1, _same("DequantizeLinear")),),
    "FusedConv": ((1, _fused_conv),),
    "FusedGemm": ((1, _fused_gemm),),
    "QGemm": ((1, _gemm),),
    "QLinearAdd": ((1, _between("Add", 2)),),
    "QLinearAveragePool": ((1, _between("AveragePool", 1)),),
    "QLinearConcat": ((1, _concat),),
    "QLinearGlobalAveragePool": ((1, _between("GlobalAveragePool", 1)),),
    "QLinearLeakyRelu": ((1, _between("LeakyRelu", 1)),),
    "QLinearMul": ((1, _between("Mul", 2)),),
    "QLinearSigmoid": ((1, _between("Sigmoid", 1)),),
    "QLinearSoftmax": ((1, _between("Softmax", 1)),),
    "QLinearWhere": ((1, _where),),
    "QuantizeLinear": ((1, _same("QuantizeLinear")),),
}
