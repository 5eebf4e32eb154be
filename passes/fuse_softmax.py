"""Softmax, written out."""

from __future__ import annotations

from dataclasses import dataclass

from tunesmith.ir.opset.activation import softmax

from .fuse_pass import FusePass

__all__ = ["FuseSoftmax"]


@dataclass(frozen=True, kw_only=True)
class FuseSoftmax(FusePass):
    """`exp(x - max(x)) / sum(exp(x - max(x)))  =>  softmax(x)`."""

    name = "fuse-softmax"
    result = softmax
