"""One kernel by itself: built with other knobs, run beside the one it may replace, and timed.

Nothing here decides anything; `autotune` does. What builds and what runs are processes of their
own, forked from one that has TVM in memory and has never run a kernel.
"""

from __future__ import annotations

import functools
import math
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm import tirx

from tunesmith.ir.diagnostics import BuildError
from tunesmith.ir.target import Target
from tunesmith.ir.types import DType

from ..races import median_interval
from .build import link, tvm_target
from .kernels.kernel import Kernel
from .launch import Launch, Operand
from .objects import emit_object
from .schedule.knobs import Knobs

__all__ = [
    "Variant",
    "Workbench",
    "build_variant",
    "build_written",
    "other_sizes",
    "with_knobs",
    "written",
]

Array = NDArray[np.generic]
_NAME = "kernel"  # of every variant: equal code is then equal bytes
_RTOL, _ATOL = 1e-4, 2e-5  # sums in another order; the second of the greatest element
_BF16 = DType.bf16.numpy
_STEP = {np.dtype(np.float16): 2.0**-10, _BF16: 2.0**-7}  # from one number to the next, at most
_LEAST_SECONDS = 2e-4  # of one measurement: shorter kernels are called several times
_MOST_BYTES = 1 << 30  # of copies of weights
_GUARD = 4096  # bytes on both sides of a result, in which nothing may be written
_FILLED = 0xA5
_ODD = 37  # a size that is no multiple of any tile


def with_knobs(kernel: Kernel, knobs: Knobs | None) -> Kernel:
    """The same kernel, written by other knobs."""
    return replace(kernel, chosen=knobs)


def build_variant(kernel: Kernel, target: Target, path: Path) -> None:
    """Write a library with this one kernel.

    Raises:
        BuildError: it cannot be generated or linked.
    """
    _build(kernel.function, target, path)


def written(kernel: Kernel) -> str:
    """The function of a kernel as TVM's own JSON, for `build_written` of another machine."""
    return str(tvm.ir.save_json(kernel.function()))


def build_written(text: str, target: Target, path: Path) -> None:
    """The same as `build_variant`, of what `written` gave; `BuildError` as there."""
    try:
        function = tvm.ir.load_json(text)
    except Exception as error:
        raise BuildError(f"this is no function of TVM {tvm.__version__}: {error}") from error
    _build(lambda: function, target, path)


def _build(write: Callable[[], tirx.PrimFunc], target: Target, path: Path) -> None:
    emit_object(_NAME, write, tvm_target(target), path.parent)
    link(str(path), [str(path.parent / f"{_NAME}.o")])


@dataclass
class Variant:
    """A kernel that is loaded, and its arguments: `calls` differ in the copy of their weights."""

    function: Callable[..., None]
    calls: list[tuple[Any, ...]]
    results: list[Array]
    memory: list[Array]  # of the results, with guards around them
    kept: list[Array] = field(default_factory=list)  # the results of its first run, if it is asked

    def run(self, number: int = 0) -> None:
        """Call it once."""
        self.function(*self.calls[number % len(self.calls)])

    def compute(self) -> None:
        """Run it so that what it does not write shows in its results."""
        for array in self.results:
            array.fill(np.nan if _is_float(array.dtype) else 77)
        self.run()

    def expected(self) -> list[Array]:
        """Its results, computed once."""
        if not self.kept:
            self.compute()
            self.kept = [array.copy() for array in self.results]
        return self.kept


