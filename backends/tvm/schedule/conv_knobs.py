"""What a convolution is, how it is cut into pieces, and how its weight is packed for that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from . import emit
from .knobs import Knobs, knob
from .window import Window

if TYPE_CHECKING:
    from tunesmith.ir.target import Machine

__all__ = [
    "COPYING",
    "MOST_PLACES",
    "UNROLLING",
    "ConvKnobs",
    "ConvWork",
    "default",
    "fits",
    "pack_weight",
    "packed_shape",
    "plane_room",
    "plane_sizes",
]

# Of a block: its sums, of one tile of channels, stay in the first cache.
MOST_PIXELS = 384
MOST_PLACES = 512  # the same with those between rows
UNROLLING = 16  # channels of the result that cost as much as to unroll every window once
COPYING = 2  # the same, to copy the rows once
_MOST_ROWS = 56  # of a block of planes whose size is known at run time only
_PAYS = 0.05  # of the time, that code for planes of such a size saves at best


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
class ConvKnobs(Knobs):
    """How a convolution is cut into pieces."""

    # channels of sums in registers; also the width of the packed weight
    tile_o: int = knob(8, 1, 2, 4, 6, 8, 12, 14)
    # vectors of pixels in registers
    vectors: int = knob(3, 0, 1, 2, 3, 4, 6, 8)
    # a panel has one more pixel, whose sums lie side by side by channel
    odd: bool = knob(False, False, True)
    # steps of K in the innermost loop
    unroll_k: int = knob(4, 1, 2, 4, 8)
    # steps of K that are summed before they are added to the result
    panel_k: int = knob(512, 64, 128, 256, 512, 1024)
    # panels of pixels that one task gathers
    panels: int = knob(4, 1, 2, 3, 4, 6, 8, 12, 16, 24)
    # rows of the result that one task gathers as planes; 0 for panels. Where sizes are known at
    # run time only these are the most, and there is code for panels too, if planes do not pay then
    rows: int = knob(0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 14, 20, 28, 40, 56)


def default(work: ConvWork, machine: Machine) -> ConvKnobs:
    """Fill the registers with sums, and gather what is cheaper: panels or planes.

    A step of a tile of `o` channels and `v` vectors is `o * v` multiplications against `v` loads
    and `o` broadcasts, so 8x3 of 32 registers and 4x3 of 16 are bound by arithmetic. Few channels
    leave registers for more vectors. Where images are 7x7, 14x14 or 28x28, multiples of 49 pixels,
    a panel of 49 leaves no vector half empty; of one to three pixels each is computed alone.
    Half of the second cache holds what is gathered.
    """
    lanes = emit.lanes_of(machine)
    tile_o = 8 if machine.vector_registers >= 32 else 4
    while tile_o // 2 >= work.out:
        tile_o //= 2
    vectors = min(8, machine.vector_registers * 3 // 4 // tile_o)
    pixels = emit.static(work.window.pixels)
    odd = False
    if pixels is not None:
        vectors = min(vectors, -(-pixels // lanes))
        if pixels < min(4, lanes):
            vectors, odd = 0, True
        elif tile_o > 1 and pixels % lanes and pixels % (vectors * lanes + 1) == 0:
            odd = True
    width = vectors * lanes + odd
    room = machine.l2_bytes // 2 // emit.FLOAT_BYTES
    panels = max(1, min(room // (work.depth * width), MOST_PIXELS // width))
    if pixels is not None:
        count = -(-pixels // width)
        blocks = -(-count // panels)
        blocks = -(-blocks // machine.cores) * machine.cores if blocks > 1 else 1
        panels = -(-count // min(blocks, count))
    return ConvKnobs(
        tile_o=tile_o,
        vectors=vectors,
        odd=odd,
        panel_k=1024 if work.depth <= 1024 else 512,
        panels=panels,
        rows=0 if odd else _plane_rows(work, lanes, room),
    )


def _plane_rows(work: ConvWork, lanes: int, room: int) -> int:
    """Rows of a block of planes, or 0 if unrolled windows cost less.

    Planes compute the places between rows, whole vectors, and rows twice where blocks overlap;
    and they copy what lies over the edge of a block. Unrolling copies every window, for which all
    channels of the result pay once: measured, as much as 16 of them cost. If sizes are known at
    run time only, `conv_planes.py` compares the same costs then, unless too little can come of it.
    """
    window = work.window
    if window.pointwise:
        return 0
    reach, unrolled = window.furthest, 1.0 + UNROLLING / work.out
    sizes = plane_sizes(window)
    if sizes is None:
        possible = work.inner * window.planes * (1 + reach) * lanes <= room
        return _MOST_ROWS if possible and (UNROLLING - COPYING) / work.out >= _PAYS else 0
    height, out_width, columns = sizes

    def cost(rows: int) -> float:
        vectors = -(-((rows - 1) * columns + out_width) // lanes)
        computed = vectors * lanes * -(-height // rows) / (height * out_width)
        return computed + COPYING * (rows + reach) / rows / work.out

    fits = [
        rows
        for rows in range(1, height + 1)
        if rows * columns <= MOST_PLACES
        and work.inner * window.planes * (rows + reach) * columns <= room
    ]
    best = min(fits, key=cost, default=0)
    return best if best and cost(best) < unrolled else 0


def plane_sizes(window: Window) -> tuple[int, int, int] | None:
    """Rows and columns of the result and columns of a plane; `None` if one is not known yet."""
    height, width = map(emit.static, window.out)
    image = [emit.static(size) for size in window.image]
    columns = emit.static(window.columns)
    if height is None or width is None or columns is None or None in image:
        return None
    return height, width, columns


def plane_room(work: ConvWork, machine: Machine) -> int:
    """Elements that a block of planes may have, of whatever size it is at run time."""
    window = work.window
    most = work.inner * window.planes * (1 + window.furthest) * MOST_PLACES
    return min(machine.l2_bytes // 2 // emit.FLOAT_BYTES, most)


def fits(work: ConvWork, machine: Machine, knobs: ConvKnobs) -> bool:
    """Whether the sums of a tile stay in registers, and what a block gathers in the second cache.

    Planes have no odd pixel. Where they are of known size there is no code for panels.
    """
    pixels, lanes = emit.static(work.window.pixels), emit.lanes_of(machine)
    width = knobs.vectors * lanes + knobs.odd
    sums = knobs.tile_o * knobs.vectors + knobs.odd * -(-knobs.tile_o // lanes)
    if not width or sums + knobs.vectors + 1 + knobs.odd > machine.vector_registers:
        return False
    if knobs.tile_o > 2 * work.out or (knobs.odd and knobs.tile_o == 1 and knobs.vectors):
        return False
    if pixels is not None and (knobs.vectors - 1) * lanes >= pixels:
        return False
    if knobs.odd and (pixels is None or pixels % width):
        return False  # the single pixel of a part of a panel would lie behind the image
    most = machine.l2_bytes // emit.FLOAT_BYTES
    window, sizes = work.window, plane_sizes(work.window)
    if not knobs.rows or sizes is None:
        planes = not knobs.odd and not window.pointwise
        return (not knobs.rows or planes) and (
            knobs.panels == 1 or work.depth * width * knobs.panels <= most
        )
    if knobs.odd or window.pointwise or knobs.panels != ConvKnobs.panels:
        return False
    height, _, columns = sizes
    gathered = work.inner * window.planes * (knobs.rows + window.furthest) * columns
    return knobs.rows <= height and knobs.rows * columns <= MOST_PLACES <= most >= gathered


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
