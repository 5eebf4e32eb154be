"""Kernels over rows: softmax, normalizations and reductions of the last axis, in f32.

A row is read once into a buffer that stays in the first cache; what follows works on that. Sums
run in several vectors, so that the order of addition is close to pairwise and latency is hidden.
"""

from __future__ import annotations

from collections.abc import Callable

from tvm import tirx
from tvm.ir import Expr as Prim
from tvm.tirx.script import builder as T

from tunesmith.ir.dims import product
from tunesmith.ir.graph import Node, Value
from tunesmith.ir.types import DType

from ..evaluator import Evaluator
from ..index import Index, int64
from ..legalize import ROW_REDUCTIONS
from ..schedule import fastmath
from ..schedule.emit import held, vector_loop
from ..schedule.sweep import RowKnobs, RowWork
from .literals import immediate
from .loops import columns, is_large

__all__ = ["emit_rows", "row_work"]

Combine = Callable[[Prim, Prim], Prim]
_LOWEST = float("-inf")


def row_work(node: Node) -> RowWork:
    """What there is to choose for."""
    type_ = node.present_operands[0].type
    rows, length = product(type_.shape[:-1]), type_.shape[-1]
    return RowWork(
        rows if isinstance(rows, int) else 0, length if isinstance(length, int) else 0,
        node.op.name in ROW_REDUCTIONS, is_large(type_.size),
    )  # fmt: skip


def emit_rows(
    evaluator: Evaluator, node: Node, output: Value, store: tirx.Buffer, knobs: RowKnobs
) -> None:
    """Write the kernel of a row operator and its epilogue."""
    x = node.present_operands[0]
    rows = product(x.type.shape[:-1])
    sizes = evaluator.sizes
    total = sizes.expr(rows)
    length = sizes.expr(x.type.shape[-1])

    def some(first: Prim, count: Prim) -> None:
        # one buffer for all rows of a task: getting it costs as much as a short row
        buffer = None if node.op.name in ROW_REDUCTIONS else T.alloc_buffer((length,), "float32")
        with T.serial(count) as i:
            _Row(evaluator, node, output, store, knobs, first + i, buffer).run()

    if not is_large(x.type.size):
        some(int64(0), total)
        return
    many = int64(knobs.rows)
    with T.parallel(tirx.floordiv(total + int64(knobs.rows - 1), many)) as task:
        first = T.Bind(task * many)
        some(first, T.Bind(tirx.min(total - first, many)))


