"""Targets and machines, as data."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["HOST_LIKE", "Machine", "Target"]


@dataclass(frozen=True)
class Machine:
    """The numbers of a CPU that schedules are computed from."""

    isa: str  # "avx512", "avx2", "neon" or "generic"
    vector_bytes: int
    vector_registers: int
    fma_units: int
    l1_bytes: int
    l2_bytes: int
    l3_bytes: int
    cores: int
    streams: int = 4  # places in memory that a core reads in turn when it is quickest


@dataclass(frozen=True)
class Target:
    """What code is generated for: a name of ours, the compiler's words, and the machine."""

    name: str
    triple: str
    cpu: str
    features: tuple[str, ...]  # that the artifact needs, as the kernel names them
    machine: Machine


HOST_LIKE = Target(
    "x86-64-v3",
    "x86_64-linux-gnu",
    "haswell",
    ("avx2", "f16c", "fma"),
    Machine("avx2", 32, 16, 2, 32 << 10, 256 << 10, 8 << 20, 2),
)
