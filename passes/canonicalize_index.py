"""Canonical forms of indexing: indices that are known, or that count, are slices and reshapes."""

from __future__ import annotations

from dataclasses import dataclass

from tunesmith.ir.builder import Builder
from tunesmith.ir.dims import Dim, bounds
from tunesmith.ir.graph import Node, Value
from tunesmith.ir.ops import Expr
from tunesmith.ir.opset.movement import concat, expand, iota, reshape, slice_, transpose
from tunesmith.ir.types import Shape

from .facts import Range, counts, counts_along, uniform
from .local_rule import RuleTable

__all__ = ["INDEX_RULES"]


@dataclass(frozen=True)
class _Pick:
    """What an index takes from one axis: a range, laid along an axis of the index, or one."""

    along: int | None
    taken: Range


def _pick(indices: Value, size: Dim) -> _Pick | None:
    """How `indices` index an axis of `size`, if it can be said in slices."""
    number = uniform(indices)
    if isinstance(number, int):
        start = number if number >= 0 else size + number
        return _Pick(None, Range(start, 1)) if _inside(start, 1, size) else None
    found = counts_along(indices)
    if found is None or not _inside(found[1].start, found[1].size, size):
        return None
    return _Pick(*found)


def _inside(start: Dim, length: Dim, size: Dim) -> bool:
    """Whether a range lies in an axis; beyond a bound that is not known, a gather is wrong too."""
    low, _ = bounds(start)
    room, _ = bounds(size - start - length)
    _, most = bounds(size - start - length)
    return low >= 0 and (room >= 0 or most is None or most >= 0)


def _take(x: Expr, axis: int, taken: Range) -> Expr:
    if taken.start == 0 and taken.size == x.shape[axis]:
        return x
    return slice_(x, axis=axis, start=taken.start, stop=taken.start + taken.size)


def _shaped(x: Expr, shape: Shape) -> Expr:
    return x if x.shape == shape else reshape(x, shape=shape)


def _laid(rank: int, picks: list[_Pick]) -> list[Dim]:
    """The shape of an index tensor, 1 where nothing is laid."""
    shape: list[Dim] = [1] * rank
    for pick in picks:
        if pick.along is not None:
            shape[pick.along] = pick.taken.size
    return shape


def _grown(x: Expr, shape: Shape) -> Expr:
    return x if x.shape == shape else expand(x, shape=shape)


def gather_slice(node: Node, build: Builder) -> Expr | None:
    """`gather(x, known or counting indices)  =>  slice(x)`, reshaped and expanded."""
    x, indices = node.present_operands
    axis = node.attributes["axis"]
    assert isinstance(axis, int)
    axis %= x.type.rank
    size, result = x.type.shape[axis], node.result.type.shape
    row = counts(indices)
    if row is not None and _inside(row.start, row.size, size):
        return _shaped(_take(Expr(build, x), axis, row), result)
    pick = _pick(indices, size)
    if pick is None:
        return None
    narrow = (*x.type.shape[:axis], *_laid(indices.type.rank, [pick]), *x.type.shape[axis + 1 :])
    return _grown(_shaped(_take(Expr(build, x), axis, pick.taken), narrow), result)


def gather_nd_slice(node: Node, build: Builder) -> Expr | None:
    """`gather_nd(x, concat(indices that count along an axis of their own))  =>  reshape(x)`.

    `mask[b, k]` for every batch b and key k is the mask itself, `[B, 1, 1, S]`.
    """
    x, indices = node.present_operands
    joined = indices.producer
    if node.attributes["batch_dims"] != 0 or joined is None or joined.op is not concat:
        return None
    rank = indices.type.rank - 1
    if joined.attributes["axis"] not in (-1, rank):
        return None
    parts = joined.present_operands
    if any(part.type.shape[-1] != 1 for part in parts):
        return None
    picks: list[_Pick] = []
    for place, part in enumerate(parts):
        pick = _pick(part, x.type.shape[place])
        if pick is None:
            return None
        picks.append(pick)
    along = [pick.along for pick in picks if pick.along is not None]
    if len(set(along)) < len(along) or rank in along:
        return None
    y = Expr(build, x)
    for place, pick in enumerate(picks):
        y = _take(y, place, pick.taken)
    order = sorted(range(len(picks)), key=lambda i: -1 if (a := picks[i].along) is None else a)
    rest = x.type.shape[len(picks) :]
    perm = (*order, *range(len(order), x.type.rank))
    if list(perm) != list(range(x.type.rank)):
        y = transpose(y, perm=perm)
    return _grown(_shaped(y, (*_laid(rank, picks), *rest)), node.result.type.shape)


def _number(value: Value) -> Dim | None:
    """The size that an integer scalar is."""
    found = uniform(value)
    if isinstance(found, int):
        return found
    node = value.producer
    while node is not None and node.op.name in ("reshape", "expand", "cast"):
        node = node.present_operands[0].producer
    if node is None or node.op.name != "dim_value":
        return None
    return node.attributes["size"]  # type: ignore[return-value]  # a `Dim` by its hint


def flat_index(node: Node, build: Builder) -> Expr | None:
    """`rows * n + columns  =>  reshape(iota)`, where rows and columns count along their axes."""
    for product, columns in (node.present_operands, node.present_operands[::-1]):
        scaled = product.producer
        if scaled is None or scaled.op.name != "mul":
            continue
        inner = counts_along(columns)
        if inner is None or inner[1].start != 0:
            continue
        for rows, factor in (scaled.present_operands, scaled.present_operands[::-1]):
            outer = counts_along(rows)
            if outer is None or outer[1].start != 0 or _number(factor) != inner[1].size:
                continue
            rank = node.result.type.rank
            first = outer[0] + rank - rows.type.rank
            second = inner[0] + rank - columns.type.rank
            shape: list[Dim] = [1] * rank
            shape[first], shape[second] = outer[1].size, inner[1].size
            if first >= second or tuple(shape) != node.result.type.shape:
                continue
            with build:
                total = iota(size=outer[1].size * inner[1].size, dtype=node.result.type.dtype)
            return reshape(total, shape=tuple(shape))
    return None


INDEX_RULES: RuleTable = {
    "gather": (gather_slice,),
    "gather_nd": (gather_nd_slice,),
    "add": (flat_index,),
}
