"""ONNX Runtime as an outside oracle: run a model there, and compare its outputs with ours."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tunesmith.ir.diagnostics import FrontendError, InputError

__all__ = [
    "TOLERANCES", "Arrays", "OnnxSession", "OutputReport", "Session", "Tolerance", "compare",
    "compare_output", "open_session", "version",
]  # fmt: skip

Array = NDArray[np.generic]
Arrays = Mapping[str, Array]


class SerializableModel(Protocol):
    """An `onnx.ModelProto`, as far as it matters here."""

    def SerializeToString(self) -> bytes:
        """The model's bytes."""
        ...


@dataclass(frozen=True)
class Tolerance:
    """Elements agree if `|ours - theirs| <= atol + rtol * |theirs|`."""

    atol: float
    rtol: float


# Two correct engines sum in another order: the error grows with the depth of a model, and is far
# below these. Integers and booleans are exact.
TOLERANCES: dict[str, Tolerance] = {
    "float64": Tolerance(1e-8, 1e-8),
    "float32": Tolerance(1e-4, 1e-4),
    "float16": Tolerance(1e-2, 1e-2),
    "bfloat16": Tolerance(5e-2, 5e-2),
}


@dataclass(frozen=True)
class OutputReport:
    """How far one output of ours is from theirs."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    passed: bool
    max_abs: float
    max_rel: float
    max_ulp: int  # of the elements that are larger than `atol`
    atol: float
    rtol: float
    needed_atol: float  # the least absolute tolerance that passes by itself
    needed_rtol: float | None  # the least relative one; none does where theirs is zero
    reason: str = ""

    def as_json(self) -> dict[str, object]:
        """The report as JSON; what is not finite becomes `null`."""
        row: dict[str, object] = asdict(self)
        odd = [k for k, v in row.items() if isinstance(v, float) and not np.isfinite(v)]
        return row | dict.fromkeys(odd) | {"shape": list(self.shape)}


def version() -> str:
    """The version of ONNX Runtime, without importing it."""
    return importlib.metadata.version("onnxruntime")


class Session(Protocol):
    """An engine with a model loaded, to compare with."""

    label: str  # which engine, and its version
    input_names: list[str]

    def run(self, inputs: Arrays) -> dict[str, Array]:
        """The outputs by name."""
        ...


def open_session(
    model: Path, output_names: Sequence[str], *, threads: int | None = None
) -> Session:
    """The engine that a file is meant for: PyTorch for a saved program, else ONNX Runtime.

    PyTorch has no names for results: they are called `output_names`, in order.
    """
    if model.suffix == ".pt2":
        from tunesmith.frontend.torch_import import TorchSession, load_program

        return TorchSession(load_program(model), output_names, threads=threads)
    return OnnxSession(model, threads=threads)


class OnnxSession:
    """A model in ONNX Runtime at its best: all optimizations, spinning as by default.

    `lean` reads weights where they are mapped and packs none of them: slow, for results only.
    """

    def __init__(
        self,
        model: str | Path | bytes | SerializableModel,
        *,
        threads: int | None = None,
        lean: bool = False,
    ) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # what goes wrong is raised, not printed
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
        if lean:
            options.add_session_config_entry("session.disable_prepacking", "1")
        if threads:
            options.intra_op_num_threads = threads
            options.inter_op_num_threads = 1
        where = str(model) if isinstance(model, str | Path) else "the model"
        content: str | bytes
        if isinstance(model, str | Path):
            content = str(model)
        else:
            content = model if isinstance(model, bytes) else model.SerializeToString()
        try:
            self._session = onnxruntime.InferenceSession(
                content, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime's exceptions share no base but this one
            raise FrontendError(
                f"ONNX Runtime cannot load it: {_one_line(error)}", where=where
            ) from error
        self.where = where
        self.label = f"onnxruntime {version()}"
        self.input_names: list[str] = [i.name for i in self._session.get_inputs()]
        self.output_names: list[str] = [o.name for o in self._session.get_outputs()]

    def run(self, inputs: Arrays) -> dict[str, Array]:
        """Run the model once."""
        try:
            results: Sequence[Any] = self._session.run(self.output_names, dict(inputs))
        except Exception as error:  # as above
            raise InputError(
                f"ONNX Runtime cannot run it: {_one_line(error)}", where=self.where
            ) from error
        return {n: np.asarray(r) for n, r in zip(self.output_names, results, strict=True)}


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:400]


def compare(
    ours: Arrays, theirs: Arrays, *, atol: float | None = None, rtol: float | None = None
) -> list[OutputReport]:
    """Compare the outputs by name, in their order; without a tolerance, the dtype's is used."""
    reports = []
    for name, expected in theirs.items():
        if name in ours:
            reports.append(compare_output(name, ours[name], expected, atol=atol, rtol=rtol))
        else:
            reports.append(_failed(name, expected, "this output is missing"))
    extra = [name for name in ours if name not in theirs]
    return reports + [_failed(n, ours[n], "ONNX Runtime has no such output") for n in extra]


