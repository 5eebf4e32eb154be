"""Rotary position embedding in its exported spellings becomes one `rotary`."""

from __future__ import annotations

from dataclasses import dataclass

from tunesmith.ir.builder import Builder
from tunesmith.ir.dims import Dim, exact_div
from tunesmith.ir.graph import Graph, Node, Value
from tunesmith.ir.opset import concat, expand, reshape, rotary, slice_
from tunesmith.ir.rewriter import Rewriter

from .base import Note, Pass, PassContext
from .views import scaling

__all__ = ["FuseRotary"]


@dataclass(frozen=True, kw_only=True)
class FuseRotary(Pass):
    """`x * cos + concat(-x2, x1) * sin  =>  rotary(x, cos, sin)`.

    Also `concat(x1 * c - x2 * s, x2 * c + x1 * s)`, where `c` and `s` are half as wide as `x`, and
    both for neighbouring columns instead of halves.
    """

    name = "fuse-rotary"

    def run(self, graph: Graph, context: PassContext) -> bool:
        """Fuse every rotation."""
        rewriter = Rewriter(graph)
        for node in list(graph.nodes):
            if node.owner is None or node.op.name not in ("add", "concat"):
                continue
            try:
                found = _sum_form(node) if node.op.name == "add" else _pair_form(node)
            except _Refused as refusal:
                context.notes.append(
                    Note(self.name, "near-miss", "rotary", str(node.location), str(refusal))
                )
                continue
            if found is None:
                continue
            result = found.build(rewriter.before(found.last))
            reason = "interleaved" if found.interleaved else "halves"
            context.notes.append(Note(self.name, "match", "rotary", str(node.location), reason))
            rewriter.replace(found.last.result, result)
            rewriter.erase_dead([found.last])
        return rewriter.changed


class _Refused(Exception):
    """Why a node that looks like a rotation is not one."""


@dataclass(frozen=True)
class _Columns:
    """Columns `start`, `start + step`, … before `stop` of a value."""

    root: Value
    start: Dim
    stop: Dim
    step: int = 1


@dataclass(frozen=True)
class _Found:
    """A rotation of columns by angles, and the node whose result it is."""

    last: Node
    x: _Columns
    cos: Value
    sin: Value
    interleaved: bool
    halved: bool  # whether `cos` and `sin` are half as wide as `x`

    def build(self, builder: Builder) -> Value:
        """Write the rotation."""
        x, (cos, sin) = self.x.root, (self.cos, self.sin)
        if (self.x.start, self.x.stop) != (0, x.type.shape[-1]):
            attributes = {"axis": -1, "start": self.x.start, "stop": self.x.stop}
            (x,) = builder.emit_values(slice_, [x], attributes)
        if self.halved:
            cos, sin = (_widened(builder, angle, self.interleaved) for angle in (cos, sin))
        attributes = {"interleaved": self.interleaved}
        return builder.emit_values(rotary, [x, cos, sin], attributes)[0]


def _widened(builder: Builder, angle: Value, interleaved: bool) -> Value:
    """Each angle for both of its columns."""
    if not interleaved:
        return builder.emit_values(concat, [angle, angle], {"axis": -1})[0]
    shape = angle.type.shape
    (value,) = builder.emit_values(reshape, [angle], {"shape": (*shape, 1)})
    (value,) = builder.emit_values(expand, [value], {"shape": (*shape, 2)})
    return builder.emit_values(reshape, [value], {"shape": (*shape[:-1], 2 * shape[-1])})[0]


def _columns(value: Value) -> _Columns:
    """The value as some columns of another one, which is not itself such."""
    found = _Columns(value, 0, value.type.shape[-1])
    while (node := found.root.producer) is not None and node.op.name == "slice":
        axis, start, step = (node.attributes[name] for name in ("axis", "start", "step"))
        assert isinstance(axis, int) and isinstance(step, int)
        assert not isinstance(start, tuple | str | float)
        x = node.present_operands[0]
        if axis % x.type.rank != x.type.rank - 1 or step < 1 or (step > 1 and found.step > 1):
            break
        first = found.start * step + start  # type: ignore[operator]  # a dim
        last = found.stop * step + start  # type: ignore[operator]  # a dim
        found = _Columns(x, first, last, found.step * step)
    return found


def _sum_form(node: Node) -> _Found | None:
    """`x * cos + turned(x) * sin`."""
    products = [v.producer for v in node.present_operands]
    for first, second in (products, products[::-1]):
        if first is None or second is None or {first.op.name, second.op.name} != {"mul"}:
            return None
        for turned, sin in _both(second.present_operands):
            pair = _turned(turned)
            if pair is None:
                continue
            x = _whole(*pair)
            for whole, cos in _both(first.present_operands):
                if _columns(whole) != x:
                    continue
                _read_once(first, second)
                _read_once(turned.producer)
                if not whole.type == turned.type == node.result.type:
                    raise _Refused("the angles have more axes, or longer ones, than `x`")
                return _Found(node, x, cos, sin, _is_interleaved(pair), halved=False)
            raise _Refused("what is turned is not what is multiplied by the cosine")
    return None


def _both(pair: list[Value]) -> tuple[tuple[Value, Value], tuple[Value, Value]]:
    x, y = pair
    return (x, y), (y, x)


