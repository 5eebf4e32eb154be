"""How the fp32 product with a packed weight is cut into pieces, from the machine alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from . import emit
from .knobs import Knobs, knob

if TYPE_CHECKING:
    from tunesmith.ir.target import Machine

__all__ = [
    "CACHE_LINE",
    "FEW_TILES",
    "GemmKnobs",
    "GemmWork",
    "default",
    "fits",
    "pack_weights",
    "packed_shape",
    "padded_columns",
]

CACHE_LINE = 64  # bytes
FEW_TILES = 6  # of rows
_READING = 4  # rows up to which a product waits for its weight


@dataclass(frozen=True, kw_only=True)
class GemmWork:
    """Products of the same rows: `rows` is `None` if it is only known at run time.

    `cols` is of all of them. Where there are several, `results` has the columns of each product of
    each result; all results are of the same number of products, and those of one equally wide.
    `weight_bytes` is of one element of the weight.
    """

    rows: int | None
    inner: int
    cols: int
    results: tuple[tuple[int, ...], ...] = ()
    weight_bytes: int = emit.FLOAT_BYTES

    @property
    def together(self) -> int:
        """How many products a result is of."""
        return len(self.results[0]) if self.results else 1

    def units(self, tile_n: int) -> int:
        """Tiles of `tile_n` columns of all results together."""
        results = self.results or ((self.cols,),)
        return sum(-(-products[0] // tile_n) for products in results)


@dataclass(frozen=True, kw_only=True)
class GemmKnobs(Knobs):
    """How a product is cut into pieces."""

    # rows of sums in registers
    tile_m: int = knob(8, 4, 5, 6, 7, 8, 9, 10, 12, 14)
    # columns of sums in registers; also the width of a packed panel
    tile_n: int = knob(48, 8, 16, 24, 32, 48, 64, 96)
    # steps of K in the innermost loop
    unroll_k: int = knob(4, 1, 2, 4, 8, 16)
    # steps of K that are summed before they are added to the result
    panel_k: int = knob(512, 128, 192, 256, 384, 512, 768, 1024)
    # rows that one task computes
    block_m: int = knob(128, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384)
    # cache lines of the next panel that a row tile asks for at a time
    prefetch: int = knob(2, 0, 1, 2, 3, 4, 6)
    # the same for fewer than half of `FEW_TILES`, where that shows at run time only; half as many
    # for fewer than `FEW_TILES`
    prefetch_few: int = knob(0, 0, 2, 4, 6, 8)
    # places of K that a tile of few rows reads in turn, where it has several sums
    streams: int = knob(4, 1, 4)
    # panels of a result that one task computes; if several, K is walked over once for all
    chunk: int = knob(1, 1, 2, 3, 4, 6, 8, 12, 16)


_VALUES = GemmKnobs.values()


def default(work: GemmWork, machine: Machine) -> GemmKnobs:
    """Fill the registers with sums, and let as few padded columns as possible be computed.

    A tile of `m` rows and `v` vectors needs `m * v` registers for sums, `v` for the weight and one
    for the broadcast. With 32 registers that is 8x3 or 6x4 or 12x2, with 16 it is 4x3 or 6x2; a
    step costs `m * v / 2` cycles of arithmetic against `(m + v) / 2` of loads, so all but `v == 1`
    are bound by arithmetic. Of those the one wins that pads `cols` least. `panel_k` bounds the
    growth of rounding errors: up to 1024 terms are summed in one go. A panel of the weight is
    streamed once per row tile, at most 16 bytes a cycle, which the second cache delivers. The rows
    of a block are read once per panel, so `block_m` rows fill three eighths of that cache: two
    panels and what is stored need room too; less where panels alone do not feed the cores evenly.
    Row tiles share out the lines of the next panel that they ask for. Where their number is not
    known, two each serve 48 rows; fewer rows, and fewer than half as many, have code of their own.
    """
    lanes = emit.lanes_of(machine)
    vectors, tile_m, _ = _tile(work, machine)
    panels = work.units(vectors * lanes)
    even = panels % machine.cores == 0 or panels >= 16 * machine.cores
    rows = max(64, machine.l2_bytes * 3 // 8 // (emit.FLOAT_BYTES * work.inner))
    lines = -(-GemmKnobs.unroll_k * vectors * lanes * work.weight_bytes // CACHE_LINE)
    knobs = GemmKnobs(
        tile_m=tile_m,
        tile_n=vectors * lanes,
        panel_k=1024 if work.inner <= 1024 else 512,
        block_m=rows if even else min(rows, 32),
        streams=machine.streams,
    )
    knobs = replace(knobs, panel_k=_within("panel_k", knobs, work.inner))
    if work.inner > 1024:
        knobs = _deep(work, knobs, panels, machine)
    if work.rows is None:
        return replace(knobs, prefetch_few=-(-lines // 2))
    tiles = max(1, min(work.rows, knobs.block_m) // tile_m)
    prefetch = max(1, -(-lines // tiles)) if _cut(work.rows, work, knobs)[1] == 1 else 0
    return replace(knobs, prefetch=prefetch, block_m=_within("block_m", knobs, work.rows))


def _within(name: str, knobs: GemmKnobs, most: int) -> int:
    """A knob's value, or of those that ask for `most` or more, which are all the same, the least.

    That is the least one in the list of its values, or `most` if they all are below.
    """
    value: int = getattr(knobs, name)
    if value < most:
        return value
    return min((each for each in _VALUES[name] if each >= most), default=most)


def _cut(rows: int, work: GemmWork, knobs: GemmKnobs) -> tuple[int, int]:
    """Rows of a tile, and its independent sums: several if there are few rows.

    See `gemm.emit_gemm` and `gemm.panel`.
    """
    height = -(-max(1, rows) // -(-max(1, rows) // knobs.tile_m))
    return height, max(1, min(knobs.unroll_k, work.inner, knobs.tile_m // height))


def padded_columns(work: GemmWork, machine: Machine) -> int:
    """Columns that the default tile computes, in per cent by how well it uses the machine."""
    return _tile(work, machine)[2]


def _tile(work: GemmWork, machine: Machine) -> tuple[int, int, int]:
    """Vectors and rows of the tile that pads the columns least, and what they then amount to."""
    shapes = {3: (8, 100), 4: (6, 101), 2: (12, 102), 1: (14, 115)}
    if machine.vector_registers < 32:
        shapes = {2: (6, 100), 3: (4, 101), 1: (8, 115)}
    if work.rows is not None and work.rows <= _READING and machine.streams == 1:
        shapes = {1: (8, 100)}

    def cost(vectors: int) -> int:
        tile_n = vectors * emit.lanes_of(machine)
        return work.units(tile_n) * work.together * tile_n * shapes[vectors][1]

    vectors = min(shapes, key=cost)
    return vectors, shapes[vectors][0], cost(vectors)


def _deep(work: GemmWork, knobs: GemmKnobs, panels: int, machine: Machine) -> GemmKnobs:
    """Where a block's rows and a panel leave the second cache, let a task walk over K once.

    It then has several panels, whose sums wait in memory: rows of one K panel take a third of the
    cache, the sums a quarter.
    """
    if work.rows is not None and work.rows <= knobs.tile_m:
        return knobs
    cache = machine.l2_bytes // emit.FLOAT_BYTES
    rows = min(work.rows or 64, knobs.block_m)
    if (rows + knobs.tile_n * work.together) * work.inner * 2 <= cache:
        return knobs
    depth = 768
    block = max(64, cache // 3 // depth // knobs.tile_m * knobs.tile_m)
    if work.rows is not None:
        block = min(block, -(-work.rows // knobs.tile_m) * knobs.tile_m)
    most = max(1, cache // 4 // (block * knobs.tile_n * work.together))
    rounds = -(-panels // (most * machine.cores))
    chunk = -(-panels // (rounds * machine.cores))
    return replace(knobs, panel_k=depth, block_m=block, chunk=chunk) if chunk > 1 else knobs


def fits(work: GemmWork, machine: Machine, knobs: GemmKnobs) -> bool:
    """Whether the sums of a tile stay in registers, and no knob asks for what is not there.

    The default does not, so a search that changes one knob or two can leave it; and what differs
    from it by one knob is other code, but for blocks and for parts of K of which there are as many.
    """
    lanes = emit.lanes_of(machine)
    vectors = knobs.tile_n // lanes
    return (
        knobs.tile_n % lanes == 0
        and knobs.tile_m * vectors + vectors + 1 <= machine.vector_registers
        and knobs.panel_k == _within("panel_k", knobs, work.inner)
        and knobs.chunk <= work.units(knobs.tile_n)
        and knobs.unroll_k <= max(work.inner, GemmKnobs.unroll_k)
        and (
            knobs.tile_m <= knobs.block_m
            if work.rows is None
            else _fits_rows(work, work.rows, machine, knobs)
        )
    )


def _fits_rows(work: GemmWork, rows: int, machine: Machine, knobs: GemmKnobs) -> bool:
    """The same for what depends on the number of rows, which is known."""
    height, sets = _cut(rows, work, knobs)
    usual = _tile(work, machine)[1]
    same = (height, sets) == _cut(rows, work, replace(knobs, tile_m=usual))
    return (
        (knobs.tile_m == usual or not same)
        and height <= knobs.block_m == _within("block_m", knobs, rows)
        and not knobs.prefetch_few
        and not (sets > 1 and knobs.prefetch)
        and (sets > 1 or knobs.streams == machine.streams)
    )


def packed_shape(shapes: Sequence[tuple[int, ...]], knobs: GemmKnobs) -> tuple[int, int, int]:
    """The shape of what `pack_weights` returns for weights of these shapes."""
    panels = sum(-(-cols // knobs.tile_n) for _, cols in shapes)
    return panels, shapes[0][0], knobs.tile_n


def pack_weights(
    weights: Sequence[NDArray[Any]], knobs: GemmKnobs, together: int = 1
) -> NDArray[Any]:
    """Return weights `[K, N_i]` as panels `[sum(ceil(N_i / tile_n)), K, tile_n]`, each padded.

    Padding is zeros. The panels of `together` neighbours, which are equally wide, take turns.
    """
    width = knobs.tile_n
    packed = np.empty(packed_shape([w.shape for w in weights], knobs), weights[0].dtype)
    first = 0
    for number in range(0, len(weights), together):
        some = weights[number : number + together]
        panels = -(-some[0].shape[1] // width)
        for place, weight in enumerate(some):
            mine = packed[first + place : first + panels * together : together]
            whole, rest = divmod(weight.shape[1], width)
            # at once: a thread that packs gets the interpreter back late after each copy
            each = weight[:, : whole * width].reshape(len(weight), whole, width)
            np.copyto(mine[:whole], each.transpose(1, 0, 2))
            if rest:
                mine[whole, :, :rest] = weight[:, whole * width :]
                mine[whole, :, rest:] = 0
        first += panels * together
    return packed
