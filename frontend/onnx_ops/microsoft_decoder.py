"""ONNX Runtime's attention of decoders: groups of queries, and keys of before.

Meanings are those of ONNX Runtime's `docs/ContribOperators.md`, and of its CPU kernels where the
text leaves a choice.
"""

# mypy: disable-error-code="no-any-return"
# (operators hand back `Any`: their results are read from their types)

from __future__ import annotations

from itertools import pairwise
from math import inf

from tunesmith.ir import opset as ops
from tunesmith.ir.dims import Dim, exact_div
from tunesmith.ir.ops import Expr
from tunesmith.ir.types import DType

from ..onnx_call import Call, Result, Table
from ..onnx_shapes import at_least
from .attention import from_heads, rotated, to_heads
from .building import cast_to, expand_to, index_axis, permute, reshape_to, slice_to
from .microsoft_attention import key_mask

__all__ = ["MICROSOFT_DECODER"]


def _grouped(call: Call) -> Result:
    """Queries `[B, S, H*D]` over a cache `[B, G, P, D]` and new keys, each batch at its own place.

    `seqlens_k` says how many keys a batch has in all, less one. Its new keys come right behind its
    old ones, whatever lies there. Rows of a prompt that are padding have no meaning.
    """
    heads, groups = call.integer("num_heads"), call.integer("kv_num_heads")
    if heads < 1 or groups < 1 or heads % groups:
        call.fail(f"{heads} heads of queries cannot share {groups} of keys")
    for name, plain in (("kv_cache_bit_width", 0), ("qk_output", 0)):
        if call.integer(name, plain) != plain:
            call.fail(f"its `{name}` {call.integer(name)} is not supported")
    if any(call.text(name, "NONE") != "NONE" for name in ("k_quant_type", "v_quant_type")):
        call.fail("keys and values of integers are not supported")
    call.refuse_result(3, "the scores")
    q, k, v = _parts(call, heads, groups)
    batch, _, rows, size = q.shape
    if not isinstance(size, int):
        call.fail(f"needs a known head size, not {size}")
    if call.has(3) != call.has(4):
        call.fail("a past key and a past value come together")
    totals = reshape_to(cast_to(call.x(5), DType.i64), (batch, 1)) + 1
    before = _before(call, rows, totals)
    own = reshape_to(ops.iota(size=rows, dtype=DType.i64), (1, rows))
    places = own if before is None else own + before  # [B or 1, S]
    if call.integer("do_rotary", 0):
        at = _positions(call, own) if call.has(9) else places
        q, k = (_turned(call, x, at) for x in (q, k))
    if call.has(3):
        assert before is not None
        length = _length(call, rows)
        k, v = (_cached(call.x(3 + i), x, before, length) for i, x in enumerate((k, v)))
    keys = k.shape[2]
    column = reshape_to(ops.iota(size=keys, dtype=DType.i64), (1, 1, 1, keys))
    here = reshape_to(places, (*places.shape[:1], 1, rows, 1))
    visible: Expr = ops.less_equal(column, here)
    if (window := call.integer("local_window_size", -1)) > 0:
        visible = ops.logical_and(visible, ops.greater(column, here - window))
    mask = visible
    if call.has(10):
        bias = call.x(10)
        if bias.shape[-1] != keys:
            bias = slice_to(bias, 3, 0, keys)
        mask = ops.where(visible, bias, -inf)
    present = [k, v]
    if call.integer("smooth_softmax", 0) > 0 or call.has(11):
        k, v, mask = _with_sink(call, k, v, mask, heads)
    scale = call.number("scale", 0.0) or size**-0.5
    y = ops.attention(q, k, v, mask, scale=scale, softcap=call.number("softcap", 0.0),
                      masked_row="zero")  # fmt: skip
    return [from_heads(y), *present][: max(len(call.outputs), 1)]


