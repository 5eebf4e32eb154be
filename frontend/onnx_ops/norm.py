"""Normalization of rows, channels and groups."""

# mypy: disable-error-code="no-any-return"
# (operators hand back `Any`: their results are read from their types)

from __future__ import annotations

from tunesmith.ir import opset as ops
from tunesmith.ir.dims import Dim, exact_div, product
from tunesmith.ir.ops import Expr
from tunesmith.ir.types import DType

from ..onnx_call import Call, Result, Table
from .building import cast_to, reshape_to

__all__ = ["NORM", "layer_normalized", "rms_normalized"]


def _rows(call: Call, x: Expr, weights: list[Expr]) -> tuple[Expr, list[Expr]]:
    """Make the axes from `axis` on one, in `x` and in the weights."""
    axis = call.axis(call.integer("axis", -1), len(x.shape))
    row = x.shape[axis:]
    flat = []
    for weight in weights:
        wide = weight
        if len(row) > 1 or len(weight.shape) != 1:
            if any(size != 1 for size in weight.shape[: max(len(weight.shape) - len(row), 0)]):
                call.fail(f"a weight {weight.type} wider than a row is not supported")
            tail = weight.shape[-len(row) :]
            wide = reshape_to(weight, tail)
            wide = wide if tail == row else ops.expand(wide, shape=row)
            wide = reshape_to(wide, (product(row),))
        elif weight.shape != row and weight.shape == (1,):
            wide = ops.expand(weight, shape=row)
        flat.append(wide)
    return reshape_to(x, (*x.shape[:axis], product(row))), flat


def _wide(call: Call) -> DType:
    """The type that statistics are computed in."""
    narrow = call.dtype() in (DType.f16, DType.bf16)
    return DType.f32 if narrow and call.integer("stash_type", 1) == 1 else call.dtype()


def layer_normalized(call: Call) -> Result:
    """`LayerNormalization`, over one axis or several."""
    x, dtype = call.x(0), _wide(call)
    weights = [call.x(i) for i in (1, 2) if call.has(i)]
    rows, flat = _rows(call, cast_to(x, dtype), [cast_to(w, dtype) for w in weights])
    epsilon = call.number("epsilon", 1e-5)
    y: Expr = ops.layer_norm(rows, *flat, epsilon=epsilon)
    results = [reshape_to(cast_to(y, x.dtype), x.shape)]
    if call.wants(1) or call.wants(2):
        axis = call.axis(call.integer("axis", -1), len(x.shape))
        shape = (*x.shape[:axis], *(1 for _ in x.shape[axis:]))
        mean: Expr = ops.reduce_mean(rows, axes=(-1,), keepdims=True)
        centered = rows - mean
        variance = ops.reduce_mean(centered * centered, axes=(-1,), keepdims=True)
        results += [reshape_to(mean, shape), reshape_to(ops.rsqrt(variance + epsilon), shape)]
    return results


def rms_normalized(call: Call) -> Result:
    """`RMSNormalization`, over one axis or several."""
    x, dtype = call.x(0), _wide(call)
    rows, (weight,) = _rows(call, cast_to(x, dtype), [cast_to(call.x(1), dtype)])
    y: Expr = ops.rms_norm(rows, weight, epsilon=call.number("epsilon", 1e-5))
    return reshape_to(cast_to(y, x.dtype), x.shape)


def _channels(x: Expr, weight: Expr) -> Expr:
    """A vector of channels, to broadcast against `[N, C, …]`."""
    return reshape_to(weight, (*weight.shape, *(1 for _ in x.shape[2:])))


