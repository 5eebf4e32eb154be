"""Kernels are found in order, times add up, and the work of each is that of its sizes."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tunesmith.ir.diagnostics import InputError
from tunesmith.runtime import Artifact, load
from tunesmith.runtime.manifest import Json
from tunesmith.runtime.profiler import CALL, RUNTIME, NativeHook

from .conftest import expected, tiny_manifest

X = np.ones((5, 4), np.float32)
TABLE: list[Json] = [
    {"kernel": "fused_matmul_relu", "kind": "gemm", "nodes": ["matmul", "relu"],
     "from": ["product", "cut"], "flops": "24*n + 3*n", "bytes": "28*n + 48"},
]  # fmt: skip


def kernel_name(tiny: Artifact) -> str:
    """What TVM called the kernel of `tiny.so`."""
    profile = load(tiny, threads=1).profile({"x": X}, rounds=1)
    (kernel,) = profile.kernels
    return kernel.name


def with_table(tiny: Artifact, table: list[Json]) -> Artifact:
    tiny.manifest = replace(tiny_manifest(), report={"kernel_table": table})
    return tiny


def test_rows_are_kernels_then_the_runtime(tiny: Artifact) -> None:
    profile = load(tiny, threads=1).profile({"x": X}, rounds=7, warmup=0)
    assert [row.kind for row in profile.rows] == ["kernel", RUNTIME, CALL]
    assert [row.is_kernel for row in profile.rows] == [True, False, False]
    assert (profile.rounds, profile.threads, profile.sizes) == (7, 1, {"n": 5})
    assert profile.rows[1].calls > 1, "shapes, allocation"


def test_times_add_up(tiny: Artifact) -> None:
    profile = load(tiny, threads=1).profile({"x": X}, rounds=50)
    assert profile.whole > 0
    assert profile.whole_least <= profile.whole
    assert all(0 <= row.least <= row.seconds for row in profile.rows)
    assert sum(row.least for row in profile.rows) <= profile.instrumented * 1.01
    assert 0 < profile.outside < 1, "a tiny kernel in a large call"
    assert 0 < profile.hook_seconds < 1e-4


def test_the_table_gives_work_and_origin(tiny: Artifact) -> None:
    table = [{**TABLE[0], "kernel": kernel_name(tiny)}] if isinstance(TABLE[0], dict) else []
    executable = load(with_table(tiny, [*table]), threads=1)
    (kernel,) = executable.profile({"x": X}, rounds=2).kernels
    assert (kernel.kind, kernel.sources) == ("gemm", ("product", "cut"))
    assert kernel.nodes == ("matmul", "relu")
    assert (kernel.flops, kernel.nbytes) == (27 * 5, 28 * 5 + 48)
    (kernel,) = executable.profile({"x": X[:2]}, rounds=2).kernels
    assert kernel.flops == 27 * 2


@pytest.mark.parametrize("text", ["24*m", "24 **", None])
def test_work_that_nobody_knows_is_none(tiny: Artifact, text: str | None) -> None:
    row: dict[str, Json] = {"kernel": kernel_name(tiny), "kind": "gemm", "flops": text}
    (kernel,) = load(with_table(tiny, [row]), threads=1).profile({"x": X}, rounds=1).kernels
    assert (kernel.flops, kernel.nbytes, kernel.sources) == (None, None, ())


def test_the_model_runs_as_before(tiny: Artifact) -> None:
    executable = load(tiny, threads=1)
    executable.profile({"x": X}, rounds=1)
    assert np.allclose(executable.run({"x": X})["y"], expected(X))


def test_other_threads_wait(tiny: Artifact) -> None:
    executable = load(tiny, threads=1)
    results: list[np.ndarray] = []
    worker = threading.Thread(
        target=lambda: results.extend(np.asarray(executable.run({"x": X})["y"]) for _ in range(50))
    )
    worker.start()
    profile = executable.profile({"x": X}, rounds=20)
    worker.join()
    assert len(profile.kernels) == 1
    assert len(results) == 50
    assert all(np.allclose(result, expected(X)) for result in results)


def test_cpu_time_is_for_one_thread(tiny_path: Path) -> None:
    assert load(tiny_path, threads=1).profile({"x": X}, rounds=2, cpu_time=True).clock == "cpu"
    executable = load(tiny_path, threads=1)
    executable._module.threads = 2
    with pytest.raises(InputError, match="CPU time is that of one thread"):
        executable.profile({"x": X}, cpu_time=True)


def test_inputs_and_counts_are_checked(tiny: Artifact) -> None:
    executable = load(tiny, threads=1)
    with pytest.raises(InputError, match="has the dtype"):
        executable.profile({"x": X.astype(np.float64)})
    with pytest.raises(InputError, match="0 rounds"):
        executable.profile({"x": X}, rounds=0)


def test_the_hook_reads_the_clock() -> None:
    readings = iter([7, 9])
    hook = NativeHook(lambda: next(readings))
    assert hook.address
    assert (hook.function(None, None, 0, None), hook.function(None, None, 0, None)) == (0, 0)
    assert hook.ticks == [7, 9]


def test_a_round_has_what_was_reached_before_and_after_it(tiny: Artifact) -> None:
    rates = iter([10.0, 20.0, 60.0])
    profile = load(tiny, threads=1).profile(
        {"x": X}, rounds=2, probe=lambda clock: {"gflops": next(rates)}
    )
    assert [dict(row) for row in profile.beside] == [{"gflops": 15.0}, {"gflops": 40.0}]
    for row in profile.rows:
        assert len(row.each) == 2
        assert (row.seconds, row.least) == (sum(row.each) / 2, min(row.each))
