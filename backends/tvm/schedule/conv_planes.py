"""Planes or panels, and how many rows a block has, where sizes are known at run time only."""

from __future__ import annotations

from dataclasses import dataclass

from tvm.ir import Expr
from tvm.tirx.script import builder as T

from . import emit
from .conv_costs import COPYING, MOST_PLACES, UNROLLING, ConvWork

__all__ = ["Choice", "choose"]


@dataclass(frozen=True)
class Choice:
    """Rows of a block of planes, blocks of an image, and whether they cost less than panels."""

    rows: Expr
    blocks: Expr
    pays: Expr


def choose(work: ConvWork, most_rows: int, room: int, lanes: int) -> Choice:
    """Compare costs by code that computes products of integers: the same ones as for one core.

    A block has as many rows as leave its places below `MOST_PLACES` and what it gathers below
    `room` elements, at most `most_rows`; then all blocks get about as many. The last one may have
    fewer: unlike blocks of a size that is known now, it computes no row twice.
    """
    window = work.window
    height, width = map(emit.index, window.out)
    reach = window.furthest
    columns = T.max(emit.index(emit.opaque(window.columns)), 1)
    held = room // (work.inner * window.planes)  # places of one plane
    fit = T.min(MOST_PLACES // columns, held // columns - reach)
    most = T.max(T.min(T.min(height, most_rows), fit), 1)
    blocks = emit.index(emit.opaque((height + (most - 1)) // most))
    rows = emit.index(emit.opaque((height + (blocks - 1)) // T.max(blocks, 1)))

    def computed(some: Expr) -> Expr:
        return ((some - 1) * columns + width + (lanes - 1)) // lanes * lanes

    last = height - (blocks - 1) * rows
    places = computed(rows) * (blocks - 1) + computed(last)
    planes = places * work.out + COPYING * (height + blocks * reach) * width
    cheaper = planes < (work.out + UNROLLING) * height * width
    return Choice(rows, blocks, T.And(fit >= 1, cheaper))
