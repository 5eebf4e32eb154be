"""Fused attention on the CPU, written as TIR: the matrix of scores never exists.

A task is a block of queries of one head. It walks over the keys a block at a time, with a running
maximum and sum (Milakov and Gimelshein, 2018; Dao et al., 2022), so its memory does not depend on
the lengths. Queries are the lanes of every vector: `scores[key, query]`. Maxima and sums need no
step across lanes, keys and values are read where they are, and a tail of keys is a shorter loop.
Only the block of queries is transposed, once a task.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Literal, TypeAlias

from tvm.ir import Expr
from tvm.tirx import Buffer, Select, const
from tvm.tirx.script import builder as T

from . import emit, fastmath
from .attention_few import emit_few
from .emit import Dim
from .knobs import Knobs, knob

if TYPE_CHECKING:
    from tunesmith.ir.target import Machine

Load: TypeAlias = Callable[[Expr, Expr, Expr, Expr], Expr]
Store: TypeAlias = Callable[[Expr, Expr, Expr, Expr, Expr], None]

_LOWEST = float("-inf")


@dataclass(frozen=True, kw_only=True)
class AttentionWork:
    """One attention: lengths are `None` if they are only known at run time."""

    queries: int | None
    keys: int | None
    head_size: int
    value_size: int


@dataclass(frozen=True, kw_only=True)
class AttentionKnobs(Knobs):
    """How attention is cut into pieces."""

    # vectors of queries in a task
    query_vectors: int = knob(2, 1, 2, 3, 4)
    # keys whose scores are in registers together
    tile_keys: int = knob(12, 4, 6, 8, 12, 16, 24)
    # keys between two corrections of the running maximum
    block_keys: int = knob(96, 24, 48, 96, 144, 192, 288, 384)
    # steps of the head size in the innermost loop of the scores
    unroll_d: int = knob(4, 1, 2, 4, 8)
    # up to so many, elements of a head lie in the lanes, not queries
    few_queries: int = knob(4)


def default(work: AttentionWork, machine: Machine) -> AttentionKnobs:
    """Fill three quarters of the registers with scores; keep a block of them in the first cache.

    Two vectors of queries need one load each and one broadcast a key: with 12 keys (6 with 16
    registers) 24 products wait for 14 loads, so arithmetic is the limit. More vectors would save
    loads and compute more of the padding at the end of the queries; queries that fit one vector
    take one. A block of keys has its scores and its values in the first cache, half of it.
    """
    lanes = emit.lanes_of(machine)
    vectors = 1 if work.queries is not None and work.queries <= lanes else 2
    tile = 12 if machine.vector_registers >= 32 else 6
    row = emit.FLOAT_BYTES * (vectors * lanes + work.value_size)
    block = max(tile, min(96, machine.l1_bytes * 3 // 4 // row) // tile * tile)
    unroll = next(u for u in (4, 2, 1) if work.head_size % u == 0)
    return AttentionKnobs(query_vectors=vectors, tile_keys=tile, block_keys=block, unroll_d=unroll)


def fits(work: AttentionWork, machine: Machine, knobs: AttentionKnobs) -> bool:
    """Whether scores stay in registers, and blocks and steps are whole."""
    if work.queries is not None and work.queries <= knobs.few_queries:
        return False  # `attention_few` has no knobs
    vectors, lanes = knobs.query_vectors, emit.lanes_of(machine)
    return (
        vectors * knobs.tile_keys + vectors + 1 <= machine.vector_registers
        and knobs.block_keys % knobs.tile_keys == 0
        and work.head_size % knobs.unroll_d == 0
        and (work.queries is None or (vectors - 1) * lanes < work.queries)
        and (work.keys is None or knobs.block_keys < 2 * max(work.keys, knobs.tile_keys))
    )


def emit_attention(
    *,
    batch: Dim,
    heads: int,
    kv_heads: int,
    queries: Dim,
    keys: Dim,
    head_size: int,
    value_size: int,
    load_q: Load,
    load_k: Load,
    load_v: Load,
    store: Store,
    load_mask: Load | None,
    scale: float,
    causal: bool,
    causal_offset: Dim,
    softcap: float,
    masked_row: Literal["nan", "zero"],
    machine: Machine,
    knobs: AttentionKnobs,
    parallel: bool = True,
) -> None:
    """Write `store(b, s, h, d, softmax(cap(scale * q @ k) + mask) @ v)` for all of its arguments.

    `load_q(b, h, i, d)`, `load_k` and `load_v(b, kv_head, j, d)` should be contiguous in `d`;
    `load_mask(b, h, i, j)` is added, and cheap where it does not depend on `i`. With `causal`,
    query `i` sees the keys `j <= i + causal_offset`; key blocks that no query of a task sees are
    skipped. A row that sees no key is NaN or 0, as `masked_row` says.
    """
    attention = Attention(
        batch, heads, heads // kv_heads, queries, keys, head_size, value_size, load_q, load_k,
        load_v, store, load_mask, scale, causal, causal_offset, softcap, masked_row,
        emit.lanes_of(machine), machine.vector_registers, knobs, parallel,
    )  # fmt: skip
    known = emit.static(queries)
    if known is not None and known <= knobs.few_queries:
        emit_few(attention, known, machine.cores)
    elif known is not None:
        attention.tasks()
    elif not knobs.few_queries:
        attention.any_tasks()
    else:
        one = partial(emit_few, attention, 1, machine.cores)
        emit.branch(emit.index(queries) == 1, one, attention.any_tasks)


@dataclass(frozen=True)
class _Place:
    """Where a task is, and its workspaces."""

    b: Expr
    h: Expr
    kv: Expr
    q0: Expr
    query: Buffer  # [head_size, block], scaled
    score: Buffer  # [tile_keys + block_keys, block]; the first rows take what a tail overlaps
    out: Buffer  # [block, value_size]
    top: Buffer  # [block], the running maximum
    total: Buffer  # [block], the running sum
    factor: Buffer  # [block], the correction of what was summed before


@dataclass(frozen=True)
class Attention:
    """What every part of one attention needs to know."""

    batch: Dim
    heads: int
    group: int
    queries: Dim
    keys: Dim
    head_size: int
    value_size: int
    load_q: Load
    load_k: Load
    load_v: Load
    store: Store
    load_mask: Load | None
    scale: float
    causal: bool
    causal_offset: Dim
    softcap: float
    masked_row: str
    lanes: int
    registers: int
    knobs: AttentionKnobs
    parallel: bool

    @property
    def block(self) -> int:
        return self.knobs.query_vectors * self.lanes

    def any_tasks(self) -> None:
        """The same for queries known at run time only: those that fit one vector take one."""
        if self.knobs.query_vectors == 1:
            self.tasks()
            return
        narrow = replace(self, knobs=replace(self.knobs, query_vectors=1))
        emit.branch(emit.index(self.queries) <= self.lanes, narrow.tasks, self.tasks)

    def tasks(self) -> None:
        """Run a task for each block of queries of each head."""
        blocks = emit.index(emit.ceil_div(self.queries, self.block))
        count = emit.index(self.batch) * self.heads * blocks
        with emit.loop(count, parallel=self.parallel) as task:
            head = T.Bind(task // blocks)
            h = T.Bind(head % self.heads)
            place = _Place(
                b=T.Bind(head // self.heads),
                h=h,
                kv=T.Bind(h // self.group),
                q0=T.Bind(task % blocks * self.block),
                query=T.alloc_buffer((self.head_size * self.block,), "float32"),
                score=T.alloc_buffer(
                    ((self.knobs.tile_keys + self.knobs.block_keys) * self.block,), "float32"
                ),
                out=T.alloc_buffer((self.block * self.value_size,), "float32"),
                top=T.alloc_buffer((self.block,), "float32"),
                total=T.alloc_buffer((self.block,), "float32"),
                factor=T.alloc_buffer((self.block,), "float32"),
            )
            self.start(place)
            limit = emit.index(self.keys)
            if self.causal:
                last = T.min(place.q0 + self.block, emit.index(self.queries))
                seen = last + emit.index(self.causal_offset)
                limit = T.Bind(T.max(T.min(limit, seen), emit.index(0)))
            with emit.loop((limit + self.knobs.block_keys - 1) // self.knobs.block_keys) as step:
                k0 = T.Bind(step * self.knobs.block_keys)
                count = T.Bind(T.min(limit - k0, emit.index(self.knobs.block_keys)))
                self.scores(place, k0, count)
                self.softmax(place, k0, count)
                self.values(place, k0, count)
            self.finish(place)

    def start(self, at: _Place) -> None:
        """Transpose and scale the queries; clear the running values."""
        final = emit.index(self.queries) - 1
        with emit.loop(self.block) as i:
            row = T.Bind(T.min(at.q0 + i, final))
            with emit.loop(self.head_size) as d:
                value = self.load_q(at.b, at.h, row, d) * const(self.scale, "float32")
                T.buffer_store(at.query, value, [d * self.block + i])
        for v in range(self.knobs.query_vectors):
            emit.save(at.top, v * self.lanes, self.lanes, emit.splat(_LOWEST, self.lanes))
            emit.save(at.total, v * self.lanes, self.lanes, emit.splat(0.0, self.lanes))
        width = self.width()
        with emit.loop(self.block * self.value_size // width) as n:
            emit.save(at.out, n * width, width, emit.splat(0.0, width))

    def scores(self, at: _Place, k0: Expr, count: Expr) -> None:
        """Compute the scores of a block, `tile_keys` keys at a time.

        The last tile ends at the last key, and so may begin before `k0`; where there are fewer
        keys than a tile has, one key is a tile.
        """
        tile, known = self.knobs.tile_keys, emit.static(self.keys)

        def tiles(height: int) -> None:
            with emit.loop((count + height - 1) // height) as step:
                start = T.min(k0 + step * height, emit.index(self.keys) - height)
                self.score_tile(at, T.Bind(start), k0, height)

        if known is not None:
            tiles(tile if known >= tile else 1)
        else:
            enough = emit.index(self.keys) >= tile
            emit.branch(enough, partial(tiles, tile), partial(tiles, 1))

    def score_tile(self, at: _Place, start: Expr, k0: Expr, height: int) -> None:
        vectors, lanes, unroll = self.knobs.query_vectors, self.lanes, self.knobs.unroll_d
        sums = emit.registers(height * vectors, lanes)
        emit.fill(sums, lanes, 0.0)
        with emit.loop(self.head_size // unroll) as block:
            for u in range(unroll):
                d = T.Bind(block * unroll + u)
                right = [
                    T.Bind(emit.load(at.query, d * self.block + v * lanes, lanes))
                    for v in range(vectors)
                ]
                for j in range(height):
                    left = T.Bind(emit.splat(self.load_k(at.b, at.kv, start + j, d), lanes))
                    for v, query in enumerate(right):
                        total = sums[j * vectors + v]
                        emit.save(total, 0, lanes, emit.load(total, 0, lanes) + left * query)
        for n, total in enumerate(sums):
            row = start - k0 + (self.knobs.tile_keys + n // vectors)
            at_lane = row * self.block + n % vectors * lanes
            emit.save(at.score, at_lane, lanes, emit.load(total, 0, lanes))

    def softmax(self, at: _Place, k0: Expr, count: Expr) -> None:
        """Mask the scores, move the running maximum, and turn scores into weights."""
        lanes, first = self.lanes, self.knobs.tile_keys
        for v in range(self.knobs.query_vectors):
            base = v * lanes
            top, total = emit.registers(2, lanes)
            emit.save(top, 0, lanes, emit.load(at.top, base, lanes))
            emit.save(total, 0, lanes, emit.splat(0.0, lanes))
            with emit.loop(count) as j, emit.vector_loop(lanes) as lane:
                spot = (j + first) * self.block + base + lane
                row = T.min(at.q0 + base + lane, emit.index(self.queries) - 1)
                # 32 bits, so that the comparison is one vector
                least = (k0 + j - emit.index(self.causal_offset) - at.q0 - base).astype("int32")
                seen = lane.astype("int32") >= least
                score = self.masked(at.b, at.h, row, k0 + j, seen, at.score[spot])
                value = T.Bind(score)
                T.buffer_store(at.score, value, [spot])
                T.buffer_store(top, T.max(top[lane], value), [lane])
            with emit.vector_loop(lanes) as lane:
                # a row without a key so far has -inf here, and -inf - -inf would be NaN
                none = top[lane] == const(_LOWEST, "float32")
                shift = T.Bind(Select(none, const(0.0, "float32"), top[lane]))
                change = fastmath.exp_nonpositive(at.top[base + lane] - shift)
                T.buffer_store(at.factor, change, [base + lane])
                T.buffer_store(at.top, top[lane], [base + lane])
                T.buffer_store(top, shift, [lane])
            with emit.loop(count) as j, emit.vector_loop(lanes) as lane:
                spot = (j + first) * self.block + base + lane
                weight = T.Bind(fastmath.exp_nonpositive(at.score[spot] - top[lane]))
                T.buffer_store(at.score, weight, [spot])
                T.buffer_store(total, total[lane] + weight, [lane])
            with emit.vector_loop(lanes) as lane:
                old = at.total[base + lane] * at.factor[base + lane]
                T.buffer_store(at.total, old + total[lane], [base + lane])

    def masked(self, b: Expr, h: Expr, i: Expr, j: Expr, seen: Expr, score: Expr) -> Expr:
        """Return the score of query `i` and key `j` after soft cap, mask and causality.

        One of the two indices runs with the lanes of a vector. `seen` is whether `j` is not after
        what `i` may see.
        """
        if self.softcap:
            cap = const(self.softcap, "float32")
            score = fastmath.tanh(score / cap) * cap
        if self.load_mask is not None:
            score = emit.held(score + self.load_mask(b, h, i, j))
        if self.causal:
            score = Select(seen, score, const(_LOWEST, "float32"))
        return score

    def inverse(self, total: Expr) -> Expr:
        """Return one over the sum of a row's weights, or what a row without a key gets."""
        inverse = const(1.0, "float32") / total
        if self.masked_row == "zero":
            zero = const(0.0, "float32")
            inverse = Select(total == zero, zero, inverse)
        return T.Bind(inverse)

    def width(self) -> int:
        """Return the lanes of a vector of values: all of a register's, if they divide the size."""
        width = self.lanes
        while self.value_size % width:
            width //= 2
        return width

    def values(self, at: _Place, k0: Expr, count: Expr) -> None:
        """Add the weighted values of a block to the result, some rows and columns at a time."""
        width = self.width()
        vectors = self.value_size // width
        many = self.registers >= 32
        chunk = next(c for c in ((4, 3, 2, 1) if many else (2, 1)) if vectors % c == 0)
        height = min(self.block, 8 if chunk <= 3 and many else 4)
        with emit.loop(self.block // height) as tile, emit.loop(vectors // chunk) as part:
            i0, d0 = T.Bind(tile * height), T.Bind(part * (chunk * width))
            sums = emit.registers(height * chunk, width)
            emit.fill(sums, width, 0.0)
            with emit.loop(count) as j:
                row = T.Bind((j + self.knobs.tile_keys) * self.block + i0)
                weights = [T.Bind(at.score[row + i]) for i in range(height)]
                for c in range(chunk):
                    with emit.vector_loop(width) as lane:
                        value = T.Bind(self.load_v(at.b, at.kv, k0 + j, d0 + c * width + lane))
                        for i, weight in enumerate(weights):
                            total = sums[i * chunk + c]
                            T.buffer_store(total, total[lane] + weight * value, [lane])
            for n, total in enumerate(sums):
                i, c = n // chunk, n % chunk
                spot = (i0 + i) * self.value_size + d0 + c * width
                scaled = emit.load(at.out, spot, width) * emit.splat(at.factor[i0 + i], width)
                emit.save(at.out, spot, width, scaled + emit.load(total, 0, width))

    def finish(self, at: _Place) -> None:
        """Divide by the sums and store the rows that exist."""
        width = self.width()
        rows = T.min(emit.index(self.queries) - at.q0, emit.index(self.block))
        with emit.loop(rows) as i:
            inverse = self.inverse(T.Bind(at.total[i]))
            with emit.loop(self.value_size // width) as n, emit.vector_loop(width) as lane:
                d = n * width + lane
                value = at.out[i * self.value_size + d] * inverse
                self.store(at.b, at.q0 + i, at.h, d, value)
