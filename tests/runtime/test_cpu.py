"""CPU features by any of their names."""

from __future__ import annotations

import os

import pytest

from tunesmith.ir.diagnostics import UnsupportedTarget
from tunesmith.runtime import cpu
from tunesmith.runtime.manifest import TargetSpec


def test_names_of_llvm_and_linux(monkeypatch: pytest.MonkeyPatch) -> None:
    flags = "fpu pni abm bmi1 avx2 fma avx512f avx512_vnni sse4_1 sse4_2 pclmulqdq avx_vnni"
    host = frozenset(map(cpu._plain, flags.split()))
    monkeypatch.setattr(cpu, "host_features", lambda: host)
    llvm = ("sse3", "lzcnt", "bmi", "avx2", "fma", "avx512f", "avx512vnni", "sse4.1", "pclmul",
            "crc32", "avxvnni", "avx512_vnni")  # fmt: skip
    assert cpu.missing_features(llvm) == ()
    assert cpu.missing_features(("avx2", "amx-int8", "sse99")) == ("amx-int8", "sse99")


def test_check_target() -> None:
    here = f"{cpu.architecture()}-linux-gnu"
    cpu.check_target(TargetSpec(here, "host"))
    with pytest.raises(UnsupportedTarget, match="lacks `sse99`"):
        cpu.check_target(TargetSpec(here, "future", ("sse99",)))
    with pytest.raises(UnsupportedTarget, match="made for `riscv99"):
        cpu.check_target(TargetSpec("riscv99-linux-gnu", "future"))


def test_fallback_and_cores() -> None:
    assert cpu._numpy_features()
    assert cpu.physical_cores() >= 1


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="processes cannot be bound here")
def test_threads_go_to_cores_that_idle_one_to_each(monkeypatch: pytest.MonkeyPatch) -> None:
    """Four cores of two hyper-threads, `0,4` to `3,7`, of which the second is busy and CPU 7."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {*range(8)})
    monkeypatch.setattr(cpu, "_siblings", lambda number: f"{number % 4},{number % 4 + 4}")
    ticks = iter([dict.fromkeys(range(8), 0), {0: 5, 4: 5, 1: 0, 5: 0, 2: 5, 6: 5, 3: 5, 7: 1}] * 4)
    monkeypatch.setattr(cpu, "_idle", lambda: next(ticks))
    assert cpu.quiet_cpus(1, 0) == {6}
    assert cpu.quiet_cpus(2, 0) == {4, 6}
    assert cpu.quiet_cpus(3, 0) == {4, 6, 7}
    assert cpu.quiet_cpus(4, 0) == cpu.quiet_cpus(9, 0) == {*range(8)}


def test_idle_ticks_are_of_this_machine() -> None:
    if not os.path.exists("/proc/stat"):
        pytest.skip("no /proc")
    assert {*os.sched_getaffinity(0)} <= {*cpu._idle()}
