"""Weights whose numbers fit into fewer bits are stored in those."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tunesmith.ir.constants import Constant, release
from tunesmith.ir.graph import Graph, Node, Value
from tunesmith.ir.opset import cast, gather
from tunesmith.ir.rewriter import Rewriter
from tunesmith.ir.types import DType

from .base import Note, Pass, PassContext

__all__ = ["NarrowWeights"]

_F16 = "f16c"  # the feature of a target that widens vectors of float16
_FIRST, _CHUNK = 4096, 1 << 20  # elements that are looked at first, and then at a time


@dataclass(frozen=True, kw_only=True)
class NarrowWeights(Pass):
    """`linear(x, f32 w)  =>  linear(x, bf16 w)`, `gather(f32 w, i)  =>  cast(gather(bf16 w, i))`.

    Only where every element of `w` is a number of bfloat16, or else every one of float16, if the
    target widens these in vectors: that is how most language models are published, whatever type
    they are exported in. Nothing is rounded, and products are summed in f32 as before, so a kernel
    gives the same to the bit; half of the bytes are stored, and read for each new token. Weights
    below `least` bytes, with those of layers that read the same, and those with other readers stay
    as they are.
    """

    name = "narrow-weights"
    least: int = 64 << 10

    def run(self, graph: Graph, context: PassContext) -> bool:
        """Look at each constant once, also if several are views of it."""
        rewriter = Rewriter(graph)
        known: dict[object, NDArray[np.generic] | None] = {}
        halves = _F16 in context.target.features
        forms = (DType.bf16, DType.f16) if halves else (DType.bf16,)
        for node in list(graph.nodes):
            constant = node.result.constant if node.op.name == "constant" else None
            if constant is None or constant.type.dtype is not DType.f32:
                continue
            if not _only_weighs(node.result) or _bytes(node.result) < max(1, self.least):
                continue
            narrow = _narrowed(constant.array, known, forms)
            if narrow is not None:
                note = Note(self.name, "stored", str(narrow.dtype), str(node.location))
                context.notes.append(note)
                _store(node, Constant(narrow), rewriter)
        return rewriter.changed


def _only_weighs(value: Value) -> bool:
    """Whether all of its readers are layers whose weight it is, or pick from it as a table."""
    return bool(value.users) and all(
        (user.op.name, place) in (("linear", 1), ("gather", 0)) for user, place in value.users
    )


def _bytes(value: Value) -> int:
    """Its bytes, and those of the weights beside it: of layers that read the same.

    Kernels of several layers have weights of one type, so a small one goes with the large ones.
    """
    beside = {value}
    for layer, _ in value.users:
        for other, place in layer.present_operands[0].users if layer.op.name == "linear" else ():
            if (other.op.name, place) == ("linear", 0):
                beside.add(other.present_operands[1])
    return sum(each.constant.nbytes for each in beside if each.constant is not None)


def _store(node: Node, constant: Constant, rewriter: Rewriter) -> None:
    value = rewriter.before(node).constant(constant, node.result.name).value
    for user, place in list(node.result.users):
        if user.op.name == "linear":
            rewriter.set_operand(user, place, value)
            continue
        build = rewriter.before(user)
        (picked,) = build.emit_values(gather, [value, user.operands[1]], user.attributes)
        rewriter.replace_node(user, build.emit_values(cast, [picked], {"dtype": DType.f32}))
    rewriter.erase_dead([node])


def _narrowed(
    array: NDArray[np.generic],
    known: dict[object, NDArray[np.generic] | None],
    forms: Sequence[DType],
) -> NDArray[np.generic] | None:
    """The same numbers in half of the bytes; `None` if they have none there.

    Elements are read in the order in which they lie, and arrays that differ in their axes only,
    as a table and its transpose do, share the result.
    """
    axes = sorted(range(array.ndim), key=lambda axis: -abs(array.strides[axis]))
    plain = array.transpose(axes)
    key = (array.ctypes.data, plain.shape, plain.strides)
    if key not in known:
        rows = plain.reshape(-1) if plain.flags.c_contiguous else plain
        found = (_in(dtype, rows) for dtype in forms)
        known[key] = next((one.reshape(plain.shape) for one in found if one is not None), None)
        release(array)
    same = known[key]
    return None if same is None else same.transpose(np.argsort(axes))


def _in(dtype: DType, array: NDArray[np.generic]) -> NDArray[np.generic] | None:
    """The array as 16-bit floats; `None` at the first part that these would change."""
    result = np.empty(array.shape, dtype.numpy)
    each = max(1, array[0].size)
    start, rows = 0, max(1, _FIRST // each)
    while start < len(array):
        part = np.asarray(array[start : start + rows], np.float32, order="C")
        bits = part.view(np.uint32)
        if dtype is DType.bf16:
            if (bits & 0xFFFF).any():
                return None
            narrow = (bits >> 16).astype(np.uint16).view(dtype.numpy)
        else:
            with np.errstate(over="ignore", invalid="ignore"):
                narrow = part.astype(dtype.numpy)
            same = np.array_equal(narrow.astype(np.float32).view(np.uint32), bits)
            if not same or np.isnan(part).any():  # which processors make quiet as they widen
                return None
        result[start : start + rows] = narrow
        start, rows = start + rows, max(1, _CHUNK // each)
    return result
