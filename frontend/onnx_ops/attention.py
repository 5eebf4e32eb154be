"""Attention and rotary position embedding (opset 23 and later)."""

# mypy: disable-error-code="no-any-return"
# (operators hand back `Any`: their results are read from their types)

from __future__ import annotations

from math import inf

from tunesmith.ir import opset as ops
from tunesmith.ir.dims import Dim, exact_div
from tunesmith.ir.ops import Expr
from tunesmith.ir.types import DType

from ..onnx_call import Call, Result, Table
from .attention_scores import scores
from .building import cast_to, expand_to, permute, reshape_to, slice_to

__all__ = ["ATTENTION", "from_heads", "rotated", "to_heads"]


def to_heads(call: Call, x: Expr, heads: int) -> Expr:
    """`[B, T, H*D]` → `[B, H, T, D]`."""
    batch, rows, width = x.shape
    size = exact_div(width, heads) if heads > 0 else None
    if size is None:
        call.fail(f"{heads} heads do not divide {width} columns")
    return permute(reshape_to(x, (batch, rows, heads, size)), (0, 2, 1, 3))


def from_heads(x: Expr) -> Expr:
    """`[B, H, T, D]` → `[B, T, H*D]`."""
    batch, heads, rows, size = x.shape
    return reshape_to(permute(x, (0, 2, 1, 3)), (batch, rows, heads * size))


def _attention(call: Call) -> Result:
    q, k, v = call.x(0), call.x(1), call.x(2)
    flat = len(q.shape) == 3
    if flat:
        groups = call.integer("kv_num_heads")
        q = to_heads(call, q, call.integer("q_num_heads"))
        k, v = to_heads(call, k, groups), to_heads(call, v, groups)
    if not len(q.shape) == len(k.shape) == len(v.shape) == 4:
        call.fail(f"cannot attend from {q.type} to {k.type} and {v.type}")
    offset: Dim = 0
    if call.has(4) != call.has(5):
        call.fail("a past key and a past value come together")
    if call.has(4):
        past_k, past_v = call.x(4), call.x(5)
        offset = past_k.shape[2]
        k, v = ops.concat(past_k, k, axis=2), ops.concat(past_v, v, axis=2)
    width = q.shape[3]
    if "scale" not in call.attributes and not isinstance(width, int):
        call.fail(f"its default scale needs a known head size, not {width}")
    scale = call.number("scale") if "scale" in call.attributes else float(width) ** -0.5  # type: ignore[arg-type]  # known, as said above
    causal = bool(call.integer("is_causal", 0))
    mask = _mask(call, k.shape[2])
    if call.has(6):
        mask = _joined(mask, _padding(call, q, k, causal))
        causal = False
    window = _window(call, q, k, offset)
    if window is not None:
        mask = _joined(mask, window)
    y: Expr = ops.attention(
        q, k, v, mask, scale=scale, causal=causal, offset=offset if causal else 0,
        softcap=call.number("softcap", 0.0), masked_row="zero",
    )  # fmt: skip
    results = [from_heads(y) if flat else y, k, v]
    if call.wants(3):
        visible = _triangle(q, k, offset) if causal else None
        results.append(scores(call, q, k, mask, visible, scale))
    return results[: max(len(call.outputs), 1)]


def _triangle(q: Expr, k: Expr, offset: Dim) -> Expr:
    """Which keys each query may see if it must not look ahead."""
    rows, keys = q.shape[2], k.shape[2]
    last = _line(rows, (rows, 1))
    if offset != 0:
        last = last + ops.dim_value(size=offset, dtype=DType.i64)
    return ops.less_equal(_line(keys, (1, keys)), last)


def _mask(call: Call, keys: Dim) -> Expr | None:
    """The mask, with the keys that it lacks hidden."""
    if not call.has(3):
        return None
    mask = call.x(3)
    if mask.dtype is not DType.bool:
        mask = cast_to(mask, call.dtype(0))
    width = mask.shape[-1]
    if isinstance(width, int) and isinstance(keys, int) and 1 < width < keys:
        rest = (*mask.shape[:-1], keys - width)
        hidden = False if mask.dtype is DType.bool else -inf
        full = ops.full(value=hidden, shape=rest, dtype=mask.dtype)
        mask = ops.concat(mask, full, axis=-1)
    return mask


def _joined(mask: Expr | None, visible: Expr) -> Expr:
    """A mask and one more rule of what is visible."""
    if mask is None:
        return visible
    if mask.dtype is DType.bool:
        return ops.logical_and(mask, visible)
    return ops.where(visible, mask, -inf)


def _line(size: Dim, shape: tuple[Dim, ...]) -> Expr:
    return reshape_to(ops.iota(size=size, dtype=DType.i64), shape)