def _failed(name: str, array: Array, reason: str) -> OutputReport:
    worst = float("inf")
    return OutputReport(name, str(array.dtype), array.shape, False, worst, worst, 0, 0.0, 0.0,
                        worst, None, reason)  # fmt: skip


def compare_output(
    name: str, ours: Array, theirs: Array, *, atol: float | None = None, rtol: float | None = None
) -> OutputReport:
    """Compare one output; NaN and infinity must stand at the same places.

    >>> compare_output("y", np.float32([1, 2]), np.float32([1, 2])).passed
    True
    >>> compare_output("y", np.float32([1, 2]), np.float32([1, 3])).max_abs
    1.0
    """
    if ours.dtype != theirs.dtype:
        return _failed(name, theirs, f"the dtype is {ours.dtype}, not {theirs.dtype}")
    if ours.shape != theirs.shape:
        return _failed(name, theirs, f"the shape is {ours.shape}, not {theirs.shape}")
    if theirs.dtype.kind in "iub":
        return _compare_exactly(name, ours, theirs)
    default = TOLERANCES.get(str(theirs.dtype))
    if default is None:
        return _failed(name, theirs, f"the dtype {theirs.dtype} cannot be compared")
    used = Tolerance(default.atol if atol is None else atol, default.rtol if rtol is None else rtol)
    have, want = _wide(ours), _wide(theirs)
    finite = np.isfinite(want)
    odd_places = _odd_places(have, want)
    difference = np.abs(np.where(finite, have, 0) - np.where(finite, want, 0))
    difference = np.where(np.isfinite(difference), difference, 0)  # counted in `odd_places`
    size = np.abs(np.where(finite, want, 0))
    with np.errstate(divide="ignore", invalid="ignore"):
        relative = np.where(difference == 0, 0.0, difference / size)
    max_abs = float(difference.max(initial=0.0))
    max_rel = float(relative.max(initial=0.0))
    off = int(np.count_nonzero(difference > used.atol + used.rtol * size))
    reason = ""
    if odd_places:
        reason = f"NaN or infinity differs at {odd_places} of {theirs.size} elements"
    elif off:
        reason = f"{off} of {theirs.size} elements differ by more"
    return OutputReport(
        name, str(theirs.dtype), theirs.shape, not reason, max_abs, max_rel,
        max_ulp(ours[size > used.atol], theirs[size > used.atol]), used.atol, used.rtol, max_abs,
        max_rel if np.isfinite(max_rel) else None, reason,
    )  # fmt: skip


def _compare_exactly(name: str, ours: Array, theirs: Array) -> OutputReport:
    """Compare integers and flags as they are; how far they are apart is told in doubles."""
    different = ours != theirs
    off = int(np.count_nonzero(different))
    have, want = _wide(ours[different]), _wide(theirs[different])
    apart = np.maximum(np.abs(have - want), 1.0)  # doubles may not tell two large integers apart
    most = float(apart.max(initial=0.0))
    with np.errstate(divide="ignore"):
        relative = float((apart / np.abs(want)).max(initial=0.0))
    reason = f"{off} of {theirs.size} elements differ" if off else ""
    return OutputReport(
        name, str(theirs.dtype), theirs.shape, not off, most, relative, int(most), 0.0, 0.0, most,
        relative if np.isfinite(relative) else None, reason,
    )  # fmt: skip


def _wide(array: Array) -> NDArray[np.float64]:
    """The elements as doubles."""
    return np.asarray(array).astype(np.float64)


def _odd_places(have: NDArray[np.float64], want: NDArray[np.float64]) -> int:
    same_nan = np.isnan(have) == np.isnan(want)
    infinite = np.isinf(have) | np.isinf(want)
    return int(np.count_nonzero(~same_nan | (infinite & ~np.isnan(have) & (have != want))))


_SAME_SIZE: dict[int, type[np.signedinteger[Any]]] = {2: np.int16, 4: np.int32, 8: np.int64}


def max_ulp(ours: Array, theirs: Array) -> int:
    """The most representable numbers between two elements; NaN and infinity do not count.

    >>> max_ulp(np.float32([1.0]), np.nextafter(np.float32([1.0]), np.float32(2)))
    1
    """
    if ours.size == 0:
        return 0
    integer = _SAME_SIZE.get(ours.dtype.itemsize)
    if ours.dtype.kind in "iub" or integer is None:
        return int(np.abs(_wide(ours) - _wide(theirs)).max())
    finite = np.isfinite(_wide(ours)) & np.isfinite(_wide(theirs))
    left, right = (_ordered(a[finite], integer) for a in (ours, theirs))
    apart = np.where(left > right, left - right, right - left)
    return int(apart.max(initial=0))


def _ordered(array: Array, integer: type[np.signedinteger[Any]]) -> NDArray[np.int64]:
    """Floats as integers in the same order, so that neighbors differ by one."""
    bits = np.asarray(array, order="C").view(integer).astype(np.int64)
    lowest = int(np.iinfo(integer).min)
    return np.where(bits < 0, lowest - bits, bits)
