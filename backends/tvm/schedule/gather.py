"""What a block of pixels reads, gathered so that a product can stream it.

`Panels` unrolls every window: `[K, pixels]` for each few vectors of pixels, whatever the shape of
the image. `Planes` copies the rows once, with padding, and lets every offset of the window be an
offset into them; the places between the rows are computed too, and thrown away.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

from tvm.ir import Expr
from tvm.tirx import Buffer
from tvm.tirx.script import builder as T

from . import emit
from .emit import Dim
from .window import Plane, Window

__all__ = ["Panels", "Planes", "Shape", "Source"]

Element: TypeAlias = Callable[[Expr, Expr, Expr], Expr]  # channel, y, x of the image
Body: TypeAlias = Callable[[Expr, list[Expr], Expr | None, int], None]


@dataclass(frozen=True, kw_only=True)
class Shape:
    """How a panel lies in registers, and what is summed."""

    inner: int
    window: Window
    lanes: int
    vectors: int
    odd: bool
    unroll: int

    @property
    def width(self) -> int:
        """Pixels of a panel."""
        return self.vectors * self.lanes + self.odd

    @property
    def taps(self) -> int:
        """Elements of a window in one channel."""
        return self.window.kernel[0] * self.window.kernel[1]


class Source:
    """A gathered block: `units` steps, each of `unit` products a sum, once for each of `points`."""

    def __init__(self, shape: Shape, units: int, unit: int, points: int = 1) -> None:
        self.shape, self.units, self.unit, self.points = shape, units, unit, points
        self.point: Expr = emit.index(0)  # which is swept now
        self.apart = 0  # elements from the sums of one point to those of the next

    def sweep(self, panel: Expr, vectors: int, first: Expr, count: Dim, body: Body) -> None:
        """Call `body(k, pixels, single, number)` for the products of some steps, unrolled."""
        raise NotImplementedError

    @staticmethod
    def unrolled(first: Expr, count: Dim, unroll: int, step: Callable[[Expr, int], None]) -> None:
        """Loop over `count` steps from `first` on: `unroll` at a time, then those that are left."""
        whole = count // unroll
        with emit.loop(whole) as block:
            for u in range(unroll):
                step(T.Bind(first + block * unroll + u), u)
        rest = emit.static(count)
        if unroll > 1 and (rest is None or rest % unroll):
            with emit.loop(emit.index(count) - whole * unroll) as u:
                step(T.Bind(first + whole * unroll + u), 0)


class Panels(Source):
    """Every window unrolled, panel by panel."""

    def __init__(self, shape: Shape, panels: int) -> None:
        depth = shape.inner * shape.taps
        super().__init__(shape, depth, 1)
        self.pitch = shape.vectors * shape.lanes
        self.depth = depth
        room = panels * depth
        self.buffer: Buffer = T.alloc_buffer((room * self.pitch + shape.lanes,), "float32")
        self.singles: Buffer = T.alloc_buffer((room if shape.odd else 1,), "float32")

    def sweep(self, panel: Expr, vectors: int, first: Expr, count: Dim, body: Body) -> None:
        """A loop over K."""
        lanes, unroll = self.shape.lanes, min(self.shape.unroll, self.depth)
        begin = T.Bind(panel * self.depth)

        def step(k: Expr, number: int) -> None:
            at = (begin + k) * self.pitch
            pixels = [emit.load(self.buffer, at + v * lanes, lanes) for v in range(vectors)]
            single = self.singles[begin + k] if self.shape.odd else None
            body(k, [T.Bind(p) for p in pixels], single, number)

        self.unrolled(first, count, unroll, step)

    def gather(self, element: Element, first: Expr, count: Dim) -> None:
        """Gather `count` pixels from `first` on, in panels one after the other."""
        width = self.shape.width
        with emit.loop(emit.ceil_div(count, width)) as panel:
            begin = emit.index(emit.opaque(first + panel * width))
            left = emit.minimum(width, emit.index(count) - panel * width)
            left = emit.opaque(left)
            base = T.Bind(panel * self.depth)
            if self.shape.window.pointwise:
                self._pointwise(element, base, begin, left)
            else:
                self._windows(element, base, begin, left)

    def _pointwise(self, element: Element, base: Expr, first: Expr, count: Dim) -> None:
        """Neighbouring pixels lie side by side; the image is one row of pixels."""
        lanes, none = self.shape.lanes, emit.index(0)
        known = emit.static(count)

        def vectors() -> None:
            with emit.loop(self.shape.inner) as k:
                for v in range(self.shape.vectors):
                    start = emit.index(v * lanes)
                    if known is None or known < (v + 1) * lanes:
                        start = T.Bind(T.min(start, emit.index(count) - lanes))
                    with emit.vector_loop(lanes) as lane:
                        value = element(k, none, first + start + lane)
                        place = (base + k) * self.pitch + start + lane
                        T.buffer_store(self.buffer, value, [place])

        def singly() -> None:
            with emit.loop(self.shape.inner) as k, emit.loop(emit.minimum(count, self.pitch)) as x:
                value = element(k, none, first + x)
                T.buffer_store(self.buffer, value, [(base + k) * self.pitch + x])

        if self.pitch and known is None:
            emit.branch(emit.index(count) >= lanes, vectors, singly)
        elif self.pitch:
            assert known is not None
            vectors() if known >= lanes else singly()
        if self.shape.odd:
            with emit.loop(self.shape.inner) as k:
                value = element(k, none, first + self.pitch)
                T.buffer_store(self.singles, value, [base + k])

    def _windows(self, element: Element, base: Expr, first: Expr, count: Dim) -> None:
        window, taps = self.shape.window, self.shape.taps
        columns = emit.index(window.out[1])
        top = emit.index(emit.opaque(first // columns))
        bottom = emit.index(emit.opaque((first + (emit.index(count) - 1)) // columns))
        plane = Plane(window, self._most_rows(count), self.shape.lanes)
        plane.clear()
        with emit.loop(self.shape.inner) as channel:
            plane.copy(partial(element, channel), top, bottom - top + 1)
            for ky in range(window.kernel[0]):
                for kx in range(window.kernel[1]):
                    k = T.Bind(base + channel * taps + (ky * window.kernel[1] + kx))
                    offset = plane.at(ky, kx)
                    if self.pitch:
                        wide = emit.minimum(count, self.pitch)
                        self._segments(plane, k * self.pitch, offset, first, wide, top)
                    if self.shape.odd:
                        last = T.Bind(first + self.pitch)
                        row = emit.index(emit.opaque(last // columns))
                        at = (row - top) * plane.columns + offset + (last - row * columns)
                        T.buffer_store(self.singles, plane.buffer[at], [k])

    def _most_rows(self, count: Dim) -> Dim:
        """Rows of the result that `count` pixels can lie in."""
        columns, known = emit.static(self.shape.window.out[1]), emit.static(count)
        most = self.shape.width if known is None else known
        if most == 1:
            return 1
        if columns is not None:
            rows = (most - 2) // columns + 2
            height = emit.static(self.shape.window.out[0])
            return rows if height is None else min(rows, height)
        return (most - 2) // emit.index(self.shape.window.widths[1]) + 2

    def _segments(
        self, plane: Plane, target: Expr, offset: Expr, first: Expr, wide: Dim, top: Expr
    ) -> None:
        """Copy the pixels of each row; a vector may reach into what is copied after it."""
        lanes = self.shape.lanes
        columns = emit.index(self.shape.window.out[1])
        end = first + emit.index(wide)
        last = emit.index(emit.opaque((end - 1) // columns))
        with emit.loop(last - top + 1) as row:
            begin = T.Bind(T.max((top + row) * columns, first))
            stop = T.Bind(T.min((top + row + 1) * columns, end))
            source = row * plane.columns + offset + begin - (top + row) * columns
            source = emit.index(emit.opaque(source))
            place = emit.index(emit.opaque(target + begin - first))
            with emit.loop((stop - begin + (lanes - 1)) // lanes) as block:
                value = emit.load(plane.buffer, source + block * lanes, lanes)
                emit.save(self.buffer, place + block * lanes, lanes, value)


class Planes(Source):
    """Padded rows of every channel; a panel is a run of places in them."""

    def __init__(self, shape: Shape, rows: Dim, room: int | None) -> None:
        super().__init__(shape, shape.inner, shape.taps)
        self.plane = Plane(shape.window, rows, shape.lanes, channels=shape.inner, room=room)

    @property
    def columns(self) -> Dim:
        """Places from one row of the result to the next."""
        return self.plane.columns

    def gather(self, element: Element, first: Expr, count: Dim) -> None:
        """Copy what `count` rows of the result from row `first` on read."""
        self.plane.clear(self.shape.inner)
        with emit.loop(self.shape.inner) as channel:
            self.plane.base = T.Bind(channel * self.plane.size)
            self.plane.copy(partial(element, channel), first, count)

    def sweep(self, panel: Expr, vectors: int, first: Expr, count: Dim, body: Body) -> None:
        """A loop over channels; the window is unrolled, or its rows are."""
        shape, window = self.shape, self.shape.window
        width = window.kernel[1]
        unroll = shape.unroll if shape.taps == 1 else 1

        def rows(channel: Expr, ky: Dim, number: int) -> None:
            start = T.Bind(channel * self.plane.size + panel * shape.width)
            for kx in range(width):
                at = start + self.plane.at(ky, kx)
                pixels = [
                    T.Bind(emit.load(self.plane.buffer, at + v * shape.lanes, shape.lanes))
                    for v in range(vectors)
                ]
                k = channel * shape.taps + emit.index(ky) * width + kx
                body(T.Bind(k), pixels, None, number)

        def step(channel: Expr, number: int) -> None:
            if shape.taps <= 9 or self.plane.needs_known_rows:
                for ky in range(window.kernel[0]):
                    rows(channel, ky, number)
                return
            with emit.loop(window.kernel[0]) as ky:
                rows(channel, ky, number)

        self.unrolled(first, count, unroll, step)
