"""Canonical forms of reshape, transpose, expand, slice and concat."""

from __future__ import annotations

from tunesmith.ir.builder import Builder
from tunesmith.ir.dims import Dim
from tunesmith.ir.graph import Node, Value
from tunesmith.ir.ops import Expr
from tunesmith.ir.opset.movement import concat, expand, reshape, slice_, transpose

from .local_rule import RuleTable

__all__ = ["MOVEMENT_RULES"]


def _made_by(value: Value | None, name: str) -> Node | None:
    """The node that produces a value, if it has this operator."""
    node = None if value is None else value.producer
    return node if node is not None and node.op.name == name else None


def _perm(node: Node) -> tuple[int, ...]:
    perm = node.attributes["perm"]
    assert isinstance(perm, tuple)
    return tuple(int(i) for i in perm if isinstance(i, int))


def same_shape(node: Node, build: Builder) -> Value | None:
    """`reshape(x), expand(x) to the shape it has  =>  x`."""
    x = node.present_operands[0]
    return x if x.type == node.result.type else None


def reshape_of_reshape(node: Node, build: Builder) -> Expr | None:
    """`reshape(reshape(x))  =>  reshape(x)`."""
    inner = _made_by(node.operands[0], "reshape")
    if inner is None:
        return None
    return reshape(Expr(build, inner.present_operands[0]), shape=node.result.type.shape)


def reshape_around_transpose(node: Node, build: Builder) -> Expr | None:
    """`reshape(transpose(reshape(x)))  =>  transpose(x)`, where leading axes are merged and split.

    `[B, H, S, d] → [B*H, S, d] → [B*H, d, S] → [B, H, d, S]` is one transpose of the last two axes.
    """
    turned = _made_by(node.operands[0], "transpose")
    merged = None if turned is None else _made_by(turned.operands[0], "reshape")
    if turned is None or merged is None:
        return None
    x, flat, result = merged.present_operands[0], merged.result.type.shape, node.result.type.shape
    lead = len(x.type.shape) - len(flat) + 1
    perm = _perm(turned)
    if lead < 2 or perm[0] != 0 or x.type.shape[lead:] != flat[1:]:
        return None
    wanted = (*range(lead), *(i + lead - 1 for i in perm[1:]))
    if result != tuple(x.type.shape[i] for i in wanted):
        return None
    return transpose(Expr(build, x), perm=wanted)


def identity_transpose(node: Node, build: Builder) -> Value | None:
    """`transpose(x) by 0, 1, 2, …  =>  x`."""
    perm = _perm(node)
    return node.operands[0] if list(perm) == list(range(len(perm))) else None


def transpose_of_transpose(node: Node, build: Builder) -> Expr | None:
    """`transpose(transpose(x))  =>  transpose(x)`."""
    inner = _made_by(node.operands[0], "transpose")
    if inner is None:
        return None
    first = _perm(inner)
    perm = tuple(first[i] for i in _perm(node))
    return transpose(Expr(build, inner.present_operands[0]), perm=perm)


def expand_of_expand(node: Node, build: Builder) -> Expr | None:
    """`expand(expand(x))  =>  expand(x)`."""
    inner = _made_by(node.operands[0], "expand")
    if inner is None:
        return None
    return expand(Expr(build, inner.present_operands[0]), shape=node.result.type.shape)


def expand_to_reshape(node: Node, build: Builder) -> Expr | None:
    """`expand(x)  =>  reshape(x)` if it only adds axes of size 1."""
    x = node.present_operands[0]
    added = node.result.type.rank - x.type.rank
    if not added or node.result.type.shape != (1,) * added + x.type.shape:
        return None
    return reshape(Expr(build, x), shape=node.result.type.shape)


def _window(node: Node) -> tuple[int, Dim, Dim, int]:
    """Axis from the front, start, stop, step of a slice."""
    axis, step = node.attributes["axis"], node.attributes["step"]
    start: Dim = node.attributes["start"]  # type: ignore[assignment]  # a `Dim` by its hint
    stop: Dim = node.attributes["stop"]  # type: ignore[assignment]  # a `Dim` by its hint
    assert isinstance(axis, int) and isinstance(step, int)
    return axis % node.result.type.rank, start, stop, step


