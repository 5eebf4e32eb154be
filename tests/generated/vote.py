"""The three-way vote: whether an answer is wrong, where the expected one may be wrong as well.

Voters are the oracle (PyTorch, from which a model was exported), ONNX's reference, and ONNX Runtime
with all optimizations off. Of four models on which engines differ from PyTorch two are the
exporter's fault: whoever counts these against an engine counts wrong.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tests.conformance.suite import Array, Value
from tunesmith.oracle import compare_output

__all__ = ["BAD", "COLUMNS", "Answer", "Verdict", "differs", "vote"]

# From the best to the worst. `inside` differs only within what is not finite at the oracle; an
# `oracle fault` gives what both other voters give; `unstable` is a mismatch of a model that has no
# answer (`stability.py`); `disputed` is what voters do not agree about.
COLUMNS = (
    "pass", "inside", "oracle fault", "unsupported", "unstable", "disputed", "error", "mismatch",
    "crash", "hang",
)  # fmt: skip
BAD = ("error", "mismatch", "crash", "hang")


@dataclass(frozen=True)
class Answer:
    """What an engine gave for a model: outputs, or why there are none."""

    column: str  # `ran`, or one of those of the suite: `unsupported`, `error`, `crash`, `hang`
    outputs: Sequence[Array] = ()
    reason: str = ""


@dataclass(frozen=True)
class Verdict:
    """One of `COLUMNS`, and why."""

    column: str
    reason: str = ""
    finite: bool = True  # all that the oracle gave


def differs(have: Sequence[Value], want: Sequence[Array], rtol: float, atol: float) -> str:
    """What is not as wanted, or nothing; integers are exact, NaN and infinity keep their places.

    >>> differs([np.float32([1])], [np.float32([1.005])], 1e-2, 1e-3)
    ''
    >>> differs([np.int64([1])], [np.int64([2])], 1e-2, 1e-3)
    'output 0: 1 of 1 elements differ'
    """
    if len(have) != len(want):
        return f"{len(have)} outputs, not {len(want)}"
    for number, (ours, theirs) in enumerate(zip(have, want, strict=True)):
        if not isinstance(ours, np.ndarray):
            return f"output {number} is no tensor"
        report = compare_output(str(number), ours, theirs, rtol=rtol, atol=atol)
        if not report.passed:
            return f"output {number}: {report.reason}"
    return ""


def vote(
    ours: Answer, oracle: Sequence[Array], others: Mapping[str, Answer], rtol: float, atol: float
) -> Verdict:
    """What is to be said about an answer; `others` are the voters besides the oracle.

    A voter that could not run has no voice. Two voices at least are needed to find somebody else
    at fault: what only the oracle says against an answer is disputed.
    """
    finite = all(bool(np.isfinite(y).all()) for y in oracle if y.dtype.kind == "f")
    if ours.column != "ran":
        return Verdict(ours.column, ours.reason, finite)
    reason = differs(ours.outputs, oracle, rtol, atol)
    if not reason:
        return Verdict("pass", "", finite)
    heard = {name: answer.outputs for name, answer in others.items() if answer.column == "ran"}
    against = [name for name, y in heard.items() if differs(ours.outputs, y, rtol, atol)]
    told = f"{reason}; against it: {', '.join(['the oracle', *against])}"
    told += f"; for it: {', '.join(name for name in heard if name not in against) or 'nobody'}"
    if heard and not against and len(heard) == len(others):
        return Verdict("oracle fault", told, finite)
    if not finite and _alike(ours.outputs, oracle):
        return Verdict("inside", told, finite)
    if heard and len(against) == len(heard):
        return Verdict("mismatch", told, finite)
    return Verdict("disputed", told, finite)


def _alike(have: Sequence[Array], want: Sequence[Array]) -> bool:
    """Whether shapes, types, and the places and signs of NaN and infinity are equal."""
    return len(have) == len(want) and all(
        x.dtype == y.dtype
        and x.shape == y.shape
        and (x.dtype.kind != "f" or np.array_equal(_odd(x), _odd(y), equal_nan=True))
        for x, y in zip(have, want, strict=True)
    )


def _odd(array: Array) -> Array:
    """NaN and infinities, and 0 for all other elements."""
    wide = array.astype(np.float64)
    return np.where(np.isfinite(wide), 0.0, wide)
