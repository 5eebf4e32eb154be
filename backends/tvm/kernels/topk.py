"""The first elements of an axis in order: `n` steps, and sorts of those that are before the last.

Candidates are collected until there are twice as many as are kept; then they are sorted, by merging
runs from the bottom up, and only what stands before the last of them is a candidate from then on.
So n elements take `n * log2(k)` steps where they come in the worst order, and about n in a random
one. Merging is stable: of equals the first comes first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tvm import tirx
from tvm.ir import Expr as Prim
from tvm.tirx import Buffer
from tvm.tirx.script import builder as T

from tunesmith.ir.dims import bounds, product
from tunesmith.ir.graph import Node
from tunesmith.ir.types import DType, Shape

from ..evaluator import Evaluator
from ..index import Index, int64
from .literals import TVM_DTYPE
from .loops import for_each, is_large
from .ordering import Test, order
from .scalar import cast_to

__all__ = ["emit_topk"]

_LEVELS = 48  # of merging, where the length of an axis has no bound
_ROOM = 64  # candidates besides twice as many as are kept, so that few are not sorted often


def emit_topk(evaluator: Evaluator, node: Node, stores: Sequence[Buffer]) -> None:
    """Lines are shared out over the threads."""
    (x,) = node.present_operands
    axis = node.attributes["axis"]
    assert isinstance(axis, int)
    axis %= x.type.rank
    sizes, shape = evaluator.sizes, x.type.shape
    outer_shape = (*shape[:axis], *shape[axis + 1 :])
    kept = node.results[0].type.shape
    length, keep = sizes.expr(shape[axis]), sizes.expr(kept[axis])
    largest = bool(node.attributes["largest"])
    dtype = DType.f32 if x.type.dtype in (DType.f16, DType.bf16) else x.type.dtype
    before, _ = order(largest, dtype, nan_first=largest)  # NaN is greater than all others
    most = bounds(shape[axis])[1]

    def line(position: Prim) -> None:
        outer = [T.Bind(p) for p in Index(((outer_shape, position),), sizes).axes()]

        def place(shape: Shape, at: Prim) -> Index:
            return Index.of(shape, [*outer[:axis], at, *outer[axis:]], sizes)

        room = tirx.min(length, keep * int64(2) + int64(_ROOM))
        best = _Best(
            room=room,
            keep=keep,
            levels=_LEVELS if most is None else max(most - 1, 0).bit_length(),
            before=before,
            # a merge that has come to the end of a run looks at the element behind it
            values=T.alloc_buffer((room * int64(2) + int64(1),), TVM_DTYPE[dtype]),
            places=T.alloc_buffer((room * int64(2) + int64(1),), "int64"),
        )
        count, sorted_before = _cell(int64(0)), _cell(int64(0))
        with T.serial(length) as i:
            found = evaluator.fresh().read(x, place(shape, i))
            found = T.Bind(cast_to(found, x.type.dtype, dtype))
            last = T.Bind(best.values[tirx.max(keep - int64(1), int64(0))])
            with T.If(tirx.any(sorted_before[int64(0)] < int64(1), before(found, last))), T.Then():
                T.buffer_store(best.values, found, [count[int64(0)]])
                T.buffer_store(best.places, i, [count[int64(0)]])
                T.buffer_store(count, count[int64(0)] + int64(1), [int64(0)])
            full = count[int64(0)] >= room
            with T.If(tirx.any(full, i >= length - int64(1))), T.Then():
                best.sort(T.Bind(count[int64(0)]))
                T.buffer_store(count, tirx.min(count[int64(0)], keep), [int64(0)])
                T.buffer_store(sorted_before, int64(1), [int64(0)])
        with T.serial(keep) as i:
            at = place(kept, i).flat()
            T.buffer_store(stores[0], cast_to(best.values[i], dtype, x.type.dtype), [at])
            T.buffer_store(stores[1], best.places[i], [at])

    for_each(product(outer_shape), sizes, is_large(x.type.size), line)


@dataclass(frozen=True, kw_only=True)
class _Best:
    """Candidates, in the first of two halves of each buffer, in the order of their places."""

    room: Prim
    keep: Prim
    levels: int
    before: Test
    values: Buffer
    places: Buffer

    def sort(self, count: Prim) -> None:
        """Bring the first `keep` of `count` candidates into order, at the start of the buffers."""
        side = _cell(int64(0))  # where the half begins that holds the runs
        with T.serial(self.levels) as level:
            width = T.Bind(tirx.shift_left(int64(1), level))
            with T.If(width < count), T.Then():
                source = T.Bind(side[int64(0)])
                self._merge(source, count, width)
                T.buffer_store(side, self.room - source, [int64(0)])
        source = T.Bind(side[int64(0)])
        with T.If(source > int64(0)), T.Then():
            with T.serial(tirx.min(self.keep, count)) as i:
                self._copy(source + i, i)

    def _copy(self, source: Prim, target: Prim) -> None:
        for buffer in (self.values, self.places):
            T.buffer_store(buffer, buffer[source], [target])

    def _merge(self, source: Prim, length: Prim, width: Prim) -> None:
        """Merge all pairs of neighbouring runs, from one half of the buffers into the other.

        A run begins at each multiple of `width` and has the `keep` first of as many elements.
        """
        target, keep = T.Bind(self.room - source), self.keep
        step = T.Bind(width * int64(2))
        with T.serial(tirx.floordiv(length + step - int64(1), step)) as pair:
            low = T.Bind(pair * step)
            middle = T.Bind(tirx.min(low + width, length))
            count = T.Bind(tirx.min(tirx.min(step, length - low), keep))
            ends = (
                T.Bind(source + low + tirx.min(middle - low, keep)),
                T.Bind(source + middle + tirx.min(tirx.min(width, length - middle), keep)),
            )
            left, right = _cell(source + low), _cell(source + middle)
            with T.serial(count) as i:
                a, b = T.Bind(left[int64(0)]), T.Bind(right[int64(0)])
                ahead = self.before(T.Bind(self.values[b]), T.Bind(self.values[a]))
                taken = _cell(a)
                with T.If(tirx.all(b < ends[1], tirx.any(a >= ends[0], ahead))):
                    with T.Then():
                        T.buffer_store(taken, b, [int64(0)])
                        T.buffer_store(right, b + int64(1), [int64(0)])
                    with T.Else():
                        T.buffer_store(left, a + int64(1), [int64(0)])
                self._copy(T.Bind(taken[int64(0)]), target + low + i)


def _cell(value: Prim) -> Buffer:
    cell = T.alloc_buffer((int64(1),), "int64", scope="local")
    T.buffer_store(cell, value, [int64(0)])
    return cell
