"""The constructed products agree with float64 on awkward sizes, static and symbolic."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tvm
from numpy.typing import NDArray
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from tunesmith.backends.tvm.schedule import batch_matmul, fastmath, gemm, gemm_knobs
from tunesmith.ir.target import Machine

AVX512 = Machine(
    isa="avx512", vector_bytes=64, vector_registers=32, fma_units=2,
    l1_bytes=48 << 10, l2_bytes=2 << 20, l3_bytes=32 << 20, cores=2,
)  # fmt: skip
AVX2 = Machine(
    isa="avx2", vector_bytes=32, vector_registers=16, fma_units=2,
    l1_bytes=32 << 10, l2_bytes=1 << 20, l3_bytes=32 << 20, cores=2,
)  # fmt: skip
CPU = {"avx512": "skylake-avx512", "avx2": "haswell"}
ROWS = (1, 2, 3, 7, 8, 9, 13, 121, 125, 128)

pytestmark = pytest.mark.tvm


def machines() -> list[Machine]:
    """Return the machines whose code this computer can run."""
    wide = tvm.target.codegen.llvm_cpu_has_features(
        "avx512f", tvm.target.Target({"kind": "llvm", "mcpu": host()})
    )
    one = replace(AVX2, streams=1)  # as processors have it that read one place best
    return [AVX512, AVX2, one] if wide else [AVX2, one]


def host() -> str:
    return str(tvm.target.codegen.llvm_get_system_cpu())


def compile_function(function: Any, machine: Machine) -> Any:
    target = tvm.target.Target({"kind": "llvm", "mcpu": CPU[machine.isa], "num-cores": 2})
    return tvm.compile(tvm.IRModule({"main": function}), target=target)


def build_gemm(
    rows: int | None,
    inner: int,
    cols: int,
    machine: Machine,
    dtype: str = "float32",
    gelu: bool = False,
) -> tuple[Any, gemm_knobs.GemmKnobs]:
    knobs = gemm_knobs.default(gemm_knobs.GemmWork(rows=rows, inner=inner, cols=cols), machine)
    panels = -(-cols // knobs.tile_n)
    with IRBuilder() as builder:
        with T.prim_func(s_tir=True):
            T.func_name("main")
            T.func_attr({"global_symbol": "main", "tirx.noalias": True})
            x, w, bias, y = (T.arg(name, T.handle()) for name in ("x", "w", "bias", "y"))
            m = T.int64() if rows is None else rows
            a = T.match_buffer(x, (m, inner), "float32")
            b = T.match_buffer(w, (panels, inner, knobs.tile_n), dtype)
            c = T.match_buffer(bias, (cols,), "float32")
            d = T.match_buffer(y, (m, cols), "float32")

            def store(i: Any, j: Any, value: Any) -> None:
                v = value + c[j]
                if gelu:
                    v = T.Bind(v)
                    half = T.float32(0.5)
                    v = half * v * (T.float32(1) + fastmath.erf(v * T.float32(0.5**0.5)))
                T.buffer_store(d, v, [i, j])

            gemm.emit_gemm(
                rows=m, inner=inner, results=[gemm.Result(cols, store)], weight=b,
                load_a=lambda i, k: a[i, k], machine=machine, knobs=knobs,
            )  # fmt: skip
    return compile_function(builder.get(), machine), knobs


def check_gemm(lib: Any, packed: Any, weight: NDArray[Any], rows: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = rng.standard_normal((rows, weight.shape[0])).astype(np.float32)
    bias = rng.standard_normal((weight.shape[1],)).astype(np.float32)
    y = tvm.runtime.tensor(np.full((rows, weight.shape[1]), np.nan, np.float32))
    lib["main"](tvm.runtime.tensor(x), packed, tvm.runtime.tensor(bias), y)
    wide = weight.astype(np.float64)
    bound = np.abs(x.astype(np.float64)) @ np.abs(wide) + np.abs(bias)
    error = np.abs(y.numpy() - (x.astype(np.float64) @ wide + bias)) / bound
    assert error.max() < 1e-6, (weight.shape, rows, error.max())


def random_weight(inner: int, cols: int, dtype: str) -> NDArray[Any]:
    rng = np.random.default_rng(inner * 1000 + cols)
    if dtype == "int8":
        return rng.integers(-128, 128, (inner, cols)).astype(np.int8)
    return rng.standard_normal((inner, cols)).astype(np.float32)


@pytest.mark.parametrize("machine", machines(), ids=lambda m: m.isa)
@pytest.mark.parametrize("dtype", ["float32", "int8"])
@pytest.mark.parametrize(
    ("inner", "cols"),
    [
        (1, 1),
        (3, 15),
        (17, 16),
        (64, 17),
        (17, 47),
        (64, 48),
        (3, 49),
        (17, 64),
        (1500, 214),
        (2501, 214),
    ],
)
def test_symbolic_rows(machine: Machine, dtype: str, inner: int, cols: int) -> None:
    weight = random_weight(inner, cols, dtype)
    lib, knobs = build_gemm(None, inner, cols, machine, dtype)
    packed = tvm.runtime.tensor(gemm_knobs.pack_weights([weight], knobs))
    for rows in (*ROWS, 23, 24, 29, 47, 49, 300):
        check_gemm(lib, packed, weight, rows, rows)


@pytest.mark.parametrize("dtype", ["float32", "int8"])
@pytest.mark.parametrize("rows", ROWS)
def test_static_rows(rows: int, dtype: str) -> None:
    weight = random_weight(67, 100, dtype)
    lib, knobs = build_gemm(rows, 67, 100, machines()[0], dtype)
    check_gemm(
        lib, tvm.runtime.tensor(gemm_knobs.pack_weights([weight], knobs)), weight, rows, rows
    )


@pytest.mark.parametrize("dtype", ["float32", "int8"])
@pytest.mark.parametrize("rows", [64, 121, 300])
def test_sums_that_wait_in_memory(rows: int, dtype: str) -> None:
    weight = random_weight(3075, 250, dtype)
    lib, knobs = build_gemm(rows, 3075, 250, machines()[0], dtype)
    assert knobs.chunk > 1
    check_gemm(
        lib, tvm.runtime.tensor(gemm_knobs.pack_weights([weight], knobs)), weight, rows, rows
    )


@pytest.mark.parametrize("rows", [None, 0, *ROWS, 1500])
@pytest.mark.parametrize(
    "machine", [AVX512, AVX2, replace(AVX512, streams=1)], ids=["avx512", "avx2", "one"]
)
def test_the_default_is_a_point_of_its_space_with_neighbours(
    rows: int | None, machine: Machine
) -> None:
    """A search goes from point to point by one knob or two: it must be able to leave the first."""
    for inner, cols, results in itertools.product(
        (1, 64, 192, 384, 576, 768, 1025, 3072), (1, 50, 512, 960, 50257), (False, True)
    ):
        each = ((cols,), (cols,)) if results else ()
        work = gemm_knobs.GemmWork(rows=rows, inner=inner, cols=cols * (1 + results), results=each)
        default = gemm_knobs.default(work, machine)
        assert gemm_knobs.fits(work, machine, default), (work, default)
        near = {
            name
            for name, values in default.values().items()
            for value in values
            if value != getattr(default, name)
            and gemm_knobs.fits(work, machine, replace(default, **{name: value}))
        }
        if inner > 1 and cols > 1:
            assert {"tile_n", "unroll_k"} <= near, (work, default)


@pytest.mark.parametrize(
    ("rows", "change"),
    [
        (1, {"prefetch": 2}),  # of which several sums ask for nothing
        (128, {"streams": 4}),  # of one sum
        (1, {"block_m": 32}),  # more rows than there are
        (128, {"prefetch_few": 2}),  # as the rows are known
        (128, {"panel_k": 1024}),  # more steps than there are
        (1, {"tile_m": 5}),
        (128, {"tile_m": 14}),  # more sums than registers
        (128, {"chunk": 16}),  # more panels than there are
        (None, {"block_m": 4}),
    ],
)
def test_knobs_without_effect_or_registers_do_not_fit(
    rows: int | None, change: dict[str, int]
) -> None:
    machine = replace(AVX512, streams=1)
    work = gemm_knobs.GemmWork(rows=rows, inner=384, cols=384)
    good = gemm_knobs.default(work, machine)
    assert gemm_knobs.fits(work, machine, good)
    assert not gemm_knobs.fits(work, machine, replace(good, **change))


def test_error_grows_no_faster_than_numpy() -> None:
    weight = random_weight(3072, 192, "float32")
    lib, knobs = build_gemm(None, 3072, 192, machines()[0])
    x = np.random.default_rng(1).standard_normal((64, 3072)).astype(np.float32)
    y = tvm.runtime.tensor(np.zeros((64, 192), np.float32))
    zero = tvm.runtime.tensor(np.zeros(192, np.float32))
    packed = tvm.runtime.tensor(gemm_knobs.pack_weights([weight], knobs))
    lib["main"](tvm.runtime.tensor(x), packed, zero, y)
    exact = x.astype(np.float64) @ weight
    ours, theirs = np.abs(y.numpy() - exact).max(), np.abs(x @ weight - exact).max()
    assert ours <= 2 * theirs


def test_fused_gelu_and_registers() -> None:
    machine = machines()[0]
    weight = random_weight(64, 96, "float32")
    lib, knobs = build_gemm(None, 64, 96, machine, gelu=True)
    x = np.random.default_rng(2).standard_normal((13, 64)).astype(np.float32)
    bias = np.random.default_rng(3).standard_normal(96).astype(np.float32)
    y = tvm.runtime.tensor(np.zeros((13, 96), np.float32))
    packed = tvm.runtime.tensor(gemm_knobs.pack_weights([weight], knobs))
    lib["main"](tvm.runtime.tensor(x), packed, tvm.runtime.tensor(bias), y)
    import math

    v = x.astype(np.float64) @ weight + bias
    want = 0.5 * v * (1 + np.vectorize(math.erf)(v / math.sqrt(2)))
    assert np.abs(y.numpy() - want).max() < 2e-5
    body = lib.mod.inspect_source("asm")
    loops = [part for part in re.split(r"\n\.L\w+:", body) if part.count("vfmadd231ps") >= 48]
    assert loops, "no unrolled loop of multiplications"
    hot = max(loops, key=lambda part: part.count("vfmadd231ps")).split("\tj")[0]
    assert not re.search(r"vmov[au]ps\t%[yz]mm\d+, .*\(%rsp\)", hot), "a sum was spilled"


@pytest.mark.parametrize("contiguous", ["j", "k"])
@pytest.mark.parametrize("machine", machines(), ids=lambda m: m.isa)
def test_batch_matmul(machine: Machine, contiguous: str) -> None:
    knobs = batch_matmul.default(None, machine)
    with IRBuilder() as builder:
        with T.prim_func(s_tir=True):
            T.func_name("main")
            T.func_attr({"global_symbol": "main", "tirx.noalias": True})
            x, w, y = (T.arg(name, T.handle()) for name in ("x", "w", "y"))
            n, rows, inner, cols = (T.int64() for _ in range(4))
            a = T.match_buffer(x, (n, rows, inner), "float32")
            shape = (n, inner, cols) if contiguous == "j" else (n, cols, inner)
            b = T.match_buffer(w, shape, "float32")
            c = T.match_buffer(y, (n, rows, cols), "float32")
            batch_matmul.emit_batch_matmul(
                batch=n, rows=rows, inner=inner, cols=cols, load_a=lambda z, i, k: a[z, i, k],
                load_b=lambda z, k, j: b[z, k, j] if contiguous == "j" else b[z, j, k],
                store=lambda z, i, j, v: T.buffer_store(c, v, [z, i, j]),
                machine=machine, knobs=knobs,
                b_contiguous_in="j" if contiguous == "j" else "k",
            )  # fmt: skip
    lib = compile_function(builder.get(), machine)
    rng = np.random.default_rng(4)
    for n_, m_, k_, c_ in ((1, 1, 1, 1), (2, 3, 17, 15), (3, 8, 64, 16), (2, 13, 300, 49)):
        left = rng.standard_normal((n_, m_, k_)).astype(np.float32)
        right = rng.standard_normal((n_, k_, c_)).astype(np.float32)
        given = right if contiguous == "j" else np.ascontiguousarray(right.swapaxes(1, 2))
        out = tvm.runtime.tensor(np.full((n_, m_, c_), np.nan, np.float32))
        lib["main"](tvm.runtime.tensor(left), tvm.runtime.tensor(given), out)
        assert np.abs(out.numpy() - left.astype(np.float64) @ right).max() < 1e-4