def _parts(call: Call, heads: int, groups: int) -> tuple[Expr, Expr, Expr]:
    """Queries, keys and values by heads; all may lie in one tensor."""
    if call.rank(0) != 3:
        call.fail(f"its queries {call.tensor(0).type} are not [batch, row, column]")
    if call.has(1) and call.has(2):
        q, k, v = (call.x(i) for i in range(3))
        return to_heads(call, q, heads), to_heads(call, k, groups), to_heads(call, v, groups)
    both = call.x(0)
    size = exact_div(both.shape[2], heads + 2 * groups)
    if size is None:
        call.fail(f"{both.shape[2]} columns are not {heads} + 2 * {groups} heads")
    ends: list[Dim] = [0, size * heads, size * (heads + groups), size * (heads + 2 * groups)]
    q, k, v = (slice_to(both, 2, a, b) for a, b in pairwise(ends))
    return to_heads(call, q, heads), to_heads(call, k, groups), to_heads(call, v, groups)


def _total(call: Call, rows: Dim) -> Dim:
    """How many keys the longest batch has in all."""
    return call.counts(6, "number of keys", call.shape(3)[2] + rows)[0]


def _before(call: Call, rows: Dim, totals: Expr) -> Expr | None:
    """How many old keys each batch has, `[B, 1]`; `None` for a prompt, where none has any."""
    if not call.has(3):
        return None
    total, own = (ops.dim_value(size=s, dtype=DType.i64) for s in (_total(call, rows), rows))
    return ops.where(ops.equal(total, own), 0, totals - own)


def _positions(call: Call, own: Expr) -> Expr:
    """Where queries stand, as they are told: of a prompt, the first place and those behind it."""
    told = cast_to(call.x(9), DType.i64)
    prompt = reshape_to(slice_to(slice_to(told, 0, 0, 1), 1, 0, 1), (1, 1)) + own
    if not call.has(3):
        return prompt
    rows = own.shape[1]
    total, some = (ops.dim_value(size=s, dtype=DType.i64) for s in (_total(call, rows), rows))
    return ops.where(ops.equal(total, some), prompt, told)


def _length(call: Call, rows: Dim) -> Dim:
    """Keys that the result has room for: of the cache, or all if that is more."""
    held, total = call.shape(3)[2], _total(call, rows)
    if at_least(total, held):
        return total
    if at_least(held, total):
        return held
    both = [ops.dim_value(size=s, dtype=DType.i64) for s in (held, total)]
    return call.builder.bind(ops.maximum(*both), held + rows, f"keys_{call.outputs[0]}")


def _cached(past: Expr, new: Expr, before: Expr, length: Dim) -> Expr:
    """Old and new keys `[B, G, length, D]`: those from `before` on are new, then come zeros."""
    batch, groups, rows, size = new.shape
    held = past.shape[2]
    line = reshape_to(ops.iota(size=length, dtype=DType.i64), (1, length))
    offset = line - before
    count, some = (ops.dim_value(size=s, dtype=DType.i64) for s in (held, rows))
    fresh = ops.logical_and(ops.greater_equal(offset, 0), ops.less(offset, some))
    both = ops.concat(past, new, axis=2)
    places = ops.where(fresh, offset + count, ops.minimum(line, count + some - 1))
    shape = (batch, groups, length, size)
    wide = expand_to(reshape_to(places, (batch, 1, length, 1)), shape)
    real = reshape_to(ops.less(offset, some), (batch, 1, length, 1))
    return ops.where(real, ops.gather_elements(both, wide, axis=2), 0.0)


def _turned(call: Call, x: Expr, places: Expr) -> Expr:
    """Rotated by the angles of the places `[B or 1, S]`."""
    rows, half = x.shape[2], call.shape(7)[1]
    if not isinstance(half, int):
        call.fail(f"needs a known number of angles, not {half}")
    shape = (places.shape[0], 1, rows, half)
    cos, sin = (reshape_to(ops.gather(call.x(i), places, axis=0), shape) for i in (7, 8))
    return rotated(x, cos, sin, 2 * half, bool(call.integer("rotary_interleaved", 0)))


