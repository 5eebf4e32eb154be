"""The operator table: an operator is a function; a composite is its decomposition."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import numpy as np

from .constants import Constant
from .dims import DimExpr
from .types import DType, TensorType

__all__ = ["OPS", "Attribute", "Emitter", "Expr", "OpDef", "composite", "op"]

Attribute = bool | int | float | str | DType | Constant | DimExpr | tuple["Attribute", ...]
Scalar = bool | int | float
Infer = Callable[..., TensorType | tuple[TensorType, ...]]
Decomposition = Callable[..., "Expr | tuple[Expr, ...]"]


class Emitter(Protocol):
    """What operators write nodes into: a builder of graphs, or of patterns."""

    def emit(
        self, op: OpDef, operands: Sequence[Expr | None], attributes: Mapping[str, Attribute]
    ) -> Expr | tuple[Expr, ...]:
        """Write one node and hand back its results."""
        ...

    def literal(self, value: Scalar, like: Expr) -> Expr:
        """A scalar constant of the element type of `like`."""
        ...


@dataclass(frozen=True, eq=False)
class Expr:
    """A value while a graph or a pattern is being written: operators and arithmetic apply to it."""

    emitter: Emitter
    value: Any

    @property
    def type(self) -> TensorType:
        """The type of the value; patterns have none."""
        found = self.value.type
        assert isinstance(found, TensorType)
        return found

    @property
    def shape(self) -> tuple[int | DimExpr, ...]:
        """The shape of the value."""
        return self.type.shape

    @property
    def dtype(self) -> DType:
        """The element type of the value."""
        return self.type.dtype

    def _binary(self, name: str, other: Expr | Scalar, swap: bool = False) -> Expr:
        right = other if isinstance(other, Expr) else self.emitter.literal(other, self)
        pair = (right, self) if swap else (self, right)
        return OPS[name](*pair)

    def __add__(self, other: Expr | Scalar) -> Expr:
        return self._binary("add", other)

    def __radd__(self, other: Scalar) -> Expr:
        return self._binary("add", other, swap=True)

    def __sub__(self, other: Expr | Scalar) -> Expr:
        return self._binary("sub", other)

    def __rsub__(self, other: Scalar) -> Expr:
        return self._binary("sub", other, swap=True)

    def __mul__(self, other: Expr | Scalar) -> Expr:
        return self._binary("mul", other)

    def __rmul__(self, other: Scalar) -> Expr:
        return self._binary("mul", other, swap=True)

    def __truediv__(self, other: Expr | Scalar) -> Expr:
        return self._binary("div", other)

    def __rtruediv__(self, other: Scalar) -> Expr:
        return self._binary("div", other, swap=True)

    def __neg__(self) -> Expr:
        return OPS["neg"](self)


@dataclass(frozen=True, eq=False)
class OpDef:
    """A row of the operator table. Calling it writes a node; see `op` and `composite`."""

    name: str
    function: Callable[..., Any]
    traits: frozenset[str] = field(default_factory=frozenset)
    is_composite: bool = False

    @cached_property
    def signature(self) -> inspect.Signature:
        """Positional-only parameters are operands, keyword-only ones are attributes."""
        return inspect.signature(self.function)

    @cached_property
    def operand_names(self) -> tuple[str, ...]:
        """The names of the operands; a variadic one stands last, with a star."""
        return tuple(
            ("*" if p.kind is p.VAR_POSITIONAL else "") + p.name
            for p in self.signature.parameters.values()
            if p.kind in (p.POSITIONAL_ONLY, p.VAR_POSITIONAL)
        )

    @cached_property
    def required_operands(self) -> int:
        """How many operands must be given; the others may be absent (`None`)."""
        return sum(
            p.kind is p.POSITIONAL_ONLY and p.default is p.empty
            for p in self.signature.parameters.values()
        )

    @cached_property
    def attribute_defaults(self) -> dict[str, Any]:
        """Each attribute with its default, or `inspect.Parameter.empty`."""
        return {
            p.name: p.default
            for p in self.signature.parameters.values()
            if p.kind is p.KEYWORD_ONLY
        }

    @cached_property
    def _hints(self) -> dict[str, Any]:
        return typing.get_type_hints(self.function)

    def bind(self, count: int, attributes: Mapping[str, Any]) -> dict[str, Attribute]:
        """Check the operands and complete the attributes; `ValueError` says what is off."""
        variadic = bool(self.operand_names) and self.operand_names[-1].startswith("*")
        if count < self.required_operands or (count > len(self.operand_names) and not variadic):
            raise ValueError(
                f"`{self.name}` takes operands ({', '.join(self.operand_names)}), not {count}"
            )
        unknown = set(attributes) - set(self.attribute_defaults)
        if unknown:
            known = ", ".join(self.attribute_defaults) or "none"
            raise ValueError(f"`{self.name}` has no attribute `{min(unknown)}`; it has {known}")
        bound: dict[str, Attribute] = {}
        for name, default in self.attribute_defaults.items():
            value = attributes.get(name, default)
            if value is inspect.Parameter.empty:
                raise ValueError(f"`{self.name}` needs the attribute `{name}`")
            hint = self._hints.get(name)
            bound[name] = _attribute(value, hint)
            if hint in _KINDS and not isinstance(bound[name], (hint, *_wildcard(value))):
                raise ValueError(f"the attribute `{name}` of `{self.name}` cannot be {value}")
        return bound

    def __call__(self, *operands: Expr | Scalar | None, **attributes: Any) -> Expr:
        """Write a node and give its result; operators with several results have `many`."""
        return typing.cast(Expr, self.many(*operands, **attributes))

    def many(self, *operands: Expr | Scalar | None, **attributes: Any) -> Expr | tuple[Expr, ...]:
        """Write a node and give its result, or a tuple where the operator has several."""
        first = next((x for x in operands if isinstance(x, Expr)), None)
        emitter = first.emitter if first is not None else _CURRENT[-1]
        last = next((x for x in reversed(operands) if isinstance(x, Expr)), None)
        placed = [  # the last, because the first operand of `where` is a condition
            x if x is None or isinstance(x, Expr) else emitter.literal(x, _need(last))
            for x in operands
        ]
        while placed and placed[-1] is None and len(placed) > self.required_operands:
            placed.pop()
        return emitter.emit(self, placed, self.bind(len(placed), attributes))

    def __repr__(self) -> str:
        return f"OpDef({self.name})"


def _need(like: Expr | None) -> Expr:
    if like is None:
        raise ValueError("an operator with scalars only has no graph to write into")
    return like


def _attribute(value: Any, hint: Any) -> Attribute:
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, list | tuple):
        return tuple(_attribute(item, None) for item in value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is bool and isinstance(value, int):
        return bool(value)
    if not isinstance(value, bool | int | float | str | DType | Constant | DimExpr) and not getattr(
        value, "is_pattern_attribute", False
    ):
        raise ValueError(f"{value!r} cannot be an attribute")
    return typing.cast(Attribute, value)


_KINDS = (bool, int, float, str, DType, Constant)


def _wildcard(value: object) -> tuple[type, ...]:
    return (type(value),) if getattr(value, "is_pattern_attribute", False) else ()


OPS: dict[str, OpDef] = {}
_CURRENT: list[Emitter] = []


def push_emitter(emitter: Emitter) -> None:
    """Make `emitter` the one that operators without operands write into."""
    _CURRENT.append(emitter)


def pop_emitter() -> None:
    """Undo the last `push_emitter`."""
    _CURRENT.pop()


def op(name: str, *traits: str) -> Callable[[Infer], OpDef]:
    """Enter a primitive: the function infers the result types from types and attributes.

    Traits: `pure`; `elementwise` (one output element from one of each operand, broadcast);
    `commutative`; `movement` (elements are moved, never changed); `reduce`; `source` (no operand);
    `in_place` (the result takes over the memory of the first operand: `ir/in_place.py`).
    """

    def enter(function: Infer) -> OpDef:
        return _enter(OpDef(name, function, frozenset(traits)))

    return enter


def composite(name: str, *traits: str) -> Callable[[Decomposition], OpDef]:
    """Enter a composite: the function writes its meaning with smaller operators."""

    def enter(function: Decomposition) -> OpDef:
        return _enter(OpDef(name, function, frozenset({"pure", *traits}), is_composite=True))

    return enter


def _enter(row: OpDef) -> OpDef:
    if row.name in OPS:
        raise ValueError(f"operator `{row.name}` is defined twice")
    OPS[row.name] = row
    return row
