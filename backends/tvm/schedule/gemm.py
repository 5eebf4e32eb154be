"""The fp32 matrix product with a packed, constant weight, written as TIR: nothing is searched.

`emit_gemm` writes loops into the open `prim_func`; what is fused comes in as callbacks. The sums
of a tile of `tile_m` rows and `tile_n` columns stay in registers while `K` runs; rows that are not
a multiple of the tile are covered by overlapping the last tile with the one before, so that the
hot loop has no predicate, whether the number of rows is known now or only at run time.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from tvm.ir import Expr
from tvm.tirx import Buffer
from tvm.tirx.script import builder as T

from . import emit
from .emit import Dim
from .gemm_knobs import CACHE_LINE, FEW_TILES, GemmKnobs

if TYPE_CHECKING:
    from tunesmith.ir.target import Machine

LoadA: TypeAlias = Callable[[Expr, Expr], Expr]
Store: TypeAlias = Callable[[Expr, Expr, Expr], None]


def emit_gemm(
    *,
    rows: Dim,
    inner: int,
    cols: int,
    load_a: LoadA,
    weight: Buffer,
    store: Store,
    machine: Machine,
    knobs: GemmKnobs,
    parallel: bool = True,
) -> None:
    """Write `store(i, j, sum_k load_a(i, k) * weight[k, j])` for all rows and columns.

    `weight` is what `pack_weight` returns, float32 or int8; the scale of int8 belongs into
    `store`. `store` is called in a loop over the lanes of a vector whose variable is in `j`, or
    in a scalar loop for the columns after the last whole vector. The last row tile overlaps the
    one before it, so a row may be stored twice, with the same value: what `load_a` and `store`
    read must not alias what `store` writes.
    """
    gemm = _Gemm(inner, cols, load_a, weight, store, emit.lanes_of(machine), knobs, parallel)
    known = emit.static(rows)
    if known is None:
        gemm.choose(emit.index(rows), knobs.tile_m)
    elif known > 0:
        tiles = -(-known // knobs.tile_m)
        gemm.all_rows(known, -(-known // tiles))  # even tiles: 13 rows are 7 + 7, not 8 + 8


@dataclass(frozen=True)
class _Gemm:
    """What every part of one product needs to know."""

    inner: int
    cols: int
    load_a: LoadA
    weight: Buffer
    store: Store
    lanes: int
    knobs: GemmKnobs
    parallel: bool

    @property
    def vectors(self) -> int:
        return self.knobs.tile_n // self.lanes

    @property
    def panels(self) -> int:
        return -(-self.cols // self.knobs.tile_n)

    def choose(self, rows: Expr, height: int) -> None:
        """Take the tallest tile that fits `rows`, which is known at run time only."""
        if height == 1:
            emit.branch_if(rows > 0, partial(self.all_rows, rows, 1))
            return
        if self.knobs.prefetch_few:
            knobs = replace(self.knobs, prefetch=self.knobs.prefetch_few, prefetch_few=0)
            emit.branch(
                rows >= FEW_TILES * height,
                partial(self.all_rows, rows, height),
                partial(replace(self, knobs=knobs).choose, rows, height),
            )
            return
        emit.branch(
            rows >= height,
            partial(self.all_rows, rows, height),
            partial(self.choose, rows, (height + 1) // 2),
        )

    def all_rows(self, rows: Dim, height: int) -> None:
        """Cover `rows` by tiles of `height` rows; there are at least `height` of them."""
        tiles = emit.ceil_div(rows, height)
        blocks: Dim = 1
        if height == self.knobs.tile_m or emit.static(rows) is not None:
            blocks = emit.ceil_div(tiles, max(1, self.knobs.block_m // height))
        each = emit.ceil_div(tiles, blocks)
        if self.knobs.chunk > 1 and (height == self.knobs.tile_m or emit.static(rows) is not None):
            self.deep(rows, height, tiles, blocks, each)
            return
        with emit.loop(emit.index(blocks) * self.panels, parallel=self.parallel) as task:
            panel = task if blocks == 1 else T.Bind(task % self.panels)
            first = emit.index(0) if blocks == 1 else T.Bind(task // self.panels * each)
            count = each if blocks == 1 else emit.minimum(each, emit.index(tiles) - first)
            zero = emit.index(0)
            read = self.reader(panel, zero, self.inner, self.inner, static_above(tiles, 1))
            tile = T.alloc_buffer((height * self.knobs.tile_n,), "float32")
            with emit.loop(count) as step:
                start = emit.minimum((first + step) * height, emit.index(rows) - height)
                start = T.Bind(start)
                ahead = partial(self.prefetch, panel + 1, zero, step)
                self.tile(start, height, read, ahead, tile)
                self.write(start, height, panel, tile, zero)

    def deep(self, rows: Dim, height: int, tiles: Dim, blocks: Dim, each: Dim) -> None:
        """Cover `rows` with the sums of several panels in memory, while K is walked over once."""
        chunks = -(-self.panels // self.knobs.chunk)
        size, depth = height * self.knobs.tile_n, self.depth
        most = max(1, self.knobs.block_m // height)
        sets = max(1, min(self.unroll, self.knobs.tile_m // height))
        with emit.loop(emit.index(blocks) * chunks, parallel=self.parallel) as task:
            panel0 = T.Bind(task % chunks * self.knobs.chunk)
            panels = T.Bind(T.min(emit.index(self.panels) - panel0, emit.index(self.knobs.chunk)))
            first = T.Bind(task // chunks * each)
            count = T.Bind(T.min(emit.index(each), emit.index(tiles) - first))
            sums = T.alloc_buffer((self.knobs.chunk * most * size,), "float32")
            with emit.loop(panels * most * (size // self.lanes)) as n:
                emit.save(sums, n * self.lanes, self.lanes, emit.splat(0.0, self.lanes))

            def place(step: Expr) -> Expr:
                return T.Bind(T.min((first + step) * height, emit.index(rows) - height))

            with emit.loop(-(-self.inner // depth)) as part:
                k0 = T.Bind(part * depth)
                steps = depth if self.inner % depth == 0 else T.Bind(T.min(self.inner - k0, depth))
                with emit.loop(panels) as p:
                    read = self.reader(panel0 + p, k0, steps, depth, static_above(tiles, 1))
                    more = p + 1 < panels  # after the last panel comes the first, further on in K
                    following = T.Bind(T.Select(more, panel0 + p + 1, panel0))
                    shift = T.Bind(T.Select(more, emit.index(0), emit.index(depth)))
                    with emit.loop(count) as step:
                        ahead = partial(self.prefetch, following, shift, step)
                        at = T.Bind((p * most + step) * size)
                        self.panel(
                            k0, steps, place(step), height, sets, read, ahead, sums, at, add=True
                        )
            with emit.loop(panels) as p, emit.loop(count) as step:
                self.write(place(step), height, panel0 + p, sums, (p * most + step) * size)

    @property
    def unroll(self) -> int:
        return min(self.knobs.unroll_k, self.inner)

    @property
    def depth(self) -> int:
        """Steps of K that are summed in registers: even shares, at most about `panel_k`."""
        shares = -(-self.inner // self.knobs.panel_k)
        return -(-self.inner // (shares * self.unroll)) * self.unroll

    def reader(
        self, panel: Expr, k0: Expr, count: Dim, depth: int, dequantize: bool
    ) -> Callable[[Expr, int], Expr]:
        """Return how vector `v` of row `k` of a panel is read, as fp32.

        A panel of int8 is converted once if it serves several row tiles, else while it is read:
        `count` rows from `k0`, which are at most `depth`.
        """
        lanes, width = self.lanes, self.knobs.tile_n

        def stored(k: Expr, v: int) -> Expr:
            value = self.weight[panel, k, emit.lanes_at(v * lanes, lanes)]
            return value if self.weight.dtype == "float32" else value.astype(f"float32x{lanes}")

        if self.weight.dtype == "float32" or not dequantize:
            return stored
        copy = T.alloc_buffer((depth * width,), "float32")
        with emit.loop(count) as k:
            for v in range(self.vectors):
                emit.save(copy, k * width + v * lanes, lanes, stored(k0 + k, v))
        return lambda k, v: emit.load(copy, (k - k0) * width + v * lanes, lanes)

    def prefetch(
        self, panel: Expr, shift: Expr, step: Expr, k0: Expr, block: Expr, blocks: Dim
    ) -> None:
        """Ask for cache lines of `panel`, which is computed next, from `shift` rows after `k0` on.

        Of what is summed in one go, row tile `step` asks for one piece in order, some lines in each
        of its `blocks` of steps of K, so that all of the next panel is on its way before it is
        needed; tiles after that ask for the last piece again. Past the end of the weight it is an
        address that nobody reads.
        """
        flags = [T.int32(0), T.int32(2), T.int32(1)]  # read, keep in the second cache, data
        width, each = self.knobs.tile_n, CACHE_LINE // (4 if self.weight.dtype == "float32" else 1)
        lines = emit.index(blocks) * self.knobs.prefetch
        first = T.max(T.min(step * lines, self.depth * width // each - lines), emit.index(0))
        for number in range(self.knobs.prefetch):
            line = (first + block * self.knobs.prefetch + number) * each
            at = T.address_of(self.weight[panel, k0 + shift + line // width, line % width])
            T.evaluate(T.call_llvm_intrin("void", "llvm.prefetch.p0", at, *flags))

    def tile(
        self,
        start: Expr,
        height: int,
        read: Callable[[Expr, int], Expr],
        ahead: Callable[[Expr, Expr, Dim], None],
        tile: Buffer,
    ) -> None:
        """Sum one tile over all of K into `tile`, a panel of `panel_k` at a time."""
        depth, zero = self.depth, emit.index(0)
        sets = max(1, min(self.unroll, self.knobs.tile_m // height))
        if depth >= self.inner:
            self.panel(zero, self.inner, start, height, sets, read, ahead, tile, zero, add=False)
            return
        with emit.loop(height) as i:
            for v in range(self.vectors):
                at = i * self.knobs.tile_n + v * self.lanes
                emit.save(tile, at, self.lanes, emit.splat(0.0, self.lanes))
        with emit.loop(-(-self.inner // depth)) as p:
            k0 = T.Bind(p * depth)
            count = depth if self.inner % depth == 0 else T.Bind(T.min(self.inner - k0, depth))
            self.panel(k0, count, start, height, sets, read, ahead, tile, zero, add=True)

    def panel(
        self,
        k0: Expr,
        count: Dim,
        start: Expr,
        height: int,
        sets: int,
        read: Callable[[Expr, int], Expr],
        ahead: Callable[[Expr, Expr, Dim], None],
        tile: Buffer,
        base: Expr,
        *,
        add: bool,
    ) -> None:
        """Sum `count` steps of K in registers, then store them in `tile` or add them to it.

        What is written begins at `base`.

        Where the tile is small, `sets` independent sums hide the latency of the arithmetic, and
        each runs through its own part of K: several streams read memory faster than one (+26 %
        at 1x768x50257, which comes from memory; 0 to 4 % where the weight is in a cache).
        """
        lanes, vectors, unroll = self.lanes, self.vectors, self.unroll
        sums = [emit.registers(height * vectors, lanes) for _ in range(sets)]
        for some in sums:
            emit.fill(some, lanes, 0.0)

        def step(k: Expr, some: list[Buffer]) -> None:
            weights = [T.Bind(read(k, v)) for v in range(vectors)]
            for i in range(height):
                left = T.Bind(emit.splat(self.load_a(start + i, k), lanes))
                for v, right in enumerate(weights):
                    total = some[i * vectors + v]
                    emit.save(total, 0, lanes, emit.load(total, 0, lanes) + left * right)

        whole = count // unroll
        with emit.loop(whole) as block:
            for u in range(unroll):
                k = k0 + block + u * whole if sets > 1 else k0 + block * unroll + u
                step(T.Bind(k), sums[u % sets])
            if sets == 1:
                ahead(k0, block, whole)
        if self.inner % unroll:
            with emit.loop(count - whole * unroll) as rest:
                step(T.Bind(k0 + whole * unroll + rest), sums[0])
        for n in range(height * vectors):
            value = emit.load(sums[0][n], 0, lanes)
            for some in sums[1:]:
                value = value + emit.load(some[n], 0, lanes)
            at = base + (n // vectors * self.knobs.tile_n + n % vectors * lanes)
            emit.save(tile, at, lanes, emit.load(tile, at, lanes) + value if add else value)

    def write(self, start: Expr, height: int, panel: Expr, tile: Buffer, base: Expr) -> None:
        """Hand a finished tile to `store`, without the padded columns."""
        last = self.cols - (self.panels - 1) * self.knobs.tile_n
        whole = partial(self.write_columns, start, height, panel, tile, base, self.knobs.tile_n)
        part = partial(self.write_columns, start, height, panel, tile, base, last)
        if last == self.knobs.tile_n:
            whole()
        elif self.panels == 1:
            part()
        else:
            emit.branch(panel < self.panels - 1, whole, part)

    def write_columns(
        self, start: Expr, height: int, panel: Expr, tile: Buffer, base: Expr, columns: int
    ) -> None:
        width, lanes = self.knobs.tile_n, self.lanes
        with emit.loop(height) as i:
            if columns >= lanes:
                with emit.loop(columns // lanes) as v, emit.vector_loop(lanes) as lane:
                    j = v * lanes + lane
                    self.store(start + i, panel * width + j, tile[base + i * width + j])
            if columns % lanes:
                with emit.loop(columns % lanes) as rest:
                    j = rest + columns // lanes * lanes
                    self.store(start + i, panel * width + j, tile[base + i * width + j])


def static_above(value: Dim, limit: int) -> bool:
    """Return whether `value` is above `limit`, or may be."""
    known = emit.static(value)
    return known is None or known > limit
