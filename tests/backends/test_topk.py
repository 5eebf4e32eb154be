"""The first elements in order, against NumPy's stable sort: every order, tie and NaN, any size."""

from __future__ import annotations

import time

import numpy as np
import pytest

from tunesmith.ir.parser import parse_graph

from .running import Array, Built, build

pytestmark = pytest.mark.tvm

SIZES = (0, 1, 2, 3, 63, 64, 65, 127, 128, 129, 251, 1000)
RNG = np.random.default_rng(3)


def wanted(x: Array, k: int, largest: bool) -> tuple[Array, Array]:
    """By ranks: NaN is greater than all numbers, and of equals the first comes first."""
    wide = x.astype(np.float64) if x.dtype.kind == "f" else x.astype(object)
    nan = np.isnan(wide) if x.dtype.kind == "f" else np.zeros(x.shape, bool)
    rows = []
    for row, odd in zip(wide, nan, strict=True):
        keys = [
            ((not o, 0 if o else -v) if largest else (o, 0 if o else v), i)
            for i, (v, o) in enumerate(zip(row.tolist(), odd.tolist(), strict=True))
        ]
        rows.append([place for _, place in sorted(keys)[:k]])
    places = np.asarray(rows, np.int64).reshape(len(x), k)
    return np.take_along_axis(x, places, 1), places


def drawn(name: str, rows: int, size: int, dtype: str) -> Array:
    """Elements in some order."""
    line = np.arange(size)
    held = {
        "random": RNG.integers(-120, 120, (rows, size)) if dtype != "uint8" else
                  RNG.integers(0, 250, (rows, size)),
        "up": np.tile(line % 120, (rows, 1)), "down": np.tile(line[::-1] % 120, (rows, 1)),
        "equal": np.full((rows, size), 7), "two": RNG.integers(0, 2, (rows, size)),
    }[name]  # fmt: skip
    return np.asarray(held).astype(dtype)


def compiled(dtype: str, k: str, largest: bool, static: int | None = None) -> Built:
    """A graph of one operator, of any size or of one."""
    short = {"float32": "f32", "float64": "f64", "float16": "f16", "int64": "i64",
             "int32": "i32", "uint8": "u8"}[dtype]  # fmt: skip
    size = "S" if static is None else str(static)
    flag = "" if largest else ", largest = false"
    return build(parse_graph(
        f"graph @g(%x: {short}[2, {size}], %n: f32[K]) {{ %v, %i = topk(%x) {{k = {k}{flag}}} "
        "%m = abs(%n) return %v, %i, %m }"
    ))  # fmt: skip


def hold(built: Built, x: Array, k: int, largest: bool) -> None:
    found = built.run({"x": x, "n": np.zeros(max(k, 1), np.float32)})
    for got, want in zip(found[:2], wanted(x, k, largest), strict=True):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize("largest", [True, False])
def test_any_size_and_any_number_that_is_kept(largest: bool) -> None:
    built = compiled("float32", "K", largest)
    for size in SIZES[1:]:
        for k in sorted({1, 2, size // 3 or 1, max(size - 1, 1), size}):
            for order in ("random", "up", "down", "equal", "two"):
                hold(built, drawn(order, 2, size, "float32"), min(k, size), largest)


@pytest.mark.parametrize("dtype", ["float64", "float16", "int64", "int32", "uint8"])
@pytest.mark.parametrize("largest", [True, False])
def test_other_elements(dtype: str, largest: bool) -> None:
    built = compiled(dtype, "5", largest, 200)
    for order in ("random", "up", "down", "two"):
        hold(built, drawn(order, 2, 200, dtype), 5, largest)


@pytest.mark.parametrize("largest", [True, False])
def test_nan_is_greater_than_all_and_zeros_are_equal(largest: bool) -> None:
    built = compiled("float32", "K", largest)
    x = drawn("random", 2, 300, "float32")
    x[0, ::7], x[1, :250], x[0, 1], x[0, 2] = np.nan, np.nan, np.inf, -np.inf
    for k in (1, 40, 50, 51, 300):
        hold(built, x, k, largest)
    signed = np.array([[0.0, -0.0, 0.0, -0.0]] * 2, np.float32)
    hold(built, signed, 4, largest)


def test_nothing_is_kept_of_nothing() -> None:
    hold(compiled("float32", "0", True, 5), drawn("up", 2, 5, "float32"), 0, True)
    hold(compiled("float32", "0", True, 0), drawn("up", 2, 0, "float32"), 0, True)


@pytest.mark.parametrize("order", ["random", "up", "down", "equal"])
def test_time_grows_as_a_sort_does(order: str) -> None:
    """Ten times as many elements take far from a hundred times as long, in the worst order too."""
    built = compiled("float32", "K", True)

    def seconds(size: int) -> float:
        x, n = drawn(order, 2, size, "float32"), np.zeros(size // 2, np.float32)
        if order == "up":
            x = np.tile(np.arange(size, dtype=np.float32), (2, 1))
        taken = []
        for _ in range(3):
            start = time.perf_counter()
            built.run({"x": x, "n": n})
            taken.append(time.perf_counter() - start)
        return min(taken)

    assert seconds(40_000) < 40 * seconds(4_000)
