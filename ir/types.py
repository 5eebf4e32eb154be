"""What a value is: an element type and a shape of symbolic, bounded sizes."""

from __future__ import annotations

import builtins
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import Enum

import ml_dtypes
import numpy as np

from .dims import Dim, Sym, product, substitute, symbols_of

__all__ = ["DType", "Shape", "TensorType", "broadcast"]

Shape = tuple[Dim, ...]


class DType(Enum):
    """An element type; its value is its name in text."""

    f16 = "f16"
    f32 = "f32"
    f64 = "f64"
    bf16 = "bf16"
    i8 = "i8"
    i16 = "i16"
    i32 = "i32"
    i64 = "i64"
    u8 = "u8"
    u16 = "u16"
    u32 = "u32"
    u64 = "u64"
    bool = "bool"

    # Only stored, one element a byte: a table of their values, or arithmetic on their bits, stands
    # between them and what computes.
    f8e4m3fn = "f8e4m3fn"
    f8e4m3fnuz = "f8e4m3fnuz"
    f8e5m2 = "f8e5m2"
    f8e5m2fnuz = "f8e5m2fnuz"
    f8e8m0 = "f8e8m0"
    f4e2m1 = "f4e2m1"
    i4 = "i4"
    u4 = "u4"
    i2 = "i2"
    u2 = "u2"

    @property
    def numpy(self) -> np.dtype[np.generic]:
        """The NumPy type of the same layout."""
        return _NUMPY[self]

    @property
    def bytes(self) -> int:
        """Bytes an element takes in memory."""
        return self.numpy.itemsize

    @property
    def is_float(self) -> builtins.bool:
        """Whether it is a floating-point type."""
        return self in (DType.f16, DType.f32, DType.f64, DType.bf16)

    @property
    def is_integer(self) -> builtins.bool:
        """Whether it is a signed or unsigned integer; `bool` is neither."""
        return not self.is_float and self is not DType.bool and not self.is_stored

    @property
    def is_stored(self) -> builtins.bool:
        """Whether elements can be moved, and taken as bits, but not computed with."""
        return self in _STORED

    @classmethod
    def of(cls, dtype: np.dtype[np.generic]) -> DType:
        """The element type of a NumPy array; `KeyError` for types that the IR does not have."""
        return _FROM_NUMPY[np.dtype(dtype)]

    def __str__(self) -> str:
        return self.value


_NUMPY: dict[DType, np.dtype[np.generic]] = {
    DType.f16: np.dtype(np.float16),
    DType.f32: np.dtype(np.float32),
    DType.f64: np.dtype(np.float64),
    DType.bf16: np.dtype(ml_dtypes.bfloat16),
    DType.i8: np.dtype(np.int8),
    DType.i16: np.dtype(np.int16),
    DType.i32: np.dtype(np.int32),
    DType.i64: np.dtype(np.int64),
    DType.u8: np.dtype(np.uint8),
    DType.u16: np.dtype(np.uint16),
    DType.u32: np.dtype(np.uint32),
    DType.u64: np.dtype(np.uint64),
    DType.bool: np.dtype(np.bool_),
}
_STORED: dict[DType, np.dtype[np.generic]] = {
    DType.f8e4m3fn: np.dtype(ml_dtypes.float8_e4m3fn),
    DType.f8e4m3fnuz: np.dtype(ml_dtypes.float8_e4m3fnuz),
    DType.f8e5m2: np.dtype(ml_dtypes.float8_e5m2),
    DType.f8e5m2fnuz: np.dtype(ml_dtypes.float8_e5m2fnuz),
    DType.f8e8m0: np.dtype(ml_dtypes.float8_e8m0fnu),
    DType.f4e2m1: np.dtype(ml_dtypes.float4_e2m1fn),
    DType.i4: np.dtype(ml_dtypes.int4),
    DType.u4: np.dtype(ml_dtypes.uint4),
    DType.i2: np.dtype(ml_dtypes.int2),
    DType.u2: np.dtype(ml_dtypes.uint2),
}
_NUMPY |= _STORED
_FROM_NUMPY = {dtype: name for name, dtype in _NUMPY.items()}


@dataclass(frozen=True)
class TensorType:
    """An element type and a shape: `f16[B, S, 64]`."""

    dtype: DType
    shape: Shape = ()

    @property
    def rank(self) -> int:
        """The number of axes."""
        return len(self.shape)

    @property
    def size(self) -> Dim:
        """The number of elements."""
        return product(self.shape)

    @property
    def is_static(self) -> bool:
        """Whether every size is a number."""
        return all(isinstance(size, int) for size in self.shape)

    def with_shape(self, shape: Iterable[Dim]) -> TensorType:
        """The same elements in another shape."""
        return replace(self, shape=tuple(shape))

    def with_dtype(self, dtype: DType) -> TensorType:
        """The same shape of other elements."""
        return replace(self, dtype=dtype)

    def symbols(self) -> list[Sym]:
        """The symbols of the shape, each once, in order."""
        return list(dict.fromkeys(s for size in self.shape for s in symbols_of(size)))

    def substitute(self, sizes: Mapping[str, Dim]) -> TensorType:
        """The type with some symbols replaced."""
        return self.with_shape(substitute(size, sizes) for size in self.shape)

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join(str(size) for size in self.shape)}]"


def broadcast(*shapes: Shape) -> Shape:
    """The shape that NumPy's broadcasting gives; `ValueError` where two sizes differ.

    A symbol beside 1 gives the symbol. A symbol beside another size is refused: whether they agree
    is not known.
    """
    rank = max(map(len, shapes), default=0)
    result: list[Dim] = []
    for axis in range(rank):
        sizes = [s[axis - rank + len(s)] for s in shapes if axis - rank + len(s) >= 0]
        kept = list(dict.fromkeys(size for size in sizes if size != 1))
        if len(kept) > 1:
            text = " and ".join(f"[{', '.join(map(str, s))}]" for s in shapes)
            raise ValueError(f"shapes {text} do not broadcast: {kept[0]} against {kept[1]}")
        result.append(kept[0] if kept else 1)
    return tuple(result)
