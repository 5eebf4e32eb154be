"""Knobs of kernels that pass over memory and sum no products: element by element, or row by row.

There is little to choose: how many elements are computed side by side, which hides the latency of
what is computed for each, and how much a task takes before the next thread has its turn.
"""

from __future__ import annotations

from dataclasses import dataclass

from tunesmith.ir.target import Machine

from .knobs import Knobs, knob

__all__ = ["ElementKnobs", "ElementWork", "RowKnobs", "RowWork", "default_elements", "default_rows",
           "fits_elements", "fits_rows"]  # fmt: skip

_LEAST = 4  # lanes: no vector of a machine has fewer


@dataclass(frozen=True)
class ElementWork:
    """What is written: `size` elements, 0 if it is not known, and whether as one run of chunks."""

    size: int
    flat: bool


@dataclass(frozen=True)
class RowWork:
    """`rows` of `length` elements, 0 if it is not known; a `fold` keeps no row in memory."""

    rows: int
    length: int
    fold: bool
    shared: bool  # whether threads share the rows


@dataclass(frozen=True, kw_only=True)
class ElementKnobs(Knobs):
    """`lanes` elements are computed side by side; a task takes `chunk` of them."""

    lanes: int = knob(16, 4, 8, 16, 32, 64)
    chunk: int = knob(4096, 1024, 4096, 16384, 65536)


@dataclass(frozen=True, kw_only=True)
class RowKnobs(Knobs):
    """`lanes` columns side by side; sums run in `ways` of these; a task takes `rows`."""

    lanes: int = knob(16, 4, 8, 16, 32, 64)
    ways: int = knob(4, 1, 2, 4, 8)
    rows: int = knob(8, 1, 2, 4, 8, 16, 32)


def default_elements(machine: Machine) -> ElementKnobs:
    """One vector: the processor overlaps the next ones by itself. A chunk fills half of the L1."""
    return ElementKnobs(lanes=machine.vector_bytes // 4)


def fits_elements(work: ElementWork, machine: Machine, knobs: ElementKnobs) -> bool:
    """Up to four vectors side by side; chunks only where there are any."""
    chunk = work.flat or knobs.chunk == default_elements(machine).chunk
    return chunk and _lanes_fit(knobs.lanes, machine)


def default_rows(work: RowWork, machine: Machine) -> RowKnobs:
    """One vector in four ways: an addition takes four cycles, and two begin in each.

    A fold ends by adding its lanes one after the other, which is most of a short row: there are
    as many as make the chain of additions shortest.
    """
    whole = machine.vector_bytes // 4
    if not work.fold or not work.length:
        return RowKnobs(lanes=whole)

    def chain(knobs: RowKnobs) -> int:
        return -(-work.length // (knobs.lanes * knobs.ways)) + knobs.lanes + knobs.ways // 2

    tried = [
        RowKnobs(lanes=lanes, ways=ways)
        for lanes in (4, 8, 16, 32) if lanes <= whole
        for ways in (4, 2, 1)
    ]  # fmt: skip
    return min(tried, key=chain)


def fits_rows(work: RowWork, machine: Machine, knobs: RowKnobs) -> bool:
    """Sums stay in registers and are used; tasks of several rows only where threads share them."""
    default = default_rows(work, machine)
    wide = knobs.lanes * knobs.ways
    used = not work.length or wide <= max(work.length, machine.vector_bytes)
    held = wide * 4 <= machine.vector_bytes * machine.vector_registers // 2
    return (
        _lanes_fit(knobs.lanes, machine)
        and used
        and held
        and (work.shared or knobs.rows == default.rows)
    )


def _lanes_fit(lanes: int, machine: Machine) -> bool:
    return _LEAST <= lanes <= machine.vector_bytes  # four vectors of four bytes an element
