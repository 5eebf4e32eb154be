"""Finding an attention around a softmax: the scores are peeled down to a product, by meaning."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from math import inf

from tunesmith.ir.graph import Node, Value
from tunesmith.ir.types import DType, Shape

from .mask_facts import GREATEST, Condition, Fill, fills, swallows
from .views import scalar_of, scaling

__all__ = ["Added", "Block", "Refused", "Shown", "find_block", "weighs_values"]


class Refused(Exception):
    """The condition that keeps a match from becoming an attention; caught by the pass."""


@dataclass(frozen=True)
class Shown:
    """A condition on scores, below which they are -inf; `batch` are the scores' axes there."""

    condition: Condition
    batch: Shape


@dataclass(frozen=True)
class Added:
    """A float mask: `value * factor`, where `fill` says what is known about it.

    Without a value it is a finite number that replaced scores where `fill` does not show them.
    """

    value: Value | None
    fill: Fill | None
    factor: float
    batch: Shape
    dtype: DType


@dataclass
class Block:
    """What an attention is made from: the two products, and what happens to scores between."""

    product: Node
    combine: Node
    scale: float = 1.0
    softcap: float = 0.0
    shown: list[Shown] = field(default_factory=list)
    added: list[Added] = field(default_factory=list)
    batches: list[Shape] = field(default_factory=list)  # leading axes of scores, at each level
    masked_row: str = "nan"


def weighs_values(softmax: Node) -> tuple[Node, str]:
    """The product of the probabilities with the values, and what a row without any key gives."""
    value, masked_row = softmax.result, "nan"
    for node in _downwards(value):
        if node.op.name == "where":
            masked_row = "zero"
        elif node.op.name == "matmul":
            left, right = node.operands
            if left is not value or right is value:
                raise Refused("the probabilities are the second operand of the product")
            if node.result.type.shape[:-2] != value.type.shape[:-2]:
                raise Refused("the values have batch axes that the scores lack")
            return node, masked_row
        elif node.op.name == "reshape" and node.result.type.shape[-2:] != value.type.shape[-2:]:
            raise Refused("the probabilities are reshaped, rows or columns included")
        elif node.op.name not in ("cast", "reshape"):
            raise Refused(f"the probabilities go to `{node.op.name}`, not to a product with values")
        value = node.result
    raise AssertionError("a chain of readers ends at the terminator")


def _downwards(value: Value) -> Iterator[Node]:
    """The only reader of a value, then the only reader of its result, and so on; guards as one."""
    while True:
        readers = value.user_nodes
        guard = _nan_guard(value, readers)
        if guard is not None:
            node = guard
        elif len(readers) == 1:
            (node,) = readers
        else:
            names = ", ".join(f"`{reader.op.name}`" for reader in readers)
            raise Refused(f"the probabilities are read elsewhere too: by {names or 'nobody'}")
        yield node
        value = node.result


def _nan_guard(value: Value, readers: list[Node]) -> Node | None:
    """The `where` of `where(isnan(p), 0, p)`."""
    if len(readers) != 2:
        return None
    test, choice = readers if readers[0].op.name == "isnan" else readers[::-1]
    if test.op.name != "isnan" or choice.op.name != "where" or len(test.result.users) != 1:
        return None
    condition, zero, otherwise = choice.present_operands
    right = condition is test.result and scalar_of(zero) == 0.0 and otherwise is value
    return choice if right and choice.result.type == value.type else None


def find_block(softmax: Node, combine: Node, masked_row: str) -> Block:
    """The attention that ends in `combine`; `Refused` says why there is none."""
    (scores,) = softmax.present_operands
    peeler = _Peeler(softmax)
    product = peeler.down_to_product(scores)
    block = Block(product, combine, masked_row=masked_row)
    for step in reversed(peeler.steps):
        _apply(step, block)
    if block.softcap < 0:
        raise Refused(f"the softcap is {block.softcap:g}, which is negative")
    block.scale *= block.softcap or 1.0
    block.batches = [*peeler.batches, combine.present_operands[0].type.shape[:-2]]
    return block


@dataclass(frozen=True)
class _Scale:
    factor: float


@dataclass(frozen=True)
class _Tanh:
    pass


@dataclass(frozen=True)
class _Show:
    condition: Condition
    number: float
    batch: Shape
    dtype: DType


_Step = _Scale | _Tanh | _Show | Added


def _apply(step: _Step, block: Block) -> None:
    """Let one step of the scores, met from the product upwards, act on what is known so far."""
    masks = bool(block.shown or block.added)
    match step:
        case _Scale():
            if masks and step.factor < 0:
                raise Refused(f"masked scores are multiplied by {step.factor:g}, which is negative")
            if block.softcap:
                block.softcap *= step.factor
            else:
                block.scale *= step.factor
            block.added = [_scaled(added, step.factor) for added in block.added]
        case _Tanh():
            if masks:
                raise Refused("the scores are masked before the softcap, not after it")
            if block.softcap:
                raise Refused("the scores go through `tanh` twice")
            block.softcap = 1.0
        case _Show(number=number) if number == -inf:
            block.shown.append(Shown(step.condition, step.batch))
        case _Show():
            if masks:
                raise Refused("a finite number replaces scores that are masked already")
            fill = Fill(step.condition, step.number)
            block.added.append(Added(None, fill, 1.0, step.batch, step.dtype))
        case Added():
            block.added.append(step)


