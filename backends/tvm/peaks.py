"""Kernels that only multiply and add, or only read: what N threads reach at most.

`python -m tunesmith.backends.tvm.peaks N` prints the figures of this machine as a line of JSON;
`backends/measure.py` starts it, so that neither its pool of threads nor its memory stays behind.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import tvm
from numpy.typing import NDArray
from tvm.ir import Expr
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from tunesmith.ir.target import Target

from ..targets import find_target
from .build import tvm_target
from .schedule import emit

__all__ = ["Probe", "best_rates", "passing_over"]

# Short calls: of those that nobody interrupts, enough are left even on a busy machine.
_FMA_STEPS = 20_000
_PROBED_CALLS = 8  # of the multiply-adds in one probe: about a millisecond
_CALL_BYTES = 8 << 20  # read in one call of a kernel
_QUANTILE = 0.02  # of the times of calls that read memory: some find a part of it in the cache
_SECONDS = 0.5  # of calls for each figure
_STREAMS = (1, 4, 8, 16)  # places that a task reads in turn; the best count depends on the machine
_VECTORS = 16  # that a step of a task reads
_LEAST_STREAMED, _MOST_STREAMED = 256 << 20, 1 << 30


def best_rates(target: Target, threads: int, seconds: float = _SECONDS) -> dict[str, float]:
    """GFLOP/s of fp32 multiply-adds; GB/s read from memory, and from the second caches.

    `noise` is by how much the median call was slower than the quickest, the memory's aside.
    """
    machine, size = target.machine, emit.FLOAT_BYTES
    lanes = emit.lanes_of(machine)
    step = threads * _VECTORS * lanes * size
    streamed = min(max(4 * machine.l3_bytes, _LEAST_STREAMED), _MOST_STREAMED, _free_bytes() // 4)
    piece = _CALL_BYTES // step * step
    cached = threads * machine.l2_bytes // 2 // step * step
    data = aligned(max(streamed, cached, piece) // size)
    data.fill(1.0)  # untouched pages are all the same one
    count = piece // size
    pieces = [data[i : i + count] for i in range(0, data.size - count + 1, count)]

    def read(places: list[NDArray[np.float32]], passes: int) -> tuple[float, float]:
        """Bytes in a second, the places read in turn; and the noise."""
        part = places[0].size // threads
        kernels = _readers(target, threads, part, passes)
        rank = _QUANTILE if len(places) > 1 else 0.0
        samples = [_times(kernel, places, threads * lanes, seconds / 2) for kernel in kernels]
        quick, best = min((float(np.quantile(times, rank)), times) for times in samples)
        return places[0].nbytes * passes / quick, _noise(best)

    flops, times = _fma_times(target, threads, seconds)
    memory, _ = read(pieces, 1)
    cache, noise = read([data[: cached // size]], max(1, _CALL_BYTES // cached))
    return {
        "gflops": flops / min(times) / 1e9,
        "memory_gbs": memory / 1e9,
        "l2_gbs": cache / 1e9,
        "noise": max(_noise(times), noise),
    }


class Probe:
    """What the machine does right now, in a millisecond or two, between other work.

    Clocks change with the load of a whole machine, so kernels are held against what could be
    reached in the same seconds. A call returns GFLOP/s of fp32 multiply-adds, and GB/s read from
    memory: each time from another part of what is much larger than the last cache.
    """

    def __init__(self, target: Target, threads: int) -> None:
        machine, lanes = target.machine, emit.lanes_of(target.machine)
        step = threads * _VECTORS * lanes * emit.FLOAT_BYTES
        self.piece = _CALL_BYTES // step * step
        streamed = min(
            max(4 * machine.l3_bytes, _LEAST_STREAMED), _MOST_STREAMED, _free_bytes() // 4
        )
        data = aligned(max(streamed, self.piece) // emit.FLOAT_BYTES)
        data.fill(1.0)
        count = self.piece // emit.FLOAT_BYTES
        places = [data[i : i + count] for i in range(0, data.size - count + 1, count)]
        self.places = itertools.cycle([tvm.runtime.from_dlpack(place) for place in places])
        self.result = tvm.runtime.from_dlpack(aligned(threads * lanes))
        self.flops, self.fma, factors = _fma_kernel(target, threads)
        self.factors = tvm.runtime.from_dlpack(factors)
        readers = _readers(target, threads, count // threads)
        clock = time.perf_counter_ns
        rates = [max(self._rate(reader, clock) for _ in range(8)) for reader in readers]
        self.read = readers[rates.index(max(rates))]

    def __call__(self, clock: Callable[[], int] = time.perf_counter_ns) -> dict[str, float]:
        """The rates of this moment, by a clock of nanoseconds."""
        start = clock()
        for _ in range(_PROBED_CALLS):
            self.fma(self.factors, self.result)
        gflops = self.flops * _PROBED_CALLS / max(1, clock() - start)
        return {"gflops": gflops, "memory_gbs": self._rate(self.read, clock)}

    def _rate(self, reader: Callable[..., None], clock: Callable[[], int]) -> float:
        place = next(self.places)
        start = clock()
        reader(place, self.result)
        return self.piece / max(1, clock() - start)


def passing_over(target: Target, threads: int, nbytes: int) -> Callable[[], float]:
    """What reads that many bytes of memory once, with so many threads, and returns the seconds.

    No program that needs each of them is quicker.
    """
    lanes = emit.lanes_of(target.machine)
    step = threads * _VECTORS * lanes
    data = aligned(nbytes // emit.FLOAT_BYTES // step * step)
    data.fill(1.0)
    arguments = [tvm.runtime.from_dlpack(array) for array in (data, aligned(threads * lanes))]
    readers = _readers(target, threads, data.size // threads)
    read = min(readers, key=lambda one: float(np.median(_times(one, [data], threads * lanes, 0.0))))

    def once() -> float:
        start = time.perf_counter()
        read(*arguments)
        return time.perf_counter() - start

    return once


def _noise(times: list[float]) -> float:
    return float(np.median(times)) / min(times) - 1


def _fma_times(target: Target, threads: int, seconds: float) -> tuple[int, list[float]]:
    """The operations of one call, and the times of many."""
    flops, kernel, factors = _fma_kernel(target, threads)
    results = threads * emit.lanes_of(target.machine)
    return flops, _times(kernel, [factors], results, seconds)


def _fma_kernel(
    target: Target, threads: int
) -> tuple[int, Callable[..., None], NDArray[np.float32]]:
    """The operations of one call, the kernel, and what it multiplies by and adds."""
    lanes = emit.lanes_of(target.machine)
    sums = 16 if target.machine.vector_registers >= 32 else 12
    factors = aligned(2 * lanes)
    factors[:lanes], factors[lanes:] = 0.5, 1.0  # the sums tend to 2
    kernel = _build(target, partial(_fma, threads, sums, lanes))
    return 2 * sums * lanes * _FMA_STEPS * threads, kernel, factors


def aligned(count: int) -> NDArray[np.float32]:
    """Zeros that start on a boundary of 64 bytes, as kernels assume."""
    memory = np.zeros(count * emit.FLOAT_BYTES + 64, np.uint8)
    start = -memory.ctypes.data % 64
    return memory[start : start + count * emit.FLOAT_BYTES].view(np.float32)


def _free_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES")


def _build(target: Target, emit_body: Callable[[], None]) -> Callable[..., None]:
    with IRBuilder() as builder:
        with T.prim_func(s_tir=True):
            T.func_name("main")
            T.func_attr({"global_symbol": "main", "tirx.noalias": True, "tirx.is_scheduled": True})
            emit_body()
    module = tvm.compile(tvm.IRModule({"main": builder.get()}), target=tvm_target(target))
    function: Callable[..., None] = module["main"]
    return function


def _argument(name: str, count: int) -> Any:
    return T.match_buffer(T.arg(name, T.handle()), (count,), "float32")


def _fma(tasks: int, sums: int, lanes: int) -> None:
    """`sums` independent sums in registers, so that their latency does not show."""
    factors, result = _argument("x", 2 * lanes), _argument("y", tasks * lanes)
    with emit.loop(tasks, parallel=True) as task:
        some = emit.registers(sums, lanes)
        emit.fill(some, lanes, 0.0)
        factor = T.Bind(emit.load(factors, 0, lanes))
        term = T.Bind(emit.load(factors, lanes, lanes))
        with emit.loop(_FMA_STEPS):
            for one in some:
                emit.save(one, 0, lanes, emit.load(one, 0, lanes) * factor + term)
        _write_sum(result, task, some, lanes)


def _read(tasks: int, part: int, passes: int, streams: int, lanes: int) -> None:
    """Each task sums its own part, `passes` times over, at `streams` places of it in turn."""
    data, result = _argument("x", tasks * part), _argument("y", tasks * lanes)
    each = _VECTORS // streams  # vectors of one place in one step
    with emit.loop(tasks, parallel=True) as task:
        some = emit.registers(_VECTORS, lanes)
        emit.fill(some, lanes, 0.0)
        with emit.loop(passes), emit.loop(part // (_VECTORS * lanes)) as step:
            start = T.Bind(task * part + step * (each * lanes))
            for number, one in enumerate(some):
                stream, v = divmod(number, each)
                at = start + (stream * (part // streams) + v * lanes)
                emit.save(one, 0, lanes, emit.load(one, 0, lanes) + emit.load(data, at, lanes))
        _write_sum(result, task, some, lanes)


def _readers(target: Target, threads: int, part: int, passes: int = 1) -> list[Callable[..., None]]:
    """The kernels of `_read`, by how many places they read in turn: the quickest one counts."""
    lanes = emit.lanes_of(target.machine)
    return [
        _build(target, partial(_read, threads, part, passes, streams, lanes))
        for streams in _STREAMS
    ]


def _write_sum(result: Any, task: Expr, some: list[Any], lanes: int) -> None:
    """Use the sums, or the code generator would leave them out."""
    total = emit.load(some[0], 0, lanes)
    for one in some[1:]:
        total = total + emit.load(one, 0, lanes)
    emit.save(result, task * lanes, lanes, total)


def _times(
    kernel: Callable[..., None], inputs: list[NDArray[np.float32]], results: int, seconds: float
) -> list[float]:
    """The time of each call; each takes the next input, after all have had a turn."""
    result = tvm.runtime.from_dlpack(aligned(results))
    tensors = [tvm.runtime.from_dlpack(array) for array in inputs]
    for tensor in tensors:
        kernel(tensor, result)
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 20 or time.perf_counter() < end:
        tensor = tensors[len(times) % len(tensors)]
        start = time.perf_counter()
        kernel(tensor, result)
        times.append(time.perf_counter() - start)
    return times


def main() -> None:
    """Measure with as many threads as the argument says."""
    threads = int(sys.argv[1])
    print(json.dumps(best_rates(find_target("host", threads), threads)))


if __name__ == "__main__":
    main()
