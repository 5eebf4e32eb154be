"""What a convolution is, how it is cut into pieces, and how its weight is packed for that."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from . import emit
from .window import Window

if TYPE_CHECKING:
    from tunesmith.ir.target import Machine

__all__ = ["ConvKnobs", "ConvWork", "default", "pack_weight", "packed_shape"]

# Of a block: its sums, of one tile of channels, stay in the first cache.
MOST_PIXELS = 384
MOST_PLACES = 512  # the same with those between rows


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
    panels: int = 4  # panels of pixels that one task gathers
    rows: int = 0  # rows of the result that one task gathers as planes; 0 for panels


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
        rows=0 if odd else _plane_rows(work, vectors * lanes, lanes, room),
    )


def _plane_rows(work: ConvWork, width: int, lanes: int, room: int) -> int:
    """Rows of a block of planes, or 0 if unrolled windows cost less.

    Planes compute the places between rows, whole vectors, and rows twice where blocks overlap;
    and they copy what lies over the edge of a block. Unrolling copies every window, for which all
    channels of the result pay once: measured, as much as 16 of them cost.
    """
    window = work.window
    sizes = [emit.static(d) for d in (*window.out, window.image[0], window.image[1])]
    if window.pointwise or None in sizes:
        return 0
    height, out_width, _, image_width = (d for d in sizes if d is not None)
    stride = window.strides[1]
    columns = -(-(image_width + window.low[1] + window.high[1]) // stride)
    phases = len(window.phases(0)) * len(window.phases(1))
    reach = max(map(window.reach, window.phases(0)))

    def cost(rows: int) -> float:
        vectors = -(-((rows - 1) * columns + out_width) // lanes)
        computed = vectors * lanes * -(-height // rows) / (height * out_width)
        return computed + 2.0 * (rows + reach) / rows / work.out

    fits = [
        rows
        for rows in range(1, height + 1)
        if rows * columns <= MOST_PLACES and work.inner * phases * (rows + reach) * columns <= room
    ]
    best = min(fits, key=cost, default=0)
    unrolled = 1.0 + 16.0 / work.out
    return best if best and cost(best) < unrolled else 0


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
