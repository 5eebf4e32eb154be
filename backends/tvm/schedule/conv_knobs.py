"""How a convolution is cut into pieces, from the machine alone, and its weight packed for that."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from . import emit
from .conv_costs import (
    COPYING,
    MOST_PLACES,
    UNROLLING,
    ConvWork,
    Cut,
    best_rows,
    cost_of,
    cost_of_panels,
    cut,
    even_panels,
    filtered,
    plane_sizes,
    room_of,
    tile_places,
)
from .knobs import Knobs, knob
from .winograd import points, tile_window, transformed

if TYPE_CHECKING:
    from tunesmith.ir.target import Machine

__all__ = ["ConvKnobs", "default", "fits", "pack_weight", "packed_shape"]

MOST_PIXELS = 384  # of a block: its sums, of one tile of channels, stay in the first cache
TILE = 2  # results in a row of one of Winograd's tiles
_MOST_ROWS = 56  # of a block whose size is known at run time only
_LEAST_VECTORS = 4  # of tiles that a block has room for, where sizes are known at run time only
_PAYS = 0.05  # of the time, that code for planes of such a size saves at best


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
    # results in a row and a column of Winograd's tiles, of which `rows` then counts the rows; 0 for
    # windows as they are
    tile: int = knob(0, 0, 2)


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
            odd = machine.vector_registers >= 32
    width = vectors * lanes + odd
    panels = max(1, min(room_of(machine) // (work.depth * width), MOST_PIXELS // width))
    if pixels is not None:
        even = emit.static(even_panels(-(-pixels // width), panels, machine.cores))
        assert even is not None
        panels = even
    knobs = ConvKnobs(
        tile_o=tile_o,
        vectors=vectors,
        odd=odd,
        panel_k=1024 if work.depth <= 1024 else 512,
        panels=panels,
    )
    return _cheapest(work, knobs, machine)


def _cheapest(work: ConvWork, knobs: ConvKnobs, machine: Machine) -> ConvKnobs:
    """Unrolled windows, planes or Winograd's tiles: that whose busiest core has least to do.

    Where sizes are known at run time only, planes and unrolled windows are compared then, by the
    same costs (`conv_planes.py`), unless too little can come of it. Tiles have a weight of their
    own, so they are either taken for all sizes or for none.
    """
    window, room = work.window, room_of(machine)
    if window.pointwise:
        return knobs
    tile = TILE if filtered(window) and tile_places(work, TILE, machine) else 0
    if plane_sizes(window) is None:
        if tile and _tiles_pay(work, tile, machine):
            return replace(knobs, odd=False, rows=_MOST_ROWS, tile=tile)
        lanes = emit.lanes_of(machine)
        possible = work.inner * window.planes * (1 + window.furthest) * lanes <= room
        possible = possible and not knobs.odd  # planes have no odd pixel
        pays = possible and (UNROLLING - COPYING) / work.out >= _PAYS
        return replace(knobs, rows=_MOST_ROWS) if pays else knobs
    assert isinstance(window.pixels, int)
    width = knobs.vectors * emit.lanes_of(machine) + knobs.odd
    least = cost_of_panels(work, window.pixels, width, knobs.panels, knobs.tile_o, machine)
    best = knobs
    cost, rows = best_rows(work, 0, lambda _: knobs.tile_o, machine)
    if cost < least:
        least, best = cost, replace(knobs, odd=False, rows=rows, panels=ConvKnobs.panels)
    if tile:

        def registers(some: Cut) -> tuple[int, int]:
            return _registers(work, -(-some.places // some.lanes), machine)

        cost, rows = best_rows(work, tile, lambda some: registers(some)[0], machine)
        if cost < least:
            tile_o, vectors = registers(cut(work, tile, rows, machine))
            best = replace(knobs, tile_o=tile_o, vectors=vectors, odd=False, rows=rows, tile=tile)
            best = replace(best, panels=ConvKnobs.panels)
    return best


def _tiles_pay(work: ConvWork, tile: int, machine: Machine) -> bool:
    """Whether tiles cost less for most sizes that an image can have.

    Not where few fit into a block, whose vectors would be half empty for small images and whose
    rows, for large ones, would be cut into many parts; nor where an image is one row.
    """
    few = tile_places(work, tile, machine) < _LEAST_VECTORS * emit.lanes_of(machine)
    low = any(size == 1 for size in map(emit.static, work.window.out))
    cheaper = cost_of(work, 1, 1, tile) < cost_of(work, tile**2, tile**2)
    return cheaper and not few and not low


def _registers(work: ConvWork, vectors: int, machine: Machine) -> tuple[int, int]:
    """The sums in registers that cover so many vectors of tiles in the fewest cycles.

    A step takes half a cycle for a multiplication and for a load each, which go side by side.
    """
    shapes: tuple[tuple[int, int], ...] = ((8, 3), (6, 4), (12, 2), (14, 1))
    if machine.vector_registers < 32:
        shapes = ((4, 3), (6, 2), (8, 1))

    def cost(shape: tuple[int, int]) -> float:
        tile_o, wide = shape
        parts = [wide] * (vectors // wide) + [vectors % wide] * bool(vectors % wide)
        cycles = sum(max(tile_o * part, tile_o + part) for part in parts)
        return cycles * -(-work.out // tile_o)

    tile_o, wide = min(shapes, key=cost)
    return tile_o, min(wide, vectors)


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
    if knobs.tile:
        return knobs.rows > 0 and not knobs.odd and _tiles_fit(work, machine, knobs)
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


def _tiles_fit(work: ConvWork, machine: Machine, knobs: ConvKnobs) -> bool:
    """Whether the transformed tiles of a block fit into the second cache."""
    if not filtered(work.window) or not tile_places(work, knobs.tile, machine):
        return False
    sizes = plane_sizes(tile_window(work.window, knobs.tile))
    if sizes is None:
        return True
    some = cut(work, knobs.tile, knobs.rows, machine)
    held = some.places * points(knobs.tile) * work.inner * emit.FLOAT_BYTES
    return (
        knobs.rows <= sizes[0]
        and (some.parts == 1 or knobs.rows == 1)
        and held <= machine.l2_bytes
        and knobs.panels == ConvKnobs.panels
    )


def _packed_depth(work: ConvWork, knobs: ConvKnobs) -> int:
    return points(knobs.tile) * work.inner if knobs.tile else work.depth


def packed_shape(work: ConvWork, knobs: ConvKnobs) -> tuple[int, int, int]:
    """The shape of what `pack_weight` returns."""
    tiles = work.groups * -(-work.out // knobs.tile_o)
    return (tiles, _packed_depth(work, knobs), knobs.tile_o)


def pack_weight(weight: NDArray[Any], work: ConvWork, knobs: ConvKnobs) -> NDArray[Any]:
    """Return `weight[O, C, kernel…]` as tiles `[groups * ceil(out / tile_o), K, tile_o]`."""
    tiles, depth = -(-work.out // knobs.tile_o), _packed_depth(work, knobs)
    if knobs.tile:
        weight = transformed(weight, knobs.tile)
    padded = np.zeros((work.groups, tiles * knobs.tile_o, depth), weight.dtype)
    padded[:, : work.out] = weight.reshape(work.groups, work.out, depth)
    tiled = padded.reshape(work.groups * tiles, knobs.tile_o, depth)
    return np.ascontiguousarray(tiled.transpose(0, 2, 1))
