"""Sampling at places that are data, against ONNX Runtime."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from tunesmith.frontend import import_model
from tunesmith.ir.diagnostics import FrontendError
from tunesmith.ir.interpreter import evaluate

from .models import Array, check, compare, declare, one, runtime

RNG = np.random.default_rng(29)


def f(*shape: int) -> Array:
    """Random floats."""
    return RNG.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("mode", ["linear", "nearest", "cubic"])
@pytest.mark.parametrize("beyond", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("corners", [0, 1])
def test_sample(mode: str, beyond: str, corners: int) -> None:
    for (height, width), (rows, columns) in itertools.product(
        ((2, 2), (5, 7), (16, 3)), ((1, 1), (4, 5))
    ):
        grid = np.asarray(RNG.uniform(-2, 2, (2, rows, columns, 2)), np.float32)
        proto, live = one(
            "GridSample", [f(2, 3, height, width), grid], opset=20, mode=mode, padding_mode=beyond,
            align_corners=corners,
        )  # fmt: skip
        check(proto, live, 2e-5)


@pytest.mark.parametrize("mode", ["linear", "nearest"])
def test_sample_volumes(mode: str) -> None:
    proto, live = one("GridSample", [f(1, 2, 3, 4, 5), f(1, 2, 3, 2, 3)], opset=20, mode=mode)
    check(proto, live, 2e-5)


@pytest.mark.parametrize("mode", ["bilinear", "nearest", "bicubic"])
def test_old_names_and_open_sizes(mode: str) -> None:
    proto, live = one("GridSample", [f(2, 3, 5, 7), f(2, 4, 6, 2)], opset=16, mode=mode)
    for index, names in ((0, ("N", "C", "H", "W")), (1, ("N", "P", "Q"))):
        for axis, name in enumerate(names):
            proto.graph.input[index].type.tensor_type.shape.dim[axis].dim_param = name
    graph = check(proto, live, 2e-5)
    feeds = {"x0": f(1, 2, 3, 9), "x1": f(1, 7, 1, 2)}
    compare(evaluate(graph, feeds), runtime(proto, feeds), 2e-5)


def test_integers_are_not_weighed() -> None:
    proto, _ = one("GridSample", [np.ones((1, 1, 2, 2), np.int32), f(1, 1, 1, 2)], opset=20)
    with pytest.raises(FrontendError, match="weighted sums"):
        import_model(declare(proto, [np.ones((1, 1, 1, 1), np.int32)]))
