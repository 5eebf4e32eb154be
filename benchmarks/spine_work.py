"""One measurement of the spine, in a process of its own: compile and compare, or time.

`python -m benchmarks.spine_work KIND SUBJECT FOLDER REQUEST` is what `benchmarks.spine` starts. It
writes `FOLDER/row.json` after every step, so that a crash loses only what was under way.
"""

from __future__ import annotations

import json
import re
import resource
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict, cast

from benchmarks.spine_rows import (
    ERROR_LIMIT,
    PAIRS,
    Compiled,
    Engine,
    OutputRow,
    Ratio,
    Row,
    SizeRow,
    write_text,
)
from benchmarks.spine_subjects import Size, Subject, find_subject
from tunesmith import bench
from tunesmith.ir.diagnostics import CompilerError
from tunesmith.oracle import Arrays, OnnxSession, compare
from tunesmith.runtime import Executable, Manifest, load

__all__ = ["Request", "Turns", "attention_misses", "count_attention", "main"]

SETTLE_SECONDS = 0.12  # workers of ONNX Runtime were seen to spin for 65 to 100 ms after a run
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


# ------------------------------------------------------------------------------ compile and compare


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
            theirs = session.run(_known(session, feeds))
        except CompilerError as error:
            row["skipped"] = str(error)
            continue
        work.row["error"] = f"the process ended while it ran {'x'.join(map(str, size))}"
        work.save()
        try:
            row["outputs"] = _errors(executable.run(feeds), theirs)
        except CompilerError as error:
            row["error"] = str(error)
        del work.row["error"]
        work.save()


def _known(session: OnnxSession, feeds: Arrays) -> Arrays:
    return {name: feeds[name] for name in session.input_names if name in feeds}


def _errors(ours: Arrays, theirs: Arrays) -> list[OutputRow]:
    return [
        OutputRow(
            output=r.name,
            max_abs=None if r.max_abs == float("inf") else r.max_abs,
            passed=r.passed,
            reason=r.reason,
        )
        for r in compare(ours, theirs, atol=ERROR_LIMIT, rtol=0.0)
    ]


# -------------------------------------------------------------------------------------------- time


@dataclass
class Turns:
    """Lets the machine settle whenever another engine has its turn.

    The first run of a block is not timed, so neither is the pause.
    """

    pause: float = SETTLE_SECONDS
    last: str = ""

    def wrap(self, name: str, run: Callable[[], object]) -> Callable[[], object]:
        """The same run, with a pause before it if the engine before was another."""

        def turn() -> object:
            if self.last != name:
                self.last = name
                time.sleep(self.pause)
            return run()

        return turn


def timing(work: Work) -> None:
    """Time both artifacts beside ONNX Runtime: the same inputs, threads and process."""
    subject, threads = work.subject, work.request["threads"]
    feeds = subject.feeds(subject.timed)
    start = time.perf_counter()
    dynamic = load(work.folder / DYNAMIC, threads=threads)
    work.row["load_ms"] = 1e3 * (time.perf_counter() - start)
    aligned = _aligned(dynamic, feeds, dict(zip(subject.axes, subject.timed, strict=True)))
    start = time.perf_counter()
    ours = dynamic.run(aligned)
    work.row["first_run_ms"] = 1e3 * (time.perf_counter() - start)
    fixed = load(work.folder / FIXED, threads=threads)
    free = OnnxSession(subject.path(), threads=threads)
    bound = OnnxSession(_fixed_model(work, feeds), threads=threads)
    theirs = free.run(_known(free, aligned))
    work.row["sizes"] = [
        SizeRow(size=list(subject.timed), outputs=_errors(o, theirs), skipped="", error="")
        for o in (ours, fixed.run(aligned))
    ]
    work.save()
    turns = Turns()
    runs: dict[str, Callable[[], object]] = {
        "tunesmith": lambda: dynamic.run(aligned),
        "onnxruntime": lambda: free.run(_known(free, aligned)),
        "tunesmith fixed": lambda: fixed.run(aligned),
        "onnxruntime fixed": lambda: bound.run(_known(bound, aligned)),
    }
    measured = bench.interleave(
        {name: turns.wrap(name, run) for name, run in runs.items()},
        rounds=work.request["rounds"],
        min_seconds=work.request["seconds"],
        warm_up_seconds=bench.WARM_UP_SECONDS + SETTLE_SECONDS,
    )
    work.row["engines"] = {name: _engine(s) for name, s in measured.samples.items()}
    work.row["ratios"] = [_ratio(measured.samples, *pair) for pair in PAIRS]


def _aligned(executable: Executable, feeds: Arrays, sizes: Mapping[str, int]) -> Arrays:
    """The inputs in memory that no engine has to copy."""
    arrays = {name: executable.empty(name, **sizes) for name in feeds}
    for name, array in arrays.items():
        array[...] = feeds[name]
    return arrays


def _fixed_model(work: Work, feeds: Arrays) -> Path:
    """The ONNX file with its inputs fixed to the sizes of `feeds`, for ONNX Runtime."""
    import onnx

    path = work.folder / "fixed.onnx"
    if path.is_file():
        return path
    model = onnx.load(work.subject.path())
    for value in model.graph.input:
        if value.name in feeds:
            dims = value.type.tensor_type.shape.dim
            for dim, size in zip(dims, feeds[value.name].shape, strict=True):
                dim.dim_value = size
    onnx.save(model, path)
    return path


def _engine(samples: list[list[float]]) -> Engine:
    s = bench.statistics(samples)
    rounded = [[round(value, 4) for value in turn] for turn in samples]
    return Engine(median_ms=s.median_ms, p90_ms=s.p90_ms, p99_ms=s.p99_ms, cv=s.cv, n=s.n,
                  samples_ms=rounded)  # fmt: skip


def _ratio(samples: Mapping[str, list[list[float]]], ours: str, theirs: str) -> Ratio:
    low, high = bench.ratio_interval(samples[ours], samples[theirs])
    left, right = (bench.statistics(samples[name]).median_ms for name in (ours, theirs))
    return Ratio(ours=ours, theirs=theirs, ratio=left / right, low=low, high=high)


# ------------------------------------------------------------------------------------------ process

KINDS: dict[str, Callable[[Work], object]] = {
    "build": lambda work: work.subject.path(),
    "check": check,
    "fix": fix,
    "time": timing,
}


def main(arguments: list[str]) -> int:
    """Measure, and write the row; every error is a part of it."""
    kind, name, folder, text = arguments
    subject, request = find_subject(name), cast("Request", json.loads(text))
    row = Row(key=request["key"], kind=kind, subject=name, expected=subject.blocks)
    if kind == "time":
        row["threads"] = request["threads"]
    work = Work(subject, Path(folder), request, row)
    try:
        KINDS[kind](work)
    except Exception as error:  # of any kind: the table tells what it was
        traceback.print_exc()
        traced = "".join(traceback.format_exception(error)[-6:])
        known = isinstance(error, CompilerError)
        row["error"] = str(error) if known else f"{type(error).__name__}: {error}\n{traced}"
    work.save()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