def whole_slice(node: Node, build: Builder) -> Value | None:
    """`x[0:size]  =>  x`."""
    x = node.present_operands[0]
    axis, start, stop, step = _window(node)
    return x if start == 0 and step == 1 and stop == x.type.shape[axis] else None


def slice_of_slice(node: Node, build: Builder) -> Expr | None:
    """`x[a:b][c:d]  =>  x[a + c:a + d]`, with steps of 1."""
    inner = _made_by(node.operands[0], "slice")
    if inner is None:
        return None
    axis, start, stop, step = _window(node)
    first_axis, offset, _, first_step = _window(inner)
    if axis != first_axis or step != 1 or first_step != 1:
        return None
    x = Expr(build, inner.present_operands[0])
    return slice_(x, axis=axis, start=offset + start, stop=offset + stop)


def slice_of_concat(node: Node, build: Builder) -> Value | Expr | None:
    """A slice of a `concat` that is some of its operands  =>  those operands."""
    joined = _made_by(node.operands[0], "concat")
    if joined is None:
        return None
    axis, start, stop, step = _window(node)
    along = joined.attributes["axis"]
    assert isinstance(along, int)
    if step != 1 or along % node.result.type.rank != axis:
        return None
    edges: list[Dim] = [0]
    for value in joined.present_operands:
        edges.append(edges[-1] + value.type.shape[axis])
    if start not in edges or stop not in edges:
        return None
    kept = joined.present_operands[edges.index(start) : len(edges) - 1 - edges[::-1].index(stop)]
    if not kept:
        return None
    return kept[0] if len(kept) == 1 else concat(*(Expr(build, x) for x in kept), axis=axis)


def concat_of_one(node: Node, build: Builder) -> Value | None:
    """`concat(x)  =>  x`."""
    return node.operands[0] if len(node.operands) == 1 else None


def concat_without_empty(node: Node, build: Builder) -> Expr | None:
    """`concat(x, nothing, y)  =>  concat(x, y)`."""
    axis = node.attributes["axis"]
    assert isinstance(axis, int)
    kept = [x for x in node.present_operands if x.type.shape[axis] != 0]
    if len(kept) == len(node.operands) or not kept:
        return None
    return concat(*(Expr(build, x) for x in kept), axis=axis)


def concat_of_slices(node: Node, build: Builder) -> Expr | None:
    """`concat(x[a:b], x[b:c])  =>  x[a:c]`."""
    axis = node.attributes["axis"]
    assert isinstance(axis, int)
    axis %= node.result.type.rank
    operands = node.present_operands
    for place in range(len(operands) - 1):
        one, other = (_made_by(x, "slice") for x in operands[place : place + 2])
        if one is None or other is None or one.operands[0] is not other.operands[0]:
            continue
        (a, start, middle, step), (b, again, stop, step2) = _window(one), _window(other)
        if not (a == b == axis and step == step2 == 1 and middle == again):
            continue
        source = Expr(build, one.present_operands[0])
        joined = slice_(source, axis=axis, start=start, stop=stop)
        before = [Expr(build, x) for x in operands[:place]]
        after = [Expr(build, x) for x in operands[place + 2 :]]
        return concat(*before, joined, *after, axis=axis)
    return None


def reshape_of_moved_ones(node: Node, build: Builder) -> Expr | None:
    """`reshape(transpose(x))  =>  reshape(x)` if the transpose only moves axes of size 1."""
    turned = _made_by(node.operands[0], "transpose")
    if turned is None:
        return None
    x, perm = turned.present_operands[0], _perm(turned)
    wide = [i for i in perm if x.type.shape[i] != 1]
    if wide != sorted(wide):
        return None
    return reshape(Expr(build, x), shape=node.result.type.shape)


MOVEMENT_RULES: RuleTable = {
    "reshape": (same_shape, reshape_of_reshape, reshape_around_transpose, reshape_of_moved_ones),
    "transpose": (identity_transpose, transpose_of_transpose),
    "expand": (same_shape, expand_of_expand, expand_to_reshape),
    "slice": (whole_slice, slice_of_slice, slice_of_concat),
    "concat": (concat_of_one, concat_without_empty, concat_of_slices),
}
