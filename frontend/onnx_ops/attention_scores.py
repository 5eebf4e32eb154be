"""The optional fourth result of `Attention`: its scores, at one of four places on their way."""

# mypy: disable-error-code="no-any-return"
# (operators hand back `Any`: their results are read from their types)

from __future__ import annotations

from math import inf

from tunesmith.ir import opset as ops
from tunesmith.ir.dims import Dim, exact_div
from tunesmith.ir.ops import Expr
from tunesmith.ir.types import DType

from ..onnx_call import Call
from .building import cast_to, expand_to, permute, reshape_to

__all__ = ["scores"]

_RAW, _CAPPED, _MASKED, _WEIGHTS = range(4)


def scores(
    call: Call, q: Expr, k: Expr, mask: Expr | None, visible: Expr | None, scale: float
) -> Expr:
    """`[B, H, T, S]` as `qk_matmul_output_mode` wants them; computed once more, beside the kernel.

    `mask` is added, or hides where it is false; `visible` hides what a causal query may not see.
    Narrow floats are computed in f32 and rounded once.
    """
    mode = call.integer("qk_matmul_output_mode", 0)
    if not _RAW <= mode <= _WEIGHTS:
        call.fail(f"its `qk_matmul_output_mode` is {mode}, not one of 0 to 3")
    narrow = q.dtype
    wide = DType.f32 if narrow in (DType.f16, DType.bf16) else narrow
    q, k = cast_to(q, wide), _repeated(call, cast_to(k, wide), q.shape[1])
    found: Expr = ops.matmul(q, permute(k, (0, 1, 3, 2))) * scale
    softcap = call.number("softcap", 0.0)
    if mode >= _CAPPED and softcap:
        found = ops.tanh(found / softcap) * softcap
    if mode >= _MASKED and mask is not None:
        found = (
            ops.where(mask, found, -inf)
            if mask.dtype is DType.bool
            else found + cast_to(mask, wide)
        )
    if mode >= _MASKED and visible is not None:
        found = ops.where(visible, found, -inf)
    if mode == _WEIGHTS:
        hidden = ops.equal(ops.reduce_max(found, axes=(-1,), keepdims=True), -inf)
        found = ops.where(hidden, 0.0, ops.softmax(found, axis=-1))
    return cast_to(found, narrow)


def _repeated(call: Call, k: Expr, heads: Dim) -> Expr:
    """Each key head once for every query head that reads it."""
    batch, groups, rows, width = k.shape
    each = exact_div(heads, groups)
    if each is None:
        call.fail(f"{heads} query heads do not share {groups} key heads evenly")
    if each == 1:
        return k
    wide = expand_to(
        reshape_to(k, (batch, groups, 1, rows, width)), (batch, groups, each, rows, width)
    )
    return reshape_to(wide, (batch, heads, rows, width))
