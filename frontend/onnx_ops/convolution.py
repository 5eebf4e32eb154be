"""Convolution and pooling, with their ways to say how much is padded."""

# mypy: disable-error-code="no-any-return"
# (operators hand back `Any`: their results are read from their types)

from __future__ import annotations

from contextlib import suppress
from math import inf, prod

import numpy as np

from tunesmith.ir import opset as ops
from tunesmith.ir.dims import Dim, product
from tunesmith.ir.ops import Expr
from tunesmith.ir.types import DType

from ..onnx_call import Call, Result, Table
from ..onnx_shapes import at_least
from .building import along, cast_to, reshape_to, settled, slice_to
from .linear import EXACT

__all__ = ["CONVOLUTION", "convolved_integers", "declared_padding", "window"]

Padding = tuple[tuple[int, ...], tuple[int, ...]]


def _padding(
    call: Call, spatial: tuple[Dim, ...], kernel: tuple[int, ...], strides: tuple[int, ...],
    dilations: tuple[int, ...],
) -> Padding:  # fmt: skip
    """Elements before and after each spatial axis; a symbol is bounded so that a window fits.

    Only where it is the size: what bounds a sum or a quotient is not one symbol's bound.
    """
    low, high = declared_padding(call, spatial, kernel, strides, dilations)
    for i, size in enumerate(spatial):
        whole, reach = size + low[i] + high[i], dilations[i] * (kernel[i] - 1) + 1
        if at_least(whole, reach) is None:
            with suppress(ValueError):
                call.builder.facts.require(whole, reach, f"{call.location} has a window of {reach}")
    return low, high


