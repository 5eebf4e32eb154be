"""Rows of an image, copied with their padding so that windows over them need no predicate.

A `Plane` holds some rows of one channel. With a stride of `s` along a row its elements are sorted
into `s` phases, so that what neighbouring windows read at the same offset lies side by side and is
loaded as a vector, whatever the stride. Rows and columns outside of the image hold a filling, which
is written once; copying the next channel leaves it as it is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

from tvm.ir import Expr
from tvm.tirx import Buffer, Shuffle
from tvm.tirx.script import builder as T

from . import emit
from .emit import Dim

__all__ = ["Plane", "Window"]

LoadRow: TypeAlias = Callable[[Expr, Expr], Expr]  # element (y, x) of the channel


@dataclass(frozen=True, kw_only=True)
class Window:
    """What one element of a result reads of an image of two axes, and how large both are."""

    kernel: tuple[int, int]
    strides: tuple[int, int]
    low: tuple[int, int]
    high: tuple[int, int]
    dilations: tuple[int, int]
    image: tuple[Dim, Dim]
    out: tuple[Dim, Dim]
    widths: tuple[Dim, Dim]  # of image and result, once more: what memory is asked for by

    @property
    def pointwise(self) -> bool:
        """Whether each pixel of the result reads just the same pixel of the image."""
        return self.kernel == (1, 1) and self.strides == (1, 1) and not self.padded

    @property
    def padded(self) -> bool:
        """Whether windows reach over the edges of the image."""
        return any((*self.low, *self.high))

    @property
    def pixels(self) -> Dim:
        """Elements of one channel of the result."""
        rows, columns = map(emit.static, self.out)
        if rows is not None and columns is not None:
            return rows * columns
        return emit.index(self.out[0]) * emit.index(self.out[1])

    @property
    def columns(self) -> Expr:
        """Places from one row of a plane to the next: of a row and its padding, by phases."""
        step = self.strides[1]
        padded = emit.index(self.widths[0]) + (self.low[1] + self.high[1] + step - 1)
        return padded // step

    @property
    def planes(self) -> int:
        """Pairs of phases, each of which is a plane of its own."""
        return len(self.phases(0)) * len(self.phases(1))

    @property
    def furthest(self) -> int:
        """How many rows of any phase a window reads after its first."""
        return max(map(self.reach, self.phases(0)))

    def phases(self, axis: int) -> list[int]:
        """The phases of an axis that windows read; strides jump over the others."""
        stride, dilation = self.strides[axis], self.dilations[axis]
        return sorted({k * dilation % stride for k in range(self.kernel[axis])})

    def reach(self, phase: int) -> int:
        """How many rows of a phase a window reads after its first."""
        stride, dilation = self.strides[0], self.dilations[0]
        rows = (k * dilation for k in range(self.kernel[0]))
        return max((row // stride for row in rows if row % stride == phase), default=0)


class Plane:
    """Some padded rows of one channel, for `count` rows of the result at most.

    Each pair of phases has a plane of its own, so that from one place of the result to the next,
    also from one row to the next, every offset of the window moves by the same distance.
    """

    def __init__(
        self,
        window: Window,
        count: Dim,
        lanes: int,
        filling: float = 0.0,
        channels: int = 1,
        room: int | None = None,
    ) -> None:
        """`room` is how many elements to ask memory for, if that does not follow from `count`."""
        self.window, self.lanes, self.filling = window, lanes, filling
        self.step = window.strides[1]
        columns = window.columns
        self.columns = emit.opaque(columns)
        self.phases = window.phases(1)
        self.row_phases = window.phases(0)
        pairs = window.planes
        area = (emit.index(count) + window.furthest) * columns
        self.area = emit.opaque(area)  # of one pair of phases
        self.size = emit.times(self.area, pairs)
        # vectors may reach over the end of the last row
        total = (area * (pairs * channels) if room is None else room) + 4 * lanes
        self.buffer: Buffer = T.alloc_buffer((total,), "float32")
        self.base: Expr = emit.index(0)
        self.line: Buffer | None = None
        if self.step == 2 and self._chunk():
            self.line = T.alloc_buffer((2 * lanes,), "float32")

    def clear(self, channels: int = 1) -> None:
        """Fill everything, if anything of it is padding."""
        if not self.window.padded:
            return
        with emit.loop(emit.ceil_div(emit.times(self.size, channels), self.lanes)) as i:
            emit.save(self.buffer, i * self.lanes, self.lanes, emit.splat(self.filling, self.lanes))

    def at(self, ky: Dim, kx: int) -> Expr:
        """How far an offset of the window lies behind the first place of the result."""
        down, along = emit.index(ky) * self.window.dilations[0], kx * self.window.dilations[1]
        stride = self.window.strides[0]
        number: Expr = down % stride
        if len(self.row_phases) == 1:
            number = emit.index(0)
        elif self.row_phases != list(range(stride)):
            number = emit.index(self.row_phases.index(int(down.value) % stride))
        number = number * len(self.phases) + self.phases.index(along % self.step)
        place = number * self.area + down // stride * emit.index(self.columns)
        return place + along // self.step

    @property
    def needs_known_rows(self) -> bool:
        """Whether `at` wants an offset along the rows that is known now."""
        stride = self.window.strides[0]
        return len(self.row_phases) > 1 and self.row_phases != list(range(stride))

    def copy(self, load: LoadRow, first: Expr, count: Dim) -> None:
        """Copy what `count` rows of the result from row `first` on read."""
        window = self.window
        height = emit.index(window.image[0])
        for number, phase in enumerate(self.row_phases):
            shift = phase - window.low[0]
            extent = emit.index(count) + window.reach(phase)
            offset = emit.times(self.area, number * len(self.phases))
            with emit.loop(extent) as row:
                y = emit.index(emit.opaque((first + row) * window.strides[0] + shift))
                start = emit.index(emit.opaque(self.base + row * self.columns + offset))
                copied = partial(self._row, partial(load, y), start)
                if window.padded:
                    emit.branch_if(T.And(y >= 0, y < height), copied)
                else:
                    copied()

    def _phase(self, number: Dim) -> Expr:
        """Where a phase of the columns begins."""
        return emit.index(number) * self.area

    def _row(self, load: Callable[[Expr], Expr], start: Expr) -> None:
        if self.step == 1:
            self._plain_row(load, start + self.window.low[1])
            return
        chunk = self._chunk()
        if not chunk:
            self._scalar_row(load, start, emit.index(0))
            return
        vectors = partial(self._split_row, load, start, chunk)
        if emit.static(self.window.image[1]) is not None:
            vectors()
            return
        wide = emit.index(self.window.image[1]) >= 2 * chunk
        emit.branch(wide, vectors, partial(self._scalar_row, load, start, emit.index(0)))

    def _plain_row(self, load: Callable[[Expr], Expr], start: Expr) -> None:
        """Whole vectors; the last overlaps the one before it."""
        width, lanes = self.window.image[1], self.lanes
        known = emit.static(width)

        def vectors() -> None:
            with emit.loop(emit.ceil_div(width, lanes)) as block:
                x = emit.index(emit.opaque(T.min(block * lanes, emit.index(width) - lanes)))
                with emit.vector_loop(lanes) as lane:
                    T.buffer_store(self.buffer, load(x + lane), [start + x + lane])

        def singly() -> None:
            with emit.loop(width) as x:
                T.buffer_store(self.buffer, load(x), [start + x])

        if known is None:
            emit.branch(emit.index(width) >= lanes, vectors, singly)
        elif known >= lanes:
            vectors()
        elif known > 1:
            with emit.vector_loop(known) as x:
                T.buffer_store(self.buffer, load(x), [start + x])
        else:
            singly()

    def _chunk(self) -> int:
        """Pairs of elements that are taken apart at once; 0 if a row is too short for any."""
        if self.step != 2:
            return 0
        known = emit.static(self.window.image[1])
        if known is None:
            return self.lanes
        sizes = (s for s in (self.lanes, self.lanes // 2, self.lanes // 4) if 2 * s <= known)
        return next((s for s in sizes if s > 1), 0)

    def _split_row(self, load: Callable[[Expr], Expr], start: Expr, chunk: int) -> None:
        """Even and odd elements, by two shuffles of a pair of vectors."""
        assert self.line is not None
        width = self.window.image[1]
        even = emit.index(width) // 2 * 2
        with emit.loop(emit.ceil_div(even, 2 * chunk)) as block:
            x = T.Bind(T.min(block * (2 * chunk), even - 2 * chunk))
            with emit.vector_loop(2 * chunk) as lane:
                T.buffer_store(self.line, load(x + lane), [lane])
            pair = [emit.load(self.line, i * chunk, chunk) for i in (0, 1)]
            for parity in (0, 1):
                phase = (self.window.low[1] + parity) % 2
                if phase not in self.phases:
                    continue
                at = start + self._phase(self.phases.index(phase))
                at = at + x // 2 + (parity + self.window.low[1]) // 2
                picked = Shuffle(pair, [emit.index(parity + 2 * i) for i in range(chunk)])
                emit.save(self.buffer, at, chunk, picked)
        if emit.static(width) is None or width % 2:
            self._scalar_row(load, start, even)

    def _scalar_row(self, load: Callable[[Expr], Expr], start: Expr, first: Expr) -> None:
        with emit.loop(emit.index(self.window.image[1]) - first) as i:
            x = first + i
            column = T.Bind(x + self.window.low[1])
            place = column // self.step
            for number, phase in enumerate(self.phases):
                at = start + self._phase(number) + place
                put = partial(T.buffer_store, self.buffer, load(x), [at])
                if len(self.phases) == self.step == 1:
                    put()
                else:
                    emit.branch_if(column % self.step == phase, put)
