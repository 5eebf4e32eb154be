"""Weights that are stored as bfloat16 or float16 give exactly what the same numbers in f32 give."""

from __future__ import annotations

from collections.abc import Callable

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from tunesmith.backends.targets import TARGETS, find_target
from tunesmith.backends.tvm import relax
from tunesmith.backends.tvm.compile import TvmBackend
from tunesmith.backends.tvm.kernels.kernel import Kernel
from tunesmith.backends.tvm.schedule import gemm_knobs
from tunesmith.backends.tvm.schedule.gemm_knobs import GemmWork
from tunesmith.driver import compile_model
from tunesmith.ir.builder import Builder
from tunesmith.ir.dims import Dim, Sym, dim
from tunesmith.ir.graph import Graph
from tunesmith.ir.interpreter import evaluate
from tunesmith.ir.ops import Expr
from tunesmith.ir.opset import gather, linear
from tunesmith.ir.types import DType, TensorType
from tunesmith.passes.base import PassContext
from tunesmith.passes.narrow_weights import NarrowWeights
from tunesmith.presets import PRESETS
from tunesmith.runtime import Artifact, load

Floats = NDArray[np.float32]
TYPES = {"bf16": (ml_dtypes.bfloat16, "uint16"), "f16": (np.float16, "float16")}
WIDE, NARROW = "eliminate-dead-code", "narrow-weights{least=0},eliminate-dead-code"
SEQUENCE = dim(Sym("S", 1, 64))


def weight(kind: str, rows: int, cols: int, seed: int = 0) -> Floats:
    """Random numbers that `kind` has, as f32."""
    random = np.random.default_rng(seed).standard_normal((rows, cols))
    return random.astype(TYPES[kind][0]).astype(np.float32)


def layer(*weights: Floats, rows: Dim, body: Callable[..., list[Expr]] | None = None) -> Graph:
    """Linear layers of one input, or what `body` makes of their results."""
    builder = Builder(Graph("layers"))
    x = builder.input("x", TensorType(DType.f32, (rows, len(weights[0]))))
    results = [linear(x, builder.constant(w)) for w in weights]
    results = results if body is None else body(*results)
    return builder.finish(results, [f"y{i}" for i in range(len(results))])


def stored(artifact: Artifact) -> int:
    """Bytes of all weights."""
    return sum(array.nbytes for array in artifact.weights.values())


def compiled(graph: Graph, preset: str, target: str = "host") -> Artifact:
    return compile_model(graph, threads=1, preset=preset, target=target)


def assert_same(
    graph: Callable[[], Graph],
    kind: str,
    feeds: list[dict[str, NDArray[np.generic]]],
    target: str = "host",
    tolerance: float = 1e-4,
) -> None:
    """Both artifacts agree to the bit, the wide one with the interpreter, and one is half."""
    wide, narrow = (compiled(graph(), preset, target) for preset in (WIDE, NARROW))
    kinds = {str(array.dtype) for array in narrow.weights.values() if array.ndim == 3}
    assert kinds == {TYPES[kind][1]}
    assert 2 * stored(narrow) == stored(wide)
    runs = [load(artifact, threads=1) for artifact in (wide, narrow)]
    for given in feeds:
        expected, found = (list(run.run(given).values()) for run in runs)
        for e, f, exact in zip(expected, found, evaluate(graph(), given), strict=True):
            np.testing.assert_array_equal(f, e)
            assert np.allclose(f, exact, rtol=tolerance, atol=tolerance)


def inputs(count: int, width: int) -> dict[str, NDArray[np.generic]]:
    random = np.random.default_rng(count).standard_normal((count, width))
    return {"x": random.astype(np.float32)}


@pytest.mark.tvm
@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("rows", [1, 2, 7, 8, 9, 17])
@pytest.mark.parametrize(("inner", "cols"), [(64, 96), (37, 50), (1, 1)])
def test_rows_known(kind: str, rows: int, inner: int, cols: int) -> None:
    w = weight(kind, inner, cols)
    assert_same(lambda: layer(w, rows=rows), kind, [inputs(rows, inner)])


