"""Convolutions one after the other, by strips of rows: what is between them stays in the cache.

Each task computes some rows of the last result, and before that the rows of each result that these
read, into memory of its own. A window of several rows makes neighbouring strips compute a few rows
twice; that is the price of never writing, nor reading, a result that no cache holds (Alwani et al.,
"Fused-layer CNN accelerators", 2016).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from . import emit
from .conv_costs import ConvWork, plane_sizes
from .knobs import Knobs, knob

if TYPE_CHECKING:
    from tunesmith.ir.target import Machine

__all__ = ["StripKnobs", "StripWork", "default", "fits", "held_rows", "pays"]

_MOVING = 4  # multiplications in the time that a byte takes on its way to memory or back


@dataclass(frozen=True, kw_only=True)
class StripKnobs(Knobs):
    """How an image is cut into strips."""

    # of the last result
    rows: int = knob(8, 1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 28, 32, 40, 56, 80)


@dataclass(frozen=True, kw_only=True)
class StripWork:
    """Convolutions of known sizes, the first one first; each reads nothing else before it."""

    images: int  # 1 where it is known at run time only
    stages: tuple[ConvWork, ...]

    @property
    def height(self) -> int:
        """Rows of the last result."""
        return _sizes(self.stages[-1])[0]

    @property
    def before(self) -> StripWork:
        """The chain without its last convolution."""
        return replace(self, stages=self.stages[:-1])

    def held(self, rows: int) -> int:
        """Bytes of what a strip has between its convolutions, and of the weights it passes over."""
        between = zip(self.stages[:-1], held_rows(self.stages, rows)[:-1], strict=True)
        weights = sum(stage.groups * stage.out * stage.depth for stage in self.stages)
        images = sum(count * _row_bytes(stage) for stage, count in between)
        return images + weights * emit.FLOAT_BYTES

    def moved(self) -> int:
        """Bytes that go to memory and come back if each is a kernel of its own."""
        return self.images * sum(
            2 * _sizes(stage)[0] * _row_bytes(stage) for stage in self.stages[:-1]
        )

    def products(self, rows: int) -> int:
        """Multiplications of a strip."""
        return sum(
            count * _sizes(stage)[1] * stage.groups * stage.out * stage.depth
            for stage, count in zip(self.stages, held_rows(self.stages, rows), strict=True)
        )


def held_rows(stages: Sequence[ConvWork], rows: int) -> list[int]:
    """Rows of each result that a strip computes, for so many of the last one."""
    result = [rows]
    for stage in reversed(stages[1:]):
        window, height = stage.window, emit.static(stage.window.image[0])
        assert height is not None
        reach = (result[0] - 1) * window.strides[0] + (window.kernel[0] - 1) * window.dilations[0]
        result.insert(0, min(height, reach + 1))
    return result


def default(work: StripWork, machine: Machine) -> StripKnobs:
    """The rows with which the busiest core has least to multiply, within the second cache."""
    return StripKnobs(rows=_best(work, machine, machine.l2_bytes)[1])


def fits(work: StripWork, machine: Machine, knobs: StripKnobs) -> bool:
    """Whether there are so many rows, and what a strip holds is in the second cache."""
    return knobs.rows <= work.height and work.held(knobs.rows) <= machine.l2_bytes


def pays(work: StripWork, machine: Machine) -> bool:
    """Whether the last convolution costs less in the chain than what is before it in memory does.

    What half of a second cache holds between two kernels need not go to memory at all. Several of
    them hold no more of use: which core reads a part is not which core wrote it. Beyond that, more
    rows are computed twice the longer a chain is.
    """
    least = _least(work, machine)
    if work.moved() // 2 < machine.l2_bytes // 2 or math.isinf(least):
        return False
    alone = replace(work, stages=work.stages[-1:])
    apart = _least(work.before, machine) + _least(alone, machine)
    saved = work.moved() - work.before.moved()
    return (least - apart) * machine.cores < saved * _MOVING


def _least(work: StripWork, machine: Machine) -> float:
    """The multiplications of a core, of a chain or of one convolution, which is cut at will.

    A chain is weighed by strips that leave half of the second cache to what passes through it.
    """
    if len(work.stages) > 1:
        return _best(work, machine, machine.l2_bytes // 2)[0]
    return work.images * work.products(work.height) / machine.cores


def _best(work: StripWork, machine: Machine, room: int) -> tuple[float, int]:
    """The least multiplications of a core, and the rows of a strip; infinite if none fits.

    A strip holds `room` bytes at most.
    """
    best = (math.inf, 1)
    for rows in range(1, work.height + 1):
        if work.held(rows) > room:
            break
        strips = work.images * -(-work.height // rows)
        cost = -(-strips // machine.cores) * work.products(rows)
        if cost <= best[0]:
            best = (cost, rows)
    return best


def _sizes(work: ConvWork) -> tuple[int, int]:
    sizes = plane_sizes(work.window)
    assert sizes is not None, "strips are of known sizes"
    return sizes[0], sizes[1]


def _row_bytes(work: ConvWork) -> int:
    return work.groups * work.out * _sizes(work)[1] * emit.FLOAT_BYTES
