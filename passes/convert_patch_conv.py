"""Convolutions whose windows do not overlap are linear layers over patches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from tunesmith.ir.dims import Dim, exact_div, product
from tunesmith.ir.graph import Graph, Node
from tunesmith.ir.ops import Expr
from tunesmith.ir.opset import linear, reshape, transpose
from tunesmith.ir.rewriter import Rewriter

from .base import Note, Pass, PassContext

__all__ = ["ConvertPatchConv"]


@dataclass(frozen=True, kw_only=True)
class ConvertPatchConv(Pass):
    """`conv(x, w, b) {strides = kernel, no padding}  =>  linear(patches(x), w', b)`.

    Vision transformers embed patches so (Dosovitskiy et al., 2021). The patches are a reshape and a
    transpose of `x`, the product has a schedule, and the transpose behind it meets the one that the
    model has there. A patch of one pixel stays a convolution, which needs no transpose at all.
    """

    name: ClassVar[str] = "convert-patch-conv"

    def run(self, graph: Graph, context: PassContext) -> bool:
        """Convert what can be; the other convolutions are told with the reason."""
        rewriter = Rewriter(graph)
        for node in list(graph.nodes):
            if node.op.name != "conv":
                continue
            reason = _reason(node)
            kind = "match" if reason is None else "near-miss"
            context.notes.append(
                Note(self.name, kind, "patch_conv", str(node.location), reason or "")
            )
            if reason is None:
                _convert(node, rewriter)
        return rewriter.changed


def _reason(node: Node) -> str | None:
    x, weight = node.present_operands[:2]
    kernel = weight.type.shape[2:]
    attributes = node.attributes
    if weight.constant is None:
        return "`weight` is not a constant"
    if set(kernel) == {1}:
        return "its patches are pixels: a convolution reads and writes them as they lie"
    if attributes["groups"] != 1:
        return f"it has {attributes['groups']} groups"
    if attributes["strides"] != kernel:
        return f"its windows of {list(kernel)} overlap, or leave gaps"
    low, high = attributes["low"], attributes["high"]
    assert isinstance(low, tuple) and isinstance(high, tuple)
    if any((*low, *high)) or set(attributes["dilations"]) != {1}:  # type: ignore[arg-type]
        return "it has padding or dilation"
    for axis, (size, step) in enumerate(zip(x.type.shape[2:], kernel, strict=True)):
        if exact_div(size, step) is None:
            return f"axis {axis + 2} of {size} is not a multiple of {step}"
    return None


def _convert(node: Node, rewriter: Rewriter) -> None:
    x, weight = node.present_operands[:2]
    bias = node.present_operands[2] if len(node.present_operands) > 2 else None
    batch, channels, *spatial = x.type.shape
    out, _, *kernel = weight.type.shape
    counts = [_counted(size, step) for size, step in zip(spatial, kernel, strict=True)]
    axes = len(spatial)
    builder = rewriter.before(node)
    constant = weight.constant
    assert constant is not None and isinstance(out, int)
    matrix = np.ascontiguousarray(constant.array.reshape(out, -1).T)
    pairs: list[Dim] = [d for pair in zip(counts, kernel, strict=True) for d in pair]
    split = reshape(Expr(builder, x), shape=(batch, channels, *pairs))
    outer = tuple(2 + 2 * i for i in range(axes))
    inner = tuple(3 + 2 * i for i in range(axes))
    moved = transpose(split, perm=(0, *outer, 1, *inner))
    patches = reshape(moved, shape=(batch, product(counts), product((channels, *kernel))))
    arguments = [patches, builder.constant(matrix, weight.name)]
    y = linear(*arguments, *([Expr(builder, bias)] if bias is not None else []))
    rows = transpose(y, perm=(0, 2, 1))
    rewriter.replace_node(node, [reshape(rows, shape=(batch, out, *counts))])


def _counted(size: Dim, step: Dim) -> Dim:
    result = exact_div(size, step)
    assert result is not None
    return result
