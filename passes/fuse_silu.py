"""SiLU, written out."""

from __future__ import annotations

from dataclasses import dataclass

from tunesmith.ir.opset.activation import silu

from .fuse_pass import FusePass

__all__ = ["FuseSilu"]


@dataclass(frozen=True, kw_only=True)
class FuseSilu(FusePass):
    """`x * sigmoid(x)  =>  silu(x)`."""

    name = "fuse-silu"
    result = silu
