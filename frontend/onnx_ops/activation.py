"""Activations, softmax and clipping."""

# mypy: disable-error-code="no-any-return"
# (operators hand back `Any`: their results are read from their types)

from __future__ import annotations

from math import inf

from tunesmith.ir import opset as ops
from tunesmith.ir.ops import Expr, OpDef

from ..onnx_call import Call, Result, Rule, Table
from .building import by_function, cast_to, flatten_to, reshape_to

__all__ = ["ACTIVATION", "bounded"]


def softplus(x: Expr) -> Expr:
    """`log(1 + exp(x))` without overflow, and exact for numbers far below zero too.

    There `1 + exp(x)` rounds to 1: with s = e / (2 + e), `log(1 + e)` is 2 (s + s³/3 + s⁵/5 + …).
    """
    e = ops.exp(-ops.abs_(x))
    s = e / (e + 2.0)
    q = s * s
    series = s * ((((q / 7.0 + 0.2) * q + 1 / 3) * q + 1.0) * 2.0)
    return ops.maximum(x, 0) + ops.where(ops.less(e, 0.125), series, ops.log(e + 1.0))


def _hard_sigmoid(x: Expr, alpha: float, beta: float) -> Expr:
    return ops.clip(x * alpha + beta, low=0.0, high=1.0)


def _elu(x: Expr, alpha: float, gamma: float = 1.0, slope: float = 1.0) -> Expr:
    below = (ops.exp(ops.minimum(x, 0) * slope) - 1.0) * alpha
    found = ops.where(ops.greater(x, 0), x, below)
    return found if gamma == 1.0 else found * gamma


def _celu(call: Call) -> Result:
    alpha = call.number("alpha", 1.0)
    return _elu(call.x(), alpha, slope=1.0 / alpha)


def _selu(call: Call) -> Result:
    return _elu(call.x(), call.number("alpha", 1.67326319217681884765625),
                call.number("gamma", 1.05070102214813232421875))  # fmt: skip


def _leaky(call: Call) -> Result:
    x = call.x()
    return ops.where(ops.less(x, 0), x * call.number("alpha", 0.01), x)


def _prelu(call: Call) -> Result:
    x, slope = call.x(0), call.x(1)
    return ops.where(ops.less(x, 0), x * slope, x)


def _prelu_by_channel(call: Call) -> Result:
    x, slope = call.x(0), call.x(1)
    if slope.shape in ((), (1,)) or len(x.shape) < 2:
        return _prelu(call)
    slope = reshape_to(slope, (*slope.shape, *(1 for _ in x.shape[2:])))
    return ops.where(ops.less(x, 0), x * slope, x)


def _thresholded(call: Call) -> Result:
    x = call.x()
    return ops.where(ops.greater(x, call.number("alpha", 1.0)), x, 0.0)


def _shrink(call: Call) -> Result:
    x = call.x()
    bias, bound = call.number("bias", 0.0), call.number("lambd", 0.5)
    low = ops.where(ops.less(x, -bound), x + bias, x * 0)
    return ops.where(ops.greater(x, bound), x - bias, low)


def _gelu(call: Call) -> Result:
    return ops.gelu(call.x(), approximate=call.text("approximate", "none"))


def _swish(call: Call) -> Result:
    x, alpha = call.x(), call.number("alpha", 1.0)
    return ops.silu(x) if alpha == 1.0 else x * ops.sigmoid(x * alpha)


def bounded(call: Call, x: Expr, low: float | None, high: float | None) -> Expr:
    """`x` held between bounds that are known; `None` is open."""
    if low is not None and high is not None and x.dtype.is_float and low <= high:
        return ops.clip(x, low=low, high=high)
    if low is not None:
        x = ops.maximum(x, call.scalar_of(low, x.dtype))
    return x if high is None else ops.minimum(x, call.scalar_of(high, x.dtype))


def _clip_attributes(call: Call) -> Result:
    low, high = call.number("min", -inf), call.number("max", inf)
    return bounded(call, call.x(), None if low == -inf else low, None if high == inf else high)


def _clip(call: Call) -> Result:
    x = call.x()
    low = call.scalar(1) if call.has(1) else None
    high = call.scalar(2) if call.has(2) else None
    if (low is not None or not call.has(1)) and (high is not None or not call.has(2)):
        return bounded(call, x, low, high)
    if call.has(1):
        x = ops.maximum(x, reshape_to(call.x(1), ()))
    return ops.minimum(x, reshape_to(call.x(2), ())) if call.has(2) else x


def _softmax(operator: OpDef) -> tuple[tuple[int, Rule], ...]:
    def flattened(call: Call) -> Result:
        """Before opset 13 all axes from `axis` on are one row."""
        x = call.x()
        axis = call.axis(call.integer("axis", 1), len(x.shape))
        if axis == len(x.shape) - 1:
            return operator(x, axis=-1)
        flat = reshape_to(x, flatten_to(x.shape, axis))
        return reshape_to(operator(flat, axis=-1), x.shape)

    def by_axis(call: Call) -> Result:
        x = call.x()
        axis = call.axis(call.integer("axis", -1), len(x.shape))
        return operator(x, axis=-1 if axis == len(x.shape) - 1 else axis)

    return (1, flattened), (13, by_axis)


def _hardmax_rows(x: Expr, axis: int) -> Expr:
    places = ops.argmax(x, axis=axis, keepdims=True)
    shape = [1] * len(x.shape)
    line: list[object] = list(shape)
    line[axis] = x.shape[axis]
    index = reshape_to(ops.iota(size=x.shape[axis], dtype=places.dtype), tuple(line))  # type: ignore[arg-type]
    return cast_to(ops.equal(index, places), x.dtype)


def _hardmax(call: Call) -> Result:
    x = call.x()
    axis = call.axis(call.integer("axis", -1 if call.opset >= 13 else 1), len(x.shape))
    if call.opset >= 13:
        return _hardmax_rows(x, axis)
    flat = reshape_to(x, flatten_to(x.shape, axis))
    return reshape_to(_hardmax_rows(flat, 1), x.shape)


ACTIVATION: Table = {
    "Celu": ((12, _celu),),
    "Clip": ((6, _clip_attributes), (11, _clip)),
    "Elu": ((1, lambda call: _elu(call.x(), call.number("alpha", 1.0))),),
    "Gelu": ((20, _gelu),),
    "HardSigmoid": (
        (1, lambda c: _hard_sigmoid(c.x(), c.number("alpha", 0.2), c.number("beta", 0.5))),
    ),
    "HardSwish": ((14, by_function(lambda x: x * _hard_sigmoid(x, 1 / 6, 0.5))),),
    "Hardmax": ((1, _hardmax),),
    "LeakyRelu": ((1, _leaky),),
    "LogSoftmax": _softmax(ops.log_softmax),
    "Mish": ((18, by_function(lambda x: x * ops.tanh(softplus(x)))),),
    "PRelu": ((1, _prelu_by_channel), (7, _prelu)),
    "Relu": ((1, lambda call: ops.relu(call.x())),),
    "Selu": ((6, _selu),),
    "Shrink": ((9, _shrink),),
    "Sigmoid": ((1, lambda call: ops.sigmoid(call.x())),),
    "Softmax": _softmax(ops.softmax),
    "Softplus": ((1, by_function(softplus)),),
    "Softsign": ((1, by_function(lambda x: x / (ops.abs_(x) + 1.0))),),
    "Swish": ((24, _swish),),
    "ThresholdedRelu": ((10, _thresholded),),
}