def _batch_norm_trained(call: Call) -> Result:
    """By the mean and the variance of the batch, which also move the running ones (opset 14)."""
    x, momentum = call.x(0), call.number("momentum", 0.9)
    if len(x.shape) < 2:
        call.fail(f"needs channels, not {x.type}")
    axes = (0, *range(2, len(x.shape)))
    dtype = DType.f64 if x.dtype is DType.f64 else DType.f32
    wide = cast_to(x, dtype)
    mean: Expr = ops.reduce_mean(wide, axes=axes)
    apart: Expr = wide - _channels(x, mean)
    variance: Expr = ops.reduce_mean(apart * apart, axes=axes)
    factor = cast_to(call.x(1), dtype) * ops.rsqrt(variance + call.number("epsilon", 1e-5))
    y: Expr = apart * _channels(x, factor) + _channels(x, cast_to(call.x(2), dtype))
    results = [cast_to(y, x.dtype)]
    for index, found in ((3, mean), (4, variance)):
        before = call.x(index)
        moved = cast_to(before, dtype) * momentum + found * (1.0 - momentum)
        results.append(cast_to(moved, before.dtype))
    return results[: max(len(call.outputs), 1)]


def _batch_norm(call: Call) -> Result:
    if call.opset >= 14 and call.integer("training_mode", 0):
        return _batch_norm_trained(call)
    if call.opset < 14 and call.wants(1):
        call.fail("batch normalization in training form is not supported",
                  hint="export the model for inference")  # fmt: skip
    if call.opset < 7 and not call.integer("is_test", 0):
        call.fail("its training mode is not off", hint="export the model for inference")
    if call.opset < 9 and not call.integer("spatial", 1):
        call.fail("statistics of each element (`spatial` = 0) are not supported")
    x, weight, bias, mean, variance = (call.x(i) for i in range(5))
    dtype = x.dtype
    factor = cast_to(weight, variance.dtype) * ops.rsqrt(variance + call.number("epsilon", 1e-5))
    shift = cast_to(bias, mean.dtype) - mean * factor
    if len(x.shape) < 2:
        return x * cast_to(factor, dtype) + cast_to(shift, dtype)
    return x * _channels(x, cast_to(factor, dtype)) + _channels(x, cast_to(shift, dtype))


def _standardized(x: Expr, axes: tuple[int, ...], epsilon: float) -> Expr:
    centered = x - ops.reduce_mean(x, axes=axes, keepdims=True)
    variance = ops.reduce_mean(centered * centered, axes=axes, keepdims=True)
    return centered * ops.rsqrt(variance + epsilon)


def _instance_norm(call: Call) -> Result:
    x, weight, bias = call.x(0), call.x(1), call.x(2)
    axes = tuple(range(2, len(x.shape)))
    y = _standardized(x, axes, call.number("epsilon", 1e-5))
    return y * _channels(x, weight) + _channels(x, bias)


def _group_norm(call: Call) -> Result:
    x, weight, bias = call.x(0), call.x(1), call.x(2)
    groups = call.integer("num_groups")
    each = exact_div(x.shape[1], groups)
    if each is None:
        call.fail(f"{groups} groups do not divide {x.shape[1]} channels")
    split: tuple[Dim, ...] = (x.shape[0], groups, each, *x.shape[2:])
    grouped = reshape_to(x, split)
    y = _standardized(grouped, tuple(range(2, len(split))), call.number("epsilon", 1e-5))
    if call.opset < 21:  # one weight for each group
        ones = tuple(1 for _ in split[2:])
        y = y * reshape_to(weight, (groups, *ones)) + reshape_to(bias, (groups, *ones))
        return reshape_to(y, x.shape)
    y = reshape_to(y, x.shape)
    return y * _channels(x, weight) + _channels(x, bias)


def _mean_variance(call: Call) -> Result:
    axes = call.integer_list("axes") or (0, 2, 3)
    x = call.x()
    centered = x - ops.reduce_mean(x, axes=axes, keepdims=True)
    variance = ops.reduce_mean(centered * centered, axes=axes, keepdims=True)
    return centered / (ops.sqrt(variance) + 1e-9)


NORM: Table = {
    "BatchNormalization": ((1, _batch_norm),),
    "GroupNormalization": ((18, _group_norm),),
    "InstanceNormalization": ((6, _instance_norm),),
    "LayerNormalization": ((17, layer_normalized),),
    "MeanVarianceNormalization": ((9, _mean_variance),),
    "RMSNormalization": ((23, rms_normalized),),
}
