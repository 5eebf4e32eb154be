"""The fp32 matrix product with a packed, constant weight, written as TIR: nothing is searched.

`emit_gemm` writes loops into the open `prim_func`; what is fused comes in as callbacks. The sums
of a tile of `tile_m` rows and `tile_n` columns stay in registers while `K` runs; rows that are not
a multiple of the tile are covered by overlapping the last tile with the one before, so that the
hot loop has no predicate, whether the number of rows is known now or only at run time.

A kernel may have several results, each of one or of several products with the same rows: there is
one weight, the panels of all, and one hot loop over them. Only what happens to a finished tile
depends on whose it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import numpy as np
from tvm.ir import Expr
from tvm.tirx import Buffer
from tvm.tirx.script import builder as T

from . import emit
from .emit import Dim
from .gemm_knobs import CACHE_LINE, FEW_TILES, GemmKnobs

if TYPE_CHECKING:
    from tunesmith.ir.target import Machine

LoadA: TypeAlias = Callable[[Expr, Expr], Expr]
Store: TypeAlias = Callable[..., None]


@dataclass(frozen=True)
class Result:
    """A result of `cols` columns, and what is called with `i`, `j` and an element a product."""

    cols: int
    store: Store


def emit_gemm(
    *,
    rows: Dim,
    inner: int,
    results: Sequence[Result],
    load_a: LoadA,
    weight: Buffer,
    machine: Machine,
    knobs: GemmKnobs,
    together: int = 1,
    parallel: bool = True,
) -> None:
    """Write `store(i, j, sum_k load_a(i, k) * w[k, j], …)` for all rows and columns of each result.

    A result is of `together` products, and `store` gets an element of each. `weight` is what
    `pack_weights` returns for the weights of all: float32, or what `emit.widened` takes; the scale
    of int8 belongs into `store`. `store` is called in a loop over the lanes of a vector whose
    variable is in `j`, or in a scalar loop for the columns after the last whole vector. The last
    row tile overlaps the one before it, so a row may be stored twice, with the same value: what
    `load_a` and `store` read must not alias what `store` writes.
    """
    gemm = _Gemm(
        inner, tuple(results), together, load_a, weight, emit.lanes_of(machine), knobs, parallel
    )
    known = emit.static(rows)
    if known is None:
        # TVM computes what several branches share before all of them: no rows are not divided there
        several = emit.index(rows)
        emit.branch_if(several > 0, partial(gemm.choose, several, knobs.tile_m))
    elif known > 0:
        tiles = -(-known // knobs.tile_m)
        gemm.all_rows(known, -(-known // tiles))  # even tiles: 13 rows are 7 + 7, not 8 + 8


@dataclass(frozen=True)
class _Gemm:
    """What every part of one kernel needs to know.

    A unit is what a tile of a result needs: a panel of the weight of each of its products. The
    units of all results are counted in one go.
    """

    inner: int
    results: tuple[Result, ...]
    together: int
    load_a: LoadA
    weight: Buffer
    lanes: int
    knobs: GemmKnobs
    parallel: bool

    @property
    def vectors(self) -> int:
        return self.knobs.tile_n // self.lanes

    @property
    def units(self) -> int:
        return sum(-(-result.cols // self.knobs.tile_n) for result in self.results)

    def choose(self, rows: Expr, height: int) -> None:
        """Take the tallest tile that fits `rows`, known at run time only; there is at least one."""
        if height == 1:  # fewer than two rows
            replace(self, knobs=replace(self.knobs, chunk=1)).all_rows(1, 1)
            return
        if self.knobs.prefetch_few:
            self.by_tiles(rows, height)
            return
        emit.branch(
            rows >= height,
            partial(self.all_rows, rows, height),
            partial(self.choose, rows, (height + 1) // 2),
        )

    def by_tiles(self, rows: Expr, height: int) -> None:
        """Let each tile ask for the more of the next panel, the fewer tiles there are."""
        few = self.knobs.prefetch_few

        def asking(lines: int) -> _Gemm:
            return replace(self, knobs=replace(self.knobs, prefetch=lines, prefetch_few=0))

        def fewer() -> None:
            emit.branch(
                rows >= FEW_TILES // 2 * height,
                partial(asking(-(-few // 2)).all_rows, rows, height),
                partial(asking(few).choose, rows, height),
            )

        emit.branch(rows >= FEW_TILES * height, partial(self.all_rows, rows, height), fewer)

    def all_rows(self, rows: Dim, height: int) -> None:
        """Cover `rows` by tiles of `height` rows; there are at least `height` of them."""
        tiles = emit.ceil_div(rows, height)
        blocks: Dim = 1
        usual = (
            emit.static(rows) is not None or height == self.knobs.tile_m
        )  # not one of the few that are left
        if usual and static_above(rows, self.knobs.block_m):
            blocks = emit.ceil_div(tiles, max(1, self.knobs.block_m // height))
        each = emit.ceil_div(tiles, blocks)
        if self.knobs.chunk > 1 and usual:
            self.deep(rows, height, tiles, blocks, each)
            return
        size, zero = height * self.knobs.tile_n, emit.index(0)
        with emit.loop(emit.index(blocks) * self.units, parallel=self.parallel) as task:
            unit = task if blocks == 1 else T.Bind(task % self.units)
            first = zero if blocks == 1 else T.Bind(task // self.units * each)
            count = each if blocks == 1 else emit.minimum(each, emit.index(tiles) - first)
            panel = unit if self.together == 1 else T.Bind(unit * self.together)
            read = self.reader(
                panel, self.together, zero, self.inner, self.inner, static_above(tiles, 1)
            )
            tile = T.alloc_buffer((self.together * size,), "float32")
            with emit.loop(count) as step:
                start = emit.minimum((first + step) * height, emit.index(rows) - height)
                start = T.Bind(start)
                with self.each_product() as p:
                    ahead = partial(self.prefetch, panel + p + self.together, zero, step)
                    self.tile(start, height, partial(read, p), ahead, tile, emit.index(p * size))
                self.write(start, height, unit, tile, zero, size)

    def deep(self, rows: Dim, height: int, tiles: Dim, blocks: Dim, each: Dim) -> None:
        """Cover `rows` with the sums of several panels in memory, while K is walked over once."""
        chunks = -(-self.units // self.knobs.chunk)
        size, depth = height * self.knobs.tile_n, self.depth
        most = emit.static(each) or max(1, self.knobs.block_m // height)
        sets = max(1, min(self.unroll, self.knobs.tile_m // height))
        with emit.loop(emit.index(blocks) * chunks, parallel=self.parallel) as task:
            unit0 = T.Bind(task % chunks * self.knobs.chunk)
            units = T.Bind(T.min(emit.index(self.units) - unit0, emit.index(self.knobs.chunk)))
            panel0, panels = unit0, units
            if self.together > 1:
                panel0, panels = (T.Bind(number * self.together) for number in (unit0, units))
            first = T.Bind(task // chunks * each)
            count = T.Bind(T.min(emit.index(each), emit.index(tiles) - first))
            sums = T.alloc_buffer((self.knobs.chunk * self.together * most * size,), "float32")
            with emit.loop(panels * most * (size // self.lanes)) as n:
                emit.save(sums, n * self.lanes, self.lanes, emit.splat(0.0, self.lanes))

            def place(step: Expr) -> Expr:
                return T.Bind(T.min((first + step) * height, emit.index(rows) - height))

            with emit.loop(-(-self.inner // depth)) as part:
                k0 = T.Bind(part * depth)
                steps = depth if self.inner % depth == 0 else T.Bind(T.min(self.inner - k0, depth))
                with emit.loop(panels) as p:
                    read = partial(
                        self.reader(panel0 + p, 1, k0, steps, depth, static_above(tiles, 1)), 0
                    )
                    more = p + 1 < panels  # after the last panel comes the first, further on in K
                    following = T.Bind(T.Select(more, panel0 + p + 1, panel0))
                    shift = T.Bind(T.Select(more, emit.index(0), emit.index(depth)))
                    with emit.loop(count) as step:
                        ahead = partial(self.prefetch, following, shift, step)
                        at = T.Bind((p * most + step) * size)
                        self.panel(
                            k0, steps, place(step), height, sets, read, ahead, sums, at, add=True
                        )
            with emit.loop(units) as u, emit.loop(count) as step:
                at = (u * (self.together * most) + step) * size
                self.write(place(step), height, unit0 + u, sums, at, most * size)

    def each_product(self) -> AbstractContextManager[Dim]:
        """Open a loop over the products of a result, if it has several."""
        return nullcontext(0) if self.together == 1 else emit.loop(self.together)

    @property
    def unroll(self) -> int:
        return min(self.knobs.unroll_k, self.inner)

    @property
    def depth(self) -> int:
        """Steps of K that are summed in registers: even shares, at most about `panel_k`."""
        shares = -(-self.inner // self.knobs.panel_k)
        return -(-self.inner // (shares * self.unroll)) * self.unroll

    def reader(
        self, panel: Expr, panels: int, k0: Expr, count: Dim, depth: int, several: bool
    ) -> Callable[[Dim, Expr, int], Expr]:
        """Return how vector `v` of row `k` of one of `panels` panels is read, as fp32.

        Panels of another type are widened once if they serve several row tiles, else while they
        are read: `count` rows from `k0`, which are at most `depth`.
        """
        lanes, width = self.lanes, self.knobs.tile_n

        def stored(p: Dim, k: Expr, v: int) -> Expr:
            return emit.widened(self.weight[panel + p, k, emit.lanes_at(v * lanes, lanes)])

        if self.weight.dtype == "float32" or not several:
            return stored
        copy = T.alloc_buffer((panels * depth * width,), "float32")
        for p in range(panels):
            with emit.loop(count) as k:
                for v in range(self.vectors):
                    at = (k + p * depth) * width + v * lanes
                    emit.save(copy, at, lanes, stored(p, k0 + k, v))
        return lambda p, k, v: emit.load(copy, (k - k0 + p * depth) * width + v * lanes, lanes)

    def prefetch(
        self, panel: Expr, shift: Expr, step: Expr, k0: Expr, block: Expr, blocks: Dim
    ) -> None:
        """Ask for cache lines of `panel`, which is computed next, from `shift` rows after `k0` on.

        Of what is summed in one go, row tile `step` asks for one piece in order, some lines in each
        of its `blocks` of steps of K, so that all of the next panel is on its way before it is
        needed; tiles after that ask for the last piece again. Past the end of the weight it is an
        address that nobody reads.
        """
        width, each = self.knobs.tile_n, CACHE_LINE // np.dtype(self.weight.dtype).itemsize
        lines = emit.index(blocks) * self.knobs.prefetch
        first = T.max(T.min(step * lines, self.depth * width // each - lines), emit.index(0))
        for number in range(self.knobs.prefetch):
            line = (first + block * self.knobs.prefetch + number) * each
            emit.ask(self.weight, [panel, k0 + shift + line // width, line % width])

    def tile(
        self,
        start: Expr,
        height: int,
        read: Callable[[Expr, int], Expr],
        ahead: Callable[[Expr, Expr, Dim], None],
        tile: Buffer,
        base: Expr,
    ) -> None:
        """Sum one tile over all of K into `tile` from `base` on, a panel of `panel_k` at a time."""
        depth, zero = self.depth, emit.index(0)
        sets = max(1, min(self.unroll, self.knobs.tile_m // height))
        if depth >= self.inner:
            self.panel(zero, self.inner, start, height, sets, read, ahead, tile, base, add=False)
            return
        with emit.loop(height) as i:
            for v in range(self.vectors):
                at = base + (i * self.knobs.tile_n + v * self.lanes)
                emit.save(tile, at, self.lanes, emit.splat(0.0, self.lanes))
        with emit.loop(-(-self.inner // depth)) as p:
            k0 = T.Bind(p * depth)
            count = depth if self.inner % depth == 0 else T.Bind(T.min(self.inner - k0, depth))
            self.panel(k0, count, start, height, sets, read, ahead, tile, base, add=True)

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

        Where the tile is small, `sets` independent sums hide the latency of the arithmetic. Where
        that reads memory faster, each runs through its own part of K: several streams, by `streams`
        (1x768x50257 from memory: 26 % faster on Sapphire Rapids, 14 to 18 % slower on Zen 4).
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

        whole, apart = count // unroll, sets > 1 and self.knobs.streams > 1
        with emit.loop(whole) as block:
            for u in range(unroll):
                k = k0 + block + u * whole if apart else k0 + block * unroll + u
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

    def write(
        self, start: Expr, height: int, unit: Expr, tile: Buffer, base: Expr, stride: int
    ) -> None:
        """Hand finished tiles to the `store` of their result, without the padded columns.

        The tile of a result's first product is at `base`, and `stride` is from one to the next.
        """
        width, first = self.knobs.tile_n, 0
        pieces: list[tuple[int, Callable[[], None]]] = []  # the unit after it, and what to write
        for result in self.results:
            whole, last = divmod(result.cols, width)
            write = partial(
                self.write_columns, result, start, height, unit - first, tile, base, stride
            )
            pieces += [(first + whole, partial(write, width))] if whole else []
            pieces += [(first + whole + 1, partial(write, last))] if last else []
            first = pieces[-1][0]
        self.dispatch(unit, pieces)

    def dispatch(self, unit: Expr, pieces: Sequence[tuple[int, Callable[[], None]]]) -> None:
        """Call the first piece that ends after `unit`."""
        (end, write), *rest = pieces
        if rest:
            emit.branch(unit < end, write, partial(self.dispatch, unit, rest))
        else:
            write()

    def write_columns(
        self,
        result: Result,
        start: Expr,
        height: int,
        panel: Expr,
        tile: Buffer,
        base: Expr,
        stride: int,
        columns: int,
    ) -> None:
        width, lanes = self.knobs.tile_n, self.lanes

        def store(i: Expr, j: Expr) -> None:
            at = [base + (p * stride + i * width) + j for p in range(self.together)]
            result.store(start + i, panel * width + j, *(tile[place] for place in at))

        with emit.loop(height) as i:
            if columns >= lanes:
                with emit.loop(columns // lanes) as v, emit.vector_loop(lanes) as lane:
                    store(i, v * lanes + lane)
            if columns % lanes:
                with emit.loop(columns % lanes) as rest:
                    store(i, rest + columns // lanes * lanes)


def static_above(value: Dim, limit: int) -> bool:
    """Return whether `value` is above `limit`, or may be."""
    known = emit.static(value)
    return known is None or known > limit