@pytest.mark.tvm
@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize(("inner", "cols"), [(64, 96), (37, 50)])
def test_any_rows(kind: str, inner: int, cols: int) -> None:
    w = weight(kind, inner, cols)
    feeds = [inputs(count, inner) for count in (1, 2, 3, 4, 5, 7, 8, 9, 16, 17, 47, 48, 64)]
    assert_same(lambda: layer(w, rows=SEQUENCE), kind, feeds)


@pytest.mark.tvm
@pytest.mark.parametrize("kind", TYPES)
def test_deep_products(kind: str) -> None:
    """Several panels of one task are summed in memory, while K is walked over once."""
    machine, inner, cols = TARGETS["x86-64-v3"].machine, 4096, 200
    assert gemm_knobs.default(GemmWork(rows=None, inner=inner, cols=cols), machine).chunk > 1
    w = weight(kind, inner, cols)
    feeds = [inputs(count, inner) for count in (1, 3, 8, 17, 64)]
    assert_same(lambda: layer(w, rows=SEQUENCE), kind, feeds, "x86-64-v3", 1e-3)


@pytest.mark.tvm
@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("target", ["x86-64-v3", "x86-64-v2"])
def test_other_vectors(kind: str, target: str) -> None:
    w = weight(kind, 40, 50)
    if kind == "f16" and target == "x86-64-v2":  # it would widen them one by one, by a function
        narrow = compiled(layer(w, rows=3), NARROW, target)
        assert {str(array.dtype) for array in narrow.weights.values()} == {"float32"}
        return
    feeds = [inputs(count, 40) for count in (1, 3, 8, 17)]
    assert_same(lambda: layer(w, rows=SEQUENCE), kind, feeds, target)


@pytest.mark.tvm
@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("rows", [1, 17])
def test_products_beside_each_other_and_gates(kind: str, rows: int) -> None:
    three = [weight(kind, 32, 48, seed) for seed in range(3)]
    assert_same(lambda: layer(*three, rows=rows), kind, [inputs(rows, 32)])
    two = three[:2]

    def gated(a: Expr, b: Expr) -> list[Expr]:
        return [a * b]

    assert_same(lambda: layer(*two, rows=rows, body=gated), kind, [inputs(rows, 32)])


@pytest.mark.tvm
def test_a_layer_beside_one_of_another_type() -> None:
    """Kernels of several products have one type of weights: these two are not joined."""
    narrow, wide = weight("bf16", 32, 48), np.full((32, 48), 0.1, np.float32)

    def graph() -> Graph:
        return layer(narrow, wide, rows=3, body=lambda a, b: [a * b, a])

    artifact = compiled(graph(), NARROW)
    assert {str(a.dtype) for a in artifact.weights.values()} == {"uint16", "float32"}
    feeds = inputs(3, 32)
    found = list(load(artifact, threads=1).run(feeds).values())
    for f, e in zip(found, evaluate(graph(), feeds), strict=True):
        assert np.allclose(f, e, rtol=1e-4, atol=1e-4)


@pytest.mark.tvm
@pytest.mark.parametrize("kind", TYPES)
def test_a_table_that_is_a_weight_too(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relax, "_TIED_BYTES", 0)
    table = weight(kind, 83, 24)

    def graph() -> Graph:
        builder = Builder(Graph("tied"))
        ids = builder.input("ids", TensorType(DType.i64, (SEQUENCE,)))
        x = gather(builder.constant(table), ids)
        return builder.finish([x, linear(x, builder.constant(table.T))], ["x", "logits"])

    assert len(compiled(graph(), NARROW).weights) == 1
    ids = np.array([0, 1, 47, 48, 82, 5, -1], np.int64)
    assert_same(graph, kind, [{"ids": ids}, {"ids": ids[:1]}])


def test_views_of_one_array_share_the_narrow_one() -> None:
    table = weight("bf16", 50, 24)
    builder = Builder(Graph("tied"))
    ids = builder.input("ids", TensorType(DType.i64, (3,)))
    x = gather(builder.constant(table), ids)
    graph = builder.finish([linear(x, builder.constant(table.T))], ["y"])
    context = PassContext()
    assert NarrowWeights(least=0).run(graph, context)
    arrays = [v.constant.array for n in graph.nodes for v in n.results if v.constant is not None]
    narrow = [array for array in arrays if array.dtype == ml_dtypes.bfloat16]
    assert len(narrow) == 2 and np.shares_memory(narrow[0], narrow[1])
    assert [(note.kind, note.what) for note in context.notes] == [("stored", "bfloat16")] * 2


