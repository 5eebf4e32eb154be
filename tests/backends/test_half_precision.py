"""Operators of f16 and bf16 run on the kernels of f32, and their results are rounded once."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from tunesmith.driver import compile_model
from tunesmith.ir.builder import Builder
from tunesmith.ir.dims import Sym, dim
from tunesmith.ir.graph import Graph
from tunesmith.ir.interpreter import evaluate
from tunesmith.ir.ops import Expr
from tunesmith.ir.opset import (
    average_pool,
    conv,
    layer_norm,
    linear,
    log_softmax,
    matmul,
    max_pool,
    rms_norm,
    softmax,
)  # fmt: skip
from tunesmith.ir.types import DType, TensorType
from tunesmith.runtime import load

pytestmark = pytest.mark.tvm
Array = NDArray[np.generic]
Weight = Callable[[tuple[int, ...]], Expr]
Body = Callable[[Expr, Weight], Expr]
ROWS = dim(Sym("S", 1, 64))
FLAT = {"strides": (1, 1), "low": (1, 1), "high": (1, 1)}
WINDOW = {"kernel": (3, 3), "strides": (2, 2), "low": (1, 1), "high": (1, 1)}

BODIES: dict[str, tuple[str, Body]] = {
    "linear": ("gemm", lambda x, w: linear(x, w((33, 50)), w((50,)), activation="gelu")),
    "matmul by a constant": ("gemm", lambda x, w: matmul(x, w((33, 50)))),
    "softmax": ("rows", lambda x, w: softmax(x)),
    "log_softmax": ("rows", lambda x, w: log_softmax(x)),
    "layer_norm": ("rows", lambda x, w: layer_norm(x, w((33,)), w((33,)))),
    "rms_norm": ("rows", lambda x, w: rms_norm(x, w((33,)))),
    "conv": ("conv", lambda x, w: conv(x, w((8, 3, 3, 3)), w((8,)), dilations=(1, 1), **FLAT)),
    "max_pool": ("pool", lambda x, w: max_pool(x, dilations=(1, 1), **WINDOW)),
    "average_pool": ("pool", lambda x, w: average_pool(x, **WINDOW)),
}


def graph_of(name: str, dtype: DType, of: DType) -> Graph:
    """One operator with weights that `of` has, in `dtype`."""
    random, body = np.random.default_rng(0), BODIES[name][1]
    builder = Builder(Graph("half"))

    def weight(shape: tuple[int, ...]) -> Expr:
        array = random.standard_normal(shape).astype(of.numpy)
        return builder.constant(array.astype(dtype.numpy))

    windows = BODIES[name][0] in ("conv", "pool")
    x = builder.input("x", TensorType(dtype, (1, 3, 13, 17) if windows else (ROWS, 33)))
    return builder.finish([body(x, weight)], ["y"])


def kinds(graph: Graph) -> tuple[Counter[str], Callable[[dict[str, Array]], Array]]:
    """The kinds of the kernels that are compiled, and what runs them."""
    artifact = compile_model(graph, threads=1, preset="O0")
    table = artifact.manifest.report["kernel_table"]
    assert isinstance(table, list)
    run = load(artifact, threads=1).run
    found = Counter(str(row["kind"]) for row in table if isinstance(row, dict))
    return found, lambda feeds: run(feeds)["y"]


def assert_rounded(found: Array, exact: NDArray[np.float64]) -> None:
    """Each element is the nearest of its type, but for sums that are made in f32."""
    error = np.abs(found.astype(np.float64) - exact)
    ulp = np.spacing(np.abs(exact).astype(found.dtype)).astype(np.float64)
    assert (error <= 0.51 * ulp + 1e-6 * np.abs(exact).max()).all()


@pytest.mark.parametrize("dtype", [DType.f16, DType.bf16])
@pytest.mark.parametrize("name", BODIES)
def test_rounded_once(name: str, dtype: DType) -> None:
    found, run = kinds(graph_of(name, dtype, dtype))
    assert found[BODIES[name][0]] == 1 and "loops" not in found
    exact = graph_of(name, DType.f64, dtype)
    windows = BODIES[name][0] in ("conv", "pool")
    for count in (1,) if windows else (1, 7, 8, 33):
        shape = (1, 3, 13, 17) if windows else (count, 33)
        x = np.random.default_rng(count).standard_normal(shape).astype(dtype.numpy)
        got = run({"x": x})
        assert got.dtype == dtype.numpy
        (wanted,) = evaluate(exact, {"x": x.astype(np.float64)})
        assert_rounded(got, wanted.astype(np.float64))


@pytest.mark.parametrize("dtype", [DType.f16, DType.bf16])
def test_products_of_two_activations(dtype: DType) -> None:
    builder = Builder(Graph("two"))
    x = builder.input("x", TensorType(dtype, (2, 9, 33)))
    y = builder.input("z", TensorType(dtype, (2, 33, 17)))
    graph = builder.finish([matmul(x, y)], ["y"])
    found, run = kinds(graph)
    assert found["matmul"] == 1
    random = np.random.default_rng(1)
    a, b = (random.standard_normal(s).astype(dtype.numpy) for s in ((2, 9, 33), (2, 33, 17)))
    wide = a.astype(np.float64) @ b.astype(np.float64)
    assert_rounded(run({"x": a, "z": b}), wide)


def test_layers_that_read_the_same_still_do() -> None:
    """The input is widened once, so that they become one kernel, as those of f32 do."""
    found = {}
    for dtype in (DType.f32, DType.f16):
        builder = Builder(Graph("three"))
        x = builder.input("x", TensorType(dtype, (3, 32)))
        random = np.random.default_rng(0)
        weights = [random.standard_normal((32, 48)).astype(dtype.numpy) for _ in range(3)]
        graph = builder.finish([linear(x, builder.constant(w)) for w in weights], ["a", "b", "y"])
        found[dtype], _ = kinds(graph)
    assert found[DType.f16]["gemm"] == found[DType.f32]["gemm"] == 1


def test_a_batch_of_weights_stays_narrow() -> None:
    builder = Builder(Graph("batch"))
    x = builder.input("x", TensorType(DType.f16, (8, 5, 64)))
    random = np.random.default_rng(0)
    weight = random.standard_normal((8, 64, 96)).astype(np.float16)
    artifact = compile_model(
        builder.finish([matmul(x, builder.constant(weight))], ["y"]), threads=1, preset="O0"
    )
    assert [str(array.dtype) for array in artifact.weights.values()] == ["float16"]


def test_weights_of_layers_stay_narrow() -> None:
    """Those of convolutions, which have no kernel for it, become f32."""
    for name, stored in (("linear", {"float16", "float32"}), ("conv", {"float32"})):
        artifact = compile_model(graph_of(name, DType.f16, DType.f16), threads=1, preset="O0")
        assert {str(array.dtype) for array in artifact.weights.values()} == stored


def test_f64_is_not_narrowed() -> None:
    found, _ = kinds(graph_of("linear", DType.f64, DType.f64))
    assert "gemm" not in found