class _Row:
    """One row of a kernel."""

    def __init__(
        self,
        evaluator: Evaluator,
        node: Node,
        output: Value,
        store: tirx.Buffer,
        knobs: RowKnobs,
        row: Prim,
        buffer: tirx.Buffer | None,
    ) -> None:
        self.evaluator, self.node, self.output, self.store = evaluator, node, output, store
        self.lanes, self.ways, self.row, self.buffer = knobs.lanes, knobs.ways, row, buffer
        self.x = node.present_operands[0]
        self.outer, self.length = self.x.type.shape[:-1], self.x.type.shape[-1]
        self.sizes = evaluator.sizes
        self.total = self.sizes.expr(self.length)

    def run(self) -> None:
        """Choose the body by the operator."""
        name = self.node.op.name
        if name in ("softmax", "log_softmax"):
            self._softmax(log=name == "log_softmax")
        elif name in ("layer_norm", "rms_norm"):
            self._normalize(center=name == "layer_norm")
        else:
            self._reduce(name)

    def index(self, column: Prim) -> Index:
        """The place of a column in a tensor of the shape of `x`."""
        if not self.outer:
            return Index((((self.length,), column),), self.sizes)
        return Index(((tuple(self.outer), self.row), ((self.length,), column)), self.sizes)

    def source(self, column: Prim) -> Prim:
        """An element of the operand, through what is fused in front."""
        return self.evaluator.fresh().read(self.x, self.index(column))

    def buffered(self) -> tirx.Buffer:
        """Room for one row."""
        assert self.buffer is not None
        return self.buffer

    def each(self, body: Callable[[Prim], None]) -> None:
        """All columns, in vectors and then singly."""
        columns(self.length, self.lanes, self.sizes, body)

    def fold(self, start: float, combine: Combine, value: Callable[[Prim], Prim]) -> Prim:
        """Fold `value(column)` over the row: some vectors side by side, then across lanes."""
        lanes, ways = self.lanes, self.ways
        sums = [T.alloc_buffer((lanes,), "float32") for _ in range(ways)]  # registers
        for some in sums:
            with vector_loop(lanes) as lane:
                T.buffer_store(some, immediate(start, DType.f32), [lane])
        step = lanes * ways
        wide = tirx.floordiv(self.total, int64(step))
        with T.serial(wide) as block:
            for way, some in enumerate(sums):
                with vector_loop(lanes) as lane:
                    at = block * int64(step) + int64(way * lanes) + lane
                    T.buffer_store(some, combine(some[lane], value(at)), [lane])
        begin = T.Bind(wide * int64(step))
        single = tirx.floordiv(self.total - begin, int64(lanes))
        with T.serial(single) as block, vector_loop(lanes) as lane:
            at = begin + block * int64(lanes) + lane
            T.buffer_store(sums[0], combine(sums[0][lane], value(at)), [lane])
        rest = T.Bind(begin + single * int64(lanes))
        with T.serial(self.total - rest) as column:
            last = sums[min(1, ways - 1)]
            T.buffer_store(last, combine(last[int64(0)], value(rest + column)), [int64(0)])
        with vector_loop(lanes) as lane:
            level = [some[lane] for some in sums]
            while len(level) > 2:
                level = [held(combine(*level[i : i + 2])) for i in range(0, len(level), 2)]
            T.buffer_store(sums[0], combine(*level) if len(level) > 1 else level[0], [lane])
        result = sums[0][int64(0)]
        for lane_number in range(1, lanes):
            result = held(combine(result, sums[0][int64(lane_number)]))
        return T.Bind(result)

    def write(self, value: Callable[[Prim], Prim]) -> None:
        """Store a row of results through what is fused behind."""

        def body(column: Prim) -> None:
            index = self.index(column)
            evaluator = self.evaluator.fresh()
            result = T.Bind(value(column))
            evaluator.known[self.node.result] = lambda _: result
            out = index.reshape_to(self.output.type.shape)
            T.buffer_store(self.store, evaluator.compute(self.output, out), [index.flat()])

        self.each(body)

    def _softmax(self, log: bool) -> None:
        row = self.buffered()
        self.each(lambda j: T.buffer_store(row, self.source(j), [j]))
        peak = self.fold(_LOWEST, tirx.max, lambda j: row[j])
        if log:  # the peak goes first: beside a great one the logarithm would lose its bits
            self.each(lambda j: T.buffer_store(row, row[j] - peak, [j]))
            total = self.fold(0.0, _add, lambda j: fastmath.exp(row[j]))
            shift = T.Bind(tirx.log(total))
            self.write(lambda j: row[j] - shift)
            return
        self.each(lambda j: T.buffer_store(row, fastmath.exp(row[j] - peak), [j]))
        total = self.fold(0.0, _add, lambda j: row[j])
        scale = T.Bind(immediate(1.0, DType.f32) / total)
        self.write(lambda j: row[j] * scale)

    def _normalize(self, center: bool) -> None:
        row = self.buffered()
        self.each(lambda j: T.buffer_store(row, self.source(j), [j]))
        count = self.count
        operands = self.node.present_operands
        if center:
            mean = T.Bind(self.fold(0.0, _add, lambda j: row[j]) / count)
            self.each(lambda j: T.buffer_store(row, row[j] - mean, [j]))
        square = self.fold(0.0, _add, lambda j: row[j] * row[j])
        epsilon = self.node.attributes["epsilon"]
        assert isinstance(epsilon, float)
        scale = T.Bind(
            immediate(1.0, DType.f32) / tirx.sqrt(square / count + immediate(epsilon, DType.f32))
        )

        def value(column: Prim) -> Prim:
            reader = self.evaluator.fresh()
            place = Index((((self.length,), column),), self.sizes)
            result = row[column] * scale * reader.read(operands[1], place)
            return result + reader.read(operands[2], place) if len(operands) > 2 else result

        self.write(value)

    @property
    def count(self) -> Prim:
        """What a sum is divided by for the mean: the mean of nothing is NaN, as 0 / 0 is."""
        if self.length == 0:  # which TVM does not divide by
            return immediate(float("nan"), DType.f32)
        return self.total.astype("float32")

    def _reduce(self, name: str) -> None:
        combine, start = {
            "reduce_sum": (_add, 0.0),
            "reduce_mean": (_add, 0.0),
            "reduce_max": (_greater, _LOWEST),
            "reduce_min": (_lesser, -_LOWEST),
        }[name]
        result = self.fold(start, combine, self.source)
        if name == "reduce_mean":
            result = T.Bind(result / self.count)
        index = Index(((tuple(self.outer), self.row),), self.sizes)
        evaluator = self.evaluator.fresh()
        evaluator.known[self.node.result] = lambda _: result
        out = index.reshape_to(self.output.type.shape)
        T.buffer_store(self.store, evaluator.compute(self.output, out), [self.row])


def _add(x: Prim, y: Prim) -> Prim:
    return x + y


def _greater(x: Prim, y: Prim) -> Prim:
    return tirx.Select(tirx.any(y > x, _is_nan(y)), y, x)


def _lesser(x: Prim, y: Prim) -> Prim:
    return tirx.Select(tirx.any(y < x, _is_nan(y)), y, x)


def _is_nan(x: Prim) -> Prim:
    """By the bits: the simplifier takes `x != x` of whole vectors for false."""
    magnitude = tirx.bitwise_and(T.reinterpret("int32", x), tirx.const(0x7FFFFFFF, "int32"))
    return magnitude > tirx.const(0x7F800000, "int32")
