"""One file: compiled, run beside ONNX Runtime over all of its streams, and compared."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from tunesmith.driver import compile_model
from tunesmith.ir.diagnostics import CompilerError
from tunesmith.oracle import OnnxSession, Session
from tunesmith.runtime import Executable, load

from .subjects import TOLERANCE, Array, Stream, Subject

__all__ = ["Result", "measure"]


@dataclass(frozen=True)
class Result:
    """What became of a file."""

    subject: str
    file: str
    package: str
    symbols: tuple[str, ...]  # with their bounds
    fixed: tuple[str, ...]
    streams: tuple[str, ...]
    worst: float  # of all elements of all floating results, absolute
    largest: float  # of ONNX Runtime's own, to compare `worst` with
    seconds: float  # of compiling
    error: str = ""

    @property
    def passed(self) -> bool:
        """Whether it compiled and every element agrees."""
        return not self.error and self.worst <= TOLERANCE


def measure(subject: Subject, *, threads: int = 1, most: int | None = None) -> Result:
    """Compile a file and compare `most` of its streams, or all.

    Raises:
        LookupError: the package of the file is not installed.
    """
    path = subject.path()
    start = time.perf_counter()
    try:
        artifact = compile_model(path, threads=threads, **subject.options)
    except CompilerError as error:
        return Result(subject.name, path.name, subject.package, (), (), (), 0.0, 0.0, 0.0,
                      f"{type(error).__name__}: {error.message}")  # fmt: skip
    seconds = time.perf_counter() - start
    executable, oracle = load(artifact, threads=threads), OnnxSession(path, threads=1)
    streams, worst, largest, wrong = subject.streams()[:most], 0.0, 0.0, ""
    for stream in streams:
        for number, (ours, theirs) in enumerate(_pairs(stream, executable, oracle)):
            for name, want in theirs.items():
                odd, far, size = _distance(ours[name], want)
                worst, largest = max(worst, far), max(largest, size)
                wrong = wrong or (odd and f"`{name}`, call {number} of {stream.label}: {odd}")
    manifest = artifact.manifest
    return Result(
        subject.name, path.name, subject.package,
        tuple(f"{s.name} {s.min}..{s.max or ''}" for s in manifest.given),
        tuple(_fixed(subject.options)), tuple(s.label for s in streams), worst, largest,
        round(seconds, 1), wrong,
    )  # fmt: skip


def _pairs(
    stream: Stream, executable: Executable, oracle: Session
) -> list[tuple[Mapping[str, Array], Mapping[str, Array]]]:
    """The results of both engines for every call; each gets its own results back."""
    found: list[tuple[Mapping[str, Array], Mapping[str, Array]]] = []
    for feeds in stream.calls:
        both: list[Mapping[str, Array]] = []
        engines: tuple[Executable | Session, ...] = (executable, oracle)
        for side, engine in enumerate(engines):
            last = found[-1][side] if found else {}
            kept = {name: last[result] for name, result in stream.back.items() if last}
            both.append(engine.run({**feeds, **kept}))
        found.append((both[0], both[1]))
    return found


def _distance(ours: Array, theirs: Array) -> tuple[str, float, float]:
    """What is odd about a result, its greatest difference, and the greatest element."""
    if ours.shape != theirs.shape or ours.dtype != theirs.dtype:
        return f"{ours.dtype}{ours.shape} instead of {theirs.dtype}{theirs.shape}", 0.0, 0.0
    if theirs.dtype.kind != "f":
        return "" if np.array_equal(ours, theirs) else "its integers differ", 0.0, 0.0
    if not theirs.size:
        return "", 0.0, 0.0
    if not np.isfinite(theirs).all():
        return "ONNX Runtime's own is not finite", 0.0, 0.0
    wide = theirs.astype(np.float64)
    far = float(np.abs(ours.astype(np.float64) - wide).max())
    odd = "" if np.isfinite(far) else "it is not finite"
    return odd, far if not odd else 0.0, float(np.abs(wide).max())


def _fixed(options: Mapping[str, Mapping[str, object]]) -> Sequence[str]:
    """What was fixed when compiling, as on the command line."""
    found = [f"`--value {name}={value}`" for name, value in options.get("values", {}).items()]
    for name, size in options.get("dims", {}).items():
        text = "..".join(map(str, size)) if isinstance(size, tuple) else str(size)
        found.append(f"`--dim {name}={text}`")
    return found
