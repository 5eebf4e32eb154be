"""The machine at hand is described, and its peaks are measured once."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest

from tunesmith.backends import measure, probe
from tunesmith.backends.measure import Peaks, cache_file, measured_peaks
from tunesmith.backends.probe import cpu_model, host_machine
from tunesmith.backends.targets import find_target
from tunesmith.backends.tvm.schedule import gemm_knobs
from tunesmith.ir.diagnostics import BackendError


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of this test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return cache_file()


def rates(scale: float = 1.0, noise: float = 0.1) -> dict[str, float]:
    return {
        "gflops": 100 * scale, "memory_gbs": 10 * scale, "l2_gbs": 50 * scale, "noise": noise,
    }  # fmt: skip


def forbidden(threads: int) -> dict[str, float]:
    raise AssertionError("measured again")


def test_the_cpu_has_a_name_and_caches() -> None:
    assert cpu_model()
    machine = host_machine(find_target("x86-64-v3").machine)
    assert 0 < machine.l1_bytes <= machine.l2_bytes <= machine.l3_bytes
    assert machine.cores >= 1


@pytest.mark.parametrize(("vendor", "streams"), [("AuthenticAMD", 1), ("GenuineIntel", 4), ("", 4)])
def test_streams_are_those_of_the_vendor(
    vendor: str, streams: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "_cpu_facts", lambda: {"vendor_id": vendor} if vendor else {})
    level = find_target("x86-64-v4").machine
    assert host_machine(level).streams == streams
    work = gemm_knobs.GemmWork(rows=1, inner=768, cols=768)
    assert gemm_knobs.default(work, host_machine(level)).streams == streams


def test_measured_once_for_each_number_of_threads(cache: Path) -> None:
    first = measured_peaks(1, measure=lambda threads: rates())
    assert (first.gflops, first.memory_gbs, first.l2_gbs, first.threads) == (100, 10, 50, 1)
    assert measured_peaks(1, measure=forbidden) == first
    assert measured_peaks(3, measure=lambda threads: rates(threads)).gflops == 300
    assert measured_peaks(1, measure=forbidden) == first
    (machine,) = json.loads(cache.read_text()).items()
    assert cpu_model() in machine[0]
    assert set(machine[1]) == {"1", "3"}


def test_measuring_again_keeps_the_better() -> None:
    measured_peaks(1, measure=lambda _: rates(2, noise=0.5))
    again = measured_peaks(1, refresh=True, measure=lambda _: rates(1, noise=0.1))
    assert (again.gflops, again.memory_gbs, again.l2_gbs) == (200, 20, 100)
    assert not again.noisy
    assert measured_peaks(1, measure=forbidden) == again


@pytest.mark.parametrize("text", ["", "{", "[1]", '{"x": 1}', '{"x": {"1": {"gflops": "?"}}}'])
def test_a_broken_cache_is_no_cache(cache: Path, text: str) -> None:
    cache.parent.mkdir(parents=True)
    cache.write_text(text)
    assert measured_peaks(1, measure=lambda _: rates()).gflops == 100
    assert measured_peaks(1, measure=forbidden).gflops == 100


def test_a_broken_row_is_measured_again(cache: Path) -> None:
    measured_peaks(1, measure=lambda _: rates())
    cache.write_text(cache.read_text().replace('"gflops": 100', '"gflops": 0'))
    assert measured_peaks(1, measure=lambda _: rates(3)).gflops == 300


def test_a_cache_that_cannot_be_written_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert measured_peaks(1, measure=lambda _: rates()).gflops == 100


def test_bandwidth_depends_on_where_the_bytes_fit() -> None:
    peaks = Peaks(1, 100.0, 10.0, 50.0, 1 << 20, 0.0)
    assert (peaks.bandwidth(1 << 20), peaks.bandwidth((1 << 20) + 1)) == (50, 10)


@pytest.mark.tvm
def test_the_machine_is_measured_in_a_child(monkeypatch: pytest.MonkeyPatch) -> None:
    peaks = measured_peaks(1)
    assert 1 < peaks.gflops < 1000
    assert 0.1 < peaks.memory_gbs < 1000
    assert peaks.memory_gbs < peaks.l2_gbs < 10_000
    monkeypatch.setattr(measure, "_in_child", forbidden)
    assert measured_peaks(1) == peaks


def test_a_child_that_fails_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(BackendError, match="could not be measured: status 1"):
        measured_peaks(1)


@pytest.mark.tvm
def test_a_probe_says_what_is_reached_now() -> None:
    from tunesmith.backends.tvm.peaks import Probe

    probe = Probe(find_target("host", 1), 1)
    for clock in (time.perf_counter_ns, time.thread_time_ns):
        rates = probe(clock)
        assert 1 < rates["gflops"] < 1000
        assert 0.1 < rates["memory_gbs"] < 1000
