"""ONNX Runtime's attention that projects and splits queries, keys and values itself.

Meanings are those of ONNX Runtime's `docs/ContribOperators.md`.
"""

# mypy: disable-error-code="no-any-return"
# (operators hand back `Any`: their results are read from their types)

from __future__ import annotations

from collections.abc import Sequence

from tunesmith.ir import opset as ops
from tunesmith.ir.dims import Dim, exact_div
from tunesmith.ir.ops import Expr
from tunesmith.ir.types import DType

from ..onnx_call import Call, Result, Table
from .attention import from_heads, to_heads
from .building import cast_to, index_axis, reshape_to, slice_to
from .linear import multiplied
from .microsoft_quantized import scaled_product

__all__ = ["MICROSOFT_ATTENTION", "key_mask"]


def key_mask(call: Call, index: int, q: Expr, keys: Dim) -> Expr | None:
    """What is added to scores, `[B, 1, 1, keys]`, by a mask of keys or by how many are real."""
    if not call.has(index):
        return None
    kept = call.x(index)
    if len(kept.shape) == 1 and kept.shape == q.shape[:1]:
        line = reshape_to(ops.iota(size=keys, dtype=DType.i64), (1, 1, 1, keys))
        counts = reshape_to(cast_to(kept, DType.i64), (kept.shape[0], 1, 1, 1))
        visible: Expr = ops.less(line, counts)
    elif len(kept.shape) == 2 and kept.shape[1] == keys:
        visible = ops.not_equal(reshape_to(kept, (kept.shape[0], 1, 1, keys)), 0)
    else:
        call.fail(f"a mask {kept.type} is not supported, [batch, {keys}] and [batch] are")
    hidden = call.number("mask_filter_value", -10000.0)
    return ops.where(visible, call.scalar_of(0.0, q.dtype), hidden)


def _attend(
    call: Call, joined: Expr, widths: Sequence[int], mask: int, past: int, bias: int | None
) -> Result:
    """Attention over `[B, S, Q + K + V]`; the others are places of operands."""
    if call.integer("do_rotary", 0) or call.integer("past_present_share_buffer", 0):
        call.fail("rotation inside, and a past that is written in place, are not supported")
    heads, start, parts = call.integer("num_heads"), 0, []
    for width in widths:
        part = slice_to(joined, len(joined.shape) - 1, start, start + width)
        parts.append(to_heads(call, part, heads))
        start += width
    q, k, v = parts
    offset: Dim = 0
    if call.has(past):
        before = call.x(past)
        offset = before.shape[3]
        k = ops.concat(index_axis(before, 0, 0), k, axis=2)
        v = ops.concat(index_axis(before, 0, 1), v, axis=2)
    size = q.shape[3]
    assert isinstance(size, int)  # a part of a known width
    added = key_mask(call, mask, q, k.shape[2])
    if bias is not None and call.has(bias):
        added = call.x(bias) if added is None else added + call.x(bias)
    causal = bool(call.integer("unidirectional", 0))
    y = from_heads(
        ops.attention(q, k, v, added, scale=call.number("scale", 0.0) or size**-0.5,
                      causal=causal, offset=offset if causal else 0)
    )  # fmt: skip
    if not call.wants(1):
        return y
    present = [reshape_to(x, (1, *x.shape)) for x in (k, v)]
    return [y, ops.concat(*present, axis=0)]


def _widths(call: Call, total: Dim) -> tuple[int, ...]:
    """How many columns are queries, keys and values."""
    widths = call.integer_list("qkv_hidden_sizes")
    each = exact_div(total, 3)
    if widths is None and isinstance(each, int):
        widths = (each, each, each)
    if widths is None or len(widths) != 3 or sum(widths) != total or min(widths) < 1:
        call.fail(f"{total} columns are not queries, keys and values")
    return widths


def _attention(call: Call) -> Result:
    joined = multiplied(call.x(0), call.x(1))
    if call.has(2):
        joined = joined + call.x(2)
    return _attend(call, joined, _widths(call, joined.shape[-1]), 3, 4, 5)


def _quantized(call: Call) -> Result:
    zero = call.x(6) if call.has(6) else None
    joined = scaled_product(call, call.x(0), zero, call.x(3), 1, 7, call.x(4)) + call.x(2)
    return _attend(call, joined, _widths(call, joined.shape[-1]), 5, 8, None)


MICROSOFT_ATTENTION: Table = {
    "Attention": ((1, _attention),),
    "QAttention": ((1, _quantized),),
}
