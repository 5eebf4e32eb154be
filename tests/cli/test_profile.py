"""`tunesmith profile`: a table in a pipe, JSON, and figures that follow from the sizes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np
import pytest

from tunesmith import cli_profile
from tunesmith.backends import measure
from tunesmith.backends.measure import Peaks
from tunesmith.ir.diagnostics import BackendError
from tunesmith.report_profile import (
    group_rows,
    noise_of,
    peaks_beside,
    profile_lines,
    table_rows,
)
from tunesmith.runtime import load
from tunesmith.runtime.profiler import KernelTime, Profile

from .conftest import Cli

BESIDE = {"gflops": 90.0, "memory_gbs": 8.0}
PEAKS = Peaks(1, 100.0, 10.0, 50.0, 1 << 20, 0.0)
pytestmark = pytest.mark.tvm


@pytest.fixture(autouse=True)
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that need not be measured."""
    rates = {"gflops": 100.0, "memory_gbs": 10.0, "l2_gbs": 50.0, "noise": 0.0}
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(measure, "_in_child", lambda threads: rates)
    monkeypatch.setattr(cli_profile, "_probe", lambda threads: lambda clock: BESIDE)


def test_table_in_a_pipe(cli: Cli, compiled: tuple[Path, Path]) -> None:
    result = cli("profile", compiled[1], "--dim", "batch=3", "--threads", 1, "--rounds", 3)
    assert result.code == 0, result.err
    lines = result.out.splitlines()
    assert lines[0].split()[:5] == ["kernel", "kind", "calls", "ms", "share"]
    assert any(line.startswith("linear_") and "cut" in line for line in lines)
    assert any(line.startswith("total") and "100.0%" in line for line in lines)
    assert "batch=3" in result.out
    assert "whole call   median" in result.out
    assert "90 GFLOP/s" in result.out
    assert "between the rounds" in result.out


