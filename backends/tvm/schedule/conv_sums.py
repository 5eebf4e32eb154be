"""The sums of a convolution: tiles of channels that pass over what a block has gathered."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import product

from tvm.ir import Expr
from tvm.tirx import Buffer
from tvm.tirx.script import builder as T

from . import emit
from .conv_costs import ConvWork
from .conv_knobs import ConvKnobs
from .emit import Dim
from .gather import Shape, Source

__all__ = ["Ask", "Sums", "Write"]

Write = Callable[[Expr, Buffer, Expr], None]  # channel, sums, where those of the channel begin
Ask = Callable[[Expr, Expr], None]  # channel, place in the block: of results that are next


@dataclass(frozen=True)
class Sums:
    """Sums of `tile_o` channels and some vectors stay in registers while `K` runs."""

    work: ConvWork
    weight: Buffer
    lanes: int
    knobs: ConvKnobs

    @property
    def tiles(self) -> int:
        """Tiles of channels of one group."""
        return -(-self.work.out // self.knobs.tile_o)

    def tiles_over(
        self,
        source: Source,
        group: Expr,
        low: Expr,
        high: Expr,
        count: Dim,
        most: int,
        write: Write,
        ask: Ask | None = None,
    ) -> None:
        """Let each tile of channels pass over all panels of the block, then store its results.

        `ask` is called for each whole vector of results, before it is summed.
        """
        tile_o, width = self.knobs.tile_o, source.shape.width
        pitch = -(-most // width) * width + self.lanes
        source.apart = tile_o * pitch
        sums = T.alloc_buffer((source.points * source.apart,), "float32")
        with emit.loop(high - low) as step:
            number = T.Bind(low + step)
            tile = T.Bind(group * self.tiles + number)
            channel = T.Bind(group * self.work.out + number * tile_o)

            def one(panel: Expr, vectors: int, tile: Expr = tile, channel: Expr = channel) -> None:
                if ask is not None:
                    for i, v in product(range(tile_o), range(vectors)):
                        ask(channel + i, panel * width + v * self.lanes)
                self.depth(source, tile, panel, vectors, sums, pitch)

            with emit.loop(source.points) as point:
                source.point = point
                self.panels(source.shape, count, one)
            valid = emit.index(tile_o)
            if self.work.out % tile_o:
                valid = T.min(valid, self.work.out - number * tile_o)
            with emit.loop(valid) as i:
                write(T.Bind(channel + i), sums, T.Bind(i * pitch))

    def panels(self, shape: Shape, count: Dim, one: Callable[[Expr, int], None]) -> None:
        """Do `one` for whole panels, then with as many vectors as pixels are left for."""
        known, width = emit.static(count), shape.width
        whole = emit.opaque(count // width)
        if known is None or known >= width:
            with emit.loop(whole) as panel:
                one(panel, shape.vectors)
        if known is not None:
            vectors = -(-(known % width) // self.lanes)
            if vectors:
                one(emit.index(known // width), vectors)
            return
        rest = emit.index(emit.opaque(count - whole * width))
        for vectors in range(1, shape.vectors + 1):
            low, high = (vectors - 1) * self.lanes, vectors * self.lanes
            needed = T.And(rest > low, rest <= high)
            emit.branch_if(needed, partial(one, emit.index(whole), vectors))

    def depth(
        self, source: Source, tile: Expr, panel: Expr, vectors: int, sums: Buffer, pitch: int
    ) -> None:
        """Sum one tile over all of K, some steps at a time."""
        some = max(1, self.knobs.panel_k // source.unit)
        parts = -(-source.units // some)
        unroll = min(self.knobs.unroll_k, source.units) if source.unit == 1 else 1
        each = -(-source.units // (parts * unroll)) * unroll
        parts = -(-source.units // each)
        place = T.Bind(source.point * source.apart + panel * source.shape.width)
        add = partial(self.steps, source, tile, panel, vectors, sums, pitch, place)
        add(emit.index(0), min(each, source.units), False)
        if parts == 1:
            return
        with emit.loop(parts - 1) as part:
            first = T.Bind((part + 1) * each)
            count: Dim = each
            if source.units % each:
                count = T.Bind(T.min(source.units - first, emit.index(each)))
            add(first, count, True)

    def steps(
        self,
        source: Source,
        tile: Expr,
        panel: Expr,
        vectors: int,
        sums: Buffer,
        pitch: int,
        place: Expr,
        first: Expr,
        count: Dim,
        add: bool,
    ) -> None:
        """Sum some steps in registers, then store them or add them to what is there."""
        tile_o, lanes = self.knobs.tile_o, self.lanes
        odd = source.shape.odd and vectors == source.shape.vectors
        sets = 1 if vectors else min(self.knobs.unroll_k, source.units)
        totals = emit.registers(tile_o * vectors, lanes)
        emit.fill(totals, lanes, 0.0)
        singles = emit.registers(sets if odd else 0, tile_o)
        emit.fill(singles, tile_o, 0.0)

        def multiply(k: Expr, pixels: list[Expr], single: Expr | None, number: int) -> None:
            for i in range(tile_o if vectors else 0):
                left = T.Bind(emit.splat(self.weight[tile, k, i], lanes))
                for v, right in enumerate(pixels):
                    total = totals[i * vectors + v]
                    emit.save(total, 0, lanes, emit.load(total, 0, lanes) + left * right)
            if odd and single is not None:
                total = singles[number % sets]
                weights = self.weight[tile, k, emit.lanes_at(0, tile_o)]
                value = emit.load(total, 0, tile_o) + emit.splat(single, tile_o) * weights
                emit.save(total, 0, tile_o, value)

        source.sweep(panel, vectors, first, count, multiply)
        for n, total in enumerate(totals):
            at = place + (n // vectors * pitch + n % vectors * lanes)
            value = emit.load(total, 0, lanes)
            emit.save(sums, at, lanes, emit.load(sums, at, lanes) + value if add else value)
        if odd:
            for total in singles[1:]:
                value = emit.load(singles[0], 0, tile_o) + emit.load(total, 0, tile_o)
                emit.save(singles[0], 0, tile_o, value)
            for i in range(tile_o):
                at = place + (i * pitch + vectors * lanes)
                value = singles[0][emit.index(i)]
                T.buffer_store(sums, sums[at] + value if add else value, [at])
