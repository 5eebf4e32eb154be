"""Comparing outputs: what counts as equal, and the numbers that are printed."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from tunesmith.oracle import compare, compare_output, max_ulp
from tunesmith.random_inputs import fitting, make_inputs, sizes_of, sizes_to_verify
from tunesmith.report import spec_text
from tunesmith.runtime.manifest import CacheSpec, Manifest, SymbolSpec, TargetSpec, TensorSpec

F32 = NDArray[np.float32]


def f32(*values: float) -> F32:
    """A vector."""
    return np.array(values, np.float32)


def test_equal_outputs_pass_with_zeros() -> None:
    report = compare_output("y", f32(1, np.nan, np.inf, -0.0), f32(1, np.nan, np.inf, 0.0))
    assert report.passed
    assert (report.max_abs, report.max_rel, report.max_ulp) == (0, 0, 0)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (f32(1, np.nan), f32(1, 2)),
        (f32(1, 2), f32(1, np.nan)),
        (f32(np.inf), f32(-np.inf)),
        (f32(np.inf), f32(3e38)),
        (f32(np.nan), f32(np.inf)),
    ],
)
def test_odd_values_must_agree(ours: F32, theirs: F32) -> None:
    report = compare_output("y", ours, theirs, atol=1e30, rtol=1e30)
    assert not report.passed
    assert "NaN or infinity differs at 1" in report.reason


def test_dtype_and_shape_must_agree() -> None:
    assert "float64, not float32" in compare_output("y", np.ones(2), f32(1, 1)).reason
    assert "(2, 1), not (2,)" in compare_output("y", f32(1, 1)[:, None], f32(1, 1)).reason


def test_the_least_tolerance_that_passes() -> None:
    ours, theirs = f32(1.001, 200.1), f32(1, 200)
    report = compare_output("y", ours, theirs, atol=0, rtol=0)
    assert not report.passed
    assert report.needed_rtol is not None
    assert compare_output("y", ours, theirs, atol=report.needed_atol, rtol=0).passed
    assert compare_output("y", ours, theirs, atol=0, rtol=report.needed_rtol).passed
    assert not compare_output("y", ours, theirs, atol=report.needed_atol * 0.999, rtol=0).passed


def test_no_relative_tolerance_passes_at_zero() -> None:
    report = compare_output("y", f32(1e-3), f32(0))
    assert report.needed_rtol is None
    assert report.as_json()["max_rel"] is None


def test_integers_are_exact() -> None:
    one, other = np.array([1, 2], np.int64), np.array([1, 3], np.int64)
    assert compare_output("y", one, one).passed
    assert not compare_output("y", one, other, atol=10, rtol=10).passed
    assert compare_output("y", np.array([True]), np.array([True])).passed
    assert not compare_output("y", np.array([True]), np.array([False])).passed
    large = np.array([2**53, 5], np.int64)  # no double lies between this and the next one
    report = compare_output("y", large + np.array([1, 0]), large)
    assert not report.passed
    assert (report.max_abs, report.reason) == (1.0, "1 of 2 elements differ")


def test_empty_and_scalar_outputs() -> None:
    assert compare_output("y", np.empty((0, 3), np.float32), np.empty((0, 3), np.float32)).passed
    assert compare_output("y", np.array(1.0), np.array(1.0)).passed


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_ulp_counts_steps_across_zero(dtype: type[np.floating]) -> None:
    tiny = np.nextafter(dtype(0), dtype(1))
    assert max_ulp(np.array([tiny]), np.array([-tiny])) == 2
    steps = np.array([1], dtype)
    for _ in range(5):
        steps = np.nextafter(steps, dtype(2))
    assert max_ulp(steps, np.array([1], dtype)) == 5


def test_missing_and_extra_outputs() -> None:
    reports = compare({"a": f32(1), "b": f32(1)}, {"a": f32(1), "c": f32(1)})
    assert [(r.name, r.passed) for r in reports] == [("a", True), ("c", False), ("b", False)]


def test_inputs_are_sensible() -> None:
    dims = ("B", "S")
    specs = [
        TensorSpec("input_ids", "int64", dims),
        TensorSpec("attention_mask", "int64", dims),
        TensorSpec("token_type_ids", "int64", dims),
        TensorSpec("position_ids", "int64", dims),
        TensorSpec("pixels", "float32", ("B", 3, "2*S + 1")),
    ]
    arrays = make_inputs(specs, {"B": 4, "S": 16}, seed=1, bounds={"input_ids": 5})
    ids, mask = np.asarray(arrays["input_ids"]), np.asarray(arrays["attention_mask"], np.int64)
    assert ids.min() >= 1
    assert ids.max() <= 4
    assert mask[0].all()
    assert (np.diff(mask, axis=1) <= 0).all()
    assert 8 <= mask.sum(axis=1).min() < 16
    assert set(np.unique(arrays["token_type_ids"])) == {0, 1}
    assert (np.asarray(arrays["position_ids"]) == np.arange(16)).all()
    assert arrays["pixels"].shape == (4, 3, 33)
    again = make_inputs(specs, {"B": 4, "S": 16}, seed=1, bounds={"input_ids": 5})
    assert all(np.array_equal(arrays[name], again[name]) for name in arrays)


def test_sizes_stay_inside_the_bounds() -> None:
    symbols = [SymbolSpec("b", 2, 3), SymbolSpec("s", 4, None)]
    for sizes in sizes_to_verify(symbols):
        assert 2 <= sizes["b"] <= 3
        assert sizes["s"] >= 4
    specs = [TensorSpec("x", "float32", ("b", "2*s"))]
    assert sizes_of(specs, {"x": (3, 10)}, {"b": 2, "s": 4}) == {"b": 3, "s": 5}


@pytest.mark.parametrize(
    ("before", "after", "sizes", "fitted"),
    [
        ("p", "p + s", {"p": 12, "s": 2}, {"p": 7, "s": 2}),
        ("p", "p + s", {"p": 3, "s": 2}, {"p": 3, "s": 2}),
        ("p", "p + s", {"p": 0, "s": 9}, {"p": 0, "s": 9}),
        ("t - s", "t", {"t": 1, "s": 4}, {"t": 4, "s": 4}),
        ("t - s", "t", {"t": 20, "s": 4}, {"t": 9, "s": 4}),
    ],
)
def test_sizes_that_fit_a_cache(
    before: str, after: str, sizes: dict[str, int], fitted: dict[str, int]
) -> None:
    manifest = Manifest(
        name="m",
        inputs=(TensorSpec("k", "float32", (9, 2)),),
        outputs=(TensorSpec("z", "float32", (after, 2)),),
        symbols=tuple(SymbolSpec(name, 0, 30) for name in sizes),
        caches=(CacheSpec("k", "z", 0, before),),
        target=TargetSpec("x86_64-linux-gnu", "x86-64"),
    )
    manifest.check()
    assert fitting(manifest, sizes) == fitted


def test_an_input_that_is_a_size() -> None:
    spec = TensorSpec("rows", "int64", (), binds="past")
    assert spec_text(spec) == "rows int64[], the size past"
    assert make_inputs([spec], {"past": 7})["rows"] == 7