def _padding(call: Call, q: Expr, k: Expr, causal: bool) -> Expr:
    """Keys that are no padding (opset 24), and not after the query if `causal`."""
    rows, keys = q.shape[2], k.shape[2]
    counts = reshape_to(cast_to(call.x(6), DType.i64), (call.shape(6)[0], 1, 1, 1))
    column = _line(keys, (1, 1, 1, keys))
    visible: Expr = ops.less(column, counts)
    if not causal:
        return visible
    last = _line(rows, (1, 1, rows, 1)) + (counts - ops.dim_value(size=rows, dtype=DType.i64))
    return ops.logical_and(visible, ops.less_equal(column, last))


def _window(call: Call, q: Expr, k: Expr, offset: Dim) -> Expr | None:
    """Keys near the query (opset 25); `None` if there is no such bound."""
    left, right = call.integer("left_window_size", -1), call.integer("right_window_size", -1)
    if left < 0 and right < 0:
        return None
    rows, keys = q.shape[2], k.shape[2]
    column = _line(keys, (1, 1, 1, keys))
    place = _line(rows, (1, 1, rows, 1))
    if call.has(6):
        counts = reshape_to(cast_to(call.x(6), DType.i64), (call.shape(6)[0], 1, 1, 1))
        place = place + (counts - ops.dim_value(size=rows, dtype=DType.i64))
    elif offset != 0:
        place = place + ops.dim_value(size=offset, dtype=DType.i64)
    visible: Expr | None = None
    if left >= 0:
        visible = ops.greater_equal(column, place - left)
    if right >= 0:
        near: Expr = ops.less_equal(column, place + right)
        visible = near if visible is None else ops.logical_and(visible, near)
    return visible


def rotated(x: Expr, cos: Expr, sin: Expr, width: int, interleaved: bool) -> Expr:
    """The first `width` columns of `x` rotated; `cos` and `sin` broadcast, and hold half."""
    tail = x.shape[-1]
    head = slice_to(x, len(x.shape) - 1, 0, width)
    turned: Expr = ops.rotary(
        head, _doubled(cos, interleaved), _doubled(sin, interleaved), interleaved=interleaved
    )
    if width == tail:
        return turned
    rest = slice_to(x, len(x.shape) - 1, width, tail)
    return ops.concat(turned, rest, axis=len(x.shape) - 1)


def _doubled(half: Expr, interleaved: bool) -> Expr:
    """One angle for each pair → one for each column."""
    if not interleaved:
        return ops.concat(half, half, axis=len(half.shape) - 1)
    pairs = reshape_to(half, (*half.shape, 1))
    wide = expand_to(pairs, (*half.shape, 2))
    return reshape_to(wide, (*half.shape[:-1], half.shape[-1] * 2))


def _rotary(call: Call) -> Result:
    x, cos, sin = call.x(0), call.x(1), call.x(2)
    if call.has(3):
        cos = ops.gather(cos, call.x(3), axis=0)
        sin = ops.gather(sin, call.x(3), axis=0)
    if len(cos.shape) != 3 or len(sin.shape) != 3:
        call.fail(f"its angles {cos.type} must be [batch, position, half]")
    interleaved = bool(call.integer("interleaved", 0))
    width = call.integer("rotary_embedding_dim", 0)
    batch, rows, half = cos.shape
    if len(x.shape) == 4:
        shape: tuple[Dim, ...] = (batch, 1, rows, half)
        return _turned(call, x, reshape_to(cos, shape), reshape_to(sin, shape), width, interleaved)
    heads = call.integer("num_heads")
    size = exact_div(x.shape[2], heads) if heads > 0 else None
    if size is None:
        call.fail(f"{heads} heads do not divide {x.shape[2]} columns")
    shape = (batch, rows, 1, half)
    split = reshape_to(x, (*x.shape[:2], heads, size))
    cos, sin = reshape_to(cos, shape), reshape_to(sin, shape)
    return reshape_to(_turned(call, split, cos, sin, width, interleaved), x.shape)


def _turned(call: Call, x: Expr, cos: Expr, sin: Expr, width: int, interleaved: bool) -> Expr:
    size = x.shape[-1]
    columns = width or size
    if not isinstance(columns, int) or columns % 2:
        call.fail(f"it rotates {columns} columns, which is not an even number")
    half = columns // 2
    if cos.shape[-1] != half:
        cos = slice_to(cos, 3, 0, half)
        sin = slice_to(sin, 3, 0, half)
    return rotated(x, cos, sin, columns, interleaved)


ATTENTION: Table = {
    "Attention": ((23, _attention),),
    "RotaryEmbedding": ((23, _rotary),),
}
