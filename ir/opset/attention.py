"""Composites of attention: scaled dot products, and rotary position embedding."""

from __future__ import annotations

from math import inf

from ..dims import Dim, exact_div
from ..ops import Expr, composite
from ..types import DType
from .activation import softmax
from .control import matmul
from .math import cast, equal, less_equal, neg, tanh, where
from .movement import concat, dim_value, expand, iota, reshape, slice_, transpose
from .reduce import reduce_max

__all__ = ["attention", "rotary"]


@composite("attention")
def attention(
    q: Expr,
    k: Expr,
    v: Expr,
    mask: Expr | None = None,
    /,
    *,
    scale: float,
    causal: bool = False,
    offset: Dim = 0,
    softcap: float = 0.0,
    masked_row: str = "nan",
) -> Expr:
    """`softmax(q @ k' * scale + mask) @ v` (Vaswani et al., 2017), by heads.

    `q` `[B, H, T, D]`, `k` `[B, G, S, D]`, `v` `[B, G, S, E]` → `[B, H, T, E]`; head h of `q` reads
    head `h // (H/G)` of `k` and `v` (Ainslie et al., 2023). `mask` broadcasts to `[B, H, T, S]`;
    floats are added, bools keep where true. With `causal`, query i sees key j if j <= i + offset.
    `softcap` c > 0 makes scores `c * tanh(score / c)` before the mask. A row with every score -inf
    gives NaN, or with `masked_row` "zero" zeros, as ONNX `Attention` wants. Narrow floats are
    computed in f32 and rounded once; scores are rounded once more where a mask was added to them,
    since its lowest number must swallow a score.
    """
    if masked_row not in ("nan", "zero"):
        raise ValueError(f"`masked_row` cannot be `{masked_row}`: nan or zero")
    if not len(q.shape) == len(k.shape) == len(v.shape) == 4:
        raise ValueError(f"needs [batch, head, row, column], not {q.type}, {k.type}, {v.type}")
    _, heads, rows, _ = q.shape
    keys = k.shape[2]
    narrow = q.dtype
    widened = narrow in (DType.f16, DType.bf16)
    if widened:
        q, k, v = (cast(x, dtype=DType.f32) for x in (q, k, v))
    k, v = _repeat_heads(k, heads), _repeat_heads(v, heads)
    scores = matmul(q, transpose(k, perm=(0, 1, 3, 2))) * scale
    if softcap:
        scores = tanh(scores / softcap) * softcap
    if mask is not None and mask.dtype is DType.bool:
        scores = where(mask, scores, -inf)
    elif mask is not None and widened:
        added = scores + cast(mask, dtype=DType.f32)
        scores = cast(cast(added, dtype=narrow), dtype=DType.f32)
    elif mask is not None:
        scores = scores + mask
    if causal:
        with_offset = iota(size=rows, dtype=DType.i64)
        if offset != 0:
            with_offset = with_offset + dim_value(size=offset, dtype=DType.i64)
        columns = reshape(iota(size=keys, dtype=DType.i64), shape=(1, keys))
        visible = less_equal(columns, reshape(with_offset, shape=(rows, 1)))
        scores = where(visible, scores, -inf)
    weights = softmax(scores, axis=-1)
    if masked_row == "zero":
        hidden = equal(reduce_max(scores, axes=(-1,), keepdims=True), -inf)
        weights = where(hidden, 0.0, weights)
    y = matmul(weights, v)
    return cast(y, dtype=narrow) if widened else y


def _repeat_heads(x: Expr, heads: Dim) -> Expr:
    batch, groups, rows, columns = x.shape
    if groups == heads:
        return x
    each = exact_div(heads, groups)
    if each is None:
        raise ValueError(f"{heads} query heads do not share {groups} key heads evenly")
    wide = expand(reshape(x, shape=(batch, groups, 1, rows, columns)),
                  shape=(batch, groups, each, rows, columns))  # fmt: skip
    return reshape(wide, shape=(batch, heads, rows, columns))


@composite("rotary")
def rotary(x: Expr, cos: Expr, sin: Expr, /, *, interleaved: bool = False) -> Expr:
    """Rotate pairs of columns by angles (Su et al., 2021): `x * cos + turned(x) * sin`.

    `x` `[..., T, D]`; `cos`, `sin` broadcast to it. `turned` is `[-x2, x1]` of the two halves, or,
    `interleaved`, of neighbouring columns.
    """
    width = x.shape[-1]
    half = exact_div(width, 2)
    if half is None:
        raise ValueError(f"needs an even number of columns, not {width}")
    if not interleaved:
        first = slice_(x, axis=-1, start=0, stop=half)
        second = slice_(x, axis=-1, start=half, stop=width)
        return x * cos + concat(neg(second), first, axis=-1) * sin
    pairs = reshape(x, shape=(*x.shape[:-1], half, 2))
    first = slice_(pairs, axis=-1, start=0, stop=1)
    second = slice_(pairs, axis=-1, start=1, stop=2)
    turned = reshape(concat(neg(second), first, axis=-1), shape=x.shape)
    return x * cos + turned * sin