def _with_sink(call: Call, k: Expr, v: Expr, mask: Expr, heads: int) -> tuple[Expr, Expr, Expr]:
    """One more key, which every query sees, with a score of its own and a value of zeros."""
    parts = []
    for x in (k, v):
        batch, groups, _, size = x.shape
        none = ops.full(value=0.0, shape=(batch, groups, 1, size), dtype=x.dtype)
        parts.append(ops.concat(x, none, axis=2))
    dtype = k.dtype
    added = mask
    if mask.dtype is DType.bool:
        added = ops.where(mask, call.scalar_of(0.0, dtype), -inf)
    shape = (k.shape[0], heads, *added.shape[2:])
    score = ops.full(value=0.0, shape=(*shape[:3], 1), dtype=dtype)
    if call.has(11):
        score = expand_to(reshape_to(cast_to(call.x(11), dtype), (1, heads, 1, 1)), score.shape)
    return parts[0], parts[1], ops.concat(expand_to(added, shape), score, axis=3)


def _multi_head(call: Call) -> Result:
    """As many heads of keys as of queries; queries, keys and values may be packed by heads."""
    heads = call.integer("num_heads")
    if any(call.has(i) for i in (8, 9)):
        call.fail("a past that is written in place is not supported")
    call.refuse_result(3, "the scores")
    q, k, v = _unpacked(call, heads)
    if call.has(3):
        widths = [x.shape[1] * x.shape[3] for x in (q, k, v)]
        start: Dim = 0
        parts = []
        for x, width in zip((q, k, v), widths, strict=True):
            part = slice_to(call.x(3), 0, start, start + width)
            parts.append(x + reshape_to(part, (1, heads, 1, x.shape[3])))
            start = start + width
        q, k, v = parts
    size = q.shape[3]
    if not isinstance(size, int):
        call.fail(f"needs a known head size, not {size}")
    if call.has(6) != call.has(7):
        call.fail("a past key and a past value come together")
    offset: Dim = 0
    if call.has(6):
        offset = call.shape(6)[2]
        k, v = ops.concat(call.x(6), k, axis=2), ops.concat(call.x(7), v, axis=2)
    mask = key_mask(call, 4, q, k.shape[2])
    if call.has(5):
        mask = call.x(5) if mask is None else mask + call.x(5)
    causal = bool(call.integer("unidirectional", 0))
    y = from_heads(
        ops.attention(q, k, v, mask, scale=call.number("scale", 0.0) or size**-0.5, causal=causal,
                      offset=offset if causal else 0, masked_row="zero")
    )  # fmt: skip
    return [y, k, v][: max(len(call.outputs), 1)]


def _unpacked(call: Call, heads: int) -> tuple[Expr, Expr, Expr]:
    """Queries, keys and values `[B, H, S, D]`."""
    if call.rank(0) == 5 and not call.has(1) and not call.has(2):  # [B, S, H, 3, D]
        q, k, v = (permute(index_axis(call.x(0), 3, i), (0, 2, 1, 3)) for i in range(3))
        return q, k, v
    if call.rank(0) != 3 or not call.has(1):
        call.fail(f"queries {call.tensor(0).type} without keys are not supported")
    q = to_heads(call, call.x(0), heads)
    if call.rank(1) == 5 and not call.has(2):  # [B, L, H, 2, D]
        k, v = (permute(index_axis(call.x(1), 3, i), (0, 2, 1, 3)) for i in range(2))
        return q, k, v
    if not call.has(2):
        call.fail(f"keys {call.tensor(1).type} without values are not supported")
    k, v = (call.x(i) if call.rank(i) == 4 else to_heads(call, call.x(i), heads) for i in (1, 2))
    return q, k, v


MICROSOFT_DECODER: Table = {
    "GroupQueryAttention": ((1, _grouped),),
    "MultiHeadAttention": ((1, _multi_head),),
}