def test_other_views_of_one_array_do_not() -> None:
    """They begin at one address, and differ in their shape or in their steps."""
    memory = weight("bf16", 48, 24).reshape(-1)
    views = [memory.reshape(48, 24), memory.reshape(24, 48).T, memory[:576].reshape(24, 24).T]
    builder = Builder(Graph("views"))
    x = [builder.input(f"x{i}", TensorType(DType.f32, (1, len(v)))) for i, v in enumerate(views)]
    results = [linear(a, builder.constant(v)) for a, v in zip(x, views, strict=True)]
    graph = builder.finish(results, ["a", "b", "c"])
    assert NarrowWeights(least=0).run(graph, PassContext())
    arrays = [v.constant.array for n in graph.nodes for v in n.results if v.constant is not None]
    for array, view in zip(arrays, views, strict=True):
        assert array.dtype == ml_dtypes.bfloat16
        np.testing.assert_array_equal(array.astype(np.float32), view)


def test_small_weights_go_with_those_beside_them() -> None:
    """As keys and values beside queries: one kernel has weights of one type."""
    queries, keys = weight("bf16", 128, 256), weight("bf16", 128, 32)
    graph = layer(queries, keys, rows=1)
    assert NarrowWeights().run(graph, PassContext())
    arrays = [v.constant.array for n in graph.nodes for v in n.results if v.constant is not None]
    assert {array.dtype for array in arrays} == {np.dtype(ml_dtypes.bfloat16)}
    assert not NarrowWeights().run(layer(keys, rows=1), PassContext())


@pytest.mark.parametrize("kind", TYPES)
@pytest.mark.parametrize("order", ["C", "F"])
def test_one_number_with_more_bits_is_enough(kind: str, order: str) -> None:
    """Wherever it lies: in the last part that is looked at, too."""
    w = np.asarray(weight(kind, 1500, 1000), order=order)  # type: ignore[call-overload]  # a str
    graph = layer(w, rows=1)
    assert NarrowWeights().run(graph, PassContext())
    for place in ((0, 0), (1499, 999), (700, 3)):
        spoilt = w.copy(order="K")
        spoilt[place] = 0.1
        graph = layer(spoilt, rows=1)
        assert not NarrowWeights().run(graph, PassContext())


def test_what_is_not_a_number_keeps_its_bits() -> None:
    """Processors that widen f16 change some of it; bf16 is widened by a shift."""
    w = weight("f16", 4, 4)
    w[0, 0], w[0, 1], w[0, 2] = np.inf, -np.inf, 1.0009765625
    assert NarrowWeights(least=0).run(layer(w, rows=1), PassContext())
    w.view(np.uint32)[1, 1] = 0x7FA00000
    assert not NarrowWeights(least=0).run(layer(w, rows=1), PassContext())
    brain = weight("bf16", 4, 4)
    brain.view(np.uint32)[1, 1] = 0x7FA00000
    graph = layer(brain, rows=1)
    assert NarrowWeights(least=0).run(graph, PassContext())
    (array,) = [v.constant.array for n in graph.nodes for v in n.results if v.constant is not None]
    assert array.view(np.uint16)[1, 1] == 0x7FA0


@pytest.mark.tvm
def test_knobs_of_wide_weights_are_not_near() -> None:
    """Panels of 16 bits have half of the cache lines: what was measured for f32 is no guide."""
    found = {}
    for narrowing in (False, True):
        graph = layer(weight("bf16", 64, 96), rows=2)
        assert not narrowing or NarrowWeights(least=0).run(graph, PassContext())
        (kernel,) = TvmBackend().lower(graph, find_target("host", 1)).tunable.values()
        assert isinstance(kernel, Kernel) and kernel.template is not None
        found[narrowing] = kernel.template.features["weight_bytes"]
    assert found == {False: 4, True: 2}


@pytest.mark.tvm
def test_every_preset_that_optimizes_stores_less() -> None:
    w = weight("bf16", 256, 128)
    sizes = {name: stored(compiled(layer(w, rows=2), text)) for name, text in PRESETS.items()}
    assert sizes["O1"] == sizes["O2"] == sizes["O3"] == sizes["O0"] // 2 == w.nbytes // 2
