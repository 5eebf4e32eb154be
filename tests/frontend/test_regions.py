"""Aligned regions and deformable convolution against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest

from tunesmith.frontend import import_model
from tunesmith.ir.diagnostics import FrontendError

from .models import Array, check, declare, one

RNG = np.random.default_rng(43)


def f(*shape: int) -> Array:
    """Random floats."""
    return RNG.standard_normal(shape).astype(np.float32)


ROIS = np.array([[0, 0, 7, 7], [-3, 1.5, 20, 5], [2, 2, 2, 2], [3.3, 4.7, 5.1, 30]], np.float32)


@pytest.mark.parametrize("mode", ["avg", "max"])
@pytest.mark.parametrize("way", ["half_pixel", "output_half_pixel"])
def test_roi_align(mode: str, way: str) -> None:
    for (height, width), (rows, columns), ratio in (
        ((8, 9), (1, 1), 1), ((1, 5), (2, 3), 2), ((16, 7), (7, 7), 3),
    ):  # fmt: skip
        proto, live = one(
            "RoiAlign", [f(2, 3, height, width), ROIS, np.array([0, 1, 1, 0])], opset=16,
            output_height=rows, output_width=columns, sampling_ratio=ratio, mode=mode,
            spatial_scale=0.5, coordinate_transformation_mode=way,
        )  # fmt: skip
        check(proto, live, 2e-5)


def test_samples_by_data_are_refused() -> None:
    proto, _ = one("RoiAlign", [f(1, 1, 8, 8), ROIS, np.zeros(4, np.int64)], opset=16)
    with pytest.raises(FrontendError, match="sampling_ratio"):
        import_model(declare(proto, [f(4, 1, 1, 1)]))


@pytest.mark.parametrize(("groups", "shares"), [(1, 1), (2, 1), (1, 2), (2, 4)])
@pytest.mark.parametrize("whole", [False, True])
def test_deform_conv(groups: int, shares: int, whole: bool) -> None:
    for kernel, strides, pads, dilations in (
        ((1, 1), [1, 1], [0] * 4, [1, 1]), ((3, 2), [1, 2], [1, 0, 2, 1], [1, 1]),
        ((2, 3), [2, 1], [1] * 4, [2, 1]),
    ):  # fmt: skip
        size = [
            (n + pads[i] + pads[i + 2] - (dilations[i] * (kernel[i] - 1) + 1)) // strides[i] + 1
            for i, n in enumerate((7, 6))
        ]
        taps = kernel[0] * kernel[1]
        feeds = [f(2, 4, 7, 6), f(6, 4 // groups, *kernel), f(2, shares * taps * 2, *size)]
        if whole:
            feeds += [f(6), f(2, shares * taps, *size)]
        proto, live = one(
            "DeformConv", feeds, opset=19, constants=[1], strides=strides, pads=pads,
            dilations=dilations, group=groups, offset_group=shares, kernel_shape=kernel,
        )  # fmt: skip
        check(proto, live, 5e-5)
