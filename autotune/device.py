"""What a record was measured on, and what its kernel is, in words that are compared as a whole."""

from __future__ import annotations

import platform
import re
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from tunesmith.backends.probe import cpu_model
from tunesmith.ir.diagnostics import TuneError
from tunesmith.ir.target import Machine, Target
from tunesmith.runtime.tvm_module import package_versions

from .records import Device, Workload, canonical

__all__ = ["device_of", "target_from", "versions_text", "workload_of"]

_SYMBOL = re.compile(r"^\d+<=(.+)<=\d+$")


def device_of(target: Target) -> Device:
    """The machine at hand as it runs code for `target`: CPU, ISA, caches, cores, driver.

    For a CPU the driver is the system's kernel, of which the name counts and not the version.
    """
    facts = {
        "cpu": cpu_model(), "target": target.cpu, "features": sorted(target.features),
        "driver": platform.system(), **asdict(target.machine),
    }  # fmt: skip
    return Device(text=canonical(facts))


def versions_text() -> str:
    """The versions that code depends on; the template's is in the name of the template."""
    return ", ".join(f"{name} {version}" for name, version in sorted(package_versions().items()))


def target_from(facts: Mapping[str, Any], what: str, where: str) -> Target:
    """The target that a device elsewhere says it is: `facts` has its `target` and `versions`.

    Raises:
        TuneError: it has other versions than this process.
    """
    if facts["versions"] != versions_text():
        raise TuneError(f"the {what} has {facts['versions']}, this process {versions_text()}",
                        where=where, hint="install the same versions")  # fmt: skip
    fields = facts["target"] | {"features": tuple(facts["target"]["features"])}
    return Target(**fields | {"machine": Machine(**fields["machine"])})


def workload_of(
    template: str, text: str, features: Mapping[str, int], sizes: Mapping[str, int]
) -> Workload:
    """A kernel, by the text that says what it computes, at the sizes of its own symbols."""
    symbols = {m[1] for line in text.splitlines() if (m := _SYMBOL.match(line))}
    own = {name: sizes[name] for name in sorted(symbols & {*sizes})}
    return Workload(
        template=template,
        text=f"{text}\nat {canonical(own)}",
        features={**features, **{f"at {name}": size for name, size in own.items()}},
    )
