"""Convolutions whose windows do not overlap, or are wide, are linear layers over patches."""

from __future__ import annotations

from dataclasses import dataclass
from math import gcd, prod
from typing import ClassVar

import numpy as np

from tunesmith.ir.dims import Dim, exact_div, product
from tunesmith.ir.graph import Graph, Node
from tunesmith.ir.ops import Expr
from tunesmith.ir.opset import concat, linear, reshape, slice_, transpose
from tunesmith.ir.rewriter import Rewriter

from .base import Note, Pass, PassContext

__all__ = ["ConvertPatchConv"]

_WIDE = 64  # elements of a window; a kernel for it unrolls them, and takes minutes to compile
_FRAME = 8  # elements that are copied side by side, or copying costs more than the product
_PIECES = 16  # frames of a window at most: the patches are so many times the image


@dataclass(frozen=True, kw_only=True)
class ConvertPatchConv(Pass):
    """`conv(x, w, b) {strides = kernel, no padding}  =>  linear(patches(x), w', b)`.

    Vision transformers embed patches so (Dosovitskiy et al., 2021). The patches are a reshape and a
    transpose of `x`, the product has a schedule, and the transpose behind it meets the one that the
    model has there. A patch of one pixel stays a convolution, which needs no transpose at all.

    Wide windows may overlap, as those of a spectrogram do: the signal is cut into frames of the
    greatest common divisor of window and step, and a patch is some frames side by side.
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
    steps = _steps(node)
    if steps != list(kernel):
        if prod(int(str(size)) for size in kernel) < _WIDE:
            return f"its windows of {list(kernel)} overlap, or leave gaps"
        if any(gcd(int(str(k)), s) < _FRAME for k, s in zip(kernel, steps, strict=True)):
            return f"windows of {list(kernel)} in steps of {steps} share no frames of {_FRAME}"
        if any(
            int(str(k)) // gcd(int(str(k)), s) > _PIECES for k, s in zip(kernel, steps, strict=True)
        ):
            return f"windows of {list(kernel)} in steps of {steps} are more than {_PIECES} frames"
    low, high = attributes["low"], attributes["high"]
    assert isinstance(low, tuple) and isinstance(high, tuple)
    if any((*low, *high)) or set(attributes["dilations"]) != {1}:  # type: ignore[arg-type]
        return "it has padding or dilation"
    for axis, (size, step) in enumerate(zip(x.type.shape[2:], kernel, strict=True)):
        if steps == list(kernel) and exact_div(size, step) is None:
            return f"axis {axis + 2} of {size} is not a multiple of {step}"
    return None


def _steps(node: Node) -> list[int]:
    steps = node.attributes["strides"]
    assert isinstance(steps, tuple)
    return [step for step in steps if isinstance(step, int)]


def _convert(node: Node, rewriter: Rewriter) -> None:
    x, weight = node.present_operands[:2]
    bias = node.present_operands[2] if len(node.present_operands) > 2 else None
    batch, channels = x.type.shape[:2]
    out, _, *kernel = (int(str(size)) for size in weight.type.shape)
    counts = node.result.type.shape[2:]
    axes = len(counts)
    builder = rewriter.before(node)
    constant = weight.constant
    assert constant is not None
    matrix = np.ascontiguousarray(constant.array.reshape(out, -1).T)
    split = Expr(builder, x)
    for i, (count, size, step) in enumerate(zip(counts, kernel, _steps(node), strict=True)):
        split = _patches(split, 2 + 2 * i, count, size, step)
    outer = tuple(2 + 2 * i for i in range(axes))
    inner = tuple(3 + 2 * i for i in range(axes))
    moved = transpose(split, perm=(0, *outer, 1, *inner))
    patches = reshape(moved, shape=(batch, product(counts), product((channels, *kernel))))
    arguments = [patches, builder.constant(matrix, weight.name)]
    y = linear(*arguments, *([Expr(builder, bias)] if bias is not None else []))
    rows = transpose(y, perm=(0, 2, 1))
    rewriter.replace_node(node, [reshape(rows, shape=(batch, out, *counts))])


def _patches(x: Expr, axis: int, count: Dim, size: int, step: int) -> Expr:
    """An axis as two: `count` windows, and the `size` elements of each."""
    frame = gcd(size, step)
    pieces, hop = size // frame, step // frame
    used = (count - 1) * step + size
    if used != x.shape[axis]:
        x = slice_(x, axis=axis, start=0, stop=used)
    frames = (count - 1) * hop + pieces
    x = reshape(x, shape=(*x.shape[:axis], frames, frame, *x.shape[axis + 1 :]))
    if pieces == hop == 1:
        return x
    parts = [
        slice_(x, axis=axis, start=i, stop=(count - 1) * hop + i + 1, step=hop)
        for i in range(pieces)
    ]
    return parts[0] if pieces == 1 else concat(*parts, axis=axis + 1)