def _turned(value: Value) -> tuple[_Columns, _Columns] | None:
    """`(x1, x2)` if the value is `[-x2, x1]`, of halves or of neighbours."""
    node = value.producer
    stacked = node is not None and node.op.name == "reshape"
    if node is not None and stacked:
        node = node.present_operands[0].producer
    if node is None or node.op.name != "concat" or len(node.operands) != 2:
        return None
    axis = node.attributes["axis"]
    second, first = node.present_operands
    negative = _negated(second)
    if negative is None:
        return None
    if not isinstance(axis, int) or axis % first.type.rank != first.type.rank - 1:
        raise _Refused(f"the turned columns are joined along axis {axis}, not the last")
    if stacked:
        first, negative = _behind_column(first), _behind_column(negative)
    pair = _member(first, stacked), _member(negative, stacked)
    _check_pair(*pair)
    if stacked is not _is_interleaved(pair):
        raise _Refused("halves are joined as neighbours, or neighbours as halves")
    return pair


def _negated(value: Value) -> Value | None:
    node = value.producer
    if node is not None and node.op.name == "reshape":  # `-x2` as a column
        node = node.present_operands[0].producer
    found = None if node is None else scaling(node)
    return found[0] if found is not None and found[1] == -1.0 else None


def _member(value: Value, stacked: bool) -> _Columns:
    """The columns that one part is; of pairs `[..., half, 2]`, the even or the odd ones."""
    found = _columns(value)
    pairs = found.root.producer
    if not stacked or pairs is None or pairs.op.name != "reshape":
        return found
    x, shape = pairs.present_operands[0], found.root.type.shape
    if shape[-1] != 2 or shape[:-2] != x.type.shape[:-1] or not isinstance(found.start, int):
        return found
    return _Columns(x, found.start, x.type.shape[-1] + found.start, 2)


def _is_interleaved(pair: tuple[_Columns, _Columns]) -> bool:
    return pair[0].step == 2


def _check_pair(first: _Columns, second: _Columns) -> None:
    """Raise unless the two are the halves, or the even and the odd columns, of one value."""
    if first.root is not second.root:
        raise _Refused("the two halves come from different tensors")
    if first.step != second.step or first.step > 2:
        raise _Refused("the two halves step differently")
    distance = second.start - first.start
    expected = 1 if first.step == 2 else first.stop - first.start
    if distance != expected or second.stop - second.start != first.stop - first.start:
        raise _Refused("the two parts are not halves in order")


def _whole(first: _Columns, second: _Columns) -> _Columns:
    """The columns that both parts together are."""
    if first.step == 1:
        return _Columns(first.root, first.start, second.stop)
    return _Columns(first.root, first.start, first.stop)


def _read_once(*nodes: Node | None) -> None:
    for node in nodes:
        if node is not None and len(node.result.users) != 1:
            raise _Refused(f"the result of `{node.op.name}` is read elsewhere too")


def _pair_form(node: Node) -> _Found | None:
    """`concat(x1 * c - x2 * s, x2 * c + x1 * s)`, or both stacked and flattened."""
    if len(node.operands) != 2:
        return None
    left, right = (_behind_column(x) for x in node.present_operands)
    stacked = left is not node.operands[0]
    difference, total = left.producer, right.producer
    if difference is None or total is None:
        return None
    if difference.op.name != "sub" or total.op.name != "add":
        return None
    for x1, cos, x2, sin in _factors(difference):
        for y2, c, y1, s in [*_factors(total), *_factors(total, swap=True)]:
            pair = _columns(x1), _columns(x2)
            if (c, s) != (cos, sin) or (_columns(y1), _columns(y2)) != pair:
                continue
            if pair[0].root is pair[1].root and pair[0] != pair[1]:
                _read_once(difference, total)
                return _from_pair(node, pair, cos, sin, stacked)
    return None


def _behind_column(value: Value) -> Value:
    """What was reshaped to a column `[..., half, 1]`."""
    node = value.producer
    if node is None or node.op.name != "reshape" or value.type.shape[-1] != 1:
        return value
    x = node.present_operands[0]
    return x if (*x.type.shape, 1) == value.type.shape else value


def _factors(node: Node, swap: bool = False) -> list[tuple[Value, Value, Value, Value]]:
    """`(a, b, c, d)` in each order such that the node is a sum or difference of `a*b` and `c*d`."""
    left, right = (x.producer for x in node.present_operands[:: -1 if swap else 1])
    if left is None or right is None or {left.op.name, right.op.name} != {"mul"}:
        return []
    return [
        (a, b, c, d)
        for a, b in _both(left.present_operands)
        for c, d in _both(right.present_operands)
    ]


def _from_pair(
    node: Node, pair: tuple[_Columns, _Columns], cos: Value, sin: Value, stacked: bool
) -> _Found:
    first, second = pair
    _check_pair(first, second)
    last = node
    if stacked is not _is_interleaved(pair):
        raise _Refused("halves are joined as neighbours, or neighbours as halves")
    axis = node.attributes["axis"]
    if not isinstance(axis, int) or axis % node.result.type.rank != node.result.type.rank - 1:
        raise _Refused(f"the turned columns are joined along axis {axis}, not the last")
    whole = _whole(first, second)
    shape = (*first.root.type.shape[:-1], whole.stop - whole.start)
    if stacked:
        (last,) = node.result.user_nodes if len(node.result.users) == 1 else (node,)
        if last.op.name != "reshape":
            raise _Refused("the pairs of columns are not put back in a row")
    if last.result.type.shape != shape:
        raise _Refused("the angles have more axes, or longer ones, than `x`")
    half = exact_div(shape[-1], 2)
    if cos.type.shape[-1:] != (half,) or sin.type.shape[-1:] != (half,):
        raise _Refused("the angles are not one for each pair of columns")
    return _Found(last, whole, cos, sin, stacked, halved=True)
