"""Weights that are stored as integers and scaled when read become `dequantize`."""

from __future__ import annotations

from dataclasses import dataclass

from tunesmith.ir.builder import Builder
from tunesmith.ir.graph import Graph, Node, Value
from tunesmith.ir.opset import dequantize, gather, reshape
from tunesmith.ir.rewriter import Rewriter
from tunesmith.ir.types import DType

from .base import Note, Pass, PassContext

__all__ = ["LiftDequantize"]


@dataclass(frozen=True, kw_only=True)
class LiftDequantize(Pass):
    """`cast(w) * scale  =>  dequantize(w, scale)`, and rows are gathered before that.

    `w` is a constant of 8-bit integers. Folded instead, it would be four times as large; scaled
    before a lookup, the whole table would be for the sake of a few rows.
    """

    name = "lift-dequantize"

    def run(self, graph: Graph, context: PassContext) -> bool:
        """Lift every pair, then move it behind lookups."""
        rewriter = Rewriter(graph)
        for node in list(graph.nodes):
            if node.owner is not None and node.op.name == "mul":
                _lift(node, rewriter, context)
        for node in list(graph.nodes):
            if node.owner is not None and node.op.name == "gather":
                _gather_first(node, rewriter, context)
        return rewriter.changed


def _note(context: PassContext, kind: str, what: str, node: Node, reason: str = "") -> None:
    context.notes.append(Note(LiftDequantize.name, kind, what, str(node.location), reason))


def _lift(node: Node, rewriter: Rewriter, context: PassContext) -> None:
    x, y = node.present_operands
    for widened, scale in ((x, y), (y, x)):
        integers = _integers(widened)
        if integers is None:
            continue
        reason = _objection(node, integers, scale)
        if reason is not None:
            _note(context, "near-miss", "dequantize", node, reason)
            return
        results = rewriter.before(node).emit_values(dequantize, [integers, scale], {})
        _note(context, "match", "dequantize", node)
        rewriter.replace(node.result, results[0])
        rewriter.erase_dead([node])
        return


def _integers(value: Value) -> Value | None:
    """The constant of integers that `value` is the float of."""
    node = value.producer
    if node is None or node.op.name != "cast" or not value.type.dtype.is_float:
        return None
    (x,) = node.present_operands
    return x if x.constant is not None and x.type.dtype.is_integer else None


def _objection(node: Node, integers: Value, scale: Value) -> str | None:
    if integers.type.dtype not in (DType.i8, DType.u8):
        return f"the integers are {integers.type.dtype}, wider than 8 bits"
    if scale.constant is None:
        return "the scale is computed"
    if node.result.type.shape != integers.type.shape:
        return f"the scale {scale.type} is larger than the integers {integers.type}"
    return None


def _gather_first(node: Node, rewriter: Rewriter, context: PassContext) -> None:
    table, indices = node.present_operands
    source = table.producer
    if source is None or source.op is not dequantize:
        return
    integers, scale = source.present_operands
    axis = node.attributes["axis"]
    assert isinstance(axis, int)
    axis %= table.type.rank
    place = axis - table.type.rank + scale.type.rank  # of the axis in the scale
    build = rewriter.before(node)
    picked = build.emit_values(gather, [integers, indices], {"axis": axis})[0]
    if place >= 0 and scale.type.shape[place] != 1:
        scale = build.emit_values(gather, [scale, indices], {"axis": place})[0]
    elif place >= 0 and indices.type.rank != 1:
        scale = _spread(build, scale, place, indices.type.rank)
    result = build.emit_values(dequantize, [picked, scale], {})[0]
    _note(context, "match", "gather", node)
    rewriter.replace(node.result, result)
    rewriter.erase_dead([node])


def _spread(build: Builder, scale: Value, place: int, rank: int) -> Value:
    """The scale with `rank` axes of size 1 in place of one."""
    shape = scale.type.shape
    shape = (*shape[:place], *(1,) * rank, *shape[place + 1 :])
    return build.emit_values(reshape, [scale], {"shape": shape})[0]
