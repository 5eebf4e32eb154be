"""Pipelines by name: what each level of optimization runs, in order, and why."""

from __future__ import annotations

__all__ = ["PRESETS"]

_TIDY = "repeat{canonicalize,fold-constants,eliminate-duplicates,eliminate-dead-code}"

# O0: what lowering needs, and nothing else. The reference that no other level may lose against.
_O0 = (
    "fold-constants",  # shapes and indices that were computed become attributes and constants
    "eliminate-dead-code",
    "fuse-linear",  # a product with a weight has a schedule of its own: its weight is packed
    "eliminate-dead-code",
)

# O1: one form of each thing, and the composites whose kernels keep rows in registers.
_O1 = (
    _TIDY,
    "fuse-softmax",
    "fuse-layer-norm",
    "fuse-rms-norm",
    "fuse-gelu",
    "fuse-silu",
    "fuse-relu",
    "fuse-clip",
    "fuse-linear",
    _TIDY,
)

# O2: everything.
_O2 = (
    _TIDY,  # patterns see one form of each thing
    "convert-patch-conv",  # the transposes it writes meet those of the model
    _TIDY,
    "fuse-softmax",  # before attention, which is built around it
    "fuse-layer-norm",
    "fuse-rms-norm",
    "fuse-gelu",  # before linear, whose epilogue it may become
    "fuse-silu",
    "fuse-relu",
    "fuse-clip",
    "fuse-attention",
    _TIDY,  # masks and scales that attention has absorbed are gone
    "fuse-linear",  # last: a product of attention is not a linear layer
    _TIDY,
)

PRESETS: dict[str, str] = {
    "O0": ",".join(_O0),
    "O1": ",".join(_O1),
    "O2": ",".join(_O2),
    "O3": ",".join(_O2),  # the same rewrites; what differs is that schedules are tuned
}
