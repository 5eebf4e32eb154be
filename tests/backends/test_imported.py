"""Operators that import writes with smaller ones: as code, beside the interpreter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest

from tests.frontend.models import Array as Operand
from tests.frontend.models import declare, one, runtime
from tunesmith.driver import optimize
from tunesmith.frontend import import_model
from tunesmith.passes.base import PassContext
from tunesmith.presets import PRESETS

from .running import Array, check, merge

pytestmark = pytest.mark.tvm
RNG = np.random.default_rng(31)
EMPTY = np.zeros(0, np.float32)


def f(*shape: int) -> Array:
    """Random floats."""
    return RNG.standard_normal(shape).astype(np.float32)


def ints(low: int, high: int, *shape: int, dtype: type = np.uint8) -> Array:
    """Random integers."""
    return RNG.integers(low, high, shape).astype(dtype)


def s(value: float, dtype: type = np.float32) -> Array:
    """A scalar."""
    return np.asarray(value, dtype)


def factors(*values: float) -> Array:
    """How much to resize by."""
    return np.array(values, np.float32)


Case = tuple[str, Sequence[Operand | None], Mapping[str, object]]
ASYMMETRIC = {"coordinate_transformation_mode": "asymmetric"}
CASES: list[Case] = [
    *[
        ("Resize", [f(1, 2, 5, size), EMPTY, factors(1, 1, 2, by)],
         {"constants": [1, 2], "mode": mode})
        for mode in ("nearest", "linear", "cubic")
        for size, by in ((1, 17), (16, 0.5), (17, 1.5))
    ],
    ("Resize", [f(2, 3, 7, 4), EMPTY, factors(1, 1, 2, 3)],
     {"constants": [1, 2], "symbolic": True, **ASYMMETRIC}),
    ("Resize", [f(2, 3, 7, 4), EMPTY, factors(1, 1, 1.5, 0.5)],
     {"constants": [1, 2], "symbolic": True, "mode": "linear", **ASYMMETRIC}),
    ("Resize", [f(1, 1, 13, 16), None, None, np.array([1, 1, 5, 7])],
     {"opset": 18, "constants": [3], "mode": "linear", "antialias": 1}),
    *[
        ("ConvTranspose", [f(1, 3, 5, size), f(3, 2, *kernel), f(2)],
         {"constants": [1, 2], "strides": [2, 2], "pads": pads})
        for size, kernel, pads in (
            (1, (2, 2), [0, 0, 0, 0]),
            (16, (4, 4), [1] * 4),
            (7, (3, 5), [1] * 4),
        )
    ],
    ("ConvTranspose", [f(1, 4, 9), f(4, 2, 4)], {"constants": [1], "group": 2, "strides": [3]}),
    ("LSTM", [f(3, 2, 5), f(2, 28, 5), f(2, 28, 7), f(2, 56)],
     {"constants": [1, 2, 3], "outputs": 3, "hidden_size": 7, "direction": "bidirectional"}),
    ("GRU", [f(3, 2, 5), f(1, 24, 5), f(1, 24, 8), f(1, 48), np.array([3, 1], np.int32)],
     {"constants": [1, 2, 3], "outputs": 2, "hidden_size": 8}),
    *[
        ("GridSample", [f(2, 3, 5, 7), f(2, 4, 3, 2)],
         {"opset": 20, "mode": mode, "padding_mode": beyond})
        for mode, beyond in (("linear", "zeros"), ("nearest", "border"), ("cubic", "reflection"))
    ],
    ("LpPool", [f(1, 2, 9, 7)], {"kernel_shape": [3, 2], "strides": [2, 1]}),
    ("LRN", [f(2, 7, 17, 1)], {"size": 5}),
    ("MaxPool", [f(1, 2, 7, 8)], {"kernel_shape": [3, 2], "outputs": 2, "pads": [1, 1, 1, 0]}),
    ("MaxUnpool", [f(1, 1, 2, 2), np.array([[[[0, 3], [9, 14]]]])],
     {"kernel_shape": [2, 2], "strides": [2, 2]}),
    ("Col2Im", [f(1, 18, 20), np.array([6, 7]), np.array([3, 3])],
     {"opset": 18, "constants": [1, 2]}),
    ("QLinearConv",
     [ints(0, 255, 1, 2, 7, 8), s(0.02), s(120, np.uint8), ints(-9, 99, 4, 2, 3, 3, dtype=np.int8),
      s(0.01), s(0, np.int8), s(0.3), s(110, np.uint8)], {"constants": range(1, 8)}),
    ("MatMulInteger", [ints(0, 255, 3, 700), ints(-128, 127, 700, 17, dtype=np.int8),
                       s(7, np.uint8)], {"constants": [1, 2]}),
    ("ConvInteger", [ints(0, 255, 1, 3, 7, 8), ints(0, 255, 4, 3, 3, 3), s(120, np.uint8),
                     s(128, np.uint8)], {"constants": [1, 2, 3]}),
    *[(op, [RNG.uniform(-1, 1, 37).astype(np.float32)], {}) for op in ("Asin", "Acos", "Atan")],
    ("SoftmaxCrossEntropyLoss", [f(2, 3, 5), ints(0, 3, 2, 5, dtype=np.int64)], {}),
    ("DFT", [f(2, 31, 3, 1)], {"axis": 1, "onesided": 1}),
    ("DFT", [f(2, 16, 2)], {"axis": 1, "inverse": 1}),
    ("STFT", [f(2, 77, 1), s(7, np.int64), f(16)], {"constants": [1, 2]}),
    *[
        ("RoiAlign", [f(2, 3, 8, 9), np.array([[0, 0, 7, 7], [-3, 1, 20, 5]], np.float32),
                      np.array([0, 1])],
         {"output_height": 2, "output_width": 3, "sampling_ratio": 2, "mode": mode})
        for mode in ("avg", "max")
    ],
    ("DeformConv", [f(2, 4, 7, 6), f(6, 2, 3, 3), f(2, 36, 5, 4), f(6), f(2, 18, 5, 4)],
     {"opset": 19, "constants": [1], "group": 2, "offset_group": 2}),
    ("ReverseSequence", [f(4, 4, 3), np.array([1, 4, 3, 2])], {}),
    ("Det", [f(2, 3, 3)], {}),
    ("Pad", [f(2, 3, 7, 4), np.array([0, 0, 1, 2, 0, 0, 3, 0])],
     {"constants": [1], "mode": "edge", "symbolic": True}),
    ("Einsum", [f(2, 3, 3)], {"equation": "bii->bi"}),
    ("AffineGrid", [f(2, 2, 3), np.array([2, 1, 5, 4])], {"opset": 20, "constants": [1]}),
]  # fmt: skip


@pytest.mark.parametrize("preset", ["O0", "O2"])
def test_compiled(preset: str) -> None:
    graphs = []
    feeds: dict[str, Operand] = {}
    for number, (operator, operands, options) in enumerate(CASES):
        proto, live = one(operator, operands, **options)  # type: ignore[arg-type]  # a table
        graphs.append((f"c{number}", import_model(declare(proto, runtime(proto, live)))))
        feeds |= {f"c{number}.{name}": array for name, array in live.items()}
    graph = optimize(merge(graphs), PRESETS[preset], PassContext())
    check(graph, feeds)
