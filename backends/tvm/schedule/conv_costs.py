"""What a convolution is, and what each way to compute it costs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tvm.tirx import And, Select

from . import emit
from .window import Window
from .winograd import TAPS, points, tile_window

if TYPE_CHECKING:
    from tunesmith.ir.target import Machine

__all__ = [
    "COPYING",
    "MOST_PLACES",
    "UNROLLING",
    "ConvWork",
    "Cut",
    "best_rows",
    "cost_of",
    "cost_of_panels",
    "costs_of",
    "cut",
    "even_panels",
    "filtered",
    "plane_room",
    "plane_sizes",
    "room_of",
    "shares",
    "tile_places",
]

MOST_PLACES = 512  # of a block: its sums, of one tile of channels, stay in the first cache
UNROLLING = 16  # channels of the result that cost as much as to unroll every window once
COPYING = 2  # the same, to copy the rows once
INTO, OUT_OF = 7, 9  # multiplications that it costs as much as to transform one point of a tile


@dataclass(frozen=True, kw_only=True)
class ConvWork:
    """One convolution: channels of each group, and what a window reads."""

    groups: int
    inner: int  # channels that are summed, of one group
    out: int  # channels of the result, of one group
    window: Window

    @property
    def taps(self) -> int:
        """Elements of a window in one channel."""
        return self.window.kernel[0] * self.window.kernel[1]

    @property
    def depth(self) -> int:
        """Products that are summed for one element of the result."""
        return self.inner * self.taps


@dataclass(frozen=True)
class Cut:
    """How an image of known size is cut: places of a block, and how many there are of each."""

    lanes: int
    places: int  # of a block, with those between its rows
    width: int  # elements, or tiles, of a row of a block
    blocks: int  # from top to bottom
    parts: int  # from left to right

    @property
    def computed(self) -> int:
        """Places in whole vectors, of all blocks."""
        return -(-self.places // self.lanes) * self.lanes * self.blocks * self.parts


def cut(work: ConvWork, tile: int, rows: int, machine: Machine) -> Cut:
    """Blocks of so many rows; a row of tiles that does not fit into one is cut into even parts."""
    sizes = plane_sizes(tile_window(work.window, tile) if tile else work.window)
    assert sizes is not None
    height, width, columns = sizes
    parts = max(1, -(-width // tile_places(work, tile, machine))) if tile else 1
    each = -(-width // parts)
    places = (rows - 1) * columns + each
    return Cut(emit.lanes_of(machine), places, each, -(-height // rows), parts)


def best_rows(
    work: ConvWork, tile: int, tile_o: Callable[[Cut], int], machine: Machine
) -> tuple[float, int]:
    """The least cost of planes, or of tiles, and the rows of a block; infinite if none fits.

    `tile_o` says how many channels are summed together where an image is cut like this.
    """
    window = tile_window(work.window, tile) if tile else work.window
    sizes = plane_sizes(window)
    assert sizes is not None
    height, _, columns = sizes
    room = tile_places(work, tile, machine) if tile else room_of(machine)
    best = (math.inf, 0)
    for rows in range(1, height + 1):
        some = cut(work, tile, rows, machine)
        planes = work.inner * window.planes * (rows + window.furthest) * columns
        held = some.places if tile else planes
        if held > room or (rows * columns > MOST_PLACES and not tile):
            break
        copied = (rows + window.furthest) * some.width * some.parts
        blocks = some.blocks * some.parts
        each = costs_of(work, some.computed // blocks, copied, tile)
        best = min(best, (on_the_busiest(work, each, blocks, tile_o(some), machine), rows))
    return best


def cost_of_panels(
    work: ConvWork, pixels: int, width: int, most: int, tile_o: int, machine: Machine
) -> float:
    """What unrolled windows cost: blocks of at most so many panels of `width` pixels."""
    blocks = -(-max(1, -(-pixels // width)) // most)
    each = pixels / blocks * work.depth
    return on_the_busiest(work, (each * work.out, each * UNROLLING), blocks, tile_o, machine)


def on_the_busiest(
    work: ConvWork, costs: tuple[float, float], blocks: int, tile_o: int, machine: Machine
) -> float:
    """What so many blocks of a group cost, as if all cores had as much to do as one of them has.

    `costs` of each block are what all channels cost together, and what each part of them pays
    again. Parts have whole tiles of `tile_o` channels, and all tasks are shared out in order; it is
    that of one image.
    """
    tiles, tasks = -(-work.out // tile_o), blocks * work.groups
    parts = shares(tasks, tiles, machine.cores)
    assert isinstance(parts, int)
    rounds = -(-tasks * parts // machine.cores)
    together, again = costs
    most = together * -(-tiles // parts) / tiles + again
    return most * rounds * machine.cores / work.groups


def shares(total: emit.Dim, tiles: int, cores: int) -> emit.Dim:
    """In how many parts channels are shared out where there are so many blocks.

    Too few blocks leave cores idle.
    """
    limit, known = min(cores, tiles), emit.static(total)
    if limit == 1:
        return 1
    if known is None:
        some = emit.index(total)
        uneven = And(some < 8 * cores, some % cores != 0)
        return Select(uneven, emit.index(limit), emit.index(1))
    return limit if known < 8 * cores and known % cores else 1


def cost_of(work: ConvWork, places: int, copied: int, tile: int = 0) -> float:
    """Multiplications that take as long as computing and copying so many places."""
    return sum(costs_of(work, places, copied, tile))


def costs_of(work: ConvWork, places: int, copied: int, tile: int = 0) -> tuple[float, float]:
    """What all channels of the result cost together, and what each part of them pays again.

    Planes compute the places between rows, whole vectors, and rows twice where blocks overlap;
    and they copy what lies over the edge of a block. Unrolling copies every window, for which all
    channels of the result pay once: measured, as much as 16 of them cost. Tiles multiply less and
    transform what they read and what they give; a place is a whole tile then.
    """
    if not tile:
        return places * work.out * work.depth, COPYING * copied * work.depth
    each = points(tile) * places
    again = each * INTO * work.inner + COPYING * copied * tile**2 * work.depth
    return each * (work.inner + OUT_OF) * work.out, again


def filtered(window: Window) -> bool:
    """Whether Winograd's tiles can stand for the window."""
    plain = window.strides == (1, 1) and window.dilations == (1, 1)
    return plain and window.kernel == (TAPS, TAPS)


def tile_places(work: ConvWork, tile: int, machine: Machine) -> int:
    """Winograd's tiles of a block at most: transformed they fill half of the second cache."""
    lanes = emit.lanes_of(machine)
    most = room_of(machine) // (work.inner * points(tile))
    return min(most, MOST_PLACES) // lanes * lanes


def even_panels(count: emit.Dim, most: int, cores: int) -> emit.Dim:
    """Panels of a block where an image has `count`, at most `most` and about even in all blocks.

    Blocks are as many for each core, so that none waits for a block that is nearly empty.
    """
    blocks = emit.ceil_div(count, most)
    even = emit.times(emit.ceil_div(blocks, cores), cores)
    known = emit.static(blocks)
    if known is None:
        even = Select(emit.index(blocks) > 1, emit.index(even), emit.index(1))
    elif known <= 1:
        even = 1
    return emit.ceil_div(count, emit.minimum(even, count))


def room_of(machine: Machine) -> int:
    """Elements that a block gathers at most: half of the second cache."""
    return machine.l2_bytes // 2 // emit.FLOAT_BYTES


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
    return min(room_of(machine), most)
