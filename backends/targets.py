"""The targets that have a name, and the one that is this machine."""

from __future__ import annotations

from dataclasses import replace

from tunesmith.ir.diagnostics import UnsupportedTarget
from tunesmith.ir.target import Machine, Target

from .probe import host_features, host_machine

__all__ = ["TARGETS", "find_target"]

_X86 = "x86_64-linux-gnu"
_V2 = ("sse4.2", "ssse3", "popcnt")
_V3 = (*_V2, "avx", "avx2", "fma", "f16c", "bmi2")
_V4 = (*_V3, "avx512f", "avx512bw", "avx512dq", "avx512vl")

TARGETS: dict[str, Target] = {
    row.name: row
    for row in (
        Target(
            "x86-64-v4",
            _X86,
            "skylake-avx512",
            _V4,
            Machine("avx512", 64, 32, 2, 32 << 10, 1 << 20, 16 << 20, 2),
        ),
        Target(
            "x86-64-v3",
            _X86,
            "haswell",
            _V3,
            Machine("avx2", 32, 16, 2, 32 << 10, 256 << 10, 8 << 20, 2),
        ),
        Target(
            "x86-64-v2",
            _X86,
            "nehalem",
            _V2,
            Machine("generic", 16, 16, 1, 32 << 10, 256 << 10, 8 << 20, 2),
        ),
    )
}


def find_target(name: str, threads: int | None = None) -> Target:
    """The target of a name; `host` is the best level that this machine has, with its own numbers.

    Args:
        name: `host`, or a key of `TARGETS`.
        threads: cores to schedule for; all that the target has by default.

    Raises:
        UnsupportedTarget: there is none of that name, or the host is none of those we know.
    """
    if name == "host":
        features = host_features()
        levels = (
            t for t in TARGETS.values() if all(f in features for f in map(_plain, t.features))
        )
        level = next(levels, None)
        if level is None:
            raise UnsupportedTarget(
                "this machine is none of the targets that code is generated for",
                hint=f"name one: {', '.join(TARGETS)}",
            )
        target = replace(level, machine=host_machine(level.machine))
    elif name in TARGETS:
        target = TARGETS[name]
    else:
        raise UnsupportedTarget(
            f"there is no target `{name}`", hint=f"known targets: host, {', '.join(TARGETS)}"
        )
    if threads is not None:
        target = replace(target, machine=replace(target.machine, cores=threads))
    return target


def _plain(feature: str) -> str:
    return feature.replace("_", "").replace(".", "")
