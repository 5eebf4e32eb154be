"""The polynomials are accurate everywhere, keep NaN, and call no function of libm."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tvm
from numpy.typing import NDArray
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from tunesmith.backends.tvm.schedule import fastmath
from tunesmith.backends.tvm.schedule.emit import vector_loop
from tunesmith.ir.target import Machine

from .test_kernels_gemm import compile_function, machines

pytestmark = pytest.mark.tvm

Reference = Callable[[NDArray[np.float64]], NDArray[np.float64]]
REFERENCES: dict[str, Reference] = {
    "exp": np.exp,
    "exp_nonpositive": np.exp,
    "tanh": np.tanh,
    "erf": lambda x: np.vectorize(math.erf)(x),
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "log": np.log,
}


def samples(name: str) -> NDArray[np.float32]:
    rng = np.random.default_rng(0)
    parts = [
        np.linspace(-120, 120, 20000),
        np.linspace(-10, 10, 40000),
        10.0 ** rng.uniform(-45, 38, 10000) * rng.choice([-1, 1], 10000),
        [np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-40, -1e-40, 3.4e38, -3.4e38, 1.0, 88.72, 88.73],
    ]
    x = np.concatenate(parts).astype(np.float32)
    x = np.resize(x, (len(x) // 16 + 1, 16)).copy()
    return -np.abs(x) if name == "exp_nonpositive" else x


def build(name: str, machine: Machine) -> Any:
    with IRBuilder() as builder:
        with T.prim_func(s_tir=True):
            T.func_name("main")
            T.func_attr({"global_symbol": "main", "tirx.noalias": True})
            x, y, n = T.arg("x", T.handle()), T.arg("y", T.handle()), T.int64()
            a = T.match_buffer(x, (n, 16), "float32")
            b = T.match_buffer(y, (n, 16), "float32")
            with T.serial(n) as i, vector_loop(16) as lane:
                T.buffer_store(b, getattr(fastmath, name)(a[i, lane]), [i, lane])
    return compile_function(builder.get(), machine)


@pytest.mark.parametrize("machine", machines(), ids=lambda m: m.isa)
@pytest.mark.parametrize("name", REFERENCES)
def test_accuracy(name: str, machine: Machine, tmp_path: Path) -> None:
    lib = build(name, machine)
    x = samples(name)
    out = tvm.runtime.tensor(np.zeros_like(x))
    lib["main"](tvm.runtime.tensor(x), out)
    got = out.numpy().astype(np.float64)
    with np.errstate(all="ignore"):
        want = REFERENCES[name](x.astype(np.float64))
        narrow = want.astype(np.float32)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
    finite = np.isfinite(narrow)
    np.testing.assert_array_equal(got[~finite], narrow[~finite])
    error = np.abs(got[finite] - want[finite])
    size = np.maximum(np.abs(want[finite]), 1e-37)
    assert np.minimum(error / 3e-7, error / size / 2e-7).max() <= 1

    path = tmp_path / "kernel.o"
    lib.mod.write_to_file(str(path))
    names = {n.decode() for n in re.findall(rb"[\x20-\x7e]{3,}", path.read_bytes())}
    assert not names & {"expf", "tanhf", "erff", "logf", "floorf", "powf", "exp", "fmaf"}


@pytest.mark.parametrize(("name", "x", "y"), [
    ("exp", -np.inf, 0.0), ("exp", 100.0, np.inf), ("exp_nonpositive", -np.inf, 0.0),
    ("tanh", np.inf, 1.0), ("tanh", -20.0, -1.0), ("erf", -np.inf, -1.0), ("erf", 5.0, 1.0),
    ("sigmoid", -np.inf, 0.0), ("sigmoid", np.inf, 1.0), ("log", 0.0, -np.inf),
])  # fmt: skip
def test_limits(name: str, x: float, y: float) -> None:
    lib = build(name, machines()[0])
    out = tvm.runtime.tensor(np.zeros((1, 16), np.float32))
    lib["main"](tvm.runtime.tensor(np.full((1, 16), x, np.float32)), out)
    assert (out.numpy() == y).all()
