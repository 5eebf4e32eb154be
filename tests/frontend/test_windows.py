"""Pooling, neighbors among channels, columns and integer convolution against ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from onnx.reference import ReferenceEvaluator

from tunesmith.frontend import import_model
from tunesmith.ir.diagnostics import FrontendError
from tunesmith.ir.interpreter import evaluate

from .models import Array, check, compare, declare, one

RNG = np.random.default_rng(19)


def f(*shape: int) -> Array:
    """Random floats."""
    return RNG.standard_normal(shape).astype(np.float32)


def ints(low: int, high: int, *shape: int, dtype: type = np.uint8) -> Array:
    """Random integers."""
    return RNG.integers(low, high, shape).astype(dtype)


def s(value: float, dtype: type = np.float32) -> Array:
    """A scalar."""
    return np.asarray(value, dtype)


SPREAD = np.array([-9.5, -2.5, -1, -0.5, -0.4, -0.0, 0, 1e-6, 0.3, 0.41, 0.42, 0.66, 1, 2.4, 2.5,
                   1e6, np.inf, -np.inf, np.nan], np.float32)  # fmt: skip
INSIDE = np.array([-1, -0.999, -0.5, -1e-4, 0, 1e-6, 0.25, 0.7, 0.9999, 1, 1.5, np.nan], np.float32)

WINDOWS: Sequence[Mapping[str, object]] = (
    {"kernel_shape": [2, 3]},
    {"kernel_shape": [3, 3], "strides": [2, 1], "pads": [1, 1, 1, 1]},
    {"kernel_shape": [2, 2], "strides": [3, 2], "pads": [0, 1, 1, 0]},
    {"kernel_shape": [7, 1], "auto_pad": "SAME_UPPER"},
)
Case = tuple[str, str, Sequence[Array | None], Mapping[str, object]]
CASES: list[Case] = [
    ("Atan", "Atan", [SPREAD], {}),
    ("Asin", "Asin", [INSIDE], {}),
    ("Acos", "Acos", [INSIDE], {}),
    *[(f"LpPool-{i}", "LpPool", [f(2, 3, 7, 8)], w) for i, w in enumerate(WINDOWS)],
    ("LpPool-3", "LpPool", [f(1, 2, 9)], {"kernel_shape": [3], "p": 3, "strides": [2]}),
    ("LpPool-dilated", "LpPool", [f(1, 2, 9)],
     {"opset": 18, "kernel_shape": [3], "p": 1, "dilations": [2], "pads": [1, 2]}),
    ("LpPool-ceil", "LpPool", [f(1, 1, 4, 4)],
     {"opset": 18, "kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}),
    *[(f"GlobalLpPool-{p}", "GlobalLpPool", [f(2, 3, 4, 5)], {"p": p}) for p in (1, 2, 3)],
    *[
        (f"MaxPool-{i}", "MaxPool", [f(2, 3, 7, 8)], {**w, "outputs": 2, "opset": 12})
        for i, w in enumerate(WINDOWS)
    ],
    ("MaxPool-order", "MaxPool", [f(1, 2, 5, 6)],
     {"kernel_shape": [2, 3], "outputs": 2, "storage_order": 1, "opset": 12}),
    ("MaxPool-dilated", "MaxPool", [f(2, 3, 11)],
     {"kernel_shape": [3], "outputs": 2, "dilations": [2], "pads": [1, 1], "opset": 12}),
    ("MaxPool-ceil", "MaxPool", [f(1, 1, 4, 4)],
     {"kernel_shape": [3, 3], "outputs": 2, "strides": [2, 2], "ceil_mode": 1, "opset": 12}),
    ("MaxPool-u8", "MaxPool", [ints(0, 9, 1, 1, 5, 5)],
     {"kernel_shape": [2, 2], "outputs": 2, "opset": 12}),
    ("MaxUnpool", "MaxUnpool", [f(1, 1, 2, 2), np.array([[[[0, 3], [9, 14]]]])],
     {"kernel_shape": [2, 2], "strides": [2, 2]}),
    *[
        (f"LRN-{size}", "LRN", [f(2, 7, 3, 5)], {"size": size, "alpha": 0.5, "beta": 0.6})
        for size in (1, 3, 5, 7)
    ],
    ("Col2Im", "Col2Im", [f(2, 18, 20), np.array([6, 7]), np.array([3, 3])],
     {"opset": 18, "constants": [1, 2]}),
    ("Col2Im-all", "Col2Im", [f(1, 6, 12), np.array([6, 7]), np.array([2, 3])],
     {"opset": 18, "constants": [1, 2], "strides": [2, 2], "pads": [1, 1, 0, 1],
      "dilations": [1, 1]}),
    ("Col2Im-dilated", "Col2Im", [f(1, 4, 20), np.array([6, 7]), np.array([2, 2])],
     {"opset": 18, "constants": [1, 2], "dilations": [2, 2]}),
    ("QLinearConv", "QLinearConv",
     [ints(0, 255, 1, 2, 7, 8), s(0.02), s(120, np.uint8), ints(-99, 99, 4, 2, 3, 3, dtype=np.int8),
      s(0.01), s(0, np.int8), s(0.3), s(110, np.uint8)],
     {"constants": range(1, 8), "pads": [1, 1, 1, 1]}),
    ("QLinearConv-axis", "QLinearConv",
     [ints(0, 255, 1, 4, 9), s(0.02), s(3, np.uint8), ints(0, 255, 4, 2, 3), np.abs(f(4)) / 9,
      ints(120, 130, 4), s(5.0), s(100, np.uint8), ints(-999, 999, 4, dtype=np.int32)],
     {"constants": range(1, 9), "group": 2}),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case[0]))
def test_agrees_with_onnx_runtime(case: Case) -> None:
    _, operator, feeds, options = case
    proto, live = one(operator, feeds, **options)  # type: ignore[arg-type]  # a table of options
    with np.errstate(all="ignore"):
        check(proto, live, 2e-5)


def test_angles_of_doubles() -> None:
    x = np.linspace(-0.99, 0.99, 41)
    for operator, wanted in (("Atan", np.arctan), ("Asin", np.arcsin), ("Acos", np.arccos)):
        proto, live = one(operator, [x])
        graph = import_model(declare(proto, [x]))
        compare(evaluate(graph, live), [np.asarray(wanted(x))], 1e-14)


def test_another_shape_of_what_was_pooled() -> None:
    feeds = [f(1, 1, 2, 2), np.array([[[[0, 3], [9, 14]]]]), np.array([1, 1, 5, 5])]
    proto, _ = one("MaxUnpool", feeds, constants=[2], kernel_shape=[2, 2], strides=[2, 2])
    with pytest.raises(FrontendError, match="another shape"):
        import_model(declare(proto, [f(1, 1, 5, 5)]))


@pytest.mark.parametrize("counted", [0, 1])
@pytest.mark.parametrize("ceil", [0, 1])
@pytest.mark.parametrize(
    ("shape", "kernel", "dilations", "strides", "pads"),
    [
        ((1, 2, 9), [3], [2], [1], [0, 0]), ((2, 3, 11), [2], [3], [2], [1, 1]),
        ((1, 2, 8, 7), [2, 3], [2, 1], [2, 2], [1, 0, 0, 1]),
        ((1, 1, 7, 8), [3, 3], [1, 1], [2, 2], [1, 1, 1, 1]),
        ((1, 1, 5, 6, 7), [2, 2, 2], [2, 1, 2], [1, 2, 1], [1, 1, 1, 1, 1, 1]),
    ],
)  # fmt: skip
def test_averages_over_windows_with_gaps(
    shape: tuple[int, ...], kernel: list[int], dilations: list[int], strides: list[int],
    pads: list[int], ceil: int, counted: int,
) -> None:  # fmt: skip
    """The reference of ONNX, since ONNX Runtime has counted what `ceil_mode` reaches."""
    proto, live = one("AveragePool", [f(*shape)], opset=22, kernel_shape=kernel,
                      dilations=dilations, strides=strides, pads=pads, ceil_mode=ceil,
                      count_include_pad=counted)  # fmt: skip
    wanted = ReferenceEvaluator(proto).run(None, live)
    graph = import_model(declare(proto, [np.asarray(y) for y in wanted]))
    compare(evaluate(graph, live), [np.asarray(y) for y in wanted], 1e-5)


@pytest.mark.parametrize("shape", [(2, 3), (1, 3, 5), (4, 3, 2, 7)])
def test_normalization_by_the_batch_itself(shape: tuple[int, ...]) -> None:
    feeds = [f(*shape), f(3), f(3), f(3), np.abs(f(3))]
    proto, live = one("BatchNormalization", feeds, opset=15, outputs=3, training_mode=1,
                      momentum=0.7, epsilon=1e-3)  # fmt: skip
    wanted = [np.asarray(y) for y in ReferenceEvaluator(proto).run(None, live)]
    graph = import_model(declare(proto, wanted))
    compare(evaluate(graph, live), wanted, 1e-4)


def test_dropout_in_training_that_drops_nothing() -> None:
    for ratio, fine in ((0.0, True), (0.25, False)):
        feeds = [f(3, 5), np.asarray(ratio, np.float32), np.asarray(True)]
        proto, live = one("Dropout", feeds, opset=13, constants=[1, 2])
        proto = declare(proto, [feeds[0]])
        if fine:
            compare(evaluate(import_model(proto), live), [feeds[0]], 0.0)
        else:
            with pytest.raises(FrontendError, match="training mode"):
                import_model(proto)
