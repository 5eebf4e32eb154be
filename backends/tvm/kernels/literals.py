"""Element types and constants as TVM spells them."""

from __future__ import annotations

import numpy as np
from tvm import tirx
from tvm.ir import Expr as Prim

from tunesmith.ir.types import DType

__all__ = ["TVM_DTYPE", "immediate"]

TVM_DTYPE = {
    DType.f16: "float16", DType.f32: "float32", DType.f64: "float64", DType.bf16: "uint16",
    DType.i8: "int8", DType.i16: "int16", DType.i32: "int32", DType.i64: "int64",
    DType.u8: "uint8", DType.u16: "uint16", DType.u32: "uint32", DType.u64: "uint64",
    DType.bool: "bool",
} | {dtype: "uint8" for dtype in DType if dtype.is_stored}  # fmt: skip


def immediate(value: bool | int | float, dtype: DType) -> Prim:
    """A constant of an element type."""
    if dtype is DType.bf16 or dtype.is_stored:
        name = TVM_DTYPE[dtype]
        return tirx.const(int(np.asarray(value).astype(dtype.numpy).view(name)), name)
    if dtype.is_float:
        if not np.isfinite(value):
            wide = tirx.const(float(value), "float32" if dtype is not DType.f64 else "float64")
            return wide if dtype in (DType.f32, DType.f64) else wide.astype(TVM_DTYPE[dtype])
        return tirx.const(float(value), TVM_DTYPE[dtype])
    if dtype is DType.u64 and int(value) >> 63:  # `IntImm` holds what fits into an i64
        return tirx.bitwise_not(tirx.const(~int(value) & (2**64 - 1), "uint64"))
    return tirx.const(int(value) if dtype is not DType.bool else bool(value), TVM_DTYPE[dtype])
