"""TensorProto → array, with the declared number of elements held against the bytes there are."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from tunesmith.ir.diagnostics import FrontendError
from tunesmith.ir.types import DType

from .limits import LIMITS
from .onnx_external import map_external

__all__ = ["DTYPES", "Held", "check_dims", "dtype_of", "read_tensor"]

DTYPES = {
    TensorProto.FLOAT: DType.f32,
    TensorProto.UINT8: DType.u8,
    TensorProto.INT8: DType.i8,
    TensorProto.UINT16: DType.u16,
    TensorProto.INT16: DType.i16,
    TensorProto.INT32: DType.i32,
    TensorProto.INT64: DType.i64,
    TensorProto.BOOL: DType.bool,
    TensorProto.FLOAT16: DType.f16,
    TensorProto.DOUBLE: DType.f64,
    TensorProto.UINT32: DType.u32,
    TensorProto.UINT64: DType.u64,
    TensorProto.BFLOAT16: DType.bf16,
    TensorProto.FLOAT8E4M3FN: DType.f8e4m3fn,
    TensorProto.FLOAT8E4M3FNUZ: DType.f8e4m3fnuz,
    TensorProto.FLOAT8E5M2: DType.f8e5m2,
    TensorProto.FLOAT8E5M2FNUZ: DType.f8e5m2fnuz,
    TensorProto.FLOAT8E8M0: DType.f8e8m0,
    TensorProto.FLOAT4E2M1: DType.f4e2m1,
    TensorProto.INT4: DType.i4,
    TensorProto.UINT4: DType.u4,
    TensorProto.INT2: DType.i2,
    TensorProto.UINT2: DType.u2,
}
_PACKED = {  # how many elements lie in a byte, the first in its lowest bits
    DType.u4: 2, DType.i4: 2, DType.f4e2m1: 2, DType.u2: 4, DType.i2: 4,
}  # fmt: skip
_LISTS = {
    TensorProto.FLOAT: "float_data",
    TensorProto.DOUBLE: "double_data",
    TensorProto.INT64: "int64_data",
    TensorProto.UINT32: "uint64_data",
    TensorProto.UINT64: "uint64_data",
}


class Held(Protocol):
    """Weights whose elements lie outside of the model object: in its file, or in a framework."""

    @property
    def places(self) -> Mapping[str, tuple[int, int]]:
        """By the name of a weight: where it begins, and how many bytes it has."""

    def read(self, name: str, alignment: int) -> NDArray[np.uint8]:
        """The bytes of a weight, which are not copied if they are aligned."""


def dtype_of(element: int, where: str) -> DType:
    """The element type of an ONNX number; types that the IR lacks are an error with their name."""
    if element in DTYPES:
        return DTYPES[element]
    names = {number: name for name, number in TensorProto.DataType.items()}
    name = names.get(element, str(element)).lower()
    raise FrontendError(
        f"elements of type `{name}` cannot be imported",
        where=where,
        hint=f"known types: {', '.join(str(d) for d in DTYPES.values())}",
    )


def check_dims(dims: tuple[int, ...], where: str) -> int:
    """The number of elements, within the limits."""
    if len(dims) > LIMITS.rank:
        raise FrontendError(
            f"it has {len(dims)} axes", where=where, hint=f"the limit is {LIMITS.rank}"
        )
    if any(size < 0 for size in dims):
        raise FrontendError(f"it has a negative size: {list(dims)}", where=where)
    count = prod(dims)
    if count > LIMITS.elements:
        raise FrontendError(f"its sizes {list(dims)} are out of range", where=where)
    return count


def read_tensor(
    tensor: TensorProto,
    folder: Path | None,
    where: str,
    *,
    external: bool = False,
    file: Held | None = None,
) -> NDArray[np.generic]:
    """The elements of a tensor: a view of its bytes, or of a mapped file, where possible."""
    dims = tuple(tensor.dims)
    count = check_dims(dims, where)
    if tensor.HasField("segment"):
        raise FrontendError("it is stored in segments", where=where, hint="store it whole")
    dtype = dtype_of(tensor.data_type, where)
    packed = _PACKED.get(dtype, 1)
    needed = -(-count // packed) * dtype.bytes
    if tensor.data_location == TensorProto.EXTERNAL:
        if not external:
            raise FrontendError(
                "only a plain initializer may have its elements in another file", where=where
            )
        if tensor.HasField("raw_data") or _list_length(tensor):
            raise FrontendError("it has elements both inside and outside", where=where)
        data: NDArray[np.generic] = map_external(tensor, folder, needed)
    elif tensor.external_data:
        raise FrontendError("it names external data that it does not use", where=where)
    elif file is not None and tensor.name in file.places and not tensor.HasField("raw_data"):
        if file.places[tensor.name][1] != needed or _list_length(tensor):
            held = file.places[tensor.name][1]
            raise FrontendError(
                f"it declares {list(dims)} of {dtype}, {needed} bytes, and holds {held}",
                where=where,
            )
        data = file.read(tensor.name, dtype.bytes)
    elif tensor.HasField("raw_data"):
        data = np.frombuffer(tensor.raw_data, np.uint8)
    else:
        return _from_list(tensor, dtype, dims, count, where)
    if data.nbytes != needed:
        raise FrontendError(
            f"it declares {list(dims)} of {dtype}, {needed} bytes, and holds {data.nbytes}",
            where=where,
        )
    if packed > 1:
        return _unpack(data.view(np.uint8), dtype, count).reshape(dims)
    if dtype is DType.bool and count and np.max(data.view(np.uint8)) > 1:
        data = (data.view(np.uint8) != 0).view(np.uint8)
    if dtype.is_stored:
        return data.view(dtype.numpy).reshape(dims)
    return data.view(dtype.numpy.newbyteorder("<")).astype(dtype.numpy, copy=False).reshape(dims)


def _list_length(tensor: TensorProto) -> int:
    fields = ("float_data", "int32_data", "int64_data", "double_data", "uint64_data", "string_data")
    return sum(len(getattr(tensor, field)) for field in fields)


def _from_list(
    tensor: TensorProto,
    dtype: DType,
    dims: tuple[int, ...],
    count: int,
    where: str,
) -> NDArray[np.generic]:
    items = getattr(tensor, _LISTS.get(tensor.data_type, "int32_data"))
    needed = -(-count // _PACKED.get(dtype, 1))
    if len(items) != needed or _list_length(tensor) != needed:
        raise FrontendError(
            f"it declares {list(dims)}, {needed} elements, and holds {_list_length(tensor)}",
            where=where,
        )
    if dtype.is_stored:
        data = np.array(items, np.int64).astype(np.uint8)
        return _unpack(data, dtype, count).reshape(dims)
    if dtype in (DType.f16, DType.bf16):
        return np.array(items, np.int64).astype(np.uint16).view(dtype.numpy).reshape(dims)
    if dtype is DType.u64:
        return np.array(items, np.uint64).reshape(dims)
    wide = np.array(items, np.float64 if dtype.is_float else np.int64)
    return wide.astype(dtype.numpy).reshape(dims)


def _unpack(data: NDArray[np.uint8], dtype: DType, count: int) -> NDArray[np.generic]:
    """Elements that lie several to a byte, one to a byte, as `ml_dtypes` holds them."""
    each = _PACKED.get(dtype, 1)
    if each == 1:
        return data.view(dtype.numpy)
    width = 8 // each
    fields = [data >> (width * i) & ((1 << width) - 1) for i in range(each)]
    return np.stack(fields, axis=-1).reshape(-1)[:count].view(dtype.numpy)