def test_json_holds_everything(cli: Cli, compiled: tuple[Path, Path], tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", x=np.ones((3, 4), np.float32))
    result = cli("profile", compiled[1], "--inputs", tmp_path / "in.npz", "--threads", 1,
                 "--rounds", 3, "--by", "node", "--json", "-")  # fmt: skip
    assert result.code == 0, result.err
    facts = json.loads(result.out)
    assert facts["sizes"] == {"batch": 3}
    assert facts["peaks"]["gflops"] == 90
    assert [g["name"] for g in facts["groups"] if g["kind"] == "gemm"] == ["cut"]
    (row,) = [row for row in facts["rows"] if row["kind"] == "gemm"]
    assert row["from"], "the nodes of the model"
    assert row["flops"] == 3 * (2 * 4 * 3 + 3 + 3), "the product, the sum, the activation"
    assert row["bytes"] == 4 * (3 * 4 + 4 * 3 + 3 + 3 * 3)
    assert row["needed_ms"] > 0
    assert facts["rounds"] == 3


def test_names_follow_the_kernel_table(compiled: tuple[Path, Path]) -> None:
    executable = load(compiled[1], threads=1)
    table = executable.manifest.report["kernel_table"]
    assert isinstance(table, list)
    profile = executable.profile({"x": np.ones((2, 4), np.float32)}, rounds=2)
    assert [k.name for k in profile.kernels] == [r["kernel"] for r in table if isinstance(r, dict)]


def test_without_peaks_there_is_a_profile(
    cli: Cli, compiled: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(threads: int) -> None:
        raise BackendError("no compiler")

    monkeypatch.setattr(measure, "_in_child", fail)
    result = cli("profile", compiled[1], "--threads", 1, "--rounds", 2, "--least", "--cpu-time")
    assert result.code == 0
    assert "warning: no compiler" in result.err
    assert "cpu time" in result.out


def kernel(name: str, ms: float, flops: int | None, nbytes: int, *sources: str) -> KernelTime:
    return KernelTime(name=name, kind="gemm", sources=sources, flops=flops, nbytes=nbytes,
                      seconds=ms / 1e3, least=ms / 2e3)  # fmt: skip


def made_up(*rows: KernelTime) -> Profile:
    return Profile(rows=rows, whole=0.012, whole_least=0.01, instrumented=0.01, hook_seconds=1e-6,
                   rounds=3, threads=1, clock="wall", sizes={"n": 1})  # fmt: skip


def test_the_roofline_of_groups() -> None:
    around = KernelTime(name="runtime", kind="runtime", calls=9, seconds=0.002, least=0.001)
    profile = made_up(
        kernel("a", 2, 100_000_000, 1000, "p", "q"),  # needs 1 ms of arithmetic
        kernel("b", 4, 1000, 20_000_000, "r"),  # needs 2 ms of memory
        kernel("a", 2, 50_000_000, 1000, "p", "s"),  # needs 0.5 ms of arithmetic
        around,
    )
    a, b, rest = sorted(group_rows(profile, PEAKS), key=lambda group: group.name)
    assert (a.calls, a.bound, a.sources) == (2, "compute", ("p", "q", "s"))
    assert [a.of_peak, b.of_peak, a.gflops, b.gbs] == pytest.approx([0.375, 0.5, 37.5, 5])
    assert (b.bound, rest.of_peak) == ("memory", None)
    assert sum(group.share for group in (a, b, rest)) == pytest.approx(1)
    assert [group.name for group in group_rows(profile, PEAKS, "node")] == [
        "r", "q", "s", "runtime",
    ]  # fmt: skip
    gemm, _ = group_rows(profile, PEAKS, "kind", least=True)
    assert gemm.seconds == pytest.approx(0.004)
    assert gemm.calls == 3
    assert table_rows([a, b, rest])[-1][2:5] == ("12", "10.000", "100.0%")
    assert "outside of them at most 20.0%" in profile_lines(profile, PEAKS, [a, b, rest])[1]
    assert "1.20 times the quickest" in (noise_of(profile) or "")


def test_unknown_work_has_no_rate() -> None:
    (group,) = group_rows(made_up(kernel("a", 1, None, 10), kernel("a", 1, 5, 10)), PEAKS)
    assert (group.flops, group.gflops, group.of_peak, group.bound) == (None, None, None, "")
    assert group.nbytes == 20


def test_cached_operands_read_faster_than_memory() -> None:
    (group,) = group_rows(made_up(kernel("a", 1, 0, 1 << 20)), PEAKS)
    assert group.bound == "l2"
    assert group.of_peak == pytest.approx((1 << 20) / 50e9 / 1e-3)


def test_weights_come_from_memory_if_they_do_not_fit() -> None:
    row = {"name": "k", "kind": "gemm", "flops": 8, "seconds": 1.0, "least": 1.0}
    one = KernelTime(**row, nbytes=1000, weight_bytes=900)  # type: ignore[arg-type]
    whole = {"whole": 1.0, "whole_least": 1.0, "instrumented": 1.0, "hook_seconds": 0.0}
    for count, bandwidth in ((1000, 50.0), (2000, 10.0)):
        profile = Profile(rows=(one,) * count, rounds=1, threads=1, clock="wall", sizes={}, **whole)  # type: ignore[arg-type]
        (group,) = group_rows(profile, PEAKS)
        needed = count * (900 / bandwidth + 100 / 50.0) / 1e9
        assert group.least_needed == pytest.approx(needed)
        assert group.bound == ("l2" if bandwidth == 50.0 else "memory")


def test_peaks_beside_are_medians_or_the_best() -> None:
    beside = tuple({"gflops": g, "memory_gbs": g / 10} for g in (50.0, 60.0, 90.0))
    profile = Profile(rows=(), whole=1, whole_least=1, instrumented=1, hook_seconds=0, rounds=3,
                      threads=1, clock="wall", sizes={}, beside=beside)  # fmt: skip
    assert peaks_beside(PEAKS, profile).gflops == 60
    assert peaks_beside(PEAKS, profile, least=True).memory_gbs == 9


def test_clocks_that_change_between_rounds_cancel_out() -> None:
    """The machine is twice as quick in the second of three rounds, and so is the kernel."""
    rates = (50.0, 100.0, 50.0)
    beside = tuple({"gflops": rate, "memory_gbs": 10.0} for rate in rates)
    each = tuple(0.1 / rate for rate in rates)  # 0.1 GFLOP at the peak; half of them are needed
    row = KernelTime(name="k", kind="gemm", flops=50_000_000, nbytes=8, seconds=median(each),
                     least=min(each), each=each)  # fmt: skip
    slow = replace(row, name="slow", each=(each[0] * 5, *each[1:]))  # of an interrupted round
    profile = Profile(rows=(row, slow), whole=1, whole_least=1, instrumented=1, hook_seconds=0,
                      rounds=3, threads=1, clock="wall", sizes={}, beside=beside)  # fmt: skip
    for group in group_rows(profile, peaks_beside(PEAKS, profile)):
        assert group.of_peak == pytest.approx(0.5), group.name
    best = peaks_beside(PEAKS, profile, least=True)
    assert group_rows(profile, best, least=True)[0].of_peak == pytest.approx(0.5)
    assert group_rows(replace(profile, beside=()), PEAKS)[0].of_peak == pytest.approx(0.25)
