"""Transposed convolution, and other operators that give each window back to where it came from."""

# mypy: disable-error-code="no-any-return"
# (operators hand back `Any`: their results are read from their types)

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np

from tunesmith.ir import opset as ops
from tunesmith.ir.dims import Dim, exact_div, product
from tunesmith.ir.ops import Expr

from ..onnx_call import Call, Result, Table
from ..onnx_shapes import text_of
from .building import expand_to, permute, reshape_to, settled, slice_to
from .convolution import window

__all__ = ["DECONVOLUTION"]


@dataclass(frozen=True)
class _Axis:
    """One spatial axis: `size` elements become `out`, through windows of `kernel`, dilated."""

    size: Dim
    out: Dim
    kernel: int
    stride: int
    dilation: int
    low: int
    high: int

    @property
    def reach(self) -> int:
        """The extent of a window."""
        return self.dilation * (self.kernel - 1) + 1

    @property
    def taps(self) -> int:
        """The elements that one element of the result reads at most."""
        return -(-self.reach // self.stride)

    @property
    def padding(self) -> tuple[int, int]:
        """What the convolution pads before and after."""
        after = self.reach - self.high  # the last element of `x` reaches this far, but for padding
        return (
            max(self.taps - 1 - self.low // self.stride, 0),
            max(-(-after // self.stride) - 1, 0),
        )

    @property
    def first(self) -> int:
        """The element of the interleaved phases with which the result starts."""
        return self.low - min(self.low // self.stride, self.taps - 1) * self.stride


def _axes(call: Call, spatial: tuple[Dim, ...], kernel: tuple[int, ...]) -> list[_Axis]:
    count = len(spatial)
    strides, dilations = window(call, count)
    extra = call.integer_list("output_padding") or (0,) * count
    pads = call.integer_list("pads") or (0,) * (2 * count)
    wanted = call.integer_list("output_shape")
    auto = call.text("auto_pad", "NOTSET") or "NOTSET"
    if auto not in ("NOTSET", "VALID", "SAME_UPPER", "SAME_LOWER"):
        call.fail(f"`auto_pad` cannot be `{auto}`")
    if len(pads) != 2 * count or len(extra) != count or min((*pads, *extra), default=0) < 0:
        call.fail(f"its padding {list(pads)} or {list(extra)} does not fit {count} axes")
    if wanted is not None and len(wanted) not in (count, count + 2):
        call.fail(f"its `output_shape` {list(wanted)} does not fit {count} axes")
    found = []
    for i, size in enumerate(spatial):
        reach = dilations[i] * (kernel[i] - 1) + 1
        whole = (size - 1) * strides[i] + reach + extra[i]
        low, high = (pads[i], pads[count + i]) if auto == "NOTSET" else (0, 0)
        if wanted is not None or auto.startswith("SAME"):
            out = size * strides[i] if wanted is None else wanted[i - count]
            total = whole - out
            if not isinstance(total, int):
                call.fail(f"`output_shape` needs a known size, not {size}",
                          hint="fix it with `shapes` or `dims`")  # fmt: skip
            low, high = _shared(total, auto)
        else:
            out = whole - low - high
        if isinstance(out, int) and out < 0:
            call.fail(f"its padding leaves {out} elements of axis {i + 2}")
        high = high - extra[i]
        found.append(_Axis(size, out, kernel[i], strides[i], dilations[i], low, high))
    return found


def _shared(total: int, auto: str) -> tuple[int, int]:
    """What is cut off before and after; what is missing is added at the end."""
    if total <= 0:
        return 0, total
    half = total // 2
    return (half, total - half) if auto == "SAME_UPPER" else (total - half, half)


def _conv_transpose(call: Call) -> Result:
    """A convolution that computes all phases of a stride as channels, then interleaves them."""
    x, weight = call.x(0), call.x(1)
    kernel = tuple(k for k in weight.shape[2:] if isinstance(k, int))
    count, groups = len(x.shape) - 2, call.integer("group", 1)
    inputs, each = weight.shape[:2]
    if count < 1 or len(kernel) != count or not isinstance(inputs, int) or inputs % groups:
        call.fail(f"cannot convolve {x.type} with {weight.type} in {groups} groups")
    if not isinstance(each, int) or 0 in (inputs, each, *kernel):
        call.fail(f"its weight {weight.type} needs known sizes, of 1 at least")
    given = call.integer_list("kernel_shape")
    if given is not None and given != kernel:
        call.fail(f"its `kernel_shape` {list(given)} is not that of the weight, {list(kernel)}")
    return _transposed(x, weight, call.optional(2), _axes(call, x.shape[2:], kernel), groups)


def _transposed(x: Expr, weight: Expr, bias: Expr | None, axes: list[_Axis], groups: int) -> Expr:
    count = len(axes)
    strides = tuple(axis.stride for axis in axes)
    phases = settled(_phases(weight, axes, groups))
    outputs = int(str(weight.shape[1])) * groups
    if bias is not None:
        wide = expand_to(reshape_to(bias, (outputs, 1)), (outputs, product(strides)))
        bias = settled(reshape_to(wide, phases.shape[:1]))
    padding = [axis.padding for axis in axes]
    y: Expr = ops.conv(
        x, phases, bias, strides=(1,) * count, low=tuple(p[0] for p in padding),
        high=tuple(p[1] for p in padding), dilations=(1,) * count, groups=groups,
    )  # fmt: skip
    y = _interleaved(y, outputs, strides)
    for i, axis in enumerate(axes):
        y = slice_to(y, 2 + i, axis.first, axis.first + axis.out)
    return y


def _phases(weight: Expr, axes: list[_Axis], groups: int) -> Expr:
    """`[C, O/groups, kernel…]` as `[O * phases, C/groups, taps…]`, turned around."""
    w = weight
    for i, axis in enumerate(axes, 2):
        if axis.dilation > 1:
            before, after = w.shape[:i], w.shape[i + 1 :]
            w = _padded(reshape_to(w, (*before, axis.kernel, 1, *after)), i + 1, axis.dilation - 1)
            w = reshape_to(w, (*before, axis.kernel * axis.dilation, *after))
            w = slice_to(w, i, 0, axis.reach)
        w = _padded(w, i, axis.taps * axis.stride - axis.reach)
    channels, each = weight.shape[:2]
    assert isinstance(channels, int)
    split: list[Dim] = [groups, channels // groups, each]
    for axis in axes:
        split += [axis.taps, axis.stride]
    w = reshape_to(w, split)
    count = len(axes)
    for i, axis in enumerate(axes):
        if axis.taps > 1:
            w = ops.slice_(w, axis=3 + 2 * i, start=axis.taps - 1, stop=-1, step=-1)
    strides = [4 + 2 * i for i in range(count)]
    taps = [3 + 2 * i for i in range(count)]
    w = permute(w, (0, 2, *strides, 1, *taps))
    outputs = product(w.shape[: 2 + count])
    return reshape_to(w, (outputs, *w.shape[2 + count :]))


def _padded(x: Expr, axis: int, high: int) -> Expr:
    if not high:
        return x
    none = (0,) * len(x.shape)
    return ops.pad(x, low=none, high=tuple(high if i == axis else 0 for i in range(len(x.shape))))


def _interleaved(y: Expr, channels: int, strides: tuple[int, ...]) -> Expr:
    """`[N, C * phases, size…]` as `[N, C, size * stride…]`."""
    if all(stride == 1 for stride in strides):
        return y
    count = len(strides)
    batch, sizes = y.shape[0], y.shape[2:]
    split = reshape_to(y, (batch, channels, *strides, *sizes))
    perm = [0, 1]
    for i in range(count):
        perm += [2 + count + i, 2 + i]
    shape = [size * stride for size, stride in zip(sizes, strides, strict=True)]
    return reshape_to(permute(split, perm), (batch, channels, *shape))


def _col2im(call: Call) -> Result:
    """Each row of columns is given back to its own place of a window: a one among zeros."""
    x = call.x()
    image, kernel = call.integers(1, "shape of the image"), call.integers(2, "shape of a block")
    count, area = len(kernel), prod(kernel)
    strides, dilations = window(call, count)
    pads = call.integer_list("pads") or (0,) * (2 * count)
    channels = exact_div(x.shape[1], area)
    if len(x.shape) != 3 or len(image) != count or len(pads) != 2 * count or channels is None:
        call.fail(f"{x.type} holds no columns of blocks {list(kernel)} of {list(image)}")
    axes, places = [], []
    for i, size in enumerate(image):
        reach = dilations[i] * (kernel[i] - 1) + 1
        whole = size + pads[i] + pads[count + i]
        places.append((whole - reach) // strides[i] + 1)
        high = (places[i] - 1) * strides[i] + reach - pads[i] - size
        axes.append(_Axis(places[i], size, kernel[i], strides[i], dilations[i], pads[i], high))
    if x.shape[2] != prod(places):
        call.fail(f"{x.shape[2]} columns are not {places}")
    columns = reshape_to(x, (x.shape[0] * channels, area, *places))
    ones = np.eye(area).reshape(area, 1, *kernel).astype(x.dtype.numpy)
    y = _transposed(columns, call.constant(ones), None, axes, 1)
    return reshape_to(y, (x.shape[0], channels, *image))


def _max_unpool(call: Call) -> Result:
    """Elements go back to the places that a pooling told of; the rest is zeros."""
    x, places = call.x(0), call.x(1)
    kernel = call.integer_list("kernel_shape")
    count = len(x.shape) - 2
    if kernel is None or len(kernel) != count:
        call.fail(f"its `kernel_shape` {kernel} does not fit {count} axes")
    strides, _ = window(call, count)
    pads = call.integer_list("pads") or (0,) * (2 * count)
    shape: tuple[Dim, ...] = x.shape[:2] + tuple(
        (size - 1) * strides[i] + kernel[i] - pads[i] - pads[count + i]
        for i, size in enumerate(x.shape[2:])
    )
    if call.has(2) and call.sizes(2, "shape of its result") != shape:
        call.fail(f"a result of another shape than {text_of(shape)} is not supported")
    flat = ops.full(value=0, shape=(product(shape),), dtype=x.dtype)
    index = reshape_to(places, (x.type.size, 1))
    found = ops.scatter_nd(flat, index, reshape_to(x, (x.type.size,)))
    return reshape_to(found, shape)


DECONVOLUTION: Table = {
    "Col2Im": ((18, _col2im),),
    "ConvTranspose": ((1, _conv_transpose),),
    "MaxUnpool": ((9, _max_unpool),),
}
