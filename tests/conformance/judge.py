"""Whether outputs are what a case expects: ONNX's own rule, and the distance in ULP."""

from __future__ import annotations

from collections.abc import Sequence

import ml_dtypes
import numpy as np

from tests.conformance.suite import Array, Value
from tunesmith.oracle import max_ulp

__all__ = ["judge"]

BFLOAT16_RTOL = 2**-6  # two units in the last place


def judge(
    outputs: Sequence[Value], wanted: Sequence[Value], rtol: float, atol: float
) -> tuple[str, int]:
    """What is wrong, or nothing, and the most units in the last place of any element.

    >>> judge([np.float32([1, 2])], [np.float32([1, 2])], 1e-3, 1e-7)
    ('', 0)
    >>> judge([np.float32([1, 2])], [np.int32([1, 2])], 1e-3, 1e-7)
    ('output 0 is float32, not int32', 0)
    """
    if len(outputs) != len(wanted):
        return f"{len(outputs)} outputs, not {len(wanted)}", 0
    worst = 0
    for number, (have, want) in enumerate(zip(outputs, wanted, strict=True)):
        reason, ulp = _judge_one(have, want, rtol, atol)
        worst = max(worst, ulp)
        if reason:
            return f"output {number} {reason}", worst
    return "", worst


def _judge_one(have: Value, want: Value, rtol: float, atol: float) -> tuple[str, int]:
    if want is None or have is None:
        return ("" if have is want else "is absent" if have is None else "is not absent"), 0
    if isinstance(want, list) or isinstance(have, list):
        if not (isinstance(want, list) and isinstance(have, list)):
            return "is a sequence and a tensor", 0
        reason, ulp = judge(have, want, rtol, atol)
        return (f"is a sequence: {reason}" if reason else ""), ulp
    if have.shape != want.shape:
        return f"has the shape {have.shape}, not {want.shape}", 0
    if want.dtype == object:
        return ("" if np.array_equal(have, want) else "holds other text"), 0
    if have.dtype != want.dtype:
        return f"is {have.dtype}, not {want.dtype}", 0
    if want.dtype.kind in "SU":
        return ("" if np.array_equal(have, want) else "holds other text"), 0
    return _compare(have, want, rtol, atol)


def _compare(have: Array, want: Array, rtol: float, atol: float) -> tuple[str, int]:
    ulp = 0
    if want.dtype.name in vars(ml_dtypes):  # NumPy cannot compare them
        rtol = max(rtol, BFLOAT16_RTOL) if want.dtype.name == "bfloat16" else rtol
        have, want = have.astype(np.float32), want.astype(np.float32)
    elif want.dtype.kind == "f":
        counted = np.abs(want) > atol
        ulp = max_ulp(have[counted], want[counted])
    with np.errstate(all="ignore"):
        off = int(np.count_nonzero(~np.isclose(have, want, rtol, atol, equal_nan=True)))
    return (f"differs at {off} of {want.size} elements" if off else ""), ulp
