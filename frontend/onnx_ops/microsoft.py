"""Operators of ONNX Runtime's own domain that its transformer tools write."""

# mypy: disable-error-code="no-any-return"
# (operators hand back `Any`: their results are read from their types)

from __future__ import annotations

from tunesmith.ir import opset as ops
from tunesmith.ir.dims import exact_div
from tunesmith.ir.ops import Expr
from tunesmith.ir.types import DType

from ..onnx_call import Call, Result, Rule, Table
from .attention import from_heads, rotated, to_heads
from .building import cast_to, permute, reshape_to, slice_to
from .linear import multiplied

__all__ = ["MICROSOFT", "UNDEFINED"]


def _gelu(approximate: str) -> Rule:
    def rule(call: Call) -> Result:
        x = call.x() + call.x(1) if call.has(1) else call.x()
        return ops.gelu(x, approximate=approximate)

    return rule


def _quick_gelu(call: Call) -> Result:
    x = call.x()
    return x * ops.sigmoid(x * call.number("alpha", 1.702))


def _layer_norm(call: Call) -> Result:
    call.refuse_result(1, "the mean")
    call.refuse_result(2, "the deviation")
    bias = [call.x(2)] if call.has(2) else []
    axis = call.axis(call.integer("axis", -1), call.rank())
    if axis != call.rank() - 1:
        call.fail("rows of more than one axis are not supported")
    return ops.layer_norm(call.x(0), call.x(1), *bias, epsilon=call.number("epsilon", 1e-5))


def _rms_norm(call: Call) -> Result:
    call.refuse_result(1, "the deviation")
    axis = call.axis(call.integer("axis", -1), call.rank())
    if axis != call.rank() - 1:
        call.fail("rows of more than one axis are not supported")
    return ops.rms_norm(call.x(0), call.x(1), epsilon=call.number("epsilon", 1e-5))


def _skip(call: Call, bias: int) -> Expr:
    """The sum of `x`, what skips a block, and a bias."""
    call.refuse_result(1, "the mean")
    call.refuse_result(2, "the deviation")
    total = call.x(0) + call.x(1)
    return total + call.x(bias) if call.has(bias) else total


def _skip_layer_norm(call: Call) -> Result:
    total = _skip(call, 4)
    beta = [call.x(3)] if call.has(3) else []
    y: Expr = ops.layer_norm(total, call.x(2), *beta, epsilon=call.number("epsilon", 1e-12))
    return [y, y, y, total]


def _skip_rms_norm(call: Call) -> Result:
    total = _skip(call, 3)
    y: Expr = ops.rms_norm(total, call.x(2), epsilon=call.number("epsilon", 1e-12))
    return [y, y, y, total]


def _embed(call: Call) -> Result:
    """Rows of up to three tables, added and normalized; and how many tokens of a row are real."""
    ids = call.x(0)
    total: Expr = ops.gather(call.x(2), ids, axis=0)
    if call.has(8):
        total = total + ops.gather(call.x(3), call.x(8), axis=0)
    else:
        total = total + slice_to(call.x(3), 0, 0, ids.shape[1])
    if call.has(1) and call.has(4):
        total = total + ops.gather(call.x(4), call.x(1), axis=0)
    y: Expr = ops.layer_norm(total, call.x(5), call.x(6), epsilon=call.number("epsilon", 1e-12))
    if call.has(7):
        counts: Expr = ops.reduce_sum(cast_to(call.x(7), DType.i32), axes=(1,))
    else:
        counts = ops.full(value=0, shape=ids.shape[:1], dtype=DType.i32)
    return [y, counts, total]


def _fused_matmul(call: Call) -> Result:
    a, b = call.x(0), call.x(1)
    if call.integer("transBatchA", 0) or call.integer("transBatchB", 0):
        call.fail("`transBatchA` and `transBatchB` are not supported")
    a = _swapped(a) if call.integer("transA", 0) else a
    b = _swapped(b) if call.integer("transB", 0) else b
    y, alpha = multiplied(a, b), call.number("alpha", 1.0)
    return y if alpha == 1.0 else y * alpha


def _swapped(x: Expr) -> Expr:
    rank = len(x.shape)
    return x if rank < 2 else permute(x, (*range(rank - 2), rank - 1, rank - 2))


def _rotary(call: Call) -> Result:
    x, places, cos, sin = (call.x(i) for i in range(4))
    if call.integer("is_packed_batching", 0) or call.number("scale", 1.0) != 1.0:
        call.fail("packed batches and a scale are not supported")
    flat = len(x.shape) == 3
    half = cos.shape[1]
    width = call.integer("rotary_embedding_dim", 0) or (half * 2 if isinstance(half, int) else 0)
    if flat:
        heads = call.integer("num_heads", 0)
        size = exact_div(x.shape[2], heads) if heads else width
        count = exact_div(x.shape[2], size or 1)
        if size is None or not isinstance(count, int):
            call.fail(f"{x.shape[2]} columns do not make heads of {size}")
        x = to_heads(call, x, count)
    rows = x.shape[2]
    if places.type.size == 1 and rows != 1:
        line = ops.iota(size=rows, dtype=DType.i64)
        places = reshape_to(line + reshape_to(cast_to(places, DType.i64), ()), (1, rows))
    shape = (places.shape[0], 1, rows, half)
    cos, sin = (reshape_to(ops.gather(table, places, axis=0), shape) for table in (cos, sin))
    y = rotated(x, cos, sin, width, bool(call.integer("interleaved", 0)))
    return from_heads(y) if flat else y


# What ONNX Runtime writes into the standard domain, though ONNX does not define it.
UNDEFINED: Table = {"SimplifiedLayerNormalization": ((1, _rms_norm),)}

MICROSOFT: Table = {
    "BiasGelu": ((1, _gelu("none")),),
    "EmbedLayerNormalization": ((1, _embed),),
    "FastGelu": ((1, _gelu("tanh")),),
    "FusedMatMul": ((1, _fused_matmul),),
    "Gelu": ((1, _gelu("none")),),
    "LayerNormalization": ((1, _layer_norm),),
    "QuickGelu": ((1, _quick_gelu),),
    "RotaryEmbedding": ((1, _rotary),),
    "SimplifiedLayerNormalization": ((1, _rms_norm),),
    "SkipLayerNormalization": ((1, _skip_layer_norm),),
    "SkipSimplifiedLayerNormalization": ((1, _skip_rms_norm),),
}
