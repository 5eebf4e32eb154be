"""Compile a model of the spine, and compare the artifact with ONNX Runtime."""

from __future__ import annotations

import json
import re
import resource
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict, cast

import numpy as np
from numpy.typing import NDArray

from benchmarks.spine_rows import ERROR_LIMIT, Compiled, OutputRow, Row, SizeRow, write_text
from benchmarks.spine_subjects import Size, Subject
from tunesmith.ir.diagnostics import CompilerError
from tunesmith.oracle import Arrays, OnnxSession, compare
from tunesmith.runtime import Manifest, load

__all__ = [
    "DYNAMIC", "FIXED", "Request", "Work", "attention_misses", "check", "count_attention",
    "errors_of", "fix", "known",
]  # fmt: skip

DYNAMIC, FIXED = "dynamic.tsm", "fixed.tsm"


class Request(TypedDict):
    """What a process is asked for, besides the subject."""

    key: str
    threads: int
    sizes: list[list[int]]
    rounds: int
    seconds: float


@dataclass
class Work:
    """The row under way."""

    subject: Subject
    folder: Path
    request: Request
    row: Row

    def save(self) -> None:
        """Keep what is known so far."""
        write_text(self.folder / "row.json", json.dumps(self.row))


def check(work: Work) -> None:
    """Compile for every size in the bounds, and compare at several."""
    _compile(work, DYNAMIC, fixed=None)
    _compare(work, DYNAMIC, [tuple(size) for size in work.request["sizes"]])


def fix(work: Work) -> None:
    """Compile for the timed size alone, and compare there."""
    _compile(work, FIXED, fixed=work.subject.timed)
    _compare(work, FIXED, [work.subject.timed])


def _compile(work: Work, name: str, fixed: Size | None) -> None:
    from tunesmith.driver import compile_model

    subject, path = work.subject, work.folder / name
    model = subject.path()
    shapes = None if fixed is None else {n: a.shape for n, a in subject.feeds(fixed).items()}
    start = time.perf_counter()
    artifact = compile_model(model, shapes=shapes, dims=None if shapes else subject.dims)
    artifact.save(path)
    took = time.perf_counter() - start
    manifest = artifact.manifest
    report = cast("Mapping[str, int]", manifest.report)
    work.row["compiled"] = Compiled(
        seconds=round(took, 2),
        stages=dict(cast("Mapping[str, Mapping[str, float]]", manifest.report)["seconds"]),
        bytes=path.stat().st_size,
        peak_mb=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1000,
        dims=", ".join(f"{s.name} {s.min}..{s.max}" for s in manifest.symbols),
        nodes=[report["nodes_before"], report["nodes_after"]],
        kernels=report["kernels"],
        attention=count_attention(artifact.graph or ""),
        near_misses=attention_misses(manifest),
    )
    work.save()
    if not shapes:
        _require_dims(subject, manifest)


def _require_dims(subject: Subject, manifest: Manifest) -> None:
    have = {s.name: (s.min, s.max) for s in manifest.symbols}
    if have != subject.dims:
        raise CompilerError(f"the artifact has the dims {have}, wanted are {subject.dims}")


def count_attention(graph: str) -> int:
    """How many attention nodes the text of a graph has.

    >>> count_attention("  %o = attention(%q, %k, %v) {scale = 1.0}")
    1
    """
    return len(re.findall(r"^ *%[^=]* = attention\(", graph, re.MULTILINE))


def attention_misses(manifest: Manifest) -> list[str]:
    """Why attention was not found where it nearly was, without places where it was found later."""
    notes = [n for n in manifest.passes if n["pass"] == "fuse-attention"]
    found = {(n["what"], n["where"]) for n in notes if n["kind"] == "match"}
    missed = [n for n in notes if n["kind"] == "near-miss" and (n["what"], n["where"]) not in found]
    reasons = Counter((str(n["what"]), str(n["reason"])) for n in missed)
    first = {(str(n["what"]), str(n["reason"])): str(n["where"]) for n in reversed(missed)}
    return [
        f"{what}: {reason} ({count} times, first at {first[what, reason]})"
        for (what, reason), count in reasons.items()
    ]


def _compare(work: Work, name: str, sizes: list[Size]) -> None:
    """Run both engines at every size; one that fails does not hide the others."""
    work.row["sizes"] = []
    start = time.perf_counter()
    executable = load(work.folder / name, strict=True)
    work.row["load_ms"] = 1e3 * (time.perf_counter() - start)
    session = OnnxSession(work.subject.path(), threads=executable.threads)
    for number, size in enumerate(sizes):
        feeds = work.subject.feeds(size, seed=number)
        row = SizeRow(size=list(size), outputs=[], skipped="", error="")
        work.row["sizes"].append(row)
        try:
            theirs = session.run(known(session, feeds))
        except CompilerError as error:
            row["skipped"] = str(error)
            continue
        work.row["error"] = f"the process ended while it ran {'x'.join(map(str, size))}"
        work.save()
        try:
            row["outputs"] = errors_of(executable.run(feeds), theirs)
        except CompilerError as error:
            row["error"] = str(error)
        del work.row["error"]
        work.save()


def known(session: OnnxSession, feeds: Arrays) -> Arrays:
    """The inputs that ONNX Runtime has."""
    return {name: feeds[name] for name in session.input_names if name in feeds}


def errors_of(ours: Arrays, theirs: Arrays) -> list[OutputRow]:
    """How far each output is; one that is NaN at both proves nothing, and fails."""
    return [
        OutputRow(
            output=r.name,
            dtype=r.dtype,
            scale=_scale(theirs.get(r.name)),
            max_abs=None if r.max_abs == float("inf") else r.max_abs,
            passed=r.passed and not _odd(theirs.get(r.name)),
            reason=r.reason or _odd(theirs.get(r.name)),
        )
        for r in compare(ours, theirs, atol=ERROR_LIMIT, rtol=0.0)
    ]


def _scale(array: NDArray[np.generic] | None) -> float:
    values: NDArray[np.float64] = np.abs(np.asarray([] if array is None else array, np.float64))
    return float(np.where(np.isfinite(values), values, 0.0).max(initial=0.0))


def _odd(array: NDArray[np.generic] | None) -> str:
    values: NDArray[np.float64] = np.asarray([] if array is None else array, np.float64)
    return "" if np.isfinite(values).all() else "ONNX Runtime's own output is not finite"
