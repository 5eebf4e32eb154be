"""Inputs between pages that nobody may touch: a kernel that reads outside of them dies."""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np

from tunesmith.ir.graph import Graph, Value
from tunesmith.ir.interpreter import evaluate
from tunesmith.ir.target import Target
from tunesmith.ir.types import DType
from tunesmith.runtime.tvm_module import ALIGNMENT, TvmModule

from .running import Array, Built, assert_close, build

__all__ = ["SIDES", "Guarded", "Side", "check_guarded", "guard"]

Side = Literal["start", "end"]
SIDES: tuple[Side, ...] = ("start", "end")
_PAGE = mmap.PAGESIZE
_NONE = 0  # PROT_NONE


def guard(array: Array, side: Side, alignment: int) -> Array:
    """A copy with a forbidden page in front and behind: it starts, or ends, right beside one.

    It ends up to `alignment` less one bytes before. What is left holds 255 in every byte, which is
    NaN in floats.
    """
    pages = max(1, -(-array.nbytes // _PAGE))
    memory = mmap.mmap(-1, (pages + 2) * _PAGE)
    everything = np.frombuffer(memory, np.uint8)
    everything[_PAGE:-_PAGE] = 255
    used = -(-array.nbytes // alignment) * alignment
    offset = _PAGE if side == "start" else (pages + 1) * _PAGE - used
    copy: Array = np.ndarray(array.shape, array.dtype, memory, offset)
    copy[...] = array
    protect = ctypes.CDLL(None, use_errno=True).mprotect
    protect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    first: int = everything.ctypes.data
    for page in (first, first + (pages + 1) * _PAGE):
        if protect(page, _PAGE, _NONE):
            raise OSError(ctypes.get_errno(), "mprotect")
    return copy


class Guarded:
    """Compiled code whose inputs and weights lie beside forbidden pages."""

    def __init__(self, built: Built, side: Side) -> None:
        self.side: Side = side
        self.names = [value.name for value in built.graph.inputs]
        weights = [guard(array, side, ALIGNMENT) for array in built.lowered.weights.values()]
        code, entry = built.library.code, built.library.entry
        self.module = TvmModule(code, entry, weights, 1, exact=False)

    def run(self, feeds: Mapping[str, Array]) -> list[Array]:
        """The outputs for some inputs."""
        arrays = [feeds[name] for name in self.names]
        return self.module([guard(array, self.side, array.itemsize) for array in arrays])


def check_guarded(
    graph: Graph, feeds: Sequence[Mapping[str, Array]], on: Target | None = None
) -> Built:
    """Compile a graph once; run it for all feeds, on both sides, and compare each result."""
    names, types = list(graph.output_names), [_precision(value) for value in graph.outputs]
    wanted = [evaluate(graph, feed) for feed in feeds]
    built = build(graph, on)
    for side in SIDES:
        guarded = Guarded(built, side)
        for feed, want in zip(feeds, wanted, strict=True):
            sizes = next(iter(feed.values())).shape if feed else ()
            for name, dtype, got, other in zip(names, types, guarded.run(feed), want, strict=True):
                assert_close(got, other, dtype, f"{name}, {side}, first input {sizes}")
    return built


def _precision(value: Value) -> DType:
    """The type that an output is as precise as: `merge` hands bf16 over as f32."""
    node = value.producer
    if node is not None and node.op.name == "cast":
        inner = node.present_operands[0].type.dtype
        return inner if inner is DType.bf16 and value.type.dtype is DType.f32 else value.type.dtype
    return value.type.dtype
