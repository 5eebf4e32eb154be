"""The fp32 convolution with a packed, constant weight, written as TIR: nothing is searched.

It is a product: `out` channels of rows, the elements of a window as `K`, pixels as columns. The
sums of a tile of `tile_o` channels and `vectors` vectors of neighbouring pixels stay in registers
while `K` runs, so that nothing is ever transposed: the image is read and written channel by channel
as it lies. What a block of pixels reads is gathered once (`gather.py`), and stays in the caches
while all channels pass over it; there the padding is zeros, and strides and dilations are gone.
Windows of 3x3 may be gathered as Winograd's tiles (`winograd.py`), which takes fewer products.
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
from .conv_costs import (
    MOST_PLACES,
    ConvWork,
    even_panels,
    plane_room,
    plane_sizes,
    shares,
    tile_places,
)
from .conv_knobs import ConvKnobs
from .conv_planes import choose
from .conv_sums import Sums
from .emit import Dim
from .gather import Panels, Planes, Shape
from .winograd import Tiles, Tiling, tile_window

if TYPE_CHECKING:
    from tunesmith.ir.target import Machine

__all__ = ["emit_conv"]

LoadImage: TypeAlias = Callable[[Expr, Expr, Expr, Expr], Expr]
StorePixel: TypeAlias = Callable[[Expr, Expr, Expr, Expr], None]
AskPixel: TypeAlias = Callable[[Expr, Expr, Expr], None]
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
    ask: AskPixel | None = None,
) -> None:
    """Write `store(n, o, pixel, sum)` for every element of the result.

    `load(n, c, y, x)` reads the image inside its edges; `weight` is what `pack_weight` returns.
    `pixel` is the offset in a channel of the result; `store` is called in a loop over the lanes of
    a vector of pixels, or for one pixel. An element may be stored twice, with the same value.
    `ask(n, o, pixel)` asks for the memory that an element will be stored to.
    """
    lanes = emit.lanes_of(machine)
    _Conv(work, weight, lanes, knobs, batch, load, store, machine, parallel, ask).run()


@dataclass(frozen=True)
class _Conv(Sums):
    """The blocks of one convolution: panels, planes, or Winograd's tiles."""

    batch: Dim
    load: LoadImage
    store: StorePixel
    machine: Machine
    parallel: bool
    ask: AskPixel | None

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
        elif self.knobs.tile:
            self.blocks_of_tiles()
        elif plane_sizes(window) is not None:
            self.tasks(emit.ceil_div(window.out[0], rows), partial(self.rows, rows, None))
        else:
            room = plane_room(self.work, self.machine)
            then = choose(self.work, rows, room, self.lanes)
            planes = partial(self.tasks, then.blocks, partial(self.rows, then.rows, room))
            emit.branch(then.pays, planes, self.blocks_of_pixels)

    def blocks_of_tiles(self) -> None:
        """Blocks of some rows of Winograd's tiles, or of a part of a row."""
        most = tile_places(self.work, self.knobs.tile, self.machine)
        tiles = Tiling.of(tile_window(self.work.window, self.knobs.tile), self.knobs.rows, most)
        self.tasks(tiles.blocks, partial(self.tiled, tiles))

    def blocks_of_pixels(self) -> None:
        """Blocks of panels, about even ones where that shows at run time only."""
        pixels, most = emit.opaque(self.work.window.pixels), emit.index(self.knobs.panels)
        panels = emit.opaque(emit.ceil_div(pixels, self.shape.width))
        if emit.static(pixels) is None:
            most = emit.index(emit.opaque(even_panels(panels, self.knobs.panels, self.cores)))
        blocks = emit.opaque(emit.ceil_div(panels, most))
        self.tasks(blocks, partial(self.pixels, pixels, panels, blocks))

    @property
    def cores(self) -> int:
        """Threads that share the tasks."""
        return self.machine.cores if self.parallel else 1

    def tasks(self, blocks: Dim, block_of: Block) -> None:
        """Tasks: an image, a group, a block of pixels, and a part of the channels."""
        groups = self.work.groups
        blocks = emit.opaque(blocks)
        total = emit.index(self.batch) * emit.index(blocks) * groups
        parts = emit.opaque(shares(total, self.tiles, self.cores))
        each = emit.opaque(emit.ceil_div(self.tiles, parts))
        with emit.loop(total * emit.index(parts), parallel=self.parallel) as task:
            part, rest = _split(task, parts)
            block, rest = _split(rest, blocks)
            group, image = _split(rest, groups)
            low = emit.index(emit.opaque(part * each))
            high = emit.index(emit.opaque(T.min(low + each, emit.index(self.tiles))))
            block_of(image, group, low, high, block)

    def element(self, image: Expr, group: Expr, channel: Expr, y: Expr, x: Expr) -> Expr:
        """An element of the image, its channel counted within the group."""
        return self.load(image, group * self.work.inner + channel, y, x)

    def pixels(
        self,
        pixels: Dim,
        panels: Dim,
        blocks: Dim,
        image: Expr,
        group: Expr,
        low: Expr,
        high: Expr,
        block: Expr,
    ) -> None:
        """One of `blocks` of neighbouring pixels as panels, rows one behind the other.

        All blocks have as many panels, or one more.
        """
        shape, most = self.shape, self.shape.width * self.knobs.panels
        known, cut = emit.static(pixels), emit.static(blocks)
        parts = T.max(emit.index(blocks), 1) if cut is None else emit.index(max(1, cut))
        low_panel, high_panel = (
            emit.index(emit.opaque(number * emit.index(panels) // parts))
            for number in (block, block + 1)
        )
        first = low_panel * shape.width
        count: Dim = emit.opaque(T.min(high_panel * shape.width, emit.index(pixels)) - first)
        if known is not None and cut and (cut == 1 or known % (cut * shape.width) == 0):
            count = known // cut
        source = Panels(shape, self.knobs.panels)
        source.gather(partial(self.element, image, group), first, count)

        def write(o: Expr, sums: Buffer, start: Expr) -> None:
            def put(x: Expr) -> None:
                self.store(image, o, first + x, sums[start + x])

            _run(count, self.lanes, put)

        def ahead(o: Expr, place: Expr) -> None:
            assert self.ask is not None
            self.ask(image, o, first + place)

        asked = ahead if self.ask is not None else None
        self.tiles_over(source, group, low, high, count, most, write, asked)

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
        first, some = emit.piece(block, rows, height)
        source = Planes(self.shape, rows, room)
        source.gather(partial(self.element, image, group), first, some)
        count = emit.opaque((some - 1) * source.columns + width)
        known = emit.static(count)

        def write(o: Expr, sums: Buffer, start: Expr) -> None:
            with emit.loop(some) as row:
                pixel = T.Bind((first + row) * width)
                place = T.Bind(start + row * source.columns)

                def put(x: Expr) -> None:
                    self.store(image, o, pixel + x, sums[place + x])

                _run(self.work.window.out[1], self.lanes, put)

        most = MOST_PLACES if known is None else known
        self.tiles_over(source, group, low, high, count, most, write)

    def tiled(
        self, tiles: Tiling, image: Expr, group: Expr, low: Expr, high: Expr, block: Expr
    ) -> None:
        """One block as Winograd's tiles."""
        tile, lanes, window = self.knobs.tile, self.lanes, self.work.window
        height, width = map(emit.index, window.out)
        top, some, left, along = tiles.place(block)
        source = Tiles(self.shape, tile, tiles)
        places = source.places(some, along)
        source.gather(partial(self.element, image, group), top, some, left, places)
        pitch = -(-tiles.most // lanes) * lanes * tile
        line = T.alloc_buffer((tile * pitch,), "float32")
        wide = emit.minimum(emit.opaque(emit.index(along) * tile), width - left * tile)

        def write(o: Expr, sums: Buffer, start: Expr) -> None:
            with emit.loop(some) as row:
                place = T.Bind(start + row * source.columns)
                with emit.loop(emit.ceil_div(along, lanes)) as vector:

                    def keep(y: int, x: int, value: Expr) -> None:
                        at = vector * (lanes * tile) + (x + y * pitch)
                        emit.save(line, at, lanes, value)

                    source.results(sums, place + vector * lanes, keep)
                for y in range(tile):
                    down = T.Bind((top + row) * tile + y)
                    pixel = T.Bind(down * width + left * tile)

                    def put(x: Expr, y: int = y, pixel: Expr = pixel) -> None:
                        self.store(image, o, pixel + x, line[x + y * pitch])

                    inside = partial(_run, wide, lanes, put)
                    if y and source.window.high[0] > window.high[0]:
                        emit.branch_if(down < height, inside)
                    else:
                        inside()

        self.tiles_over(source, group, low, high, places, source.pitch, write)


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
