"""Winograd's minimal filtering: tiles of the result from fewer products, by transforms around them.

F(m x m, 3 x 3) of Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (2016): the
`m x m` results that read a tile of `m + 2` rows and columns are `A'[(G w G') * (B' x B)]A`, summed
over the channels inside of the brackets. `G w G'` is computed when the model is compiled. For each
of the `(m + 2)**2` points of a tile the sum over channels is a product of its own, with tiles in
the place of pixels: 16 products instead of 36 for the four results of F(2 x 2, 3 x 3).

Where the image is infinite, results that read it may be NaN instead, as with every such algorithm.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from tvm.ir import Expr
from tvm.tirx import Buffer, Shuffle
from tvm.tirx.script import builder as T

from . import emit
from .emit import Dim
from .gather import Body, Element, Shape, Source
from .window import Plane, Window

Matrix: TypeAlias = tuple[tuple[float, ...], ...]

__all__ = ["TAPS", "Tiles", "Tiling", "points", "tile_window", "transformed"]

TAPS = 3  # rows and columns of the window

# By the results in a row or a column of a tile.
_IMAGE: dict[int, Matrix] = {2: ((1, 0, -1, 0), (0, 1, 1, 0), (0, -1, 1, 0), (0, 1, 0, -1))}  # B'
_WEIGHT: dict[int, Matrix] = {2: ((1, 0, 0), (0.5, 0.5, 0.5), (0.5, -0.5, 0.5), (0, 0, 1))}  # G
_RESULT: dict[int, Matrix] = {2: ((1, 1, 1, 0), (0, 1, -1, -1))}  # A'


def points(tile: int) -> int:
    """Products for one tile of each pair of channels."""
    return (tile + TAPS - 1) ** 2


def tile_window(window: Window, tile: int) -> Window:
    """The window of a whole tile, which moves by `tile` rows and columns."""
    high, known = list(window.high), list(map(emit.static, window.out))
    for axis, size in enumerate(known):  # tiles may reach over the end of the result
        high[axis] += tile - 1 if size is None else -size % tile
    down, along, width = (emit.ceil_div(size, tile) for size in (*window.out, window.widths[1]))
    return replace(
        window,
        kernel=(tile + TAPS - 1,) * 2,
        strides=(tile, tile),
        high=(high[0], high[1]),
        out=(down, along),
        widths=(window.widths[0], width),
    )


def transformed(weight: NDArray[Any], tile: int) -> NDArray[Any]:
    """Return `G w G'` of `weight[O, C, 3, 3]` as `[O, points * C]`, the points before channels."""
    matrix = np.array(_WEIGHT[tile])
    some = np.einsum("ai,ocij,bj->oabc", matrix, weight.astype(np.float64), matrix)
    out, inner = weight.shape[:2]
    result: NDArray[Any] = some.reshape(out, points(tile) * inner).astype(weight.dtype)
    return result


@dataclass(frozen=True)
class Tiling:
    """How the tiles of an image are cut into blocks: some rows, or a part of one row."""

    down: Dim  # rows of tiles
    along: Dim  # tiles of a row
    rows: Dim  # of a block
    parts: Dim  # of a row
    each: Dim  # tiles of a part
    most: int  # places of a block

    @classmethod
    def of(cls, window: Window, rows: int, most: int) -> Tiling:
        """Blocks of at most `rows` rows and `most` places; `window` is that of a tile.

        Where the sizes are known the rows and the places are: `rows`, and no more than they need.
        """
        down, along = window.out
        parts = emit.opaque(emit.ceil_div(along, most))
        each, width, height = emit.ceil_div(along, parts), emit.static(along), emit.static(down)
        columns = emit.static(window.columns)
        if width is not None and height is not None and columns is not None:
            assert isinstance(each, int)
            return cls(down, along, rows, parts, each, (rows - 1) * columns + each)
        fit = T.min(T.min(most // T.max(window.columns, 1), rows), emit.index(down))
        blocks = emit.opaque(emit.ceil_div(down, emit.opaque(T.max(fit, 1))))
        return cls(down, along, emit.opaque(emit.ceil_div(down, blocks)), parts, each, most)

    @property
    def blocks(self) -> Dim:
        """Of an image."""
        return emit.times(emit.ceil_div(self.down, self.rows), self.parts)

    def place(self, block: Expr) -> tuple[Expr, Dim, Expr, Dim]:
        """The first row of a block and how many it has, its first tile in them and how many.

        Blocks of a size that is known now overlap the one before instead of having fewer.
        """
        part, row = emit.index(0), block
        if emit.static(self.parts) != 1:
            part = emit.index(emit.opaque(block % emit.index(self.parts)))
            row = emit.index(emit.opaque(block // emit.index(self.parts)))
        top, some = emit.piece(row, self.rows, self.down)
        left, wide = emit.piece(part, self.each, self.along)
        return top, some, left, wide


class Tiles(Source):
    """Transformed tiles of every channel: for each point a matrix of channels and tiles.

    Which point a sweep reads is `point`. Tiles lie as the places of planes do: those between the
    rows of tiles are computed too, and thrown away.
    """

    def __init__(self, shape: Shape, tile: int, tiling: Tiling) -> None:
        super().__init__(shape, shape.inner, 1, points(tile))
        self.tile, lanes = tile, shape.lanes
        self.window = tile_window(shape.window, tile)
        self.plane = Plane(self.window, tiling.rows, lanes)
        self.pitch = -(-tiling.most // lanes) * lanes
        self.stride = shape.inner * self.pitch + lanes  # a line more: else points share cache sets
        self.buffer: Buffer = T.alloc_buffer((self.points * self.stride,), "float32")

    @property
    def columns(self) -> Dim:
        """Places from one row of tiles to the next."""
        return self.plane.columns

    def places(self, rows: Dim, along: Dim) -> Dim:
        """Tiles of so many rows, with those between the rows."""
        known = [emit.static(size) for size in (rows, along, self.columns)]
        if None not in known:
            count, wide, columns = (size or 0 for size in known)
            return (count - 1) * columns + wide
        return emit.opaque((emit.index(rows) - 1) * self.columns + along)

    def gather(self, element: Element, first: Expr, count: Dim, left: Expr, places: Dim) -> None:
        """Transform what `places` tiles read: of `count` rows from `first` on, from tile `left`."""
        lanes, side = self.shape.lanes, self.tile + TAPS - 1
        matrix, plane = _IMAGE[self.tile], self.plane
        plane.clear()
        with emit.loop(self.shape.inner) as channel:
            plane.copy(partial(element, channel), first, count)
            with emit.loop(emit.ceil_div(places, lanes)) as block:
                place = T.Bind(block * lanes)
                rows = [
                    [
                        emit.load(plane.buffer, place + left + plane.at(y, x), lanes)
                        for x in range(side)
                    ]
                    for y in range(side)
                ]
                at = T.Bind(channel * self.pitch + place)
                for number, value in enumerate(v for row in _both(matrix, rows) for v in row):
                    emit.save(self.buffer, at + number * self.stride, lanes, value)

    def sweep(self, panel: Expr, vectors: int, first: Expr, count: Dim, body: Body) -> None:
        """A loop over the channels of one point."""
        lanes, unroll = self.shape.lanes, min(self.shape.unroll, self.units)
        begin = T.Bind(self.point * self.stride + panel * self.shape.width)
        k0 = T.Bind(self.point * self.units)

        def step(k: Expr, number: int) -> None:
            at = begin + k * self.pitch
            pixels = [emit.load(self.buffer, at + v * lanes, lanes) for v in range(vectors)]
            body(T.Bind(k0 + k), [T.Bind(p) for p in pixels], None, number)

        self.unrolled(first, count, unroll, step)

    def results(self, sums: Buffer, start: Expr, put: Callable[[int, int, Expr], None]) -> None:
        """Call `put(row, column, value)` for vectors of the results of a vector of tiles.

        The sums of the points lie `apart` from `start` on; rows and columns count within the
        results of these tiles.
        """
        lanes, tile, side = self.shape.lanes, self.tile, self.tile + TAPS - 1
        rows = [
            [emit.load(sums, start + (y * side + x) * self.apart, lanes) for x in range(side)]
            for y in range(side)
        ]
        for y, row in enumerate(_both(_RESULT[tile], rows)):
            for part in range(0, tile * lanes, lanes):
                order = [n % tile * lanes + n // tile for n in range(part, part + lanes)]
                put(y, part, Shuffle(row, [emit.index(n) for n in order]))


def _both(matrix: Matrix, rows: list[list[Expr]]) -> list[list[Expr]]:
    """Return `M x M'` of a square of vectors."""
    columns = [_product(matrix, list(column)) for column in zip(*rows, strict=True)]
    return [_product(matrix, list(row)) for row in zip(*columns, strict=True)]


def _product(matrix: Matrix, values: list[Expr]) -> list[Expr]:
    """Return the product of a matrix of 0, 1 and -1 with a column of vectors."""
    results = []
    for row in matrix:
        plus, minus = ([v for f, v in zip(row, values, strict=True) if f == s] for s in (1, -1))
        total = sum(plus[1:], start=plus[0])
        for value in minus:
            total = total - value
        results.append(T.Bind(total))
    return results
