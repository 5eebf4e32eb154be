"""Integers that stand for floats: to them, and back."""

from __future__ import annotations

import numpy as np

from tunesmith.ir import opset as ops
from tunesmith.ir.dims import exact_div
from tunesmith.ir.ops import Expr
from tunesmith.ir.types import DType

from ..onnx_call import Call, Result, Table
from .building import cast_to, expand_to, reshape_to
from .convolution import convolved_integers
from .linear import integer_product
from .narrow import converted, limits, widened

__all__ = ["QUANTIZE", "dynamic", "quantized"]

_FLOATS = (DType.f8e4m3fn, DType.f8e4m3fnuz, DType.f8e5m2, DType.f8e5m2fnuz, DType.f4e2m1)


def _along(call: Call, x: Expr, scale: Expr) -> Expr:
    """A scale, or a zero point, made to broadcast against `x`."""
    rank = len(x.shape)
    block = call.integer("block_size", 0) if call.opset >= 21 else 0
    if block > 0:
        axis = call.axis(call.integer("axis", 1), rank)
        wide = reshape_to(scale, (*scale.shape[: axis + 1], 1, *scale.shape[axis + 1 :]))
        wide = expand_to(wide, (*scale.shape[: axis + 1], block, *scale.shape[axis + 1 :]))
        flat = (*scale.shape[:axis], scale.shape[axis] * block, *scale.shape[axis + 1 :])
        if flat != x.shape:
            call.fail(f"blocks of {block} do not make {x.type}", hint="blocks must be whole")
        return reshape_to(wide, flat)
    if not scale.shape:
        return scale
    if scale.shape == (1,):
        return reshape_to(scale, ())
    axis = call.axis(call.integer("axis", 1), rank)
    return reshape_to(scale, [scale.shape[0] if i == axis else 1 for i in range(rank)])


def _is_zero(call: Call, index: int) -> bool:
    """Whether a zero point is absent, or known to be all zeros."""
    if not call.has(index):
        return True
    array = call.tensor(index).array
    if array is None or array.size > 1 << 20:
        return False
    return not np.any(array.astype(np.float32) if call.dtype(index).is_stored else array)


def _dequantize(call: Call) -> Result:
    x, scale = widened(call, call.x(0)), converted(call, call.x(1), _scale_type(call))
    factor = _along(call, x, scale)
    wanted = call.integer("output_dtype", 0) if call.opset >= 23 else 0
    dtype = call.element("output_dtype") if wanted else scale.dtype
    if _is_zero(call, 2):
        return cast_to(ops.dequantize(x, factor), dtype)
    wide = x.dtype if x.dtype.is_float else DType.i32
    zero = cast_to(_along(call, x, widened(call, call.x(2))), wide)
    shifted: Expr = cast_to(x, wide) - zero
    return cast_to(ops.dequantize(shifted, factor), dtype)


def _scale_type(call: Call) -> DType:
    """Scales that are only stored, powers of two, count as f32."""
    return DType.f32 if call.dtype(1).is_stored else call.dtype(1)


def quantized(call: Call, x: Expr, scale: Expr, zero: Expr | None, dtype: DType) -> Expr:
    """`x / scale + zero`, rounded to even and held within the type."""
    if dtype in _FLOATS:
        if zero is not None:
            call.fail(f"a zero point of {dtype} that is not zero is not supported")
        return converted(call, x / scale, dtype, saturate=bool(call.integer("saturate", 1)))
    low, high = limits(dtype)
    y: Expr = ops.round_(x / scale)
    if zero is not None:
        y = y + cast_to(widened(call, zero), y.dtype)
    return converted(call, ops.clip(y, low=float(low), high=float(high)), dtype)


def _quantize(call: Call) -> Result:
    x, scale = call.x(0), call.x(1)
    wanted = call.integer("output_dtype", 0) if call.opset >= 21 else 0
    dtype = call.element("output_dtype") if wanted else DType.u8
    if call.has(2):
        dtype = call.dtype(2)
    zero = None if _is_zero(call, 2) else _along(call, x, call.x(2))
    if not x.dtype.is_float:
        x = cast_to(x, DType.f32)
    scale = _along(call, x, converted(call, scale, _scale_type(call)))
    return quantized(call, x, cast_to(scale, x.dtype), zero, dtype)


def dynamic(call: Call, x: Expr) -> tuple[Expr, Expr, Expr]:
    """`x` as u8 by its own range, the scale, and the zero point (ONNX `DynamicQuantizeLinear`)."""
    axes = tuple(range(len(x.shape)))
    high = ops.maximum(ops.reduce_max(x, axes=axes), 0.0)
    low = ops.minimum(ops.reduce_min(x, axes=axes), 0.0)
    scale: Expr = (high - low) / 255.0
    zero: Expr = cast_to(ops.clip(ops.round_(-low / scale), low=0.0, high=255.0), DType.u8)
    return quantized(call, x, scale, zero, DType.u8), scale, zero


def _column(x: Expr) -> Expr:
    """A vector with one entry for each row of a matrix, to broadcast against it."""
    return reshape_to(x, (*x.shape, 1)) if len(x.shape) == 1 and x.shape[0] != 1 else x


def _qlinear_matmul(call: Call) -> Result:
    a, a_scale, a_zero, b, b_scale, b_zero, y_scale, y_zero = (call.x(i) for i in range(8))
    zeros = (cast_to(zero, DType.i32) for zero in (_column(a_zero), b_zero))
    left_zero, right_zero = (reshape_to(z, ()) if z.shape == (1,) else z for z in zeros)
    total = cast_to(integer_product(call, a, left_zero, b, right_zero), DType.f32)
    factor = cast_to(_column(a_scale) * b_scale, DType.f32) / cast_to(y_scale, DType.f32)
    one: Expr = call.scalar_of(1.0, DType.f32)
    if exact_div(y_scale.type.size, 1) == 1:
        factor = reshape_to(factor, ()) if factor.type.size == 1 else factor
    return quantized(call, total * factor, one, reshape_to(y_zero, ()), y_zero.dtype)


def _qlinear_conv(call: Call) -> Result:
    """A convolution of integers, rounded once."""
    x_scale, w_scale, y_scale, y_zero = call.x(1), call.x(4), call.x(6), call.x(7)
    total = convolved_integers(call, call.x(0), call.x(2), call.x(3), call.x(5), call.optional(8))
    ones = tuple(1 for _ in call.shape(3)[2:])
    factor: Expr = reshape_to(x_scale, ()) * (
        reshape_to(w_scale, ()) if w_scale.type.size == 1 else w_scale
    ) / reshape_to(y_scale, ())  # fmt: skip
    if factor.shape:
        factor = reshape_to(factor, (*factor.shape, *ones))
    scaled = cast_to(total, DType.f32) * factor
    one = call.scalar_of(1.0, DType.f32)
    return quantized(call, scaled, one, reshape_to(y_zero, ()), y_zero.dtype)


QUANTIZE: Table = {
    "DequantizeLinear": ((10, _dequantize),),
    "DynamicQuantizeLinear": ((11, lambda call: dynamic(call, call.x())),),
    "QLinearConv": ((10, _qlinear_conv),),
    "QLinearMatMul": ((10, _qlinear_matmul),),
    "QuantizeLinear": ((10, _quantize),),
}