class Workbench:
    """Where variants of one kernel are compared: the same inputs, weights as far as in the model.

    All write to the same memory: which physical pages an array has makes up to a fifth of the time
    of a kernel whose data about fill the second cache. It knows of a kernel what its launch says;
    `load` asks for the weights by their names.
    """

    def __init__(self, launch: Launch, seed: int = 0) -> None:
        random = np.random.default_rng(seed)
        self.inputs = [
            None if operand.weight else _aligned(_random(operand, random))
            for operand in launch.reads
        ]
        self.title = f"at {list(launch.sizes)}" if launch.sizes else "at its only size"
        self.stores = [_guarded(each.shape, np.dtype(each.dtype)) for each in launch.results]
        self.packed: dict[str, list[Array]] = {}  # of the reference and of the last variant
        self.kept = frozenset(launch.weights)  # of the reference

    def load(self, path: Path, launch: Launch, supply: Callable[[str], Array]) -> Variant:
        """Load a library of `build_variant`, and lay out what it reads and writes."""
        function = tvm.runtime.load_module(str(path))[_NAME]
        for name in self.packed.keys() - self.kept - {*launch.weights}:
            del self.packed[name]
        memory = [whole for whole, _ in self.stores]
        results = [result for _, result in self.stores]
        columns: list[list[Any]] = []
        for operand, given in zip(launch.reads, self.inputs, strict=True):
            arrays = [given] if given is not None else self._copies(operand, launch.apart, supply)
            columns.append([tvm.runtime.from_dlpack(_bits(array)) for array in arrays])
        stores = [tvm.runtime.from_dlpack(_bits(array)) for array in results]
        count = max([len(column) for column in columns], default=1)
        calls = [
            (*(column[i % len(column)] for column in columns), *launch.sizes, *stores)
            for i in range(count)
        ]
        return Variant(function, calls, results, memory)

    def _copies(self, operand: Operand, apart: int, supply: Callable[[str], Array]) -> list[Array]:
        if operand.weight not in self.packed:
            array = supply(operand.weight)
            count = max(1, min(apart, _MOST_BYTES) // max(array.nbytes, 1))
            self.packed[operand.weight] = [_aligned(array) for _ in range(min(count, 64))]
        return self.packed[operand.weight]

    def differs(self, variant: Variant, reference: Variant) -> str:
        """In what way its results are not those of `reference`; empty if they are.

        After one that differs nothing more can be compared here: what all read may be spoilt.
        """
        wanted, before = reference.expected(), self._digest()
        variant.compute()
        if self._digest() != before:
            return "something that is only read is written"
        for whole, result in zip(variant.memory, variant.results, strict=True):
            start = result.ctypes.data - whole.ctypes.data
            if (whole[:start] != _FILLED).any() or (
                whole[start + result.nbytes :] != _FILLED
            ).any():
                return "something is written before or behind a result"
        for got, want in zip(variant.results, wanted, strict=True):
            if not _is_float(got.dtype):
                if not np.array_equal(got, want):
                    return f"{int((got != want).sum())} of {got.size} elements differ"
                continue
            if not np.array_equal(np.isnan(got), np.isnan(want)):
                return f"{int((np.isnan(got) != np.isnan(want)).sum())} elements are NaN in one"
            finite = want[np.isfinite(want)].astype(np.float64)
            scale = float(np.abs(finite).max()) if finite.size else 0.0
            # narrow results are rounded in the end: another order may lead to the next number
            near = _STEP.get(got.dtype, _RTOL)
            one, other = got.astype(np.float64), want.astype(np.float64)
            close = np.isclose(one, other, near, _ATOL * scale, equal_nan=True)
            if not close.all():
                worst = np.nanmax(np.abs(one[~close] - other[~close]))
                return f"{int((~close).sum())} of {got.size} elements differ, by up to {worst:.3g}"
        return ""

    def _digest(self) -> int:
        """A sum over all that the first call of a variant reads."""
        read = [array for array in self.inputs if array is not None]
        read += [copies[0] for copies in self.packed.values()]
        parts = [array.reshape(-1).view(np.uint8).data for array in read]
        return functools.reduce(lambda so_far, part: zlib.crc32(part, so_far), parts, 0)

    def race(
        self,
        variant: Variant,
        reference: Variant,
        *,
        seconds: float,
        least: int = 7,
        hopeless: float = 1.02,
        clock: Callable[[], float] = time.perf_counter,
    ) -> tuple[list[float], list[float]]:
        """Seconds of a call of each, measured in turns; `seconds` is for both together.

        It ends early where the median of the ratios is above `hopeless` for sure.
        """
        repeats = 1
        for one in (variant, reference):
            one.run()
            start = clock()
            one.run(1)
            took = max(clock() - start, 1e-7)
            repeats = max(repeats, int(_LEAST_SECONDS / took))
        times: tuple[list[float], list[float]] = ([], [])
        end, number, look = clock() + seconds, 0, least
        while len(times[1]) < least or clock() < end:
            turns = ((0, variant), (1, reference))
            for side, one in turns if number % 2 else turns[::-1]:
                start = clock()
                for again in range(repeats):
                    one.run(number * repeats + again)
                times[side].append((clock() - start) / repeats)
            number += 1
            if number >= look:  # a few times: each look may be deceived by noise
                look += max(1, look // 4)
                if median_interval(np.divide(*times))[0] > hopeless:
                    break
        return times


def other_sizes(kernel: Kernel, sizes: Mapping[str, int]) -> list[dict[str, int]]:
    """Sizes at which the code of a kernel takes other branches: the least, and one that is odd."""
    least = {s.name: max(s.low, 1) for s in kernel.symbols}
    odd = {s.name: max(least[s.name], min(s.high or _ODD, _ODD)) for s in kernel.symbols}
    return [tried for tried in (least, odd) if kernel.symbols and tried != dict(sizes)]


def _guarded(shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> tuple[Array, Array]:
    """Memory that is filled with a pattern, and the array in its middle, aligned."""
    size = math.prod(shape) * dtype.itemsize
    whole = np.full(size + 2 * _GUARD + 64, _FILLED, np.uint8)
    start = _GUARD + -(whole.ctypes.data + _GUARD) % 64
    return whole, whole[start : start + size].view(dtype).reshape(shape)


def _random(operand: Operand, random: np.random.Generator) -> Array:
    """Elements of an operand; flags are mostly set, integers small: as masks and indices are."""
    dtype = np.dtype(operand.dtype)
    if dtype.kind == "b":
        return np.asarray(random.random(operand.shape) < 0.9)
    if dtype.kind in "iu":
        return random.integers(0, 8, operand.shape).astype(dtype)
    return (random.standard_normal(operand.shape) * 0.5).astype(dtype)


def _is_float(dtype: np.dtype[np.generic]) -> bool:
    return dtype.kind == "f" or dtype == _BF16


def _bits(array: Array) -> Array:
    """What TVM takes: bfloat16 as integers."""
    return array.view(np.uint16) if array.dtype == _BF16 else array


def _aligned(array: Array) -> Array:
    """A copy that begins where a cache line does, as the memory that kernels are given."""
    memory = np.empty(array.nbytes + 64, np.uint8)
    start = -memory.ctypes.data % 64
    copy = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy
