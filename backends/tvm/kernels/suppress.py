"""Non-maximum suppression: a row after the other, each box against those that remain so far."""

from __future__ import annotations

from collections.abc import Sequence

from tvm import tirx
from tvm.ir import Expr as Prim
from tvm.tirx.script import builder as T

from tunesmith.ir.graph import Node, Value

from ..evaluator import Evaluator
from ..index import Index, int64
from .loops import for_each, is_large

__all__ = ["emit_suppress"]

_FLOAT = "float32"


def emit_suppress(evaluator: Evaluator, node: Node, stores: Sequence[tirx.Buffer]) -> None:
    """Rows are shared out over the threads; within one, what remains decides what follows."""
    boxes, scores, most, overlap, lowest = node.present_operands
    rows, count = scores.type.shape
    (kept,) = stores
    sizes = evaluator.sizes

    def read(value: Value, *parts: Prim) -> Prim:
        return evaluator.fresh().read(value, Index.of(value.type.shape, parts, evaluator.sizes))

    def corners(row: Prim, i: Prim) -> list[tuple[Prim, Prim]]:
        """The lower and the upper end of a box along both axes."""
        a, b, c, d = (T.Bind(read(boxes, row, i, int64(k))) for k in range(4))
        if node.attributes["center"]:
            half = tirx.FloatImm(_FLOAT, 2.0)
            return [(T.Bind(x - w / half), T.Bind(x + w / half)) for x, w in ((a, c), (b, d))]
        return [(T.Bind(tirx.min(x, y)), T.Bind(tirx.max(x, y))) for x, y in ((a, c), (b, d))]

    def place(row: Prim, i: Prim) -> Prim:
        return Index.of(scores.type.shape, (row, i), evaluator.sizes).flat()

    def clashes(one: list[tuple[Prim, Prim]], other: list[tuple[Prim, Prim]]) -> Prim:
        zero = tirx.FloatImm(_FLOAT, 0.0)
        shared, areas = tirx.FloatImm(_FLOAT, 1.0), [tirx.FloatImm(_FLOAT, 1.0)] * 2
        for (low, high), (low2, high2) in zip(one, other, strict=True):
            shared = shared * tirx.max(tirx.min(high, high2) - tirx.max(low, low2), zero)
            areas = [areas[0] * (high - low), areas[1] * (high2 - low2)]
        shared = T.Bind(shared)
        union = areas[0] + areas[1] - shared
        return tirx.all(shared > zero, shared / union > read(overlap))

    def line(row: Prim) -> None:
        remain = T.alloc_buffer((int64(1),), "int64", scope="local")
        alive = T.alloc_buffer((int64(1),), "int64", scope="local")
        # what remains, side by side: a box meets no other
        held = T.alloc_buffer((sizes.expr(count) * int64(4) + int64(4),), _FLOAT)
        T.buffer_store(remain, int64(0), [int64(0)])
        with T.serial(evaluator.sizes.expr(count)) as i:
            T.buffer_store(kept, tirx.IntImm("bool", 0), [place(row, i)])
            with T.If(tirx.all(read(scores, row, i) > read(lowest), remain[int64(0)] < read(most))):
                with T.Then():
                    box = corners(row, i)
                    T.buffer_store(alive, int64(1), [int64(0)])
                    with T.serial(remain[int64(0)]) as j:
                        with T.If(alive[int64(0)] > int64(0)), T.Then():
                            ends = [T.Bind(held[j * int64(4) + int64(k)]) for k in range(4)]
                            with T.If(clashes(box, [(ends[0], ends[1]), (ends[2], ends[3])])):
                                with T.Then():
                                    T.buffer_store(alive, int64(0), [int64(0)])
                    with T.If(alive[int64(0)] > int64(0)), T.Then():
                        T.buffer_store(kept, tirx.IntImm("bool", 1), [place(row, i)])
                        for k, end in enumerate(end for pair in box for end in pair):
                            at = remain[int64(0)] * int64(4) + int64(k)
                            T.buffer_store(held, end, [at])
                        T.buffer_store(remain, remain[int64(0)] + int64(1), [int64(0)])

    for_each(rows, evaluator.sizes, is_large(scores.type.size), line)
