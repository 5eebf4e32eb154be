"""Rewrites of graphs. `PASSES` is the table that the text of a pipeline is read by."""

from __future__ import annotations

from .base import Pass
from .canonicalize import Canonicalize
from .convert_patch_conv import ConvertPatchConv
from .decompose import Decompose
from .eliminate_dead_code import EliminateDeadCode
from .eliminate_duplicates import EliminateDuplicates
from .fold_batch_norm import FoldBatchNorm
from .fold_constants import FoldConstants
from .fuse_attention import FuseAttention
from .fuse_clip import FuseClip
from .fuse_gelu import FuseGelu
from .fuse_layer_norm import FuseLayerNorm
from .fuse_linear import FuseLinear
from .fuse_relu import FuseRelu
from .fuse_rms_norm import FuseRmsNorm
from .fuse_rotary import FuseRotary
from .fuse_silu import FuseSilu
from .fuse_softmax import FuseSoftmax
from .lift_dequantize import LiftDequantize
from .narrow_weights import NarrowWeights

__all__ = ["PASSES"]

PASSES: tuple[type[Pass], ...] = (
    Canonicalize,
    ConvertPatchConv,
    Decompose,
    EliminateDeadCode,
    EliminateDuplicates,
    FoldBatchNorm,
    FoldConstants,
    FuseAttention,
    FuseClip,
    FuseGelu,
    FuseLayerNorm,
    FuseLinear,
    FuseRelu,
    FuseRmsNorm,
    FuseRotary,
    FuseSilu,
    FuseSoftmax,
    LiftDequantize,
    NarrowWeights,
)
