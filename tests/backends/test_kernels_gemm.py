"""The constructed products agree with float64 on awkward sizes, static and symbolic."""

from __future__ import annotations

import itertools
import random
import re
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import tvm
import tvm_ffi
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


def write_gemm(
    work: gemm_knobs.GemmWork,
    machine: Machine,
    knobs: gemm_knobs.GemmKnobs,
    dtype: str = "float32",
    gelu: bool = False,
) -> Any:
    """The function as TIR: `x, packed weight, bias, y`."""
    rows, inner, cols = work.rows, work.inner, work.cols
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
    return builder.get()


def build_gemm(
    rows: int | None,
    inner: int,
    cols: int,
    machine: Machine,
    dtype: str = "float32",
    gelu: bool = False,
) -> tuple[Any, gemm_knobs.GemmKnobs]:
    work = gemm_knobs.GemmWork(rows=rows, inner=inner, cols=cols)
    knobs = gemm_knobs.default(work, machine)
    return compile_function(write_gemm(work, machine, knobs, dtype, gelu), machine), knobs


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
    for inner, cols, several in itertools.product(
        (1, 64, 192, 384, 576, 768, 1025, 3072), (1, 50, 512, 960, 50257), (False, True)
    ):
        results = ((cols,), (cols,)) if several else ()
        work = gemm_knobs.GemmWork(
            rows=rows, inner=inner, cols=cols * (1 + several), results=results
        )
        default = gemm_knobs.default(work, machine)
        assert gemm_knobs.fits(work, machine, default), (work, default)
        near = {
            name for name, knobs in neighbours(default) if gemm_knobs.fits(work, machine, knobs)
        }
        if inner > 1 and cols > 1:
            assert {"tile_n", "unroll_k"} <= near, (work, default)
            assert "block_m" in near or (rows is not None and rows <= 8), (work, default)


def neighbours(knobs: gemm_knobs.GemmKnobs) -> list[tuple[str, gemm_knobs.GemmKnobs]]:
    """Those that differ by one knob, and which it is."""
    return [
        (name, replace(knobs, **{name: value}))
        for name, values in knobs.values().items()
        for value in values
        if value != getattr(knobs, name)
    ]


@pytest.mark.parametrize("rows", [1, 2, 3, 5, 8, 13, 49, 50, 63, 96, 128, 300])
@pytest.mark.parametrize(("inner", "cols"), [(384, 384), (768, 200), (3072, 768)])
@pytest.mark.parametrize("machine", [AVX512, replace(AVX2, streams=1)], ids=lambda m: m.isa)
def test_neighbours_that_fit_are_other_code_and_no_others(
    rows: int, inner: int, cols: int, machine: Machine
) -> None:
    """Those that fit for registers and panels fit if and only if the code is not the default's.

    Blocks of a few rows more or less may be as many: there only those beyond all rows are refused.
    """
    work = gemm_knobs.GemmWork(rows=rows, inner=inner, cols=cols)
    default = gemm_knobs.default(work, machine)
    as_it_is, differ = write_gemm(work, machine, default), 0
    for name, knobs in neighbours(default):
        vectors, rest = divmod(knobs.tile_n, machine.vector_bytes // 4)
        registers = knobs.tile_m * vectors + vectors + 1
        if rest or registers > machine.vector_registers or knobs.chunk > work.units(knobs.tile_n):
            assert not gemm_knobs.fits(work, machine, knobs), knobs
            continue
        same = tvm_ffi.structural_equal(write_gemm(work, machine, knobs), as_it_is)
        fits = gemm_knobs.fits(work, machine, knobs)
        if name == "block_m":
            assert not (fits and same and knobs.block_m >= rows), (default, knobs)
        else:
            assert fits is not same, (name, default, knobs)
        differ += not same
    assert differ > 8


@pytest.mark.parametrize(
    ("rows", "streams", "width"), [(1, 1, 16), (4, 1, 16), (5, 1, 48), (1, 4, 48), (None, 1, 48)]
)
def test_few_rows_read_one_line_at_a_time(rows: int | None, streams: int, width: int) -> None:
    """Where memory is read best at one place: 768 columns of which 48 fit the registers."""
    work = gemm_knobs.GemmWork(rows=rows, inner=768, cols=768)
    assert gemm_knobs.default(work, replace(AVX512, streams=streams)).tile_n == width


@pytest.mark.parametrize(
    ("rows", "inner", "cols"), [(1, 67, 100), (3, 130, 70), (49, 300, 100), (128, 1100, 250)]
)
def test_any_knobs_that_fit(rows: int, inner: int, cols: int) -> None:
    machine, draw = machines()[0], random.Random(rows)
    work = gemm_knobs.GemmWork(rows=rows, inner=inner, cols=cols)
    weight = random_weight(inner, cols, "float32")
    found: set[gemm_knobs.GemmKnobs] = set()
    while len(found) < 8:
        chosen = {
            name: draw.choice(values) for name, values in gemm_knobs.GemmKnobs.values().items()
        }
        knobs = gemm_knobs.GemmKnobs(**chosen)
        if gemm_knobs.fits(work, machine, knobs):
            found.add(knobs)
    for knobs in found:
        lib = compile_function(write_gemm(work, machine, knobs), machine)
        packed = tvm.runtime.tensor(gemm_knobs.pack_weights([weight], knobs))
        check_gemm(lib, packed, weight, rows, seed=inner)


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
