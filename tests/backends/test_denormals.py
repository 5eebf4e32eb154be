"""Products take denormal numbers for zero, on each thread, and leave callers what they had set."""

from __future__ import annotations

import time

import numpy as np
import pytest
from numpy.typing import NDArray

from tunesmith.backends.targets import find_target
from tunesmith.driver import compile_model
from tunesmith.ir import opset
from tunesmith.ir.builder import Builder
from tunesmith.ir.graph import Graph
from tunesmith.ir.types import DType, TensorType
from tunesmith.runtime import Executable, load

pytestmark = [
    pytest.mark.tvm,
    pytest.mark.skipif(
        not find_target("host", 1).machine.isa.startswith("avx"), reason="a register of x86"
    ),
]
Floats = NDArray[np.float32]
TINY = np.float32(1e-40)  # denormal: the least normal number is 1.2e-38


def product(weight: Floats, threads: int) -> Executable:
    """`x @ weight` for 96 rows of `x`."""
    builder = Builder(Graph("product"))
    rows, columns = 96, weight.shape[0]
    x = builder.input("x", TensorType(DType.f32, (rows, columns)))
    with builder:
        y = opset.matmul(x, builder.constant(weight))
    graph = builder.finish([y], ["y"])
    return load(compile_model(graph, threads=threads), threads=threads)


@pytest.mark.parametrize("threads", [1, 2])
def test_denormals_are_zero_on_each_thread(threads: int) -> None:
    random = np.random.default_rng(0)
    weight = random.standard_normal((64, 200), np.float32)
    weight[:, ::2] = TINY
    x = random.standard_normal((96, 64), np.float32)
    x[::3] = TINY
    left, right = x.copy(), weight.copy()
    left[::3] = right[:, ::2] = 0
    found = np.asarray(product(weight, threads).run({"x": x})["y"], np.float32)
    assert not found[::3].any() and not found[:, ::2].any()
    np.testing.assert_allclose(found, left @ right, rtol=1e-5, atol=1e-5)


def test_callers_keep_their_denormals() -> None:
    executable = product(np.full((64, 64), TINY, np.float32), 1)
    executable.run({"x": np.full((96, 64), TINY, np.float32)})
    halves = np.full(1000, TINY, np.float32) * np.float32(0.5)
    assert (halves > 0).all()


def test_denormals_cost_no_time() -> None:
    random = np.random.default_rng(0)
    slow = np.full((512, 512), TINY, np.float32)
    fast = random.standard_normal((512, 512), np.float32)
    x = random.standard_normal((96, 512), np.float32)
    times = []
    for weight in (slow, fast):
        executable = product(weight, 1)
        best = min(_seconds(executable, x) for _ in range(20))
        times.append(best)
    assert times[0] < 5 * times[1], "each such product took a hundred times as long"


def _seconds(executable: Executable, x: Floats) -> float:
    start = time.perf_counter()
    executable.run({"x": x})
    return time.perf_counter() - start