def _scaled(added: Added, factor: float) -> Added:
    fill = added.fill
    if fill is not None:
        number = fill.number * factor
        beyond = -number > GREATEST[added.dtype]
        fill = Fill(fill.shown, -inf if beyond else number)
    return Added(added.value, fill, added.factor * factor, added.batch, added.dtype)


class _Peeler:
    """Walks from the softmax to the product of queries and keys, and notes what it passes."""

    def __init__(self, softmax: Node) -> None:
        self.steps: list[_Step] = []  # from the softmax down
        self.batches: list[Shape] = []
        self.reader = softmax

    def down_to_product(self, scores: Value) -> Node:
        """The product that the scores come from."""
        value = scores
        while True:
            node = value.producer
            if node is None:
                raise Refused(f"the scores are the input `%{value.name}`, not a product")
            if len(value.users) != 1:
                others = [n.op.name for n in value.user_nodes if n is not self.reader]
                names = ", ".join(f"`{name}`" for name in others) or f"`{self.reader.op.name}`"
                raise Refused(f"the scores are read elsewhere too: by {names}")
            self.batches.append(value.type.shape[:-2])
            self.reader = node
            if node.op.name == "matmul":
                if _is_constant(node.present_operands[1]):
                    raise Refused("the keys are a constant: a linear layer")
                return node
            value = self._peel(node, value)

    def _peel(self, node: Node, value: Value) -> Value:
        operands = node.present_operands
        match node.op.name:
            case "cast":
                if not operands[0].type.dtype.is_float:
                    raise Refused(f"the scores are integers, {operands[0].type.dtype}")
                return operands[0]
            case "reshape":
                if operands[0].type.shape[-2:] != value.type.shape[-2:]:
                    raise Refused("the scores are reshaped, rows or columns included")
                return operands[0]
            case "tanh":
                self.steps.append(_Tanh())
                return operands[0]
            case "add" | "sub":
                return self._masked(node, value)
            case "where":
                return self._replaced(node, value)
        found = scaling(node)
        if found is not None:
            self.steps.append(_Scale(found[1]))
            return found[0]
        if node.op.name in ("mul", "div"):
            raise Refused(f"the scores meet a `{node.op.name}` by more than one number")
        raise Refused(f"the softmax is over `{node.op.name}`, not over a product")

    def _masked(self, node: Node, value: Value) -> Value:
        """Scores plus a mask, or minus one."""
        x, y = node.present_operands
        if node.op.name == "add" and not _leads_to_product(x) and _leads_to_product(y):
            x, y = y, x
        if not _leads_to_product(x):
            raise Refused(f"the softmax is over `{node.op.name}`, not over a product")
        _same_shape(x, value, y)
        sign = 1.0 if node.op.name == "add" else -1.0
        fill = fills(y) if sign > 0 else None
        batch = value.type.shape[:-2]
        self.steps.append(Added(y, fill, sign, batch, y.type.dtype))
        return x

    def _replaced(self, node: Node, value: Value) -> Value:
        """Scores where a condition holds, else a number."""
        condition, x, y = node.present_operands
        negated = not _leads_to_product(x)
        if negated:
            x, y = y, x
        number = scalar_of(y)
        if not _leads_to_product(x):
            raise Refused("the softmax is over `where`, not over a product")
        if number is None or number >= 0:
            raise Refused("masked scores become something else than one negative number")
        _same_shape(x, value, condition)
        dtype = value.type.dtype
        if number != -inf and not swallows(number, dtype) and number != -GREATEST[dtype]:
            raise Refused(f"masked scores become {number:g}, not -inf: a sum cannot say that")
        shown = Condition(condition, negated)
        self.steps.append(_Show(shown, number, value.type.shape[:-2], dtype))
        return x


def _same_shape(scores: Value, result: Value, mask: Value) -> None:
    if scores.type.shape != result.type.shape:
        raise Refused(f"the mask {mask.type} does not broadcast to the scores {scores.type}")


def _is_constant(value: Value) -> bool:
    while value.producer is not None and "movement" in value.producer.op.traits:
        value = value.producer.present_operands[0]
    return value.constant is not None


def _leads_to_product(value: Value) -> bool:
    """Whether scores could come from here: a product with keys that are computed."""
    work, seen = [value], 0
    while work and seen < 64:
        seen += 1
        value = work.pop()
        node = value.producer
        if node is None:
            continue
        if node.op.name == "matmul":
            if not _is_constant(node.present_operands[1]):
                return True
            continue
        if node.op.name in ("cast", "reshape", "tanh", "neg"):
            work.append(node.present_operands[0])
        elif node.op.name in ("mul", "div", "add", "sub"):
            work += node.present_operands
        elif node.op.name == "where":
            work += node.present_operands[1:]
    return False
