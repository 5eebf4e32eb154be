"""The numbers of the computer at hand, as the kernel tells them."""

from __future__ import annotations

import platform
from contextlib import suppress
from dataclasses import replace
from functools import cache
from pathlib import Path

from tunesmith.ir.target import Machine
from tunesmith.runtime.cpu import host_features, physical_cores

__all__ = ["cpu_model", "host_features", "host_machine"]

_CACHES = Path("/sys/devices/system/cpu/cpu0/cache")
_UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def host_machine(level: Machine) -> Machine:
    """The machine of a level, with this computer's caches and cores where they can be read."""
    found = dict(_cache_sizes())
    return replace(
        level,
        l1_bytes=found.get(1, level.l1_bytes),
        l2_bytes=found.get(2, level.l2_bytes),
        l3_bytes=found.get(3, level.l3_bytes),
        cores=physical_cores(),
    )


@cache
def cpu_model() -> str:
    """The name of the CPU, as exactly as the kernel tells: clouds call many of them the same."""
    wanted = ("model name", "cpu family", "model", "stepping", "CPU part")
    found: dict[str, str] = {}
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            name, _, value = line.partition(":")
            if name.strip() in wanted:
                found.setdefault(name.strip(), value.strip())
    return " ".join(found[name] for name in wanted if name in found) or platform.processor()


def _cache_sizes() -> list[tuple[int, int]]:
    sizes = []
    for folder in sorted(_CACHES.glob("index*")) if _CACHES.is_dir() else ():
        try:
            kind = (folder / "type").read_text().strip()
            level = int((folder / "level").read_text())
            text = (folder / "size").read_text().strip()
        except (OSError, ValueError):
            continue
        if kind in ("Data", "Unified") and text[-1] in _UNITS:
            sizes.append((level, int(text[:-1]) * _UNITS[text[-1]]))
    return sizes
