"""Fusion by evaluation: the element of a value at an index, through whatever is not in memory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from tvm import tirx
from tvm.ir import Expr as Prim
from tvm.ir import TensorLoad
from tvm.tirx.script import builder as T

from tunesmith.ir.builder import trace
from tunesmith.ir.graph import Node, Value
from tunesmith.ir.types import DType, TensorType

from .index import Index, Sizes, int64
from .kernels.literals import immediate
from .kernels.movement import MOVEMENT_RULES
from .kernels.scalar import SCALAR_RULES, cast_to
from .schedule.emit import held

__all__ = ["Evaluator", "can_inline"]


def can_inline(node: Node) -> bool:
    """Whether an element of the node's result can be computed on its own, where it is read."""
    return (
        node.op.name in SCALAR_RULES
        or node.op.name in MOVEMENT_RULES
        or (node.op.is_composite and "elementwise" in node.op.traits)
    )


class Evaluator:
    """Writes expressions for elements: loads for values in memory, rules for the others.

    `buffers` hold values row-major and flat. `known` are values that the kernel itself computes:
    a function from their index to the expression. `tied` tables lie in the panels of a packed
    weight that is their transpose, with the width of a panel. What a rule reads
    is held in a cell, so that a value with several readers is computed once for an index.
    """

    def __init__(self, sizes: Sizes, buffers: Mapping[Value, tirx.Buffer]) -> None:
        self.sizes = sizes
        self.buffers = dict(buffers)
        self.known: dict[Value, Callable[[Index], Prim]] = {}
        self.tied: dict[Value, int] = {}
        self._memo: dict[tuple[Value, int], Prim] = {}
        self._kept: list[Index] = []
        self._bind = True

    def fresh(self) -> Evaluator:
        """The same values without the cells: for another loop."""
        other = Evaluator(self.sizes, self.buffers)
        other.known = dict(self.known)
        other.tied = self.tied
        return other

    def read(self, value: Value, index: Index) -> Prim:
        """The element of `value` at `index`."""
        if value in self.known:
            return self.known[value](index)
        constant = value.constant
        if constant is not None and constant.scalar is not None:
            return immediate(constant.scalar, value.type.dtype)
        if value in self.tied:
            row, column = index.axes()
            tile = int64(self.tied[value])
            at = [tirx.floordiv(row, tile), column, tirx.floormod(row, tile)]
            return self.buffers[value][tuple(at)]
        if value in self.buffers:
            element = self.buffers[value][index.flat()]
            return cast_to(element, DType.u8, value.type.dtype) if _is_flag(value) else element
        key = (value, id(index))
        if key in self._memo:
            return self._memo[key]
        result = self._compute(value, index)
        if len(value.users) > 1:
            result = self._held(result)
        self._memo[key] = result
        self._kept.append(index)
        return result

    def compute(self, value: Value, index: Index) -> Prim:
        """The element of the value that the kernel writes, although it has a place in memory."""
        return self.known[value](index) if value in self.known else self._compute(value, index)

    def finish(
        self,
        node: Node,
        output: Value,
        store: tirx.Buffer,
        index: Index,
        value: Prim,
        place: Prim | None = None,
    ) -> None:
        """Store an element of `node` through the epilogue that ends in `output`.

        Its place is that in the whole of `output`, or `place` where `store` is less than that.
        Reshapes on the way keep the row-major place; a transpose can only be the last step.
        """
        last = output.producer
        turned = last is not None and last is not node and last.op.name == "transpose"
        before = last.operands[0] if last is not None and turned else output
        assert before is not None
        at = index.reshape_to(before.type.shape)
        if before is not node.result:
            bound = T.Bind(value)
            self.known[node.result] = lambda _: bound
            value = self.compute(before, at)
        if last is not None and turned:
            perm = last.attributes["perm"]
            assert isinstance(perm, tuple)
            parts = at.axes()
            turned_parts = [parts[axis] for axis in perm if isinstance(axis, int)]
            index = Index.of(output.type.shape, turned_parts, self.sizes)
        T.buffer_store(store, value, [index.flat() if place is None else place])

    def guarded(self, condition: Prim, yes: Callable[[], Prim], no: Callable[[], Prim]) -> Prim:
        """`yes` where the condition holds, else `no`; only the one that is chosen is evaluated."""
        saved, self._bind = self._bind, False
        memo, self._memo = self._memo, {}
        try:
            first = yes()
            self._memo = {}
            return tirx.if_then_else(condition, first, no())
        finally:
            self._bind, self._memo = saved, memo

    def chosen(self, condition: Prim, yes: Prim, no: Prim) -> Prim:
        """`yes` where the condition holds, else `no`; both are read.

        TVM simplifies the sides of a `Select` by its condition, and takes away the very clamp that
        kept an index inside; LLVM then reads both sides. So the elements are in cells before the
        choice, and where no cell may be written, the choice is a branch.
        """
        if not self._bind:
            return tirx.if_then_else(condition, yes, no)
        return tirx.Select(self._held(condition), self._held(yes), self._held(no))

    def _compute(self, value: Value, index: Index) -> Prim:
        node = value.producer
        assert node is not None, f"{value!r} is neither in memory nor computed"
        rule = SCALAR_RULES.get(node.op.name)
        if rule is not None:
            operands = node.present_operands
            xs = [self._held(self.read(v, index.broadcast_to(v.type.shape))) for v in operands]
            return rule(xs, [v.type.dtype for v in operands], node.attributes)
        if node.op.name in MOVEMENT_RULES:
            return MOVEMENT_RULES[node.op.name](self, node, index)
        return self._composite(node, value, index)

    def _composite(self, node: Node, value: Value, index: Index) -> Prim:
        """An elementwise composite by its body; its operands are read before that is entered."""
        types: Sequence[TensorType | None] = [v.type if v else None for v in node.operands]
        body = trace(node.op, types, node.attributes)
        operands = [
            self._held(self.read(v, index.broadcast_to(v.type.shape)))
            for v in node.present_operands
        ]
        inside = set(body.nodes)
        self._memo = {k: v for k, v in self._memo.items() if k[0].producer not in inside}
        self.known.update(zip(body.inputs, map(_always, operands), strict=True))
        result = self.read(body.outputs[value.index], index)
        for inner in body.inputs:
            del self.known[inner]
        return result

    def _held(self, element: Prim) -> Prim:
        """The element in a cell, where one may be written, so that it is computed once.

        A bool too, as a number: TVM turns `not (x < y)` into `x >= y`, which NaN is not.
        """
        if not self._bind or _is_plain(element):
            return element
        if str(element.ty) == "bool":
            flag = held(cast_to(element, DType.bool, DType.u8))
            return cast_to(flag, DType.u8, DType.bool)
        return held(element)


def _is_flag(value: Value) -> bool:
    return value.type.dtype is DType.bool


def _is_plain(element: Prim) -> bool:
    """Whether the expression may be written again and again: it costs nothing."""
    if isinstance(element, TensorLoad):  # of a cell, or of a scalar
        return all(isinstance(index, (tirx.IntImm, tirx.Var)) for index in element.indices)
    return isinstance(element, (tirx.Var, tirx.IntImm, tirx.FloatImm))


def _always(element: Prim) -> Callable[[Index], Prim]:
    return lambda _: element
