"""Elements of eight bits and fewer that are only stored: from them to wider types, and back.

A table holds the values of all codes, so reading is a lookup. Writing is arithmetic on the bits of
an f32: a number is rounded to the nearest one that its exponent leaves room for, ties to even
(IEEE 754; OCP 8-bit Floating Point Specification, 2023; OCP Microscaling Formats, 2023).
"""

# mypy: disable-error-code="no-any-return"
# (operators hand back `Any`: their results are read from their types)

from __future__ import annotations

import ml_dtypes
import numpy as np

from tunesmith.ir import opset as ops
from tunesmith.ir.ops import Expr
from tunesmith.ir.types import DType

from ..onnx_call import Call
from .building import cast_to, settled

__all__ = ["converted", "limits", "widened"]

_BITS = {DType.i4: 4, DType.u4: 4, DType.i2: 2, DType.u2: 2}
_WITHOUT_INFINITY = (DType.f8e4m3fn, DType.f8e4m3fnuz, DType.f8e5m2fnuz)
_ONE_ZERO = (DType.f8e4m3fnuz, DType.f8e5m2fnuz)
_FRACTION, _EXPONENT = 0x7FFFFF, 0x7F800000  # fields of an f32


def _wide(dtype: DType) -> DType:
    if dtype in _BITS:
        return DType.i8 if dtype.value.startswith("i") else DType.u8
    return DType.f32


def limits(dtype: DType) -> tuple[int, int]:
    """The least and the greatest number of an integer type, of those that are stored as well."""
    info = ml_dtypes.iinfo(dtype.numpy)  # type: ignore[no-untyped-call]
    return int(info.min), int(info.max)


def widened(call: Call, x: Expr) -> Expr:
    """`x` with elements that can be computed with: i8 or u8 for narrower integers, f32 for floats.

    What is a constant, or follows from constants, is one.
    """
    if not x.dtype.is_stored:
        return x
    wide = _wide(x.dtype)
    known = settled(x).value.constant
    if known is not None:
        return call.constant(known.array.astype(wide.numpy))
    values = np.arange(256).astype(np.uint8).view(x.dtype.numpy).astype(wide.numpy)
    places = ops.cast(ops.bitcast(x, dtype=DType.u8), dtype=DType.i32)
    return ops.gather(call.constant(values), places, axis=0)


def converted(
    call: Call, x: Expr, dtype: DType, *, saturate: bool = True, rounding: str = "up"
) -> Expr:
    """`x` with elements of another type, any of ONNX's: what `Cast` means.

    A float beyond a float of 8 bits becomes its greatest if `saturate`, else infinite or NaN;
    `rounding` to powers of two is up, down or nearest. Integers beyond 4 or 2 bits wrap.
    """
    x = x if x.dtype is dtype else widened(call, x)
    if x.dtype is dtype or not dtype.is_stored:
        return cast_to(x, dtype)
    if dtype in _BITS:
        codes = ops.bitwise_and(cast_to(x, DType.i32), (1 << _BITS[dtype]) - 1)
    elif dtype is DType.f8e8m0:
        codes = _power(call, cast_to(x, DType.f32), saturate, rounding)
    else:
        codes = _float(call, cast_to(x, DType.f32), dtype, saturate)
    return ops.bitcast(cast_to(codes, DType.u8), dtype=dtype)


def _float(call: Call, x: Expr, dtype: DType, saturate: bool) -> Expr:
    """The codes, in i32, of the nearest floats with a sign."""
    info = ml_dtypes.finfo(dtype.numpy)  # type: ignore[no-untyped-call]
    digits, least, most = int(info.nmant), int(info.minexp), float(info.max)
    sign = np.float32(-1.0).astype(dtype.numpy).view(np.uint8) & ~np.float32(1.0).astype(
        dtype.numpy
    ).view(np.uint8)
    bits = ops.bitcast(x, dtype=DType.i32)
    size = ops.minimum(ops.abs_(x), 2.0 * most)  # an infinity has no exponent to round at
    power = ops.bitcast(
        ops.bitwise_and(ops.bitcast(size, dtype=DType.i32), _EXPONENT), dtype=DType.f32
    )
    step = ops.maximum(power, 2.0**least) * 2.0**-digits
    near = ops.round_(size / step) * step
    beyond = ops.greater(near, most)
    near = ops.minimum(near, most)
    shift = 1 << (23 - digits)
    normal = ops.div(ops.bitcast(near, dtype=DType.i32), shift) - ((126 + least) << digits)
    small = ops.cast(near * 2.0 ** (digits - least), dtype=DType.i32)
    codes = ops.where(ops.less(near, 2.0**least), small, normal)
    if dtype is DType.f4e2m1:  # which has neither infinities nor NaN
        codes = ops.where(ops.isnan(x), 0, codes)
        negative = ops.not_equal(ops.less(bits, 0), ops.isnan(x))  # NaN is -0, as in `ml_dtypes`
        return codes + ops.where(negative, int(sign), call.scalar_of(0, DType.i32))
    nan = int(np.float32(np.nan).astype(dtype.numpy).view(np.uint8))
    if not saturate:
        outside = nan if dtype in _WITHOUT_INFINITY else int(
            np.float32(np.inf).astype(dtype.numpy).view(np.uint8)
        )  # fmt: skip
        codes = ops.where(beyond, outside, codes)
    codes = ops.where(ops.isnan(x), nan, codes)
    signed = ops.less(bits, 0)
    if dtype in _ONE_ZERO:  # the code of -0 is NaN's
        whole = ops.logical_and(ops.not_equal(codes, 0), ops.not_equal(codes, nan))
        signed = ops.logical_and(signed, whole)
    return codes + ops.where(signed, int(sign), call.scalar_of(0, DType.i32))


def _power(call: Call, x: Expr, saturate: bool, rounding: str) -> Expr:
    """The codes, in i32, of powers of two; signs are lost, infinities are NaN."""
    if rounding not in ("up", "down", "nearest"):
        call.fail(f"`round_mode` cannot be `{rounding}`: up, down or nearest")
    bits = ops.bitcast(x, dtype=DType.i32)
    exponent = ops.div(ops.bitwise_and(bits, _EXPONENT), 1 << 23)
    fraction = ops.bitwise_and(bits, _FRACTION)
    codes = exponent
    if rounding != "down":
        higher = ops.greater(fraction, 0)
        if rounding == "nearest":  # ties to an even code, and 1.5 lies between two of them
            half = 1 << 22
            tie = ops.logical_and(ops.equal(fraction, half), ops.greater(exponent, 0))
            higher = ops.logical_or(ops.greater(fraction, half), tie)
        if saturate:
            higher = ops.logical_and(higher, ops.less(exponent, 0xFE))
        codes = exponent + ops.cast(higher, dtype=DType.i32)
    return ops.where(ops.equal(exponent, 0xFF), 0xFF, codes)
