"""Products take denormal numbers for zero, on each thread, and leave callers what they had set."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

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
ROOT = Path(__file__).parents[2]
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


def in_a_process(check: str) -> None:
    """Run a check with two threads: pools of this process may be smaller."""
    code = f"from tests.backends import test_denormals as t; t.{check}"
    environment = {k: v for k, v in os.environ.items() if not k.endswith("_NUM_THREADS")}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stderr


def test_denormals_are_zero() -> None:
    check_zeros(1)


@pytest.mark.parametrize("check", ["check_zeros(2)", "check_doubles()", "check_workers()"])
def test_the_same_on_each_of_two_threads(check: str) -> None:
    in_a_process(check)


def check_zeros(threads: int) -> None:
    """Rows and columns of denormals give zeros."""
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


def check_doubles() -> None:
    """The rows of products of f64 are shared out by another loop."""
    tiny = np.full((256, 256), 1e-310)
    builder = Builder(Graph("doubles"))
    x, w = (builder.input(name, TensorType(DType.f64, (256, 256))) for name in "xw")
    with builder:
        y = opset.matmul(x, w)
    executable = load(compile_model(builder.finish([y], ["y"]), threads=2), threads=2)
    assert not executable.run({"x": tiny, "w": np.full((256, 256), 1e3)})["y"].any()


def check_workers() -> None:
    """What runs after a product on the same workers sees denormals again."""
    executable = product(np.full((64, 64), TINY, np.float32), 2)
    executable.run({"x": np.full((96, 64), TINY, np.float32)})
    builder = Builder(Graph("compare"))
    x = builder.input("x", TensorType(DType.f32, (1 << 20,)))
    with builder:
        zero = builder.literal(0.0, x)
        y = opset.greater(x, zero)
    compare = load(compile_model(builder.finish([y], ["y"]), threads=2), threads=2)
    assert compare.run({"x": np.full(1 << 20, TINY, np.float32)})["y"].all()


def test_callers_keep_their_denormals() -> None:
    executable = product(np.full((64, 64), TINY, np.float32), 1)
    executable.run({"x": np.full((96, 64), TINY, np.float32)})
    halves = np.full(1000, TINY, np.float32) * np.float32(0.5)
    assert (halves > 0).all()


@pytest.mark.parametrize("after", ["log", "sqrt", "reciprocal", "sign"])
def test_what_tells_denormals_from_zero_still_does(after: str) -> None:
    """`exp(-88)` is denormal: what is fused behind a product may not see zero there."""
    builder = Builder(Graph("telling"))
    x = builder.input("x", TensorType(DType.f32, (4, 8)))
    with builder:
        y = opset.exp(opset.matmul(x, builder.constant(np.eye(8, dtype=np.float32))))
        y = getattr(opset, after)(y)
    executable = load(compile_model(builder.finish([y], ["y"]), threads=1), threads=1)
    found = executable.run({"x": np.full((4, 8), -88, np.float32)})["y"]
    wanted = {"log": -88, "sqrt": np.exp(-44), "reciprocal": np.exp(88), "sign": 1}[after]
    np.testing.assert_allclose(np.asarray(found, np.float64), wanted, rtol=1e-2)


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
