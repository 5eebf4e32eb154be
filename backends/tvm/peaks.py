"""Kernels that do nothing but multiply and add, or read: `python -m tunesmith.backends.tvm.peaks N`.

The process prints the most that N threads of this machine have reached, as one line of JSON.
`backends/measure.py` starts it, so that neither its pool of threads nor its memory stays behind.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
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

__all__ = ["best_rates"]

_FMA_STEPS = 20_000
_STREAMS = (1, 4)  # places that a task reads in turn; which is faster depends on the machine
_VECTORS = 8  # that a step of a task reads
_PASS_BYTES = 64 << 20  # read by a task in one call of the kernel for the second cache
_SECONDS = 0.5  # of trials for each figure; the best counts: others use this machine as well
_LEAST_STREAMED, _MOST_STREAMED = 256 << 20, 1 << 30


def best_rates(target: Target, threads: int, seconds: float = _SECONDS) -> dict[str, float]:
    """GFLOP/s of fp32 multiply-adds; GB/s read from memory, and from the second caches."""
    machine = target.machine
    lanes = emit.lanes_of(machine)
    sums = 16 if machine.vector_registers >= 32 else 12
    factors = aligned(2 * lanes)
    factors[:lanes], factors[lanes:] = 0.5, 1.0  # the sums tend to 2
    kernel = _build(target, lambda: _fma(threads, sums, lanes))
    flops = 2 * sums * lanes * _FMA_STEPS * threads
    gflops = flops / _least(kernel, [factors, aligned(threads * lanes)], seconds) / 1e9

    def read(part: int, passes: int) -> float:
        data, result = aligned(threads * part), aligned(threads * lanes)
        data.fill(1.0)  # untouched pages are all the same one
        times = [
            _least(
                _build(target, lambda s=streams: _read(threads, part, passes, s, lanes)),
                [data, result],
                seconds / len(_STREAMS),
            )
            for streams in _STREAMS
        ]
        return data.nbytes * passes / min(times) / 1e9

    step = _VECTORS * lanes
    streamed = min(max(4 * machine.l3_bytes, _LEAST_STREAMED), _MOST_STREAMED, _free_bytes() // 4)
    cached = machine.l2_bytes // 2
    size = emit.FLOAT_BYTES
    return {
        "gflops": gflops,
        "memory_gbs": read(streamed // size // threads // step * step, 1),
        "l2_gbs": read(cached // size // step * step, max(1, _PASS_BYTES // cached)),
    }


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
    """Each task sums its own part, `passes` times over, at `streams` places in turn."""
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


def _write_sum(result: Any, task: Expr, some: list[Any], lanes: int) -> None:
    """Use the sums, or the code generator would leave them out."""
    total = emit.load(some[0], 0, lanes)
    for one in some[1:]:
        total = total + emit.load(one, 0, lanes)
    emit.save(result, task * lanes, lanes, total)


def _least(kernel: Callable[..., None], arrays: list[NDArray[np.float32]], seconds: float) -> float:
    """The least time of a call, of as many as fit into `seconds`, the first not counted."""
    tensors = [tvm.runtime.from_dlpack(array) for array in arrays]
    kernel(*tensors)
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < end:
        start = time.perf_counter()
        kernel(*tensors)
        times.append(time.perf_counter() - start)
    return min(times)


def main() -> None:
    """Measure with as many threads as the argument says."""
    threads = int(sys.argv[1])
    print(json.dumps(best_rates(find_target("host", threads), threads)))


if __name__ == "__main__":
    main()
