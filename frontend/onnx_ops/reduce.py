"""Reductions, running sums, extremes and their places."""

# mypy: disable-error-code="no-any-return"
# (operators hand back `Any`: their results are read from their types)

from __future__ import annotations

from collections.abc import Callable

from tunesmith.ir import opset as ops
from tunesmith.ir.ops import Expr, OpDef
from tunesmith.ir.types import DType

from ..onnx_call import Call, Result, Rule, Table
from .building import cast_to

__all__ = ["REDUCE"]

Before = Callable[[Expr], Expr]


def _same(x: Expr) -> Expr:
    return x


def _axes(call: Call, since: int) -> tuple[int, ...] | None:
    """The axes to fold; `None` if the operator does nothing."""
    axes = call.axes(since)
    rank = call.rank()
    if not axes:
        if call.opset >= since and call.integer("noop_with_empty_axes", 0):
            return None
        return tuple(range(rank))
    chosen = sorted(call.axis(axis, rank) for axis in axes)
    if chosen == [rank - 1]:
        return (-1,)
    return tuple(chosen)


def reduction(operator: OpDef, since: int, before: Before = _same, after: Before = _same) -> Rule:
    """A reduction, with what happens to elements first, and to the result."""

    def rule(call: Call) -> Result:
        axes = _axes(call, since)
        x = before(call.x())
        if axes is None:
            return after(x)
        return after(_fold(operator, x, axes, bool(call.integer("keepdims", 1))))

    return rule


def _fold(operator: OpDef, x: Expr, axes: tuple[int, ...], keepdims: bool) -> Expr:
    if x.dtype is not DType.bool:
        return operator(x, axes=axes, keepdims=keepdims)
    if operator is ops.reduce_min:
        return ops.reduce_all(x, axes=axes, keepdims=keepdims)
    none = ops.reduce_all(ops.logical_not(x), axes=axes, keepdims=keepdims)
    return ops.logical_not(none)


def _log_sum_exp(call: Call) -> Result:
    axes = _axes(call, 18)
    x = call.x()
    if axes is None:
        return x
    keep = bool(call.integer("keepdims", 1))
    top = ops.reduce_max(x, axes=axes, keepdims=True)
    top = ops.where(ops.isinf(top), 0.0, top)
    total = ops.log(ops.reduce_sum(ops.exp(x - top), axes=axes, keepdims=True)) + top
    return total if keep else ops.reduce_sum(total, axes=axes, keepdims=False)


def _square(x: Expr) -> Expr:
    return x * x


def _extreme(operator: OpDef) -> Rule:
    def rule(call: Call) -> Result:
        return operator(
            call.x(),
            axis=call.axis(call.integer("axis", 0), call.rank()),
            keepdims=bool(call.integer("keepdims", 1)),
            last=bool(call.integer("select_last_index", 0)),
        )

    return rule


def _cumsum(call: Call) -> Result:
    axis = call.axis(call.integers(1, "axis")[0], call.rank())
    return ops.cumsum(
        call.x(), axis=axis, exclusive=bool(call.integer("exclusive", 0)),
        reverse=bool(call.integer("reverse", 0)),
    )  # fmt: skip


def _cumprod(call: Call) -> Result:
    """Each round multiplies by what is twice as far behind (Hillis and Steele, 1986)."""
    x = call.x()
    axis = call.axis(call.integers(1, "axis")[0], len(x.shape))
    size, reverse = x.shape[axis], bool(call.integer("reverse", 0))
    if not isinstance(size, int):
        call.fail(f"needs a known size, not {size}", hint="fix it with `shapes` or `dims`")

    def shifted(x: Expr, by: int) -> Expr:
        ones = ops.full(value=1, shape=(*x.shape[:axis], by, *x.shape[axis + 1 :]), dtype=x.dtype)
        if reverse:
            return ops.concat(ops.slice_(x, axis=axis, start=by, stop=size), ones, axis=axis)
        return ops.concat(ones, ops.slice_(x, axis=axis, start=0, stop=size - by), axis=axis)

    if call.integer("exclusive", 0) and size:
        x = shifted(x, 1)
    by = 1
    while by < size:
        x, by = x * shifted(x, by), 2 * by
    return x


def _topk(call: Call) -> Result:
    axis = call.axis(call.integer("axis", -1), call.rank())
    size = call.shape()[axis]
    k = call.counts(1, "number of places", size)[0] if call.opset >= 10 else call.integer("k")
    if isinstance(k, int) and isinstance(size, int) and not 0 <= k <= size:
        call.fail(f"it takes the first {k} of {size}")
    if not isinstance(k, int):
        call.builder.facts.current(k)
    why = f"{call.builder.location} takes the first {k} of {size}"
    if not call.builder.facts.at_least(size - k, 0, why):
        k = call.builder.bind_checked(
            ops.dim_value(size=k, dtype=DType.i64), size, f"n_{call.outputs[0]}"
        )
    largest = bool(call.integer("largest", 1))
    return ops.topk.many(call.x(), k=k, axis=axis, largest=largest)


def _global(operator: OpDef) -> Rule:
    def rule(call: Call) -> Result:
        axes = tuple(range(2, call.rank()))
        return operator(call.x(), axes=axes, keepdims=True)

    return rule


def _lp_normalization(call: Call) -> Result:
    x = call.x()
    axes = (call.axis(call.integer("axis", -1), len(x.shape)),)
    if call.integer("p", 2) == 1:
        size = ops.reduce_sum(ops.abs_(x), axes=axes, keepdims=True)
    else:
        size = ops.sqrt(ops.reduce_sum(x * x, axes=axes, keepdims=True))
    return ops.where(ops.equal(size, 0), x * 0, x / size)


def _float_mean(call: Call) -> Result:
    if call.dtype().is_float:
        return reduction(ops.reduce_mean, 18)(call)
    wide = reduction(ops.reduce_mean, 18, before=lambda x: cast_to(x, DType.f64))(call)
    assert isinstance(wide, Expr)
    return cast_to(wide, call.dtype())


REDUCE: Table = {
    "ArgMax": ((1, _extreme(ops.argmax)),),
    "ArgMin": ((1, _extreme(ops.argmin)),),
    "CumProd": ((26, _cumprod),),
    "CumSum": ((11, _cumsum),),
    "GlobalAveragePool": ((1, _global(ops.reduce_mean)),),
    "GlobalMaxPool": ((1, _global(ops.reduce_max)),),
    "LpNormalization": ((1, _lp_normalization),),
    "ReduceL1": ((1, reduction(ops.reduce_sum, 18, before=lambda x: ops.abs_(x))),),
    "ReduceL2": ((1, reduction(ops.reduce_sum, 18, _square, lambda x: ops.sqrt(x))),),
    "ReduceLogSum": ((1, reduction(ops.reduce_sum, 18, after=lambda x: ops.log(x))),),
    "ReduceLogSumExp": ((1, _log_sum_exp),),
    "ReduceMax": ((1, reduction(ops.reduce_max, 18)),),
    "ReduceMean": ((1, _float_mean),),
    "ReduceMin": ((1, reduction(ops.reduce_min, 18)),),
    "ReduceProd": ((1, reduction(ops.reduce_prod, 18)),),
    "ReduceSum": ((1, reduction(ops.reduce_sum, 13)),),
    "ReduceSumSquare": ((1, reduction(ops.reduce_sum, 18, before=_square)),),
    "TopK": ((1, _topk),),
}
