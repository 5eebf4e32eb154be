"""The fp32 convolution with a packed, constant weight, written as TIR: nothing is searched.

It is a product: `out` channels of rows, the elements of a window as `K`, pixels as columns. The
sums of a tile of `tile_o` channels and `vectors` vectors of neighbouring pixels stay in registers
while `K` runs, so that nothing is ever transposed: the image is read and written channel by channel
as it lies. What a block of pixels reads is gathered once (`gather.py`), and stays in the caches
while all channels pass over it; there the padding is zeros, and strides and dilations are gone.
What is computed beyond the last pixel is thrown away; the last vector that is stored overlaps the
one before it. If a single pixel is left over, channels take the place of pixels in the vector.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from tvm.ir import Expr
from tvm.tirx import Buffer
from tvm.tirx.script import builder as T

from . import emit
from .conv_knobs import MOST_PLACES, ConvKnobs, ConvWork, plane_room, plane_sizes
from .conv_planes import choose
from .emit import Dim
from .gather import Panels, Planes, Shape, Source

if TYPE_CHECKING:
    from tunesmith.ir.target import Machine

__all__ = ["emit_conv"]

LoadImage: TypeAlias = Callable[[Expr, Expr, Expr, Expr], Expr]
StorePixel: TypeAlias = Callable[[Expr, Expr, Expr, Expr], None]
Block: TypeAlias = Callable[[Expr, Expr, Expr, Expr, Expr], None]


def emit_conv(
    *,
    batch: Dim,
    work: ConvWork,
    load: LoadImage,
    weight: Buffer,
    store: StorePixel,
    machine: Machine,
    knobs: ConvKnobs,
    parallel: bool = True,
) -> None:
    """Write `store(n, o, pixel, sum)` for every element of the result.

    `load(n, c, y, x)` reads the image inside its edges; `weight` is what `pack_weight` returns.
    `pixel` is the offset in a channel of the result; `store` is called in a loop over the lanes of
    a vector of pixels, or for one pixel. An element may be stored twice, with the same value.
    """
    conv = _Conv(batch, work, load, weight, store, machine.cores, emit.lanes_of(machine), knobs,
                 plane_room(work, machine), parallel)  # fmt: skip
    conv.run()


@dataclass(frozen=True)
class _Conv:
    """What every part of one convolution needs to know."""

    batch: Dim
    work: ConvWork
    load: LoadImage
    weight: Buffer
    store: StorePixel
    cores: int
    lanes: int
    knobs: ConvKnobs
    room: int  # elements of planes of a size that is known at run time only
    parallel: bool

    @property
    def tiles(self) -> int:
        """Tiles of channels of one group."""
        return -(-self.work.out // self.knobs.tile_o)

    @property
    def shape(self) -> Shape:
        """A panel in registers."""
        knobs = self.knobs
        return Shape(
            inner=self.work.inner,
            window=self.work.window,
            lanes=self.lanes,
            vectors=knobs.vectors,
            odd=knobs.odd,
            unroll=knobs.unroll_k,
        )

    def run(self) -> None:
        """Blocks of rows or of pixels; there is code for both where run time must decide."""
        rows, window = self.knobs.rows, self.work.window
        if not rows:
            self.blocks_of_pixels()
        elif plane_sizes(window) is not None:
            self.tasks(emit.ceil_div(window.out[0], rows), partial(self.rows, rows, None))
        else:
            then = choose(self.work, rows, self.room, self.lanes)
            planes = partial(self.tasks, then.blocks, partial(self.rows, then.rows, self.room))
            emit.branch(then.pays, planes, self.blocks_of_pixels)

    def blocks_of_pixels(self) -> None:
        """Blocks of panels."""
        pixels = emit.opaque(self.work.window.pixels)
        blocks = emit.ceil_div(pixels, self.shape.width * self.knobs.panels)
        self.tasks(blocks, partial(self.pixels, pixels))

    def tasks(self, blocks: Dim, block_of: Block) -> None:
        """Tasks: an image, a group, a block of pixels, and a part of the channels."""
        groups = self.work.groups
        total = emit.index(self.batch) * emit.index(blocks) * groups
        parts = self._parts(total)
        each = (
            emit.ceil_div(self.tiles, parts)
            if isinstance(parts, int)
            else T.Bind((parts + (self.tiles - 1)) // parts)
        )
        with emit.loop(total * emit.index(parts), parallel=self.parallel) as task:
            part, rest = _split(task, parts)
            block, rest = _split(rest, blocks)
            group, image = _split(rest, groups)
            low = T.Bind(part * each)
            high = T.Bind(T.min(low + each, emit.index(self.tiles)))
            block_of(image, group, low, high, block)

    def _parts(self, total: Expr) -> Dim:
        """In how many parts the channels are shared out: too few blocks leave threads idle."""
        limit, known = min(self.cores, self.tiles), emit.static(total)
        if limit == 1:
            return 1
        if known is None:
            few = total < 4 * self.cores
            return T.Bind(T.Select(few, emit.index(limit), emit.index(1)))
        return limit if known < 8 * self.cores and known % self.cores else 1

    def element(self, image: Expr, group: Expr, channel: Expr, y: Expr, x: Expr) -> Expr:
        """An element of the image, its channel counted within the group."""
        return self.load(image, group * self.work.inner + channel, y, x)

    def pixels(
        self, pixels: Dim, image: Expr, group: Expr, low: Expr, high: Expr, block: Expr
    ) -> None:
        """One block as panels of neighbouring pixels, rows one behind the other."""
        shape, known = self.shape, emit.static(pixels)
        most = shape.width * self.knobs.panels
        first = emit.index(emit.opaque(block * most))
        count: Dim = most
        if known is None or known % most:
            count = emit.minimum(most, emit.index(pixels) - first)
            count = emit.opaque(count)
        if known is not None and known <= most:
            count = known
        source = Panels(shape, self.knobs.panels)
        source.gather(partial(self.element, image, group), first, count)

        def write(o: Expr, read: Callable[[Expr], Expr]) -> None:
            def put(x: Expr) -> None:
                self.store(image, o, first + x, read(x))

            _run(count, self.lanes, put)

        self.tiles_over(source, group, low, high, count, most, write)

    def rows(
        self,
        rows: Dim,
        room: int | None,
        image: Expr,
        group: Expr,
        low: Expr,
        high: Expr,
        block: Expr,
    ) -> None:
        """One block as planes; the last overlaps the one before it, or has fewer rows."""
        height, width = map(emit.index, self.work.window.out)
        if room is None:
            first, some = T.Bind(T.min(block * rows, height - rows)), rows
        else:
            first = emit.index(emit.opaque(block * rows))
            some = emit.opaque(T.min(emit.index(rows), height - first))
        source = Planes(self.shape, rows, room)
        source.gather(partial(self.element, image, group), first, some)
        count = emit.opaque((some - 1) * source.columns + width)
        known = emit.static(count)

        def write(o: Expr, read: Callable[[Expr], Expr]) -> None:
            with emit.loop(some) as row:
                pixel = T.Bind((first + row) * width)
                place = T.Bind(row * source.columns)

                def put(x: Expr) -> None:
                    self.store(image, o, pixel + x, read(place + x))

                _run(self.work.window.out[1], self.lanes, put)

        most = MOST_PLACES if known is None else known
        self.tiles_over(source, group, low, high, count, most, write)

    def tiles_over(
        self,
        source: Source,
        group: Expr,
        low: Expr,
        high: Expr,
        count: Dim,
        most: int,
        write: Callable[[Expr, Callable[[Expr], Expr]], None],
    ) -> None:
        """Let each tile of channels pass over all panels of the block, then store its results."""
        tile_o, width = self.knobs.tile_o, source.shape.width
        pitch = -(-most // width) * width + self.lanes
        sums = T.alloc_buffer((tile_o * pitch,), "float32")
        with emit.loop(high - low) as step:
            number = T.Bind(low + step)
            tile = T.Bind(group * self.tiles + number)
            self.panels(source, tile, count, sums, pitch)
            valid = emit.index(tile_o)
            if self.work.out % tile_o:
                valid = T.min(valid, self.work.out - number * tile_o)
            with emit.loop(valid) as i:
                o = T.Bind(group * self.work.out + number * tile_o + i)
                start = T.Bind(i * pitch)
                write(o, lambda x: sums[start + x])

    def panels(self, source: Source, tile: Expr, count: Dim, sums: Buffer, pitch: int) -> None:
        """Whole panels, then one that has as many vectors as pixels are left for."""
        shape = source.shape
        known, width = emit.static(count), shape.width
        whole = emit.opaque(count // width)
        if known is None or known >= width:
            with emit.loop(whole) as panel:
                self.depth(source, tile, panel, shape.vectors, sums, pitch)
        if known is not None:
            vectors = -(-(known % width) // self.lanes)
            if vectors:
                self.depth(source, tile, emit.index(known // width), vectors, sums, pitch)
            return
        rest = emit.index(emit.opaque(count - whole * width))
        for vectors in range(1, shape.vectors + 1):
            low, high = (vectors - 1) * self.lanes, vectors * self.lanes
            needed = T.And(rest > low, rest <= high)
            last = partial(self.depth, source, tile, whole, vectors, sums, pitch)
            emit.branch_if(needed, last)

    def depth(
        self, source: Source, tile: Expr, panel: Expr, vectors: int, sums: Buffer, pitch: int
    ) -> None:
        """Sum one tile over all of K, some steps at a time."""
        some = max(1, self.knobs.panel_k // source.unit)
        parts = -(-source.units // some)
        unroll = min(self.knobs.unroll_k, source.units) if source.unit == 1 else 1
        each = -(-source.units // (parts * unroll)) * unroll
        parts = -(-source.units // each)
        place = T.Bind(panel * source.shape.width)
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

        def product(k: Expr, pixels: list[Expr], single: Expr | None, number: int) -> None:
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

        source.sweep(panel, vectors, first, count, product)
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


def _split(value: Expr, size: Dim) -> tuple[Expr, Expr]:
    """The last of the numbers that a task stands for, and what is before it."""
    if emit.static(size) == 1:
        return emit.index(0), value
    last, before = value % emit.index(size), value // emit.index(size)
    return emit.index(emit.opaque(last)), emit.index(emit.opaque(before))


def _run(count: Dim, lanes: int, put: Callable[[Expr], None]) -> None:
    """Do something for neighbours in whole vectors, the last of which overlaps the one before."""
    known = emit.static(count)

    def vectors() -> None:
        with emit.loop(emit.ceil_div(count, lanes)) as block:
            start = emit.index(emit.opaque(T.min(block * lanes, emit.index(count) - lanes)))
            with emit.vector_loop(lanes) as lane:
                put(start + lane)

    def singly() -> None:
        if known is not None and known > 1:
            with emit.vector_loop(known) as lane:
                put(lane)
            return
        with emit.loop(count) as x:
            put(x)

    if known is None:
        emit.branch(emit.index(count) >= lanes, vectors, singly)
    elif known >= lanes:
        vectors()
    else:
        singly()
