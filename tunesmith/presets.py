"""Pipelines by name: what each level of optimization runs, in order, and why."""

from __future__ import annotations

__all__ = ["PRESETS"]

_TIDY = "repeat{canonicalize,fold-constants,eliminate-duplicates,eliminate-dead-code}"

_CLEAN = "eliminate-dead-code"

# O0: what lowering needs, and nothing else. The reference that no other level may lose against.
_O0 = (
    "fold-constants",  # shapes and indices that were computed become attributes and constants
    _CLEAN,
    "fuse-linear",  # a product with a weight has a schedule of its own: its weight is packed
    _CLEAN,
)

# O1: one form of each thing, and the composites whose kernels keep rows in registers.
_O1 = (
    "lift-dequantize",  # before folding: weights that are stored as integers stay integers
    _TIDY,
    "fuse-softmax",
    "fuse-layer-norm",
    "fuse-rms-norm",
    "fuse-gelu",
    "fuse-silu",
    "fuse-clip",  # before relu, which is half of a clip from 0
    "fuse-relu",
    "fuse-linear",
    _TIDY,
    "narrow-weights",  # last: weights are found where layers have them
)

# O2: everything.
_O2 = (
    "lift-dequantize",  # before folding: weights that are stored as integers stay integers
    _TIDY,  # patterns see one form of each thing
    "fuse-softmax",  # before attention, which is built around it
    "fuse-layer-norm",
    "fuse-rms-norm",
    "fuse-gelu",  # before linear, whose epilogue it may become
    "fuse-silu",
    "fuse-clip",  # before relu, which is half of a clip from 0
    "fuse-relu",
    "fuse-rotary",  # before attention: its slices would hide how heads are arranged
    "fuse-attention",
    "fold-batch-norm",  # constants are folded; before patches, which leave no convolution
    "convert-patch-conv",  # its transposes meet those of the model
    _TIDY,  # masks and scales that attention has absorbed are gone
    "fuse-linear",  # after attention, whose products are no layers; bias and activation go in
    _TIDY,
    "narrow-weights",  # last: weights are found where layers have them
)

PRESETS: dict[str, str] = {
    "O0": ",".join(_O0),
    "O1": ",".join(_O1),
    "O2": ",".join(_O2),
    "O3": ",".join(_O2),  # the same rewrites; what differs is that schedules are tuned
}
