"""Convolution and pooling, with their ways to say how much is padded."""

# mypy: disable-error-code="no-any-return"
# (operators hand back `Any`: their results are read from their types)

from __future__ import annotations

from contextlib import suppress

from tunesmith.ir import opset as ops
from tunesmith.ir.dims import Dim
from tunesmith.ir.ops import Expr
from tunesmith.ir.types import DType

from ..onnx_call import Call, Result, Table
from ..onnx_shapes import at_least
from .building import cast_to, reshape_to

__all__ = ["CONVOLUTION"]

Padding = tuple[tuple[int, ...], tuple[int, ...]]


def _padding(
    call: Call, spatial: tuple[Dim, ...], kernel: tuple[int, ...], strides: tuple[int, ...],
    dilations: tuple[int, ...],
) -> Padding:  # fmt: skip
    """Elements before and after each spatial axis; a symbol is bounded so that a window fits.

    Only where it is the size: what bounds a sum or a quotient is not one symbol's bound.
    """
    low, high = _declared_padding(call, spatial, kernel, strides, dilations)
    for i, size in enumerate(spatial):
        whole, reach = size + low[i] + high[i], dilations[i] * (kernel[i] - 1) + 1
        if at_least(whole, reach) is None:
            with suppress(ValueError):
                call.builder.facts.require(whole, reach, f"{call.location} has a window of {reach}")
    return low, high


def _declared_padding(
    call: Call, spatial: tuple[Dim, ...], kernel: tuple[int, ...], strides: tuple[int, ...],
    dilations: tuple[int, ...],
) -> Padding:  # fmt: skip
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


def _window(call: Call, count: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    strides = call.integer_list("strides") or (1,) * count
    dilations = call.integer_list("dilations") or (1,) * count
    if len(strides) != count or len(dilations) != count or min(*strides, *dilations) < 1:
        call.fail(f"strides {list(strides)} and dilations {list(dilations)} must be 1 or more")
    return strides, dilations


def _conv(call: Call) -> Result:
    x, weight = call.x(0), call.x(1)
    return _convolved(call, x, weight, call.optional(2))


def _convolved(call: Call, x: Expr, weight: Expr, bias: Expr | None) -> Expr:
    kernel = tuple(k for k in weight.shape[2:] if isinstance(k, int))
    count = len(x.shape) - 2
    if len(kernel) != count or count < 1:
        call.fail(f"cannot convolve {x.type} with {weight.type}")
    given = call.integer_list("kernel_shape")
    if given is not None and given != kernel:
        call.fail(f"its `kernel_shape` {list(given)} is not that of the weight, {list(kernel)}")
    strides, dilations = _window(call, count)
    low, high = _padding(call, x.shape[2:], kernel, strides, dilations)
    return ops.conv(
        x, weight, bias, strides=strides, low=low, high=high, dilations=dilations,
        groups=call.integer("group", 1),
    )  # fmt: skip


def _conv_integer(call: Call) -> Result:
    x, weight = cast_to(call.x(0), DType.f64), cast_to(call.x(1), DType.f64)
    if call.has(2):
        x = x - reshape_to(cast_to(call.x(2), DType.f64), ())
    if call.has(3):
        zero = cast_to(call.x(3), DType.f64)
        ones = tuple(1 for _ in weight.shape[1:])
        weight = weight - (reshape_to(zero, (*zero.shape, *ones)) if zero.shape else zero)
    return cast_to(_convolved(call, x, weight, None), DType.i32)


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
    strides, dilations = _window(call, len(spatial))
    padding = _padding(call, spatial, kernel, strides, dilations)
    extra = (0,) * len(spatial)
    if call.integer("ceil_mode", 0):
        extra = _ceiling(call, spatial, kernel, strides, dilations, padding)
    return kernel, strides, dilations, padding, extra


def _max_pool(call: Call) -> Result:
    call.refuse_result(1, "the places of the greatest")
    kernel, strides, dilations, (low, high), extra = _pooling(call)
    high = tuple(a + b for a, b in zip(high, extra, strict=True))
    return ops.max_pool(
        call.x(), kernel=kernel, strides=strides, low=low, high=high, dilations=dilations
    )


def _average_pool(call: Call) -> Result:
    kernel, strides, dilations, (low, high), extra = _pooling(call)
    counted = bool(call.integer("count_include_pad", 0))
    if any(d != 1 for d in dilations):
        call.fail("an average over dilated windows is not supported")
    if any(extra) and counted:
        call.fail("`ceil_mode` with `count_include_pad` is not supported")
    high = tuple(a + b for a, b in zip(high, extra, strict=True))
    return ops.average_pool(
        call.x(), kernel=kernel, strides=strides, low=low, high=high, count_padding=counted
    )


CONVOLUTION: Table = {
    "AveragePool": ((1, _average_pool),),
    "Conv": ((1, _conv),),
    "ConvInteger": ((10, _conv_integer),),
    "MaxPool": ((1, _max_pool),),
}
