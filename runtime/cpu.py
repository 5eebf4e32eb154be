"""The CPU at hand: what instructions it has, and how many cores this process may use."""

from __future__ import annotations

import os
import platform
import re
import time
from collections.abc import Iterable
from functools import cache
from importlib import import_module
from pathlib import Path

from tunesmith.ir.diagnostics import UnsupportedTarget

from .manifest import TargetSpec

__all__ = [
    "architecture", "check_target", "host_features", "missing_features", "physical_cores",
    "quiet_cpus",
]  # fmt: skip

# How LLVM names a feature → how Linux does, where they differ by more than punctuation.
_LINUX_NAMES = {
    "sse3": "pni", "lzcnt": "abm", "bmi": "bmi1", "rdrnd": "rdrand", "sahf": "lahflm",
    "pclmul": "pclmulqdq", "sha": "shani", "x87": "fpu", "crc32": "sse42", "fma3": "fma",
    "prfchw": "3dnowprefetch", "64bit": "lm",
    "neon": "asimd", "dotprod": "asimddp", "fullfp16": "asimdhp", "fp16fml": "asimdfhm",
    "fparmv8": "fp", "lse": "atomics", "crc": "crc32", "rdm": "asimdrdm", "rcpc": "lrcpc",
    "jsconv": "jscvt", "complxnum": "fcma",
}  # fmt: skip
_ARCHITECTURES = {"amd64": "x86_64", "arm64": "aarch64"}


def architecture() -> str:
    """The architecture of this machine, as the first part of a target triple."""
    machine = platform.machine().lower()
    return _ARCHITECTURES.get(machine, machine)


@cache
def host_features() -> frozenset[str]:
    """What every core here can do, in plain names: `avx512_vnni` and `avx512vnni` are one."""
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return _numpy_features()
    lines = [line.partition(":") for line in text.splitlines()]
    sets = [
        frozenset(map(_plain, value.split()))
        for key, _, value in lines
        if key.strip() in ("flags", "Features", "isa")
    ]
    return frozenset.intersection(*sets) if sets else _numpy_features()


def missing_features(required: Iterable[str]) -> tuple[str, ...]:
    """Those of the required features that this machine lacks; LLVM's and Linux's names will do."""
    host = host_features()
    return tuple(
        name
        for name in required
        if _plain(name) not in host and _LINUX_NAMES.get(_plain(name)) not in host
    )


def check_target(target: TargetSpec, where: str | None = None) -> None:
    """Refuse kernels that were made for another or a richer machine: they would crash here."""
    wanted = target.triple.partition("-")[0]
    wanted = _ARCHITECTURES.get(wanted, wanted)
    if wanted != architecture():
        raise UnsupportedTarget(f"made for `{target.triple}`, this machine is `{architecture()}`",
                                where=where, hint="compile the model for this target")  # fmt: skip
    if missing := missing_features(target.features):
        listed = ", ".join(f"`{name}`" for name in missing)
        raise UnsupportedTarget(f"made for the CPU `{target.cpu}`; this one lacks {listed}",
                                where=where,
                                hint="compile the model on or for this machine")  # fmt: skip


@cache
def physical_cores() -> int:
    """Cores that this process may use: by affinity, hyper-threads once, at most the CPU quota."""
    try:
        cpus = os.sched_getaffinity(0)
    except AttributeError:
        return max(1, (os.cpu_count() or 2) // 2)
    cores = {_siblings(cpu) for cpu in cpus}
    return max(1, min(len(cores), _quota() or len(cores)))


def quiet_cpus(threads: int, seconds: float = 0.05) -> set[int]:
    """CPUs for so many threads, each on a core of its own; all that there are if these are too few.

    They are those that idled most for the last `seconds`, so that two who ask do not meet; of equal
    ones the last, as the first serve most interrupts. Empty where a process cannot be bound.
    """
    if not hasattr(os, "sched_getaffinity"):
        return set()
    usable = os.sched_getaffinity(0)
    cores: dict[str, list[int]] = {}
    for cpu in sorted(usable):
        cores.setdefault(_siblings(cpu), []).append(cpu)
    if len(cores) <= threads:
        return {*usable}
    before = _idle()
    time.sleep(seconds)
    after = _idle()
    rested = {cpu: after.get(cpu, 0) - before.get(cpu, 0) for cpu in usable}
    ranked = sorted(cores.values(), key=lambda core: (sum(rested[c] for c in core), core))
    return {core[-1] for core in ranked[-threads:]}


def _idle() -> dict[int, int]:
    """For each CPU how long it had nothing to do, in ticks of the system's clock."""
    try:
        lines = Path("/proc/stat").read_text().splitlines()
    except OSError:
        return {}
    rows = [line.split() for line in lines if re.match(r"cpu\d", line)]
    return {int(row[0][3:]): int(row[4]) + int(row[5]) for row in rows}


def _siblings(cpu: int) -> str:
    """The same text for all hyper-threads of one core."""
    try:
        folder = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology")
        return (folder / "thread_siblings_list").read_text().strip()
    except OSError:
        return str(cpu)


def _quota() -> int | None:
    """The cores that the control group of a container pays for, if there is a limit."""
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return max(1, -(-int(quota) // int(period)))
    except (OSError, ValueError):
        return None


def _plain(name: str) -> str:
    return name.lower().translate({ord(c): None for c in "_-.+"})


def _numpy_features() -> frozenset[str]:
    """What NumPy found, on systems without `/proc/cpuinfo`."""
    module = import_module("numpy._core._multiarray_umath")
    found: dict[str, bool] = getattr(module, "__cpu_features__", {})
    return frozenset(_plain(name) for name, present in found.items() if present)
