"""ReLU, written out."""

from __future__ import annotations

from dataclasses import dataclass

from tunesmith.ir.opset.activation import relu

from .fuse_pass import FusePass

__all__ = ["FuseRelu"]


@dataclass(frozen=True, kw_only=True)
class FuseRelu(FusePass):
    """`maximum(x, 0)  =>  relu(x)`."""

    name = "fuse-relu"
    result = relu
