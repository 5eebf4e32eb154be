"""Records for tests: small, valid, and different in what the test names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tunesmith.autotune.records import Device, Record, Verdict, Workload

VERSIONS = "tvm 0.27.0.post1, template 1"
DEVICE = Device(text='{"cores":2,"cpu":"cascadelake"}')
OTHER = Device(text='{"cores":4,"cpu":"zen4"}')


def workload(rows: int = 128, inner: int = 768, cols: int = 3072, text: str = "") -> Workload:
    """A product of two matrices."""
    body = text or f"graph @g(%x: f32[{rows}, {inner}], %w: f32[{inner}, {cols}]) {{ … }}"
    sizes: Mapping[str, int] = {"rows": rows, "inner": inner, "cols": cols}
    return Workload(template="gemm", text=body, features=sizes)


def record(trial: int = 0, speedup: float = 2.0, **changes: Any) -> Record:
    """A trial of `speedup` on `DEVICE`, but for the changes."""
    fields: dict[str, Any] = {
        "workload": workload(),
        "device": DEVICE,
        "versions": VERSIONS,
        "knobs": {"tile_m": 6, "tile_n": 16 * (1 + trial % 4)},
        "seed": 0,
        "trial": trial,
        "verdict": Verdict.ok,
        "checked": True,
        "seconds": (1e-3 / speedup, 1e-3 / speedup, 1.5e-3 / speedup),
        "baseline": (1e-3, 1e-3, 2e-3),
        "by": "ada@box",
        "at": "2026-11-22T07:00:00Z",
    }
    return Record(**(fields | changes))
