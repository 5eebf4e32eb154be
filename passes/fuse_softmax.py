"""Softmax, written out."""

from __future__ import annotations

from dataclasses import dataclass

from tunesmith.ir.opset.activation import softmax

from .fuse_pass import FusePass
from .patterns import Match

__all__ = ["FuseSoftmax"]


@dataclass(frozen=True, kw_only=True)
class FuseSoftmax(FusePass):
    """`exp(x - max(x)) / sum(exp(x - max(x)))  =>  softmax(x)`."""

    name = "fuse-softmax"
    result = softmax

    def guard(self, match: Match) -> str | None:
        """Always allowed: maximum and sum run over the same one axis by the pattern."""
        return None
