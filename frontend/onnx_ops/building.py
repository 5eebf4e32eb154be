"""Nodes that rules write often, left out where they would change nothing."""

# mypy: disable-error-code="no-any-return"
# (operators hand back `Any`: their results are read from their types)

from __future__ import annotations

from collections.abc import Callable, Iterable

from tunesmith.ir.dims import Dim, product
from tunesmith.ir.ops import Expr
from tunesmith.ir.opset import cast, expand, reshape, slice_, transpose
from tunesmith.ir.types import DType, Shape

from ..onnx_builder import ImportBuilder
from ..onnx_call import Call, Result, Rule

__all__ = [
    "along", "by_function", "cast_to", "expand_to", "flatten_to", "index_axis", "permute",
    "reshape_to", "settled", "slice_to",
]  # fmt: skip


def by_function(function: Callable[[Expr], Expr]) -> Rule:
    """An operator of one operand that is written with others.

    Halves are computed in single precision and rounded once: what lies between would overflow, and
    each step would round.
    """

    def rule(call: Call) -> Result:
        x = call.x()
        wide = DType.f32 if x.dtype in (DType.f16, DType.bf16) else x.dtype
        return cast_to(function(cast_to(x, wide)), x.dtype)

    return rule


def cast_to(x: Expr, dtype: DType) -> Expr:
    """`x` with elements of another type."""
    return x if x.dtype is dtype else cast(x, dtype=dtype)


def reshape_to(x: Expr, shape: Iterable[Dim]) -> Expr:
    """`x` in another shape."""
    shape = tuple(shape)
    if x.shape == shape:
        return x
    node = x.value.producer
    if node is not None and node.op is reshape:  # the last of two counts
        return reshape_to(Expr(x.emitter, node.operands[0]), shape)
    return reshape(x, shape=shape)


def expand_to(x: Expr, shape: Iterable[Dim]) -> Expr:
    """`x` repeated up to a shape."""
    shape = tuple(shape)
    return x if x.shape == shape else expand(x, shape=shape)


def permute(x: Expr, perm: Iterable[int]) -> Expr:
    """`x` with its axes permuted."""
    perm = tuple(perm)
    if perm == tuple(range(len(x.shape))):
        return x
    return transpose(x, perm=perm)


def slice_to(x: Expr, axis: int, start: Dim, stop: Dim, step: int = 1) -> Expr:
    """A part of one axis; both ends lie within it."""
    if start == 0 and stop == x.shape[axis] and step == 1:
        return x
    return slice_(x, axis=axis, start=start, stop=stop, step=step)


def index_axis(x: Expr, axis: int, place: Dim) -> Expr:
    """The slice at one place of an axis, without the axis."""
    shape = x.shape
    found = slice_to(x, axis, place, place + 1)
    return reshape_to(found, (*shape[:axis], *shape[axis + 1 :]))


def flatten_to(shape: Shape, axis: int) -> tuple[Dim, Dim]:
    """The two sizes that remain if the axes before `axis`, and those from it on, become one."""
    return product(shape[:axis]), product(shape[axis:])


def along(x: Expr, axis: int, rank: int) -> Expr:
    """A vector as one axis of `rank`, to broadcast."""
    return reshape_to(x, [x.shape[0] if i == axis else 1 for i in range(rank)])


def settled(x: Expr) -> Expr:
    """`x` as a constant, if it is computed from constants and known sizes only."""
    if x.value.constant is not None:
        return x
    assert isinstance(x.emitter, ImportBuilder)
    found = x.emitter.origins.array_of(x.value)
    return x if found is None else x.emitter.constant(found)