def declared_padding(
    call: Call, spatial: tuple[Dim, ...], kernel: tuple[int, ...], strides: tuple[int, ...],
    dilations: tuple[int, ...],
) -> Padding:  # fmt: skip
    """Elements before and after each spatial axis, as the attributes of a node say."""
    count = len(spatial)
    auto = call.text("auto_pad", "NOTSET")
    if auto in ("NOTSET", ""):
        pads = call.integer_list("pads") or (0,) * (2 * count)
        if len(pads) != 2 * count or min(pads, default=0) < 0:
            call.fail(f"its padding {list(pads)} does not fit {count} axes")
        return pads[:count], pads[count:]
    if auto == "VALID":
        return (0,) * count, (0,) * count
    if auto not in ("SAME_UPPER", "SAME_LOWER"):
        call.fail(f"`auto_pad` cannot be `{auto}`")
    low, high = [], []
    for size, width, stride, dilation in zip(spatial, kernel, strides, dilations, strict=True):
        reach = dilation * (width - 1) + 1
        if stride == 1:
            total = reach - 1
        elif isinstance(size, int):
            total = max((-(-size // stride) - 1) * stride + reach - size, 0)
        else:
            call.fail(f"`{auto}` with a stride needs a known size, not {size}",
                      hint="fix it with `shapes` or `dims`")  # fmt: skip
        smaller = total // 2
        low.append(smaller if auto == "SAME_UPPER" else total - smaller)
        high.append(total - smaller if auto == "SAME_UPPER" else smaller)
    return tuple(low), tuple(high)


def window(call: Call, count: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The strides and the dilations of a window over `count` axes."""
    strides = call.integer_list("strides") or (1,) * count
    dilations = call.integer_list("dilations") or (1,) * count
    if len(strides) != count or len(dilations) != count or min(*strides, *dilations) < 1:
        call.fail(f"strides {list(strides)} and dilations {list(dilations)} must be 1 or more")
    return strides, dilations


def _conv(call: Call) -> Result:
    x, weight = call.x(0), call.x(1)
    return convolved(call, x, weight, call.optional(2))


def convolved(call: Call, x: Expr, weight: Expr, bias: Expr | None) -> Expr:
    """A convolution with the window that the attributes of a node say."""
    kernel = tuple(k for k in weight.shape[2:] if isinstance(k, int))
    count = len(x.shape) - 2
    if len(kernel) != count or count < 1:
        call.fail(f"cannot convolve {x.type} with {weight.type}")
    given = call.integer_list("kernel_shape")
    if given is not None and given != kernel:
        call.fail(f"its `kernel_shape` {list(given)} is not that of the weight, {list(kernel)}")
    strides, dilations = window(call, count)
    low, high = _padding(call, x.shape[2:], kernel, strides, dilations)
    return ops.conv(
        x, weight, bias, strides=strides, low=low, high=high, dilations=dilations,
        groups=call.integer("group", 1),
    )  # fmt: skip


def _conv_integer(call: Call) -> Result:
    zero = call.optional(2)
    return cast_to(
        convolved_integers(call, call.x(0), zero, call.x(1), call.optional(3)), DType.i32
    )


def convolved_integers(
    call: Call, x: Expr, x_zero: Expr | None, weight: Expr, w_zero: Expr | None,
    bias: Expr | None = None,
) -> Expr:  # fmt: skip
    """A convolution of integers, in floats that hold every sum exactly."""
    right = cast_to(weight, DType.i32)
    if w_zero is not None:
        ones = tuple(1 for _ in weight.shape[1:])
        zero = cast_to(w_zero, DType.i32)
        flat = zero.type.size == 1
        right = right - reshape_to(zero, () if flat else (*zero.shape, *ones))
    known, added = settled(right).value.constant, None if bias is None else bias.value.constant
    dtype = DType.f64
    if (
        known is not None
        and (bias is None or added is not None)
        and x.dtype in (DType.u8, DType.i8)
    ):
        reach = np.abs(known.array.astype(np.int64)).reshape(known.array.shape[0], -1).sum(1) * 255
        if added is not None:
            reach = reach + np.abs(added.array.astype(np.int64))
        dtype = DType.f32 if reach.max(initial=0) < EXACT else dtype
    left: Expr = cast_to(x, dtype)
    if x_zero is not None:
        left = left - cast_to(reshape_to(x_zero, ()), dtype)
    right = settled(cast_to(right, dtype))
    return convolved(call, left, right, None if bias is None else settled(cast_to(bias, dtype)))


def _ceiling(
    call: Call, spatial: tuple[Dim, ...], kernel: tuple[int, ...], strides: tuple[int, ...],
    dilations: tuple[int, ...], padding: Padding,
) -> tuple[int, ...]:  # fmt: skip
    """More elements after each axis, so that a last, partial window counts."""
    extra = []
    for i, size in enumerate(spatial):
        if not isinstance(size, int):
            call.fail(f"`ceil_mode` needs a known size, not {size}", hint="fix it with `dims`")
        low, high = padding[0][i], padding[1][i]
        free = size + low + high - (dilations[i] * (kernel[i] - 1) + 1)
        windows = -(-free // strides[i]) + 1
        if (windows - 1) * strides[i] >= size + low:  # it would start in the padding
            windows -= 1
        extra.append(max((windows - 1) * strides[i] - free, 0))
    return tuple(extra)


def _pooling(
    call: Call,
) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], Padding, tuple[int, ...]]:
    spatial = call.shape()[2:]
    kernel = call.integer_list("kernel_shape")
    if kernel is None or len(kernel) != len(spatial) or min(kernel) < 1:
        call.fail(f"its `kernel_shape` {kernel} does not fit {len(spatial)} axes")
    strides, dilations = window(call, len(spatial))
    padding = _padding(call, spatial, kernel, strides, dilations)
    extra = (0,) * len(spatial)
    if call.integer("ceil_mode", 0):
        extra = _ceiling(call, spatial, kernel, strides, dilations, padding)
    return kernel, strides, dilations, padding, extra


def _max_pool(call: Call) -> Result:
    kernel, strides, dilations, (low, high), extra = _pooling(call)
    high = tuple(a + b for a, b in zip(high, extra, strict=True))
    y = ops.max_pool(
        call.x(), kernel=kernel, strides=strides, low=low, high=high, dilations=dilations
    )
    if not call.wants(1):
        return y
    if prod(kernel) > 256:
        call.fail(f"the places of the greatest in windows of {prod(kernel)} are not supported")
    return [y, _greatest_places(call, y.shape, kernel, strides, dilations, (low, high))]


def _greatest_places(
    call: Call, shape: tuple[Dim, ...], kernel: tuple[int, ...], strides: tuple[int, ...],
    dilations: tuple[int, ...], padding: Padding,
) -> Expr:  # fmt: skip
    """Row-major places in the whole input: each window laid out along an axis, and searched."""
    x, count = call.x(), len(kernel)
    lowest = -inf if x.dtype.is_float else np.iinfo(str(x.dtype.numpy)).min
    low, high = ((0, 0, *some) for some in padding)
    padded = ops.pad(x, low=low, high=high, value=lowest) if any((*low, *high)) else x
    parts = []
    for offsets in np.ndindex(*kernel):
        part = padded
        for i, offset in enumerate(offsets):
            first = offset * dilations[i]
            last = first + (shape[2 + i] - 1) * strides[i] + 1
            part = slice_to(part, 2 + i, first, last, strides[i])
        parts.append(reshape_to(part, (*shape, 1)))
    best = ops.argmax(ops.concat(*parts, axis=-1), axis=-1)
    place: Expr = reshape_to(
        ops.iota(size=shape[0] * shape[1], dtype=DType.i64), (*shape[:2], *(1,) * count)
    )
    order = range(count) if not call.integer("storage_order", 0) else reversed(range(count))
    inner = [
        along(ops.iota(size=shape[2 + i], dtype=DType.i64), 2 + i, len(shape)) * strides[i]
        - padding[0][i]
        + ops.mod(ops.div(best, prod(kernel[i + 1 :])), kernel[i]) * dilations[i]
        for i in range(count)
    ]
    for i in order:
        place = place * ops.dim_value(size=x.shape[2 + i], dtype=DType.i64) + inner[i]
    return place


def _lp_pool(call: Call) -> Result:
    """The root of a sum of powers; a sum over a window is a convolution by ones."""
    kernel, strides, dilations, (low, high), extra = _pooling(call)
    high = tuple(a + b for a, b in zip(high, extra, strict=True))
    x, power, channels = call.x(), call.integer("p", 2), call.shape()[1]
    if not isinstance(channels, int):
        call.fail(f"needs a known number of channels, not {channels}")
    powers = x * x if power == 2 else ops.pow_(ops.abs_(x), float(power))
    ones = call.constant(np.ones((channels, 1, *kernel), x.dtype.numpy))
    total = ops.conv(
        powers, ones, None, strides=strides, low=low, high=high, dilations=dilations,
        groups=channels,
    )  # fmt: skip
    return ops.sqrt(total) if power == 2 else ops.pow_(total, 1.0 / power)


def _response_norm(call: Call) -> Result:
    """Division by a power of the mean of squares over neighboring channels."""
    x, size = call.x(), call.integer("size")
    if len(x.shape) < 2:
        call.fail(f"needs channels, not {x.type}")
    flat = reshape_to(x * x, (x.shape[0], 1, x.shape[1], product(x.shape[2:])))
    before, after = (size - 1) // 2, size // 2
    mean = ops.average_pool(
        flat, kernel=(size, 1), strides=(1, 1), low=(before, 0), high=(after, 0),
        count_padding=True,
    )  # fmt: skip
    scale = reshape_to(mean, x.shape) * call.number("alpha", 1e-4) + call.number("bias", 1.0)
    return x / ops.pow_(scale, call.number("beta", 0.75))


def _global_lp_pool(call: Call) -> Result:
    x, power = call.x(), call.integer("p", 2)
    axes = tuple(range(2, len(x.shape)))
    powers = x * x if power == 2 else ops.pow_(ops.abs_(x), float(power))
    total = ops.reduce_sum(powers, axes=axes, keepdims=True)
    return ops.sqrt(total) if power == 2 else ops.pow_(total, 1.0 / power)


def _counted_average(call: Call, counted: bool) -> Expr:
    """A sum over each window, by how many elements of it count.

    Elements are those of the input, and, if `counted`, of its declared padding; not what
    `ceil_mode` reaches beyond it. Both sums are convolutions by ones.
    """
    kernel, strides, dilations, (low, high), extra = _pooling(call)
    x = call.x()
    channels, spatial = x.shape[1], x.shape[2:]
    if not isinstance(channels, int):
        call.fail(f"needs a known number of channels, not {channels}")

    def summed(values: Expr, before: tuple[int, ...], after: tuple[int, ...], groups: int) -> Expr:
        ones = call.constant(np.ones((groups, 1, *kernel), x.dtype.numpy))
        return ops.conv(
            values, ones, None, strides=strides, low=before, dilations=dilations, groups=groups,
            high=tuple(a + b for a, b in zip(after, extra, strict=True)),
        )  # fmt: skip

    none = (0,) * len(kernel)
    counting = [n + a + b for n, a, b in zip(spatial, low, high, strict=True)]
    real = ops.full(value=1, shape=(1, 1, *(counting if counted else spatial)), dtype=x.dtype)
    counts = summed(real, none, none, 1) if counted else summed(real, low, high, 1)
    return summed(x, low, high, channels) / settled(counts)


def _average_pool(call: Call) -> Result:
    kernel, strides, dilations, (low, high), extra = _pooling(call)
    counted = bool(call.integer("count_include_pad", 0))
    if any(d != 1 for d in dilations) or (any(extra) and counted):
        return _counted_average(call, counted)
    high = tuple(a + b for a, b in zip(high, extra, strict=True))
    return ops.average_pool(
        call.x(), kernel=kernel, strides=strides, low=low, high=high, count_padding=counted
    )


CONVOLUTION: Table = {
    "AveragePool": ((1, _average_pool),),
    "Conv": ((1, _conv),),
    "ConvInteger": ((10, _conv_integer),),
    "GlobalLpPool": ((1, _global_lp_pool),),
    "LRN": ((1, _response_norm),),
    "LpPool": ((2, _lp_pool),),
    "MaxPool": ((1, _max_pool),),
}
