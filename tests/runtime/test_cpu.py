"""CPU features by any of their names."""

from __future__ import annotations

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
