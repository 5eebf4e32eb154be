"""Windows over one channel at a time: depthwise convolution and pooling, in whole vectors.

Some rows of a channel are copied with their padding (`window.py`); then vectors of neighbouring
results, of a few rows at a time, are folded over their windows in registers. A result row that is
shorter than a vector is computed as a whole one, and only what is real is stored.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import groupby, product
from operator import itemgetter
from typing import TYPE_CHECKING, TypeAlias

from tvm.ir import Expr
from tvm.tirx import Buffer
from tvm.tirx.script import builder as T

from . import emit
from .emit import Dim
from .knobs import Knobs, knob
from .window import Plane, Window

if TYPE_CHECKING:
    from tunesmith.ir.target import Machine

__all__ = ["Fold", "PlaneKnobs", "default", "emit_planes", "emit_rows_of_planes", "fits"]

LoadImage: TypeAlias = Callable[[Expr, Expr, Expr, Expr], Expr]
StorePlace: TypeAlias = Callable[[Expr, Expr, Expr, Expr, Expr], None]
Update: TypeAlias = Callable[[Expr, Expr, Expr], Expr]

_FEW = 9  # elements of a window that are written one by one
_FEW_READ = 25  # the same, without weights
_SMALL = 16384  # elements; below, waking the other threads costs more than it brings


@dataclass(frozen=True, kw_only=True)
class Fold:
    """How the elements of a window become one."""

    filling: float  # what padding holds
    start: float
    weight: Callable[[Expr, Dim], Expr] | None  # of channel and place in the window, or none
    update: Update  # of the value so far, the element and the weight


@dataclass(frozen=True, kw_only=True)
class PlaneKnobs(Knobs):
    """How a channel is cut into pieces."""

    # of the result, computed from one copy
    rows: int = knob(16, 1, 2, 3, 4, 6, 7, 8, 10, 12, 14, 16, 20, 28, 32, 56)
    # rows in registers: an element that is read once counts for all of them
    high: int = knob(1, 1, 2, 3, 4, 5, 6, 7, 8)
    # vectors in registers
    wide: int = knob(1, 1, 2, 3)


def default(window: Window, machine: Machine) -> PlaneKnobs:
    """As many rows as leave half of the first cache free; the whole of a small image.

    For `high` rows of results, one below the other, a window of `k` rows reads `high + k - 1` rows
    of vectors, so that loads, which cross cache lines, take less time than the arithmetic; and it
    takes eight sums at a time to hide the latency of one. Of small windows the next sums hide that
    too: an image of which run time tells the height, maybe few rows, is computed row by row.
    """
    width = emit.static(window.image[1]) or 256
    row = (width + window.low[1] + window.high[1]) * emit.FLOAT_BYTES
    fit = machine.l1_bytes // 2 // row // window.strides[0] - window.kernel[0]
    height = emit.static(window.out[0])
    rows = max(2, min(32, fit))
    if height is not None:
        blocks = -(-height // rows)
        rows = -(-height // blocks)
    lanes, along = emit.lanes_of(machine), emit.static(window.out[1])
    few = window.kernel[0] * window.kernel[1] <= _FEW
    if few and height is None:
        return PlaneKnobs(rows=rows)
    wide = 2 if not few and (along is None or -(-along // lanes) % 2 == 0) else 1
    groups = -(-rows // min(8, machine.vector_registers * 3 // 8 // wide))
    return PlaneKnobs(rows=rows, high=-(-rows // groups), wide=wide)


def fits(window: Window, machine: Machine, knobs: PlaneKnobs) -> bool:
    """Whether there are so many rows, and their copy fits into half of the second cache."""
    height, width = emit.static(window.out[0]), emit.static(window.image[1]) or 256
    along = emit.static(window.out[1])
    row = (width + window.low[1] + window.high[1]) * emit.FLOAT_BYTES
    copied = (knobs.rows * window.strides[0] + window.kernel[0]) * row
    return (
        (height is None or knobs.rows <= height)
        and copied <= machine.l2_bytes // 2
        and knobs.high <= knobs.rows
        and knobs.high * knobs.wide * 3 // 2 < machine.vector_registers
        and (along is None or (knobs.wide - 1) * emit.lanes_of(machine) < along)
    )


def emit_planes(
    *,
    batch: Dim,
    channels: int,
    each: int,
    window: Window,
    load: LoadImage,
    fold: Fold,
    store: StorePlace,
    machine: Machine,
    knobs: PlaneKnobs,
    parallel: bool = True,
) -> None:
    """Write `store(n, o, y, x, value)` for every element of the result.

    Channel `o` of the result reads channel `o // each` of the image. `store` is called in a loop
    over the lanes of a vector whose variable is in `x`, or in a scalar loop; an element may be
    stored twice, with the same value.
    """
    height = window.out[0]
    rows = _at_most(knobs.rows, height)
    blocks = emit.ceil_div(height, rows)
    total = emit.index(batch) * channels * emit.index(blocks)
    size = emit.static(emit.index(batch) * channels * emit.index(window.pixels))
    piece = _Piece(each, window, load, fold, store, emit.lanes_of(machine), knobs)
    with emit.loop(total, parallel=parallel and (size is None or size > _SMALL)) as task:
        block = T.Bind(task % emit.index(blocks))
        plane_number = T.Bind(task // emit.index(blocks))
        o = T.Bind(plane_number % channels)
        image = T.Bind(plane_number // channels)
        piece.write(image, o, emit.index(0), block, height)


def emit_rows_of_planes(
    *,
    image: Expr,
    first: Expr,
    count: int,
    channels: int,
    each: int,
    window: Window,
    load: LoadImage,
    fold: Fold,
    store: StorePlace,
    machine: Machine,
    knobs: PlaneKnobs,
) -> None:
    """The same for `count` rows from `first` on of one image, all channels, in one task."""
    blocks = emit.ceil_div(count, _at_most(knobs.rows, count))
    piece = _Piece(each, window, load, fold, store, emit.lanes_of(machine), knobs)
    with emit.loop(channels) as o, emit.loop(blocks) as block:
        piece.write(image, o, first, block, count)


def _at_most(rows: int, height: Dim) -> int:
    known = emit.static(height)
    return rows if known is None else min(rows, known)


@dataclass(frozen=True)
class _Piece:
    """Some rows of one channel."""

    each: int
    window: Window
    load: LoadImage
    fold: Fold
    store: StorePlace
    lanes: int
    knobs: PlaneKnobs

    def write(self, image: Expr, o: Expr, top: Expr, block: Expr, height: Dim) -> None:
        """Block `block` of the `height` rows from `top` on."""
        known, rows = emit.static(height), _at_most(self.knobs.rows, height)
        start = T.Bind(block * rows)
        count = (
            rows
            if known is not None and known % rows == 0
            else T.Bind(T.min(emit.index(rows), emit.index(height) - start))
        )
        first = T.Bind(top + start)
        high = self.knobs.high if rows >= self.knobs.high else 1
        plane = Plane(self.window, -(-rows // high) * high, self.lanes, self.fold.filling)
        plane.clear()
        plane.copy(lambda y, x: self.load(image, o // self.each, y, x), first, count)
        some = _Rows(plane, self.window, self.fold, o, self.lanes, high)
        with emit.loop(emit.ceil_div(count, high)) as group:
            row = T.Bind(group * high)

            def put(r: int, x: Expr, value: Expr) -> None:
                self.store(image, o, first + row + r, x, value)

            some.fold_all(row, self.knobs.wide, count, put)


Put: TypeAlias = Callable[[int, Expr, Expr], None]  # row within the group, column, value


@dataclass(frozen=True)
class _Rows:
    """Some rows of the result, folded together."""

    plane: Plane
    window: Window
    fold: Fold
    channel: Expr
    lanes: int
    high: int

    @property
    def unrolled(self) -> bool:
        """Whether the elements of a window are written one by one."""
        few = self.window.kernel[0] * self.window.kernel[1] <= _FEW_READ
        return self.fold.weight is not None or self.plane.needs_known_rows or few

    def fold_all(self, row: Expr, wide: int, count: Dim, put: Put) -> None:
        """Fold the rows from `row` on, and hand those below `count` to `put`."""
        width, lanes = self.window.out[1], self.lanes
        known = emit.static(width)

        def vectors(wide: int) -> None:
            with emit.loop(emit.ceil_div(width, wide * lanes)) as block:
                x = T.Bind(T.min(block * (wide * lanes), emit.index(width) - wide * lanes))
                totals = self.totals(row, x, wide)
                for r in range(self.high):
                    self.rest(row + r, count, partial(whole, r, x, totals[r]))

        def whole(r: int, x: Expr, totals: list[Buffer]) -> None:
            for v, total in enumerate(totals):
                with emit.vector_loop(lanes) as lane:
                    put(r, x + v * lanes + lane, total[lane])

        def short() -> None:
            totals = self.totals(row, emit.index(0), 1)
            for r in range(self.high):
                self.rest(row + r, count, partial(part, r, totals[r][0]))

        def part(r: int, total: Buffer) -> None:
            if known is not None and known > 1:
                with emit.vector_loop(known) as lane:
                    put(r, lane, total[lane])
                return
            with emit.loop(width) as x:
                put(r, x, total[x])

        def any_width(wide: int) -> None:
            enough = emit.index(width) >= wide * lanes
            fewer = partial(any_width, wide - 1) if wide > 1 else short
            emit.branch(enough, partial(vectors, wide), fewer)

        if known is None:
            any_width(wide)
        elif known >= lanes:
            vectors(min(wide, known // lanes))
        else:
            short()

    def rest(self, row: Expr, count: Dim, body: Callable[[], None]) -> None:
        """Do something for a row, if there is one."""
        known = emit.static(count)
        if known is not None and known % self.high == 0:
            body()
        else:
            emit.branch_if(row < count, body)

    def totals(self, row: Expr, x: Expr, wide: int) -> list[list[Buffer]]:
        """The folded windows of `high` rows and `wide` vectors."""
        window, lanes = self.window, self.lanes
        totals = [emit.registers(wide, lanes) for _ in range(self.high)]
        for some in totals:
            emit.fill(some, lanes, self.fold.start)

        def update(total: Buffer, value: Expr, weight: Expr | None) -> None:
            so_far = T.Bind(emit.load(total, 0, lanes))
            factor = value if weight is None else emit.splat(weight, lanes)
            emit.save(total, 0, lanes, self.fold.update(so_far, value, factor))

        def read(r: int, ky: Dim, kx: int, v: int, more: Dim = 0) -> Expr:
            at = (row + r) * self.plane.columns + self.plane.at(ky, kx) + x + v * lanes
            at = at + (more if window.strides[1] > 1 else more * window.dilations[1])
            return T.Bind(emit.load(self.plane.buffer, at, lanes))

        height, width = window.kernel
        if not self.unrolled:
            with emit.loop(height) as ky:
                for kx, r, v in product(range(width), range(self.high), range(wide)):
                    update(totals[r][v], read(r, ky, kx, v), None)
            return totals
        stride, dilation = window.strides[0], window.dilations[0]
        places = product(range(self.high), range(height))
        by_row = sorted((r * stride + ky * dilation, r, ky) for r, ky in places)

        def column(kx: int, more: Expr) -> None:
            """The elements of a column of the window, `more` columns of its phase further on."""
            step = window.strides[1]
            weights = [self.weight(ky * width + kx + more * step) for ky in range(height)]
            for _, same in groupby(by_row, key=itemgetter(0)):  # rows of the image, from the top
                users = list(same)
                _, r, ky = users[0]
                values = [read(r, ky, kx, v, more) for v in range(wide)]
                for _, r, ky in users:
                    for v, value in enumerate(values):
                        update(totals[r][v], value, weights[ky])

        for first, count in self.phases():
            with emit.loop(count) if count > 1 else nullcontext(emit.index(0)) as more:
                column(first, more)
        return totals

    def weight(self, tap: Dim) -> Expr | None:
        """The weight of a place in the window."""
        return None if self.fold.weight is None else T.Bind(self.fold.weight(self.channel, tap))

    def phases(self) -> list[tuple[int, int]]:
        """Columns of the window, and how many of its phase are a loop.

        Loops keep the code generator from bringing the sums in another order, one after the other:
        it then waits for the latency of each, and has what was read before in memory.
        """
        window = self.window
        width, step = window.kernel[1], window.strides[1]
        if window.kernel[0] * width <= _FEW or (step > 1 and window.dilations[1] > 1):
            return [(kx, 1) for kx in range(width)]
        return [(kx, len(range(kx, width, step))) for kx in range(min(step, width))]
