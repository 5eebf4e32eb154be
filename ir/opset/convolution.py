"""Convolution and pooling over channels-first tensors `[N, C, spatial…]`."""

from __future__ import annotations

from ..dims import Dim, floor_div
from ..ops import op
from ..types import TensorType

__all__ = ["average_pool", "conv", "max_pool"]


def _windows(
    spatial: tuple[Dim, ...],
    kernel: tuple[int, ...],
    strides: tuple[int, ...],
    low: tuple[int, ...],
    high: tuple[int, ...],
    dilations: tuple[int, ...],
) -> tuple[Dim, ...]:
    if not len(spatial) == len(kernel) == len(strides) == len(low) == len(high) == len(dilations):
        raise ValueError(f"{len(spatial)} spatial axes need as many sizes in every attribute")
    if min((*strides, *dilations), default=1) < 1:
        raise ValueError("strides and dilations are at least 1")
    sizes = []
    for i, size in enumerate(spatial):
        free = size + low[i] + high[i] - (dilations[i] * (kernel[i] - 1) + 1)
        if isinstance(free, int) and free < 0:
            raise ValueError(f"the window of axis {i} is larger than the padded input")
        sizes.append(floor_div(free, strides[i]) + 1)
    return tuple(sizes)


@op("conv", "pure")
def conv(
    x: TensorType,
    weight: TensorType,
    bias: TensorType | None = None,
    /,
    *,
    strides: tuple[int, ...],
    low: tuple[int, ...],
    high: tuple[int, ...],
    dilations: tuple[int, ...],
    groups: int = 1,
) -> TensorType:
    """Cross-correlation of `[N, C, …]` with `[O, C/groups, kernel…]`, plus `bias` `[O]`."""
    if x.dtype is not weight.dtype or x.rank != weight.rank or x.rank < 3:
        raise ValueError(f"cannot convolve {x} with {weight}")
    out = weight.shape[0]
    kernel = weight.shape[2:]
    if not isinstance(out, int) or not all(isinstance(k, int) for k in kernel):
        raise ValueError(f"the weight needs known sizes, not {weight}")
    if x.shape[1] != weight.shape[1] * groups or out % groups:
        raise ValueError(f"{x}, {weight} and {groups} groups do not fit")
    if bias is not None and bias.shape != (out,):
        raise ValueError(f"needs a bias of {out} elements, not {bias}")
    sizes = _windows(x.shape[2:], tuple(map(_int, kernel)), strides, low, high, dilations)
    return x.with_shape((x.shape[0], out, *sizes))


def _int(value: Dim) -> int:
    assert isinstance(value, int)
    return value


@op("max_pool", "pure")
def max_pool(
    x: TensorType,
    /,
    *,
    kernel: tuple[int, ...],
    strides: tuple[int, ...],
    low: tuple[int, ...],
    high: tuple[int, ...],
    dilations: tuple[int, ...],
) -> TensorType:
    """The greatest of each window; padding never wins."""
    return x.with_shape(
        (*x.shape[:2], *_windows(x.shape[2:], kernel, strides, low, high, dilations))
    )


@op("average_pool", "pure")
def average_pool(
    x: TensorType,
    /,
    *,
    kernel: tuple[int, ...],
    strides: tuple[int, ...],
    low: tuple[int, ...],
    high: tuple[int, ...],
    count_padding: bool = False,
) -> TensorType:
    """The mean of each window; padding is counted as zeros, or not at all."""
    ones = (1,) * len(kernel)
    return x.with_shape((*x.shape[:2], *_windows(x.shape[2:], kernel, strides, low, high, ones)))
