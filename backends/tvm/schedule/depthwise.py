"""Windows over one channel at a time: depthwise convolution and pooling, in whole vectors.

Some rows of a channel are copied with their padding (`window.py`); then each vector of neighbouring
results of a row is folded over the window in a register. A result row that is shorter than a vector
is computed as a whole one, and only what is real is stored.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from tvm.ir import Expr
from tvm.tirx.script import builder as T

from . import emit
from .emit import Dim
from .knobs import Knobs, knob
from .window import Plane, Window

if TYPE_CHECKING:
    from tunesmith.ir.target import Machine

__all__ = ["Fold", "PlaneKnobs", "default", "emit_planes", "fits"]

LoadImage: TypeAlias = Callable[[Expr, Expr, Expr, Expr], Expr]
StorePlace: TypeAlias = Callable[[Expr, Expr, Expr, Expr, Expr], None]
Update: TypeAlias = Callable[[Expr, Expr, Expr], Expr]

_SMALL = 16384  # elements; below, waking the other threads costs more than it brings


@dataclass(frozen=True, kw_only=True)
class Fold:
    """How the elements of a window become one."""

    filling: float  # what padding holds
    start: float
    weight: Callable[[Expr, int], Expr] | None  # of channel and place in the window, or none
    update: Update  # of the value so far, the element and the weight


@dataclass(frozen=True, kw_only=True)
class PlaneKnobs(Knobs):
    """How a channel is cut into pieces."""

    # of the result, computed from one copy
    rows: int = knob(16, 1, 2, 3, 4, 6, 7, 8, 10, 12, 14, 16, 20, 28, 32, 56)


def default(window: Window, machine: Machine) -> PlaneKnobs:
    """As many rows as leave half of the first cache free; the whole of a small image."""
    width = emit.static(window.image[1]) or 256
    row = (width + window.low[1] + window.high[1]) * emit.FLOAT_BYTES
    fit = machine.l1_bytes // 2 // row // window.strides[0] - window.kernel[0]
    height = emit.static(window.out[0])
    rows = max(2, min(32, fit))
    if height is not None:
        blocks = -(-height // rows)
        rows = -(-height // blocks)
    return PlaneKnobs(rows=rows)


def fits(window: Window, machine: Machine, knobs: PlaneKnobs) -> bool:
    """Whether there are so many rows, and their copy fits into half of the second cache."""
    height, width = emit.static(window.out[0]), emit.static(window.image[1]) or 256
    row = (width + window.low[1] + window.high[1]) * emit.FLOAT_BYTES
    copied = (knobs.rows * window.strides[0] + window.kernel[0]) * row
    return (height is None or knobs.rows <= height) and copied <= machine.l2_bytes // 2


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
    lanes = emit.lanes_of(machine)
    height = window.out[0]
    known = emit.static(height)
    rows = knobs.rows if known is None else min(knobs.rows, known)
    blocks = emit.ceil_div(height, rows)
    total = emit.index(batch) * channels * emit.index(blocks)
    size = emit.static(emit.index(batch) * channels * emit.index(window.pixels))
    with emit.loop(total, parallel=parallel and (size is None or size > _SMALL)) as task:
        block = T.Bind(task % emit.index(blocks))
        plane_number = T.Bind(task // emit.index(blocks))
        o = T.Bind(plane_number % channels)
        image = T.Bind(plane_number // channels)
        first = T.Bind(block * rows)
        count = (
            rows
            if known is not None and known % rows == 0
            else T.Bind(T.min(emit.index(rows), emit.index(height) - first))
        )
        plane = Plane(window, rows, lanes, fold.filling)
        plane.clear()
        plane.copy(lambda y, x: load(image, o // each, y, x), first, count)
        weights = []
        if fold.weight is not None:
            taps = range(window.kernel[0] * window.kernel[1])
            weights = [T.Bind(fold.weight(o, tap)) for tap in taps]
        put = partial(store, image, o)
        with emit.loop(count) as row:
            _row(plane, window, fold, weights, row, T.Bind(first + row), put, lanes)


def _row(
    plane: Plane,
    window: Window,
    fold: Fold,
    weights: list[Expr],
    row: Expr,
    y: Expr,
    put: Callable[[Expr, Expr, Expr], None],
    lanes: int,
) -> None:
    """One row of the result."""
    width = window.out[1]
    (total,) = emit.registers(1, lanes)

    def vector(x: Expr) -> None:
        emit.save(total, 0, lanes, emit.splat(fold.start, lanes))

        def tap(ky: Dim, kx: int, weight: Expr | None) -> None:
            at = row * plane.columns + plane.at(ky, kx) + x
            value = T.Bind(emit.load(plane.buffer, at, lanes))
            so_far = T.Bind(emit.load(total, 0, lanes))
            factor = value if weight is None else emit.splat(weight, lanes)
            emit.save(total, 0, lanes, fold.update(so_far, value, factor))

        if weights or plane.needs_known_rows or window.kernel[0] * window.kernel[1] <= 25:
            for ky in range(window.kernel[0]):
                for kx in range(window.kernel[1]):
                    tap(ky, kx, weights[ky * window.kernel[1] + kx] if weights else None)
        else:
            with emit.loop(window.kernel[0]) as ky:
                for kx in range(window.kernel[1]):
                    tap(ky, kx, None)

    def vectors() -> None:
        with emit.loop(emit.ceil_div(width, lanes)) as block:
            x = T.Bind(T.min(block * lanes, emit.index(width) - lanes))
            vector(x)
            with emit.vector_loop(lanes) as lane:
                put(y, x + lane, total[lane])

    def short() -> None:
        vector(emit.index(0))
        known = emit.static(width)
        if known is not None and known > 1:
            with emit.vector_loop(known) as lane:
                put(y, lane, total[lane])
            return
        with emit.loop(width) as x:
            put(y, x, total[x])

    known = emit.static(width)
    if known is None:
        emit.branch(emit.index(width) >= lanes, vectors, short)
    elif known >= lanes:
        vectors()
    else:
        short()
