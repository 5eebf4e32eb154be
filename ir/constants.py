"""Constant tensors: shared, possibly memory-mapped, named by their content."""

from __future__ import annotations

import mmap
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from .types import DType, TensorType

__all__ = ["Constant", "release"]

_HASHED = 16  # elements from the start: enough to tell most constants of one type apart
_COMPARED = 1 << 20  # bytes at a time, so that a difference near the start ends it


class Constant:
    """A tensor that is known when the model is compiled; never written to once it is made.

    Exporters give equal weights one storage, so a pass that wants another value makes another
    constant. The array may be a view of a mapped file: nothing here reads it before it is needed.
    """

    __slots__ = ("__dict__", "array", "type")

    def __init__(self, array: NDArray[np.generic]) -> None:
        self.array = np.asarray(array)
        self.type = TensorType(DType.of(self.array.dtype), tuple(map(int, self.array.shape)))

    @property
    def nbytes(self) -> int:
        """Bytes of the elements."""
        return int(self.array.nbytes)

    @cached_property
    def digest(self) -> str:
        """The BLAKE3 of type and elements in row-major order, as 64 hexadecimal digits."""
        from blake3 import blake3  # which what only runs artifacts does not have

        state = blake3(str(self.type).encode())
        state.update(np.asarray(self.array, order="C").reshape(-1).view(np.uint8).data)
        release(self.array)
        return state.hexdigest()

    @property
    def scalar(self) -> bool | int | float | None:
        """The one element of a tensor that has just one, as a Python number, else `None`."""
        if self.array.size != 1 or self.type.dtype.is_stored:
            return None
        item = self.array.reshape(-1)[0]
        if self.type.dtype.is_float:
            return float(item)
        return bool(item) if self.type.dtype is DType.bool else int(item)

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, Constant) or self.type != other.type:
            return False
        return self.array is other.array or _same_bytes(self.array, other.array)

    def __hash__(self) -> int:
        return hash((self.type, self.array.flat[:_HASHED].tobytes()))

    def __repr__(self) -> str:
        return f"Constant({self.type})"


def release(array: NDArray[np.generic]) -> None:
    """Give back the memory of an array that lies in a mapped file; a later look maps it again.

    What has been read of a file counts as memory of the process, so that a model that is only
    passed over would cost all of its size. Other arrays are left alone, also those of a file that
    is mapped to be changed.
    """
    owner: object = array
    while isinstance(owner, np.ndarray | memoryview):
        owner = owner.base if isinstance(owner, np.ndarray) else owner.obj
    if isinstance(owner, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
        with memoryview(owner) as view:
            only_read = view.readonly
        if only_read:
            owner.madvise(mmap.MADV_DONTNEED)


def _same_bytes(a: NDArray[np.generic], b: NDArray[np.generic]) -> bool:
    """Whether two arrays of one type hold the same bits: zeros have signs, NaNs are equal."""
    rows = max(1, _COMPARED * max(1, len(np.atleast_1d(a))) // max(1, a.nbytes))

    def part(array: NDArray[np.generic], at: int) -> NDArray[np.uint8]:
        some = np.asarray(np.atleast_1d(array)[at : at + rows], order="C")
        return some.reshape(-1).view(np.uint8)

    return all(
        np.array_equal(part(a, at), part(b, at)) for at in range(0, len(np.atleast_1d(a)), rows)
    )
