"""Transposed convolution against ONNX Runtime: every stride, padding and group, at odd sizes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tunesmith.ir.interpreter import evaluate

from .models import check, compare, one, runtime

RNG = np.random.default_rng(13)


def f(*shape: int) -> NDArray[np.float32]:
    """Random floats."""
    return RNG.standard_normal(shape).astype(np.float32)


CASES: list[tuple[tuple[int, ...], tuple[int, ...], Mapping[str, object]]] = [
    ((1, 3, 5, 4), (3, 2, 2, 2), {"strides": [2, 2]}),
    ((1, 3, 1, 1), (3, 2, 2, 2), {"strides": [2, 2]}),
    ((2, 3, 5, 4), (3, 2, 3, 3), {}),
    ((2, 3, 5, 4), (3, 2, 4, 4), {"strides": [2, 2], "pads": [1, 1, 1, 1]}),
    ((2, 3, 5, 4), (3, 2, 3, 3), {"strides": [2, 2], "pads": [1, 0, 1, 2]}),
    ((1, 2, 7, 5), (2, 4, 3, 2), {"strides": [3, 1], "pads": [2, 1, 0, 0]}),
    ((1, 2, 7, 5), (2, 4, 3, 5), {"dilations": [2, 3], "pads": [1, 2, 3, 4]}),
    ((1, 2, 7, 5), (2, 4, 3, 5), {"dilations": [2, 3], "strides": [2, 3]}),
    ((1, 2, 3, 3), (2, 1, 1, 1), {"strides": [3, 2]}),
    ((1, 2, 3, 3), (2, 1, 3, 3), {"strides": [3, 2], "output_padding": [2, 1]}),
    ((1, 2, 3, 3), (2, 1, 2, 3),
     {"strides": [3, 2], "output_padding": [2, 1], "pads": [1, 1, 0, 1]}),
    ((1, 4, 6, 5), (4, 3, 3, 3), {"group": 2, "strides": [2, 1], "pads": [1, 1, 1, 1]}),
    ((1, 4, 6, 5), (4, 1, 3, 3), {"group": 4, "strides": [2, 2]}),
    ((2, 3, 9), (3, 5, 4), {"strides": [2], "pads": [1, 1]}),
    ((2, 3, 9), (3, 5, 16), {"strides": [8], "pads": [4, 4]}),
    ((1, 2, 3, 4, 2), (2, 3, 2, 3, 2), {"strides": [2, 1, 2]}),
    ((1, 2, 9, 9), (2, 1, 5, 5), {"pads": [4, 4, 4, 4]}),
    ((1, 2, 9, 9), (2, 1, 3, 3), {"pads": [4, 5, 6, 3], "strides": [2, 2]}),
    ((1, 1, 3, 3), (1, 2, 3, 3), {"auto_pad": "SAME_UPPER", "strides": [2, 2]}),
    ((1, 1, 3, 3), (1, 2, 4, 3), {"auto_pad": "SAME_LOWER", "strides": [2, 2]}),
    ((1, 1, 3, 3), (1, 2, 3, 3), {"auto_pad": "VALID", "strides": [2, 2]}),
    ((1, 1, 3, 3), (1, 2, 3, 3), {"output_shape": [10, 8], "strides": [3, 2]}),
    ((1, 1, 3, 3), (1, 2, 3, 3),
     {"output_shape": [6, 4], "strides": [3, 2], "auto_pad": "SAME_UPPER"}),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=str)
@pytest.mark.parametrize("constant", [True, False])
def test_conv_transpose(
    case: tuple[tuple[int, ...], tuple[int, ...], Mapping[str, object]], constant: bool
) -> None:
    shape, weight, attributes = case
    bias = [f(weight[1] * int(str(attributes.get("group", 1))))] if constant else []
    options: dict[str, Any] = {"constants": [1, 2] if constant else [], **attributes}
    proto, live = one("ConvTranspose", [f(*shape), f(*weight), *bias], opset=11, **options)
    check(proto, live, 2e-5)


@pytest.mark.parametrize("pads", [[0, 0, 0, 0], [1, 1, 1, 1], [0, 1, 1, 2]])
def test_open_sizes(pads: list[int]) -> None:
    proto, live = one(
        "ConvTranspose", [f(2, 3, 5, 7), f(3, 2, 4, 4)], constants=[1], pads=pads, strides=[2, 2]
    )
    for axis, name in enumerate(("N", None, "H", "W")):
        if name:
            proto.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = name
    graph = check(proto, live, 2e-5)
    for height, width in ((1, 2), (2, 3), (3, 17), (16, 15)):
        x = f(1, 3, height, width)
        compare(evaluate(graph, {"x0": x}), runtime(proto, {"x0": x}), 2e-5)
