"""The fp32 convolution with a packed, constant weight, written as TIR: nothing is searched.

It is a product: `out` channels of rows, the elements of a window as `K`, pixels as columns. The
sums of a tile of `tile_o` channels and `vectors` vectors of neighbouring pixels stay in registers
while `K` runs, so that nothing is ever transposed: the image is read and written channel by channel
as it lies. What a few vectors of pixels read is gathered once into a panel `[K, pixels]`, which
stays in the caches while all channels pass over it; there the padding is zeros, and strides and
dilations are gone. Pixels that do not fill a vector are covered by overlapping the last vector with
the one before it; if a single pixel is left over, channels take the place of pixels in the vector.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from tvm.ir import Expr
from tvm.tirx import Buffer
from tvm.tirx.script import builder as T

from . import emit
from .emit import Dim
from .window import Plane, Window

if TYPE_CHECKING:
    from tunesmith.ir.target import Machine

__all__ = ["ConvKnobs", "ConvWork", "default", "emit_conv", "pack_weight", "packed_shape"]

LoadImage: TypeAlias = Callable[[Expr, Expr, Expr, Expr], Expr]
StorePixel: TypeAlias = Callable[[Expr, Expr, Expr, Expr], None]


@dataclass(frozen=True, kw_only=True)
class ConvWork:
    """One convolution: channels of each group, and what a window reads."""

    groups: int
    inner: int  # channels that are summed, of one group
    out: int  # channels of the result, of one group
    window: Window

    @property
    def depth(self) -> int:
        """Products that are summed for one element of the result."""
        return self.inner * self.window.kernel[0] * self.window.kernel[1]


@dataclass(frozen=True, kw_only=True)
class ConvKnobs:
    """How a convolution is cut into pieces."""

    tile_o: int = 8  # channels of sums in registers; also the width of the packed weight
    vectors: int = 3  # vectors of pixels in registers
    odd: bool = False  # a panel has one more pixel, whose sums lie side by side by channel
    unroll_k: int = 4  # steps of K in the innermost loop
    panel_k: int = 512  # steps of K that are summed before they are added to the result


def default(work: ConvWork, machine: Machine) -> ConvKnobs:
    """Fill the registers with sums.

    A step of a tile of `o` channels and `v` vectors is `o * v` multiplications against `v` loads
    and `o` broadcasts, so 8x3 of 32 registers and 4x3 of 16 are bound by arithmetic. Few channels
    leave registers for more vectors. Where images are 7x7, 14x14 or 28x28, multiples of 49 pixels,
    a panel of 49 leaves no vector half empty.
    """
    lanes = emit.lanes_of(machine)
    tallest = 8 if machine.vector_registers >= 32 else 4
    tile_o = tallest
    while tile_o // 2 >= work.out:
        tile_o //= 2
    budget = machine.vector_registers * 3 // 4
    vectors = min(8, budget // tile_o)
    pixels = emit.static(work.window.pixels)
    width = vectors * lanes
    odd = False
    if pixels is not None:
        while vectors > 1 and (vectors - 1) * lanes >= pixels:
            vectors -= 1
        width = vectors * lanes
        odd = tile_o > 1 and pixels % (width + 1) == 0 and pixels % lanes != 0
    return ConvKnobs(
        tile_o=tile_o, vectors=vectors, odd=odd, panel_k=1024 if work.depth <= 1024 else 512
    )


def packed_shape(work: ConvWork, knobs: ConvKnobs) -> tuple[int, int, int]:
    """The shape of what `pack_weight` returns."""
    return (work.groups * -(-work.out // knobs.tile_o), work.depth, knobs.tile_o)


def pack_weight(weight: NDArray[Any], work: ConvWork, knobs: ConvKnobs) -> NDArray[Any]:
    """Return `weight[O, C, kernel…]` as tiles `[groups * ceil(out / tile_o), K, tile_o]`."""
    tiles = -(-work.out // knobs.tile_o)
    padded = np.zeros((work.groups, tiles * knobs.tile_o, work.depth), weight.dtype)
    padded[:, : work.out] = weight.reshape(work.groups, work.out, work.depth)
    tiled = padded.reshape(work.groups * tiles, knobs.tile_o, work.depth)
    return np.ascontiguousarray(tiled.transpose(0, 2, 1))


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
                 parallel)  # fmt: skip
    conv.run()


@dataclass(frozen=True)
class _Panel:
    """What a task has gathered: `vectors` vectors of pixels from `first` on, and one more."""

    first: Expr
    vectors: int
    lanes: int
    pixels: Callable[[Expr, int], Expr]  # vector `v` of step `k`
    single: Callable[[Expr], Expr] | None  # the pixel after them


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
    parallel: bool

    @property
    def tiles(self) -> int:
        """Tiles of channels of one group."""
        return -(-self.work.out // self.knobs.tile_o)

    def run(self) -> None:
        """Choose by the number of pixels, which may be known at run time only."""
        pixels = emit.static(self.work.window.pixels)
        if pixels is not None:
            self.all_pixels(pixels, self._fitting(pixels))
            return
        count = T.Bind(emit.index(self.work.window.pixels))
        emit.branch(
            count >= self.lanes,
            partial(self.all_pixels, count, self.lanes),
            partial(self.all_pixels, count, 1),
        )

    def _fitting(self, pixels: int) -> int:
        """The widest vector that is not wider than the image, or as wide as the tile of channels.

        Of fewer pixels than channels in a tile each is computed alone, with a vector of channels.
        """
        lanes = self.lanes
        while lanes > pixels:
            lanes //= 2
        return lanes if lanes >= min(4, self.lanes) else 1

    def all_pixels(self, pixels: Dim, lanes: int) -> None:
        """Cover the pixels of every image by panels; the last one may be narrower."""
        knobs = self.knobs
        if lanes == 1:
            self.panels(pixels, 1, 0, 1, odd=True)
            return
        known = emit.static(pixels)
        vectors, odd = knobs.vectors, knobs.odd and lanes == self.lanes
        if known is not None:
            vectors = min(vectors, -(-known // lanes))
        self.panels(pixels, lanes, vectors, vectors * lanes + odd, odd=odd)

    def panels(self, pixels: Dim, lanes: int, vectors: int, width: int, *, odd: bool) -> None:
        """Tasks: an image, a group, a panel of pixels, and a part of the channels."""
        panels = emit.ceil_div(pixels, width)
        groups = self.work.groups
        total = emit.index(self.batch) * emit.index(panels) * groups
        known = emit.static(total)
        parts: Dim = 1
        if self.cores > 1 and self.tiles > 1:
            limit = min(self.cores, self.tiles)
            if known is None:
                few = total < 4 * self.cores
                parts = T.Bind(T.Select(few, emit.index(limit), emit.index(1)))
            elif known < 8 * self.cores and known % self.cores:
                parts = limit
        each = (
            emit.ceil_div(self.tiles, parts)
            if isinstance(parts, int)
            else T.Bind((parts + (self.tiles - 1)) // parts)
        )
        with emit.loop(total * emit.index(parts), parallel=self.parallel) as task:
            part, rest = self._split(task, parts)
            panel, rest = self._split(rest, panels)
            group, image = self._split(rest, groups)
            low = T.Bind(part * each)
            high = T.Bind(T.min(low + each, emit.index(self.tiles)))
            inside = partial(self.panel, image, group, low, high)
            self._choose(inside, panel, panels, pixels, lanes, vectors, width, odd)

    @staticmethod
    def _split(value: Expr, size: Dim) -> tuple[Expr, Expr]:
        if emit.static(size) == 1:
            return emit.index(0), value
        return T.Bind(value % emit.index(size)), T.Bind(value // emit.index(size))

    def _choose(
        self,
        inside: Callable[[Expr, Dim, int, int, bool], None],
        panel: Expr,
        panels: Dim,
        pixels: Dim,
        lanes: int,
        vectors: int,
        width: int,
        odd: bool,
    ) -> None:
        """Give each panel its width: the last one needs fewer vectors, if that is known now."""
        known, first = emit.static(pixels), panel * width
        if known is None:
            if vectors == 0:
                inside(first, 1, lanes, 0, odd)
                return
            count = emit.index(pixels)

            def last(some: int) -> None:
                """As few vectors as cover the rest; whole panels are what is most frequent."""
                start = T.Bind(T.max(emit.index(0), T.min(first, count - some * lanes)))
                reach = some * lanes
                here = partial(inside, start, T.min(emit.index(reach), count), lanes, some, False)
                if some == vectors:
                    more = partial(last, 1)
                    if vectors > 1:
                        emit.branch(count - first > (some - 1) * lanes, here, more)
                    else:
                        here()
                elif some == vectors - 1:
                    here()
                else:
                    emit.branch(count - first <= some * lanes, here, partial(last, some + 1))

            last(vectors)
            return
        rest = known % width
        if not rest:
            inside(first, width, lanes, vectors, odd)
            return
        some = -(-rest // lanes)
        reach = min(known, some * lanes)
        tail = partial(inside, emit.index(known - reach), reach, lanes, some, False)
        if known < width:
            tail()
            return
        body = partial(inside, first, width, lanes, vectors, odd)
        emit.branch(panel < emit.index(panels) - 1, body, tail)

    def panel(
        self,
        image: Expr,
        group: Expr,
        low: Expr,
        high: Expr,
        first: Expr,
        width: Dim,
        lanes: int,
        vectors: int,
        odd: bool,
    ) -> None:
        """Gather one panel, then let all tiles of channels pass over it."""
        gathered = self.gather(image, group, T.Bind(first), width, lanes, vectors, odd)
        tile_o = self.knobs.tile_o
        tile = T.alloc_buffer((tile_o * max(vectors, 1) * lanes,), "float32")
        extra = T.alloc_buffer((tile_o,), "float32")
        room = emit.index(width) - lanes
        starts = [emit.index(v * lanes) for v in range(vectors)]
        if emit.static(width) is None or width < vectors * lanes:
            starts[1:] = [T.Bind(T.min(start, room)) for start in starts[1:]]
        with emit.loop(high - low) as step:
            number = T.Bind(low + step)
            row = T.Bind(group * self.tiles + number)
            self.tile(gathered, starts, row, tile, extra)
            count = self.work.out - number * tile_o
            if self.work.out % tile_o == 0:
                count = emit.index(tile_o)
            with emit.loop(T.min(emit.index(tile_o), count)) as i:
                o = T.Bind(group * self.work.out + number * tile_o + i)
                for v, start in enumerate(starts):
                    with emit.vector_loop(lanes) as lane:
                        value = tile[(i * vectors + v) * lanes + lane]
                        self.store(image, o, gathered.first + start + lane, value)
                if odd:
                    self.store(image, o, gathered.first + vectors * lanes, extra[i])

    def gather(
        self,
        image: Expr,
        group: Expr,
        first: Expr,
        width: Dim,
        lanes: int,
        vectors: int,
        odd: bool,
    ) -> _Panel:
        """Copy what `width` pixels from `first` on read into `[K, vectors * lanes]`."""
        work, window = self.work, self.work.window
        pitch = vectors * lanes
        panel = T.alloc_buffer((work.depth * pitch + lanes,), "float32")
        singles = T.alloc_buffer((work.depth,), "float32")
        wide: Dim = emit.index(width) - 1 if odd else width
        taps = window.kernel[0] * window.kernel[1]

        def element(channel: Expr, y: Expr, x: Expr) -> Expr:
            return self.load(image, group * work.inner + channel, y, x)

        if window.pointwise:
            self._pointwise(element, first, panel, singles, wide, pitch, lanes, odd)
        else:
            out_width = emit.index(window.out[1])
            top = T.Bind(first // out_width)
            bottom = T.Bind((first + (emit.index(width) - 1)) // out_width)
            plane = Plane(window, self._most_rows(width), self.lanes)
            plane.clear()
            with emit.loop(work.inner) as channel:
                plane.copy(partial(element, channel), top, bottom - top + 1)
                with emit.loop(window.kernel[0]) as ky:
                    for kx in range(window.kernel[1]):
                        k = T.Bind(channel * taps + ky * window.kernel[1] + kx)
                        if pitch:
                            self._segments(plane, panel, k * pitch, ky, kx, first, wide, top, lanes)
                        if odd:
                            last = T.Bind(first + pitch)
                            row = T.Bind(last // out_width)
                            at = plane.at(row - top, ky, kx) + (last - row * out_width)
                            T.buffer_store(singles, plane.buffer[at], [k])
        return _Panel(
            first,
            vectors,
            lanes,
            lambda k, start: emit.load(panel, k * pitch + start, lanes),
            (lambda k: singles[k]) if odd else None,
        )

    def _pointwise(
        self,
        element: Callable[[Expr, Expr, Expr], Expr],
        first: Expr,
        panel: Buffer,
        singles: Buffer,
        wide: Dim,
        pitch: int,
        lanes: int,
        odd: bool,
    ) -> None:
        """Neighbouring pixels lie side by side; the image is one row of pixels."""
        none = emit.index(0)
        with emit.loop(self.work.inner) as k:
            for v in range(pitch // lanes if pitch else 0):
                start = emit.index(v * lanes)
                if not (odd or (emit.static(wide) or 0) >= (v + 1) * lanes):
                    start = T.min(start, emit.index(wide) - lanes)
                with emit.vector_loop(lanes) as lane:
                    value = element(k, none, first + start + lane)
                    T.buffer_store(panel, value, [k * pitch + start + lane])
            if odd:
                T.buffer_store(singles, element(k, none, first + pitch), [k])

    def _most_rows(self, width: Dim) -> Dim:
        """Rows of the result that `width` pixels can lie in."""
        columns, most = emit.static(self.work.window.out[1]), self.knobs.vectors * self.lanes + 1
        known = emit.static(width)
        most = most if known is None else known
        if columns is not None:
            rows = (most - 2) // columns + 2
            height = emit.static(self.work.window.out[0])
            return rows if height is None else min(rows, height)
        span = emit.index(self.work.window.out[1])
        return T.Bind((most - 2) // span + 2) if most > 1 else 1

    def _segments(
        self,
        plane: Plane,
        panel: Buffer,
        base: Expr,
        ky: Expr,
        kx: int,
        first: Expr,
        wide: Dim,
        top: Expr,
        lanes: int,
    ) -> None:
        """Copy the pixels of each row; a vector may reach into what is copied after it."""
        columns = emit.index(self.work.window.out[1])
        end = first + emit.index(wide)
        last = T.Bind((end - 1) // columns)
        with emit.loop(last - top + 1) as row:
            begin = T.Bind(T.max((top + row) * columns, first))
            stop = T.Bind(T.min((top + row + 1) * columns, end))
            source = T.Bind(plane.at(row, ky, kx) + begin - (top + row) * columns)
            target = T.Bind(base + begin - first)
            with emit.loop((stop - begin + (lanes - 1)) // lanes) as block:
                value = emit.load(plane.buffer, source + block * lanes, lanes)
                emit.save(panel, target + block * lanes, lanes, value)

    def tile(
        self, panel: _Panel, starts: list[Expr], row: Expr, tile: Buffer, extra: Buffer
    ) -> None:
        """Sum one tile over all of K, a panel of `panel_k` at a time."""
        depth, unroll = self.work.depth, min(self.knobs.unroll_k, self.work.depth)
        panels = -(-depth // self.knobs.panel_k)
        each = -(-depth // (panels * unroll)) * unroll
        panels = -(-depth // each)
        if panels == 1:
            self.steps(panel, starts, row, emit.index(0), depth, tile, extra, add=False)
            return
        self.steps(panel, starts, row, emit.index(0), each, tile, extra, add=False)
        with emit.loop(panels - 1) as p:
            k0 = T.Bind((p + 1) * each)
            count = each if depth % each == 0 else T.Bind(T.min(depth - k0, emit.index(each)))
            self.steps(panel, starts, row, k0, count, tile, extra, add=True)

    def steps(
        self,
        panel: _Panel,
        starts: list[Expr],
        row: Expr,
        k0: Expr,
        count: Dim,
        tile: Buffer,
        extra: Buffer,
        *,
        add: bool,
    ) -> None:
        """Sum `count` steps of K in registers, then store them or add them to what is there."""
        tile_o, vectors, lanes = self.knobs.tile_o, panel.vectors, panel.lanes
        unroll = min(self.knobs.unroll_k, self.work.depth)
        sets = 1 if vectors else unroll
        sums = emit.registers(tile_o * vectors, lanes)
        emit.fill(sums, lanes, 0.0)
        odd = emit.registers(sets, tile_o) if panel.single else []
        emit.fill(odd, tile_o, 0.0)

        def step(k: Expr, u: int) -> None:
            pixels = [T.Bind(panel.pixels(k, start)) for start in starts]
            for i in range(tile_o if vectors else 0):
                left = T.Bind(emit.splat(self.weight[row, k, i], lanes))
                for v, right in enumerate(pixels):
                    total = sums[i * vectors + v]
                    emit.save(total, 0, lanes, emit.load(total, 0, lanes) + left * right)
            if panel.single is not None:
                total = odd[u % sets]
                pixel = emit.splat(panel.single(k), tile_o)
                weights = self.weight[row, k, emit.lanes_at(0, tile_o)]
                emit.save(total, 0, tile_o, emit.load(total, 0, tile_o) + pixel * weights)

        whole = count // unroll
        with emit.loop(whole) as block:
            for u in range(unroll):
                step(T.Bind(k0 + block * unroll + u), u)
        if emit.static(count) is None or emit.static(count) % unroll:  # type: ignore[operator]
            with emit.loop(emit.index(count) - whole * unroll) as rest:
                step(T.Bind(k0 + whole * unroll + rest), 0)
        for n, register in enumerate(sums):
            value = emit.load(register, 0, lanes)
            value = emit.load(tile, n * lanes, lanes) + value if add else value
            emit.save(tile, n * lanes, lanes, value)
        if odd:
            value = emit.load(odd[0], 0, tile_o)
            for some in odd[1:]:
                value = value + emit.load(some, 0, tile_o)
            value = emit.load(extra, 0, tile_o) + value if add else value
            emit.save(extra, 0, tile_o, value)
