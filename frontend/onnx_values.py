"""Inputs whose elements the caller fixes: what was given, as an array of the declared type."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tunesmith.ir.diagnostics import FrontendError
from tunesmith.ir.types import DType

from .limits import LIMITS

__all__ = ["as_array", "as_value"]


def as_array(name: str, given: ArrayLike) -> NDArray[np.generic]:
    """What was given as an array; `FrontendError` if it is none."""
    try:
        return np.asarray(given)
    except ValueError as error:  # rows of different lengths
        raise FrontendError(f"its value is no array: {error}", where=f"input `{name}`") from error


def as_value(name: str, given: ArrayLike, dtype: DType) -> NDArray[np.generic]:
    """The elements of an input, of its element type; what would change by conversion is refused.

    Raises:
        FrontendError: not an array of numbers, not exactly of this type, or more than
            `LIMITS.fixed_bytes`.
    """
    where = f"input `{name}`"
    array = as_array(name, given)
    if array.dtype.kind not in "biuf" and array.dtype != dtype.numpy:
        raise FrontendError(
            f"its value has elements of the type `{array.dtype}`, not {dtype}", where=where
        )
    if array.size and (dtype is DType.bool) != (array.dtype.kind == "b"):
        raise FrontendError(f"its value has elements of the type `{array.dtype}`, not {dtype}",
                            where=where, hint="flags are true or false")  # fmt: skip
    with np.errstate(all="ignore"):
        found = np.asarray(array.astype(dtype.numpy), order="C")
    kept = array == found.astype(array.dtype)
    if array.dtype.kind != "b" and found.dtype.kind != "b":
        kept &= np.less(array, 0) == np.less(found, 0)  # 2**63 comes back, by way of -2**63
    if array.dtype.kind == "f":
        kept |= np.isnan(array) & dtype.is_float
    # a literal such as 0.1 is a double: in a float of any width it is what it was meant to be
    literal = not isinstance(given, np.ndarray | np.generic) and dtype.is_float
    if not literal and not np.all(kept):
        odd = array.reshape(-1)[np.flatnonzero(~np.reshape(kept, -1))[0]]
        raise FrontendError(f"its value holds {odd}, which is no {dtype}", where=where)
    if found.nbytes > LIMITS.fixed_bytes:
        raise FrontendError(
            f"its value has {found.nbytes} bytes", where=where,
            hint=f"the limit is {LIMITS.fixed_bytes}; make it an initializer of the model",
        )  # fmt: skip
    return found
