"""One decoder step with its key/value caches in place, copied, and in ONNX Runtime.

`python -m benchmarks.caches` times SmolLM2-135M's shape at two lengths of the past, interleaved in
one process, and prints a Markdown table; `--json FILE` keeps every sample.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import zoo
from tunesmith import bench
from tunesmith.driver import compile_model
from tunesmith.oracle import OnnxSession, compare
from tunesmith.random_inputs import make_inputs
from tunesmith.runtime import Executable, load

ENTRY = "smollm2-135m-decode/dynamo18-sdpa"
SPARE = 64  # rows of room behind the longest past
Arrays = dict[str, NDArray[np.generic]]
Run = Callable[[], object]


def compiled(path: Path, capacity: int, threads: int) -> tuple[Executable, Executable]:
    """The model with its caches in place, and as it is."""
    dims: dict[str, tuple[int, int] | int] = {"batch": 1, "past": (0, capacity - 1)}
    kept = compile_model(path, dims=dims, cache=capacity, threads=threads)
    plain = compile_model(path, dims=dims, threads=threads)
    return load(kept, threads=threads), load(plain, threads=threads)


def bound_step(session: Any, feeds: Mapping[str, NDArray[np.generic]]) -> Run:
    """A step of ONNX Runtime that reads inputs where they lie and allocates no output."""
    import onnxruntime

    names = [value.name for value in session.get_outputs()]
    binding = session.io_binding()
    values = {name: onnxruntime.OrtValue.ortvalue_from_numpy(x) for name, x in feeds.items()}
    for name, value in values.items():
        binding.bind_ortvalue_input(name, value)
    for name, array in zip(names, session.run(names, dict(feeds)), strict=True):
        binding.bind_ortvalue_output(name, onnxruntime.OrtValue.ortvalue_from_numpy(array))
    return lambda: session.run_with_iobinding(binding)


def engines(
    path: Path, kept: Executable, plain: Executable, past: int, threads: int
) -> dict[str, Run]:
    """A step of each engine behind the same `past` rows; what they give is compared first."""
    feeds = make_inputs(plain.inputs, {"past": past}, seed=past)
    cache = kept.cache()
    rows = {spec.input: feeds.pop(spec.input) for spec in kept.manifest.caches}
    cache.fill(rows)

    def in_place() -> Mapping[str, NDArray[np.generic]]:
        cache.truncate(past)
        return cache.run(feeds)

    whole: Arrays = {**feeds, **rows}
    session = OnnxSession(path, threads=threads)
    theirs = session.run({name: whole[name] for name in session.input_names})
    for ours in (in_place(), plain.run(whole)):
        wrong = [each.name for each in compare(ours, theirs) if not each.passed]
        if wrong:
            raise SystemExit(f"{', '.join(wrong)} differ from ONNX Runtime: nothing is timed")
    bound = bound_step(session._session, {n: whole[n] for n in session.input_names})
    return {
        "in place": in_place,
        "copied": lambda: plain.run(whole),
        "onnxruntime": lambda: session.run({n: whole[n] for n in session.input_names}),
        "onnxruntime, bound": bound,
    }


def main(arguments: Sequence[str] | None = None) -> int:
    """Time, print a table, and write JSON."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.caches", description=__doc__)
    parser.add_argument("--model", choices=sorted(zoo.BOARD_ENTRIES), default=ENTRY)
    parser.add_argument("--past", type=int, nargs="+", default=[256, 2048])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=bench.ROUNDS)
    parser.add_argument("--time", type=float, default=bench.MIN_SECONDS, help="seconds an engine")
    parser.add_argument("--cpu-time", action="store_true",
                        help="leave out what other processes take; for one thread")  # fmt: skip
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    if options.cpu_time and options.threads > 1:
        parser.error("--cpu-time is that of one thread")
    clock = time.thread_time_ns if options.cpu_time else time.perf_counter_ns
    path = zoo.path(zoo.TABLE[options.model])
    kept, plain = compiled(path, max(options.past) + SPARE, options.threads)
    rows: list[dict[str, object]] = []
    print("| past | engine | median ms | least ms | in place over it |\n|---|---|---|---|---|")
    for past in options.past:
        runs = engines(path, kept, plain, past, options.threads)
        measured = bench.interleave(
            runs, rounds=options.rounds, min_seconds=options.time, clock=clock
        )
        ours = measured.samples["in place"]
        for name, stats in measured.statistics.items():
            ratio = measured.statistics["in place"].median_ms / stats.median_ms
            low, high = bench.ratio_interval(ours, measured.samples[name])
            print(f"| {past} | {name} | {stats.median_ms:.3f} | {stats.min_ms:.3f} "
                  f"| {ratio:.3f} [{low:.3f}, {high:.3f}] |", flush=True)  # fmt: skip
            rows.append({"past": past, "engine": name, "ratio": ratio, "interval": [low, high],
                         "samples_ms": measured.samples[name]})  # fmt: skip
    for label, executable in (("in place", kept), ("copied", plain)):
        print(f"memory of a run, {label}: {executable.manifest.report['arena']} bytes")
    if options.json is not None:
        options.json.write_text(json.dumps({"model": options.model, "threads": options.threads,
                                            "rows": rows}, indent=1) + "\n")  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
