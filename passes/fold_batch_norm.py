"""A scale and a shift for each channel behind a convolution belong to its weight and bias."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from tunesmith.ir.constants import Constant
from tunesmith.ir.graph import Graph, Node, Value
from tunesmith.ir.ops import OPS
from tunesmith.ir.rewriter import Rewriter
from tunesmith.ir.types import TensorType

from .base import Note, Pass, PassContext

__all__ = ["FoldBatchNorm"]

_FOLDED = ("mul", "add", "sub")


@dataclass(frozen=True, kw_only=True)
class FoldBatchNorm(Pass):
    """`conv(x, w, b) * s + t  =>  conv(x, w * s, b * s + t)`, constants with an element a channel.

    Batch normalization arrives as this product and sum (Ioffe, Szegedy, 2015). Each new weight is
    rounded once, so a result moves by about one unit in the last place of the sum of magnitudes of
    its products: within 1e-6 of that sum in f32. Weights that would leave the range of their type
    stay as they are.
    """

    name: ClassVar[str] = "fold-batch-norm"
    exact: ClassVar[bool] = False

    def run(self, graph: Graph, context: PassContext) -> bool:
        """Fold what can be; the others are told with the reason."""
        rewriter = Rewriter(graph)
        for node in list(graph.nodes):
            if node.op.name not in _FOLDED:
                continue
            conv = _convolution(node)
            if conv is None:
                continue
            folded = _folded(node, conv, context)
            if isinstance(folded, str):
                if folded:
                    self._note(context, "near-miss", node, folded)
                continue
            _rewrite(node, conv, folded, rewriter)
            self._note(context, "match", node)
        return rewriter.changed

    def _note(self, context: PassContext, kind: str, node: Node, reason: str = "") -> None:
        context.notes.append(Note(self.name, kind, "conv", str(node.location), reason))


def _convolution(node: Node) -> Node | None:
    """The convolution that `node` scales or shifts, whichever side it stands on."""
    for value in node.present_operands[: 1 if node.op.name == "sub" else 2]:
        if value.producer is not None and value.producer.op.name == "conv":
            return value.producer
    return None


def _folded(node: Node, conv: Node, context: PassContext) -> tuple[Constant, Constant | None] | str:
    """The new weight and bias, or why not; "" where nobody would expect them."""
    other = next((v for v in node.present_operands if v is not conv.result), conv.result)
    if other.constant is None:
        return ""
    weight, *rest = conv.present_operands[1:]
    bias = rest[0] if rest else None
    if weight.constant is None or (bias is not None and bias.constant is None):
        return "the weight or the bias is not a constant"
    if node.result.type != conv.result.type:
        return f"it widens {conv.result.type} to {node.result.type}"
    if len(conv.result.users) > 1:
        return f"`%{conv.result.name}` is used elsewhere too"
    if weight.constant.nbytes > context.fold_budget:
        return f"the weight has {weight.constant.nbytes} bytes, more than may be folded"
    channels = _by_channel(other, conv.result.type)
    if channels is None:
        return f"{other.type} does not have one element for each channel"
    return _computed(node.op.name, weight.constant, bias.constant if bias else None, channels)


def _by_channel(value: Value, result: TensorType) -> NDArray[np.generic] | None:
    """The elements of a constant that depends on the channel only."""
    shape = (1,) * (result.rank - value.type.rank) + value.type.shape
    if value.constant is None or len(shape) != result.rank:
        return None
    if any(size != 1 for axis, size in enumerate(shape) if axis != 1):
        return None
    channels = result.shape[1]
    assert isinstance(channels, int)
    return np.broadcast_to(value.constant.array.reshape(-1), (channels,))


def _computed(
    name: str, weight: Constant, bias: Constant | None, channels: NDArray[np.generic]
) -> tuple[Constant, Constant | None] | str:
    dtype = weight.array.dtype
    wide = channels.astype(np.float64)
    shift = None if bias is None else bias.array.astype(np.float64)
    new = weight
    if name == "mul":
        scale = wide.reshape(-1, *(1,) * (weight.array.ndim - 1))
        with np.errstate(over="ignore", invalid="ignore"):
            scaled = (weight.array.astype(np.float64) * scale).astype(dtype)
        new = Constant(scaled)
        shift = None if shift is None else shift * wide
    else:
        wide = -wide if name == "sub" else wide
        shift = wide if shift is None else shift + wide
    with np.errstate(over="ignore", invalid="ignore"):
        moved = None if shift is None else Constant(shift.astype(dtype))
    if not _finite(new) or (moved is not None and not _finite(moved)):
        return "a weight would leave the range of its type"
    return new, moved


def _finite(constant: Constant) -> bool:
    return bool(np.all(np.isfinite(constant.array.astype(np.float64))))


def _rewrite(
    node: Node, conv: Node, folded: tuple[Constant, Constant | None], rewriter: Rewriter
) -> None:
    x, weight = conv.present_operands[:2]
    builder = rewriter.before(conv)
    new, bias = folded
    operands: list[Value | None] = [x, weight]
    if new is not weight.constant:
        operands[1] = builder.constant(new, weight.name).value
    if bias is not None:
        old = conv.present_operands[2].name if len(conv.present_operands) > 2 else "bias"
        operands.append(builder.constant(bias, old).value)
    (result,) = builder.emit_values(OPS["conv"], operands, conv.attributes)
    rewriter.replace_node(node, [result])
    rewriter.erase_dead([conv])
