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
    def row_step(self) -> int:
        """Rows of a plane between two rows of the result: what nobody reads is not copied."""
        return 1 if self.kernel[0] == 1 else self.strides[0]

    def rows(self, count: Dim) -> Dim:
        """Rows of a plane that `count` rows of the result read."""
        reach = (self.kernel[0] - 1) * self.dilations[0] + 1
        known = emit.static(count)
        if known is not None:
            return (known - 1) * self.row_step + reach
        return (emit.index(count) - 1) * self.row_step + reach

    @property
    def phases(self) -> list[int]:
        """The phases of a row that are read."""
        return sorted({k * self.dilations[1] % self.strides[1] for k in range(self.kernel[1])})


class Plane:
    """Some padded rows of one channel, for `count` rows of the result at most."""

    def __init__(self, window: Window, count: Dim, lanes: int, filling: float = 0.0) -> None:
        self.window, self.lanes, self.filling = window, lanes, filling
        self.step = window.strides[1]
        width = window.image[1]
        padded = emit.index(width) + (window.low[1] + window.high[1] + self.step - 1)
        known = emit.static(width)
        if known is not None:
            self.columns: Dim = -(-(known + window.low[1] + window.high[1]) // self.step)
        else:
            self.columns = T.Bind(padded // self.step)
        self.phases = window.phases
        self.pitch = self._times(self.columns, len(self.phases))
        self.rows = window.rows(count)
        self.size = self._times(self.pitch, self.rows)
        # vectors may reach over the end of the last row
        self.buffer: Buffer = T.alloc_buffer((emit.index(self.size) + lanes,), "float32")
        self.line: Buffer | None = None
        if self.step == 2 and self._chunk():
            self.line = T.alloc_buffer((2 * lanes,), "float32")

    @staticmethod
    def _times(left: Dim, right: Dim) -> Dim:
        one, two = emit.static(left), emit.static(right)
        if one is not None and two is not None:
            return one * two
        return emit.index(left) * emit.index(right)

    def clear(self) -> None:
        """Fill everything, if anything of it is padding."""
        if not self.window.padded:
            return
        with emit.loop(emit.ceil_div(self.size, self.lanes)) as i:
            emit.save(self.buffer, i * self.lanes, self.lanes, emit.splat(self.filling, self.lanes))

    def at(self, row: Dim, ky: Dim, kx: int) -> Expr:
        """Where the elements lie that a row of the result reads at an offset of the window."""
        dy, dx = self.window.dilations
        phase = self.phases.index(kx * dx % self.step)
        line = emit.index(row) * self.window.row_step + emit.index(ky) * dy
        return line * self.pitch + emit.index(phase) * self.columns + kx * dx // self.step

    def copy(self, load: LoadRow, first: Expr, count: Dim) -> None:
        """Copy what `count` rows of the result from row `first` on read."""
        window = self.window
        top = first * window.strides[0] - window.low[0]
        height = emit.index(window.image[0])
        scale = window.strides[0] if window.kernel[0] == 1 else 1
        with emit.loop(window.rows(count)) as row:
            y = T.Bind(top + row * scale)
            start = T.Bind(row * self.pitch)
            copied = partial(self._row, partial(load, y), start)
            if window.padded:
                emit.branch_if(T.And(y >= 0, y < height), copied)
            else:
                copied()

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
                x = T.Bind(T.min(block * lanes, emit.index(width) - lanes))
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
                at = start + emit.index(self.phases.index(phase)) * self.columns
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
                at = start + emit.index(number) * self.columns + place
                put = partial(T.buffer_store, self.buffer, load(x), [at])
                if len(self.phases) == self.step == 1:
                    put()
                else:
                    emit.branch_if(column % self.step == phase, put)
