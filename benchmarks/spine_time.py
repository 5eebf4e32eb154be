"""Time the artifacts of a model of the spine beside ONNX Runtime."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from benchmarks.spine_compare import DYNAMIC, FIXED, Work, errors_of, known
from benchmarks.spine_rows import PAIRS, Engine, Ratio, SizeRow
from tunesmith import bench
from tunesmith.oracle import Arrays, OnnxSession
from tunesmith.runtime import Executable, load

__all__ = ["Turns", "timing"]

SETTLE_SECONDS = 0.12  # workers of ONNX Runtime were seen to spin for 65 to 100 ms after a run


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
    theirs = free.run(known(free, aligned))
    work.row["sizes"] = [
        SizeRow(size=list(subject.timed), outputs=errors_of(o, theirs), skipped="", error="")
        for o in (ours, fixed.run(aligned))
    ]
    work.save()
    turns = Turns()
    runs: dict[str, Callable[[], object]] = {
        "tunesmith": lambda: dynamic.run(aligned),
        "onnxruntime": lambda: free.run(known(free, aligned)),
        "tunesmith fixed": lambda: fixed.run(aligned),
        "onnxruntime fixed": lambda: bound.run(known(bound, aligned)),
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
