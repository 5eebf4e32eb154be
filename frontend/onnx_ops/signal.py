"""Fourier transforms as products by matrices that are known, and what stands around them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tunesmith.ir import opset as ops
from tunesmith.ir.ops import Expr

from ..onnx_call import Call, Result, Table
from .building import cast_to, permute, reshape_to, settled, slice_to

__all__ = ["SIGNAL"]

Matrix = NDArray[np.float64]
_MOST = 1 << 24  # elements of a matrix


def _matrix(call: Call, parts: int, size: int, length: int, inverse: bool, onesided: bool,
            ) -> Matrix:  # fmt: skip
    """`[part, m, k, part]`: what element m of the signal adds to element k of the result."""
    bins = length // 2 + 1 if onesided and not inverse else length
    if 4 * size * bins > _MOST:
        call.fail(f"a transform of {length} elements is too long to be a product")
    places, found = np.arange(size)[:, None], np.arange(bins)[None, :]
    angle = 2.0 * np.pi * (places * found % length) / length
    cos, sin = np.cos(angle), np.sin(angle) * (1.0 if inverse else -1.0)
    if inverse and onesided:  # the other half of the spectrum mirrors this one
        twice = np.where((places == 0) | (2 * places == length), 1.0, 2.0)
        return np.stack([cos * twice, -sin * twice])[..., None] / length
    scale = length if inverse else 1
    real = np.stack([cos, sin], axis=-1) / scale
    imaginary = np.stack([-sin, cos], axis=-1) / scale
    return np.stack([real, imaginary][:parts])


def _dft(call: Call) -> Result:
    x = call.x()
    rank = len(x.shape)
    if call.opset < 20:
        axis = call.integer("axis", 1)
    else:
        axis = call.integers(2, "axis")[0] if call.has(2) else -2
    axis = call.axis(axis, rank)
    parts, size = x.shape[-1], x.shape[axis]
    inverse, onesided = bool(call.integer("inverse", 0)), bool(call.integer("onesided", 0))
    if axis == rank - 1 or parts not in (1, 2) or not isinstance(parts, int):
        call.fail(f"axis {axis} of {x.type} cannot be transformed: the last one holds the parts")
    if not isinstance(size, int):
        call.fail(f"needs a known size, not {size}", hint="fix it with `shapes` or `dims`")
    if onesided and parts != (2 if inverse else 1):
        call.fail("a half of a spectrum is that of a real signal")
    length = 2 * (size - 1) if inverse and onesided else size
    if call.has(1):
        length = call.integers(1, "length")[0]
    if length < 1:
        call.fail(f"a transform of {length} elements has no meaning")
    used = min(size, length // 2 + 1 if inverse and onesided else length)
    matrix = _matrix(call, parts, used, length, inverse, onesided)
    moved = permute(
        slice_to(x, axis, 0, used), [i for i in range(rank) if i not in (axis, rank - 1)]
        + [rank - 1, axis],
    )  # fmt: skip
    bins, results = matrix.shape[-2:]
    flat = matrix.reshape(parts * used, bins * results).astype(x.dtype.numpy)
    outer = moved.shape[:-2]
    y: Expr = ops.matmul(reshape_to(moved, (*outer, parts * used)), call.constant(flat)) if (
        outer
    ) else ops.matmul(reshape_to(moved, (1, parts * used)), call.constant(flat))  # fmt: skip
    y = reshape_to(y, (*outer, bins, results))
    order = [i for i in range(rank) if i not in (axis, rank - 1)]
    order = [*order, axis, rank - 1]
    return permute(y, sorted(range(rank), key=lambda i: order[i]))


def _stft(call: Call) -> Result:
    """A convolution along time: a window times a wave is its weight."""
    x = call.x()
    step = call.integers(1, "step")[0]
    window = settled(call.x(2)).value.constant if call.has(2) else None
    if call.has(2) and window is None:
        call.undecided("its window depends on data, which is not supported", call.tensor(2))
    if call.has(3):
        length = call.integers(3, "length of a frame")[0]
    elif window is not None:
        length = int(window.array.size)
    else:
        call.fail("it needs a window, or the length of a frame")
    parts, onesided = x.shape[-1] if len(x.shape) == 3 else 1, bool(call.integer("onesided", 1))
    if parts not in (1, 2) or not isinstance(parts, int) or len(x.shape) not in (2, 3):
        call.fail(f"{x.type} is not a signal [batch, time, part]")
    if onesided and parts == 2:
        call.fail("a half of a spectrum is that of a real signal")
    if step < 1 or length < 1 or (window is not None and window.array.size != length):
        call.fail(f"frames of {length} by steps of {step} do not fit its window")
    matrix = _matrix(call, parts, length, length, False, onesided)
    if window is not None:
        matrix = matrix * window.array.astype(np.float64)[None, :, None, None]
    bins = matrix.shape[2]
    weight = matrix.transpose(2, 3, 0, 1).reshape(bins * 2, parts, length)
    signal = permute(reshape_to(x, (*x.shape[:2], parts)), (0, 2, 1))
    y: Expr = ops.conv(
        signal, call.constant(weight.astype(x.dtype.numpy)), None, strides=(step,), low=(0,),
        high=(0,), dilations=(1,),
    )  # fmt: skip
    turned = permute(y, (0, 2, 1))
    return reshape_to(turned, (*turned.shape[:2], bins, 2))


def _mel(call: Call) -> Result:
    """Triangles between frequencies that are evenly far apart on the mel scale."""
    bins, length, rate = (call.integers(i, "number")[0] for i in range(3))
    low, high = (call.elements(i, "edge").reshape(-1)[0] for i in (3, 4))
    if not isinstance(low, int | float) or not isinstance(high, int | float):
        call.fail("its edges depend on the sizes of the inputs")
    if min(bins, length, rate) < 1:
        call.fail("its numbers are not positive")
    if bins * length > _MOST:
        call.fail(f"{bins} bands of {length} elements are too many")
    edges = 2595.0 * np.log10(1.0 + np.array([low, high], np.float64) / 700.0)
    steps = np.arange(bins + 2) * ((edges[1] - edges[0]) / (bins + 2)) + edges[0]
    hertz = 700.0 * (np.power(10.0, steps / 2595.0) - 1.0)
    places = ((length + 1) * hertz // rate).astype(np.int64).tolist()
    found = np.zeros((length // 2 + 1, bins))
    if min(places) < 0 or max(places[1:-1]) >= len(found) or places[-1] > len(found):
        call.fail("its edges are beyond the spectrum")
    for i, (first, middle, last) in enumerate(
        zip(places[:-2], places[1:-1], places[2:], strict=True)
    ):
        rising = np.arange(first, middle + 1)
        found[rising, i] = (rising - first) / (middle - first) if middle > first else 1.0
        falling = np.arange(middle, last)
        if last > middle:
            found[falling, i] = (last - falling) / (last - middle)
    dtype = call.element("output_datatype", 1)
    return cast_to(call.constant(found.astype(np.float32)), dtype)


SIGNAL: Table = {
    "DFT": ((17, _dft),),
    "MelWeightMatrix": ((17, _mel),),
    "STFT": ((17, _stft),),
}
