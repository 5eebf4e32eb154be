"""Resizing against ONNX Runtime: every way to place and to weigh elements, at odd sizes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import ModelProto

from tunesmith.frontend import import_model
from tunesmith.ir.diagnostics import FrontendError, InputError
from tunesmith.ir.interpreter import evaluate

from .models import F32, check, compare, counts, declare, model, node, one, runtime

RNG = np.random.default_rng(11)
EMPTY = np.zeros(0, np.float32)
COORDINATES = ("asymmetric", "half_pixel", "pytorch_half_pixel", "align_corners",
               "half_pixel_symmetric")  # fmt: skip
ROUNDING = ("floor", "ceil", "round_prefer_floor", "round_prefer_ceil")
SIZES = ((1, 1), (1, 5), (7, 1), (7, 14), (14, 7), (13, 5), (5, 13), (16, 17), (9, 27), (27, 9))


def f(*shape: int) -> NDArray[np.float32]:
    """Random floats."""
    return RNG.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("coordinates", COORDINATES)
@pytest.mark.parametrize("nearest", ROUNDING)
def test_nearest(coordinates: str, nearest: str) -> None:
    for size, out in SIZES:
        if coordinates == "half_pixel_symmetric" and 9 in (size, out):
            continue  # places are whole numbers, but for rounding
        sizes = np.array([1, 1, out, size], np.int64)
        proto, live = one(
            "Resize", [f(1, 1, size, out), None, None, sizes], opset=19, constants=[3],
            mode="nearest", coordinate_transformation_mode=coordinates, nearest_mode=nearest,
        )  # fmt: skip
        check(proto, live)


@pytest.mark.parametrize("coordinates", COORDINATES)
@pytest.mark.parametrize("mode", ["linear", "cubic"])
def test_weighted(coordinates: str, mode: str) -> None:
    for (size, out), exclude in itertools.product(SIZES, (0, 1)):
        if exclude and mode == "linear":
            continue
        sizes = np.array([1, 2, out, size], np.int64)
        proto, live = one(
            "Resize", [f(1, 2, size, out), None, None, sizes], opset=19, constants=[3], mode=mode,
            coordinate_transformation_mode=coordinates, exclude_outside=exclude,
        )  # fmt: skip
        check(proto, live, 2e-5)


@pytest.mark.parametrize("mode", ["linear", "cubic"])
@pytest.mark.parametrize("exclude", [0, 1])
def test_antialias(mode: str, exclude: int) -> None:
    for size, out in ((16, 7), (7, 16), (13, 5), (12, 4)):
        sizes = np.array([1, 1, out, size], np.int64)
        proto, live = one(
            "Resize", [f(1, 1, size, out), None, None, sizes], opset=18, constants=[3], mode=mode,
            antialias=1, exclude_outside=exclude,
        )  # fmt: skip
        check(proto, live, 1e-4)


@pytest.mark.parametrize("factor", [2.0, 3.0, 0.5, 0.6, 1.05, 1.5, 2.7])
@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_factors(factor: float, mode: str) -> None:
    for opset, size in itertools.product((10, 11, 13, 18), (1, 7, 10, 17)):
        factors = np.array([1, 1, factor, factor], np.float32)
        if int(size * factor) == 0:
            continue
        roi = [EMPTY] if opset >= 11 else []
        proto, live = one(
            "Resize", [f(1, 2, size, size + 3), *roi, factors], opset=opset,
            constants=[1, 2] if roi else [1], mode=mode,
        )  # fmt: skip
        check(proto, live, 2e-5)


@pytest.mark.parametrize("mode", ["nearest", "linear"])
def test_upsample(mode: str) -> None:
    factors = np.array([1, 1, 2, 3], np.float32)
    proto, live = one("Upsample", [f(1, 2, 5, 3), factors], opset=9, constants=[1], mode=mode)
    check(proto, live)
    proto, live = one("Upsample", [f(1, 2, 5, 3)], opset=7, mode=mode, scales=[1.0, 1.0, 2.0, 3.0])
    check(proto, live)


@pytest.mark.parametrize("mode", ["nearest", "linear", "cubic"])
def test_region(mode: str) -> None:
    roi = np.array([0, 0, 0.4, 0.6, 1, 1, 0.6, 1.2], np.float32)
    proto, live = one(
        "Resize", [f(1, 1, 9, 8), roi, None, np.array([1, 1, 3, 5], np.int64)], opset=13,
        constants=[1, 3], mode=mode, coordinate_transformation_mode="tf_crop_and_resize",
        extrapolation_value=10.0,
    )  # fmt: skip
    check(proto, live, 2e-5)


@pytest.mark.parametrize("policy", ["stretch", "not_larger", "not_smaller"])
def test_chosen_axes(policy: str) -> None:
    proto, live = one(
        "Resize", [f(2, 3, 8, 6), None, None, np.array([7, 13], np.int64)], opset=18,
        constants=[3], mode="linear", axes=[2, 3], keep_aspect_ratio_policy=policy,
    )  # fmt: skip
    check(proto, live, 2e-5)


@pytest.mark.parametrize("dtype", [np.float16, np.uint8, np.int32])
def test_element_types(dtype: type) -> None:
    x: NDArray[np.generic] = (f(1, 1, 5, 4) * 50).astype(dtype)
    factors = np.array([1, 1, 2, 1.5], np.float32)
    nearest, live = one("Resize", [x, EMPTY, factors], opset=13, constants=[1, 2])
    check(nearest, live)
    if np.issubdtype(dtype, np.floating):
        return
    linear, live = one("Resize", [x, EMPTY, factors], opset=13, constants=[1, 2], mode="linear")
    with pytest.raises(FrontendError, match="weighted sums"):
        import_model(declare(linear, runtime(linear, live)))


@pytest.mark.parametrize(
    ("factor", "mode", "coordinates"),
    [
        (3.0, "nearest", "half_pixel"), (0.5, "nearest", "half_pixel"),
        (1.5, "nearest", "half_pixel"), (2.0, "linear", "half_pixel"),
        (1.5, "linear", "asymmetric"), (2.0, "cubic", "pytorch_half_pixel"),
        (2.0, "linear", "align_corners"),
    ],
)  # fmt: skip
def test_open_sizes(factor: float, mode: str, coordinates: str) -> None:
    factors = np.array([1, 1, factor, factor], np.float32)
    rows = {} if coordinates not in ("align_corners", "pytorch_half_pixel") else {
        "dims": {"x0_2": (2, 0), "x0_3": (2, 0)}
    }  # fmt: skip
    proto, live = one(
        "Resize", [f(2, 3, 5, 7), EMPTY, factors], opset=13, constants=[1, 2], symbolic=True,
        mode=mode, coordinate_transformation_mode=coordinates,
    )  # fmt: skip
    graph = check(proto, live, 2e-5, **rows)
    if factor in (2.0, 3.0) and mode == "nearest":
        assert not counts(graph)["gather"]
    for height, width in ((2, 2), (3, 17), (16, 15)):
        x = f(1, 2, height, width)
        compare(evaluate(graph, {"x0": x}), runtime(proto, {"x0": x}), 2e-5)


def pyramid() -> ModelProto:
    """An image halved twice, doubled again, and added to what it was: only multiples fit."""
    halved = {"kernel_shape": [1, 1], "strides": [2, 2]}
    return model(
        [
            node("MaxPool", ["x"], ["a"], **halved),
            node("MaxPool", ["a"], ["b"], **halved),
            node("Resize", ["b", "", "two"], ["c"], coordinate_transformation_mode="asymmetric"),
            node("Add", ["a", "c"], ["y"]),
        ],
        {"x": (F32, ["N", 1, "H", "W"])}, {"y": F32}, {"two": np.array([1, 1, 2, 2], np.float32)},
    )  # fmt: skip


def test_sizes_become_multiples() -> None:
    proto = pyramid()
    graph = check(proto, {"x": f(1, 1, 8, 12)})
    height, width = graph.inputs[0].type.shape[2:]
    assert (str(height), str(width)) == ("4*H_by_4", "4*W_by_4")
    x = f(2, 1, 4, 20)
    compare(evaluate(graph, {"x": x}), runtime(proto, {"x": x}), 1e-6)
    with pytest.raises(InputError):
        evaluate(graph, {"x": f(1, 1, 6, 8)})


def test_bounds_without_a_multiple() -> None:
    """A quarter of 5 to 7 rows, rounded up, is 2: half of them is 4 for 7 rows only."""
    with pytest.raises(FrontendError, match=r"`H` is bounded by 5..7, .* works for 7..7 only"):
        import_model(declare(pyramid(), [f(1, 1, 1, 1)]), dims={"H": (5, 7)})
    graph = import_model(declare(pyramid(), [f(1, 1, 1, 1)]), dims={"H": (7, 7), "W": (7, 7)})
    x = f(1, 1, 7, 7)
    compare(evaluate(graph, {"x": x}), runtime(pyramid(), {"x": x}), 1e-6)
