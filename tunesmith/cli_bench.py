"""`tunesmith bench`: latency, and the ratio to ONNX Runtime in the same process."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from tunesmith.cli_compile import require_file
from tunesmith.cli_console import note, out
from tunesmith.cli_values import fixed_sizes, parse_shapes, read_npz, write_json

if TYPE_CHECKING:
    from tunesmith.bench import Measurement
    from tunesmith.oracle import Arrays
    from tunesmith.runtime import Manifest

__all__ = ["bench_command"]


def bench_command(
    artifact: Path,
    model: Path | None,
    inputs: Path | None,
    shapes: Sequence[str],
    dims: Sequence[str],
    threads: int | None,
    rounds: int,
    min_seconds: float,
    json: Path | None,
) -> None:
    """Measure, print the timing block, and write JSON."""
    wanted_shapes, wanted = parse_shapes(shapes), fixed_sizes(dims)
    require_file(artifact)
    if model is not None:
        require_file(model)
    from tunesmith import __version__, bench, oracle, report
    from tunesmith.runtime import load
    from tunesmith.runtime.cache import plain_inputs

    start = time.perf_counter()
    executable = load(artifact, threads=threads)
    loaded = time.perf_counter() - start
    sizes, feeds = _feeds(executable.manifest, inputs, wanted_shapes, wanted)
    start = time.perf_counter()
    ours = executable.run(feeds)
    first = time.perf_counter() - start
    engines: dict[str, Callable[[], object]] = {"tunesmith": lambda: executable.run(feeds)}
    versions = {"tunesmith": str(__version__)}
    max_abs: float | None = None
    if model is not None:
        session = oracle.OnnxSession(model, threads=executable.threads)
        known = plain_inputs(executable.manifest, feeds)
        theirs_feeds = {n: known[n] for n in session.input_names if n in known}
        compared = oracle.compare(ours, session.run(theirs_feeds))
        max_abs = max((r.max_abs for r in compared), default=0.0)
        engines["onnxruntime"] = lambda: session.run(theirs_feeds)
        versions["onnxruntime"] = oracle.version()
    measured = bench.interleave(engines, rounds=rounds, min_seconds=min_seconds)
    show = note if str(json) == "-" else out
    target = executable.manifest.target
    show(
        f"{executable.manifest.name} at {report.sizes_text(sizes)}   load {report.seconds(loaded)}"
        f"   first run {report.seconds(first)}   threads {executable.threads}   cpu {target.cpu}"
    )
    for line in report.bench_lines(measured, versions):
        show(line)
    if max_abs is not None:
        show(f"max abs      {max_abs:.3g} against onnxruntime")
    if any(s.cv > bench.CV_LIMIT for s in measured.statistics.values()):
        note("warning: the rounds differ by more than 2.5 %: small differences mean nothing here")
    if json is not None:
        facts: dict[str, object] = {
            "sizes": sizes, "threads": executable.threads, "versions": versions,
            "load_ms": loaded * 1e3, "first_run_ms": first * 1e3, "max_abs": _finite(max_abs),
            "artifact_bytes": artifact.stat().st_size, "artifact": str(artifact),
            "model": None if model is None else str(model), "cores": os.cpu_count(),
            "machine": platform.machine(), "target_cpu": target.cpu,
        }  # fmt: skip
        write_json(json, as_json(measured) | facts)


def _finite(value: float | None) -> float | None:
    return None if value is None or value == float("inf") else value


def as_json(measured: Measurement) -> dict[str, object]:
    """The measurement as JSON, every sample included."""
    return {
        "engines": {
            name: asdict(stats) | {"samples_ms": list(measured.samples[name])}
            for name, stats in measured.statistics.items()
        },
        "ratio": measured.ratio,
        "ratio_interval": None if measured.interval is None else list(measured.interval),
        "best_peer": measured.best_peer,
    }


def _feeds(
    manifest: Manifest,
    inputs: Path | None,
    shapes: Mapping[str, tuple[int, ...]],
    dims: Mapping[str, int],
) -> tuple[dict[str, int], Arrays]:
    """The inputs of the user, or random ones of typical sizes."""
    from tunesmith.random_inputs import check_sizes, fitting, make_inputs, sizes_of, sizes_to_bench

    if inputs is not None:
        feeds = read_npz(inputs)
        given = {n: a.shape for n, a in feeds.items() if n in {s.name for s in manifest.inputs}}
        return sizes_of(manifest.inputs, given, {}), feeds
    check_sizes(dims, manifest.symbols)
    typical = fitting(manifest, {**sizes_to_bench(manifest.given), **dims})
    sizes = sizes_of(manifest.inputs, shapes, {**typical, **dims})
    return sizes, make_inputs(manifest.inputs, sizes)
