"""Fused attention for few queries, as when a text is continued token by token, written as TIR.

`attention` has queries in the lanes of its vectors; one query would use one lane of sixteen. Here
a task is all queries of the heads that share their keys, and elements of a head lie in the lanes:
keys and values are read once, in order, and each score is one sum across lanes. Keys come in
blocks with a running maximum and sum, so memory does not depend on their number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from tvm.ir import Expr
from tvm.tirx import Buffer, Select, const, vectorhigh, vectorlow
from tvm.tirx.script import builder as T

from . import emit, fastmath

if TYPE_CHECKING:
    from .attention import Attention

__all__ = ["emit_few"]

_BLOCK = 128  # keys between two corrections of the running maximum: their scores stay in L1
_TILE = 4  # keys whose scores are summed together
_ROWS = 8  # of a task, each of which is code of its own
_LOWEST = float("-inf")


def emit_few(attention: Attention, queries: int, cores: int) -> None:
    """Write the attention of `queries` queries, known now, and of as many keys as there are."""
    shared = attention.heads // attention.group
    together = heads_together(attention.group, shared, queries, cores)
    _Few(attention, queries, together).tasks()


def heads_together(group: int, shared: int, queries: int, cores: int) -> int:
    """How many of the `group` heads that share keys are one task; there are `shared` such groups.

    All of them if they have few rows, unless the cores would be fed unevenly.
    """
    most = _ROWS // queries if shared % cores == 0 or shared >= 8 * cores else 1
    return max(n for n in range(1, max(most, 1) + 1) if group % n == 0)


@dataclass(frozen=True)
class _Place:
    """Where a task is, and its workspaces; a row is a query of a head."""

    b: Expr
    h: Expr  # the first of the heads
    kv: Expr
    query: Buffer  # [rows, head_size], scaled
    score: Buffer  # [rows, _BLOCK]
    out: Buffer  # [rows, value_size]
    top: Buffer  # [rows], the running maximum
    total: Buffer  # [rows], the running sum
    factor: Buffer  # [rows], the correction of what was summed before


@dataclass(frozen=True)
class _Few:
    """What every part needs to know: `together` heads of `queries` queries are a task."""

    of: Attention
    queries: int
    together: int

    @property
    def rows(self) -> int:
        return self.together * self.queries

    def tasks(self) -> None:
        """Run a task for each group of heads."""
        of, rows = self.of, self.rows
        groups = of.heads // self.together
        count = emit.index(of.batch) * groups
        with emit.loop(count, parallel=of.parallel) as task:
            h = T.Bind(task % groups * self.together)
            at = _Place(
                b=T.Bind(task // groups),
                h=h,
                kv=T.Bind(h // of.group),
                query=T.alloc_buffer((rows * of.head_size,), "float32"),
                score=T.alloc_buffer((rows * _BLOCK,), "float32"),
                out=T.alloc_buffer((rows * of.value_size,), "float32"),
                top=T.alloc_buffer((rows,), "float32"),
                total=T.alloc_buffer((rows,), "float32"),
                factor=T.alloc_buffer((rows,), "float32"),
            )
            self.start(at)
            limit = emit.index(of.keys)
            if of.causal:
                seen = emit.index(of.causal_offset) + self.queries
                limit = T.Bind(T.max(T.min(limit, seen), emit.index(0)))
            with emit.loop((limit + (_BLOCK - 1)) // _BLOCK) as step:
                k0 = T.Bind(step * _BLOCK)
                count = T.Bind(T.min(limit - k0, emit.index(_BLOCK)))
                with emit.loop(count // _TILE) as tile:
                    self.scores(at, k0, T.Bind(tile * _TILE), _TILE)
                with emit.loop(count % _TILE) as rest:
                    self.scores(at, k0, T.Bind(count // _TILE * _TILE + rest), 1)
                for row in range(rows):
                    self.softmax(at, k0, count, row)
                self.values(at, k0, count)
            self.finish(at)

    def start(self, at: _Place) -> None:
        """Copy and scale the queries; clear the running values."""
        of, width = self.of, self.width(self.of.head_size)
        for row in range(self.rows):
            g, i = divmod(row, self.queries)
            with emit.loop(of.head_size // width) as n, emit.vector_loop(width) as lane:
                d = n * width + lane
                value = of.load_q(at.b, at.h + g, emit.index(i), d) * const(of.scale, "float32")
                T.buffer_store(at.query, value, [d + row * of.head_size])
            T.buffer_store(at.top, const(_LOWEST, "float32"), [emit.index(row)])
            T.buffer_store(at.total, const(0.0, "float32"), [emit.index(row)])
        width = self.width(of.value_size)
        with emit.loop(self.rows * of.value_size // width) as n:
            emit.save(at.out, n * width, width, emit.splat(0.0, width))

    def width(self, size: int) -> int:
        """Return the lanes of a vector: all of a register's, if they divide `size`."""
        width = self.of.lanes
        while size % width:
            width //= 2
        return width

    def scores(self, at: _Place, k0: Expr, first: Expr, keys: int) -> None:
        """Compute the scores of some keys with every row."""
        of, width = self.of, self.width(self.of.head_size)
        for base in range(0, self.rows, 4):
            rows = range(base, min(base + 4, self.rows))
            sums = {(j, r): emit.registers(1, width)[0] for j in range(keys) for r in rows}
            emit.fill(list(sums.values()), width, 0.0)
            with emit.loop(of.head_size // width) as n, emit.vector_loop(width) as lane:
                d = n * width + lane
                queries = {r: T.Bind(at.query[d + r * of.head_size]) for r in rows}
                for j in range(keys):
                    key = emit.held(of.load_k(at.b, at.kv, k0 + first + j, d))
                    for r in rows:
                        total = sums[j, r]
                        T.buffer_store(total, total[lane] + key * queries[r], [lane])
            for (j, r), total in sums.items():
                T.buffer_store(at.score, _across(total, width, "+"), [first + (r * _BLOCK + j)])

    def softmax(self, at: _Place, k0: Expr, count: Expr, row: int) -> None:
        """Mask the scores of a row, move its maximum, and turn scores into weights."""
        lanes = self.of.lanes
        g, i = divmod(row, self.queries)
        tops, sums = emit.registers(2, lanes)
        emit.save(tops, 0, lanes, emit.splat(_LOWEST, lanes))
        emit.save(sums, 0, lanes, emit.splat(0.0, lanes))
        top, total, shift = emit.registers(3, 1)
        whole = T.Bind(count // lanes)
        zero, at_row = emit.index(0), emit.index(row)
        old = at.top[at_row]

        def spot(j: Expr) -> Expr:
            return j + row * _BLOCK

        def masked(j: Expr, lane: Expr) -> Expr:
            last = (emit.index(self.of.causal_offset) + i - k0 - j).astype("int32")
            seen = lane.astype("int32") <= last
            score = at.score[spot(j + lane)]
            return self.of.masked(at.b, at.h + g, emit.index(i), k0 + j + lane, seen, score)

        with emit.loop(whole) as n, emit.vector_loop(lanes) as lane:
            value = T.Bind(masked(n * lanes, lane))
            T.buffer_store(at.score, value, [spot(n * lanes + lane)])
            T.buffer_store(tops, T.max(tops[lane], value), [lane])
        T.buffer_store(top, T.max(old, _across(tops, lanes, "max")), [zero])
        with emit.loop(count - whole * lanes) as rest:
            j = T.Bind(whole * lanes + rest)
            value = emit.held(masked(j, zero))
            T.buffer_store(at.score, value, [spot(j)])
            T.buffer_store(top, T.max(top[zero], value), [zero])
        # a row without a key so far has -inf here, and -inf - -inf would be NaN
        none = top[zero] == const(_LOWEST, "float32")
        T.buffer_store(shift, Select(none, const(0.0, "float32"), top[zero]), [zero])
        change = emit.held(fastmath.exp_nonpositive(old - shift[zero]))
        T.buffer_store(at.factor, change, [at_row])
        T.buffer_store(at.top, top[zero], [at_row])
        with emit.loop(whole) as n, emit.vector_loop(lanes) as lane:
            j = n * lanes + lane
            weight = T.Bind(fastmath.exp_nonpositive(at.score[spot(j)] - shift[zero]))
            T.buffer_store(at.score, weight, [spot(j)])
            T.buffer_store(sums, sums[lane] + weight, [lane])
        T.buffer_store(total, _across(sums, lanes, "+"), [zero])
        with emit.loop(count - whole * lanes) as rest:
            j = T.Bind(whole * lanes + rest)
            weight = emit.held(fastmath.exp_nonpositive(at.score[spot(j)] - shift[zero]))
            T.buffer_store(at.score, weight, [spot(j)])
            T.buffer_store(total, total[zero] + weight, [zero])
        T.buffer_store(at.total, at.total[at_row] * change + total[zero], [at_row])

    def values(self, at: _Place, k0: Expr, count: Expr) -> None:
        """Add the weighted values of a block to the result."""
        of, width = self.of, self.width(self.of.value_size)
        vectors = of.value_size // width
        chunk = next(c for c in (4, 3, 2, 1) if vectors % c == 0)
        for base in range(0, self.rows, 4):
            rows = range(base, min(base + 4, self.rows))
            with emit.loop(vectors // chunk) as part:
                d0 = T.Bind(part * (chunk * width))
                sums = {(r, c): emit.registers(1, width)[0] for r in rows for c in range(chunk)}
                emit.fill(list(sums.values()), width, 0.0)
                with emit.loop(count) as j:
                    weights = {r: T.Bind(at.score[j + r * _BLOCK]) for r in rows}
                    for c in range(chunk):
                        with emit.vector_loop(width) as lane:
                            d = d0 + c * width + lane
                            value = emit.held(of.load_v(at.b, at.kv, k0 + j, d))
                            for r in rows:
                                total = sums[r, c]
                                T.buffer_store(total, total[lane] + weights[r] * value, [lane])
                for (r, c), total in sums.items():
                    spot = d0 + (r * of.value_size + c * width)
                    factor = emit.splat(at.factor[emit.index(r)], width)
                    scaled = emit.load(at.out, spot, width) * factor
                    emit.save(at.out, spot, width, scaled + emit.load(total, 0, width))

    def finish(self, at: _Place) -> None:
        """Divide by the sums and store the rows."""
        of, width = self.of, self.width(self.of.value_size)
        for row in range(self.rows):
            g, i = divmod(row, self.queries)
            inverse = of.inverse(T.Bind(at.total[emit.index(row)]))
            with emit.loop(of.value_size // width) as n, emit.vector_loop(width) as lane:
                d = n * width + lane
                value = at.out[d + row * of.value_size] * inverse
                of.store(at.b, emit.index(i), at.h + g, d, value)


def _across(vector: Buffer, lanes: int, how: str) -> Expr:
    """Combine the lanes of a vector to one element, halves at a time."""
    value = emit.load(vector, 0, lanes)
    while lanes > 1:
        lanes //= 2
        dtype = f"float32x{lanes}" if lanes > 1 else "float32"
        low, high = vectorlow(dtype, value), vectorhigh(dtype, value)
        (half,) = emit.registers(1, lanes)
        emit.save(half, 0, lanes, low + high if how == "+" else T.max(low, high))
        value = emit.load(half, 0, lanes)
    return value
