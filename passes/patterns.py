"""Patterns: untyped traces of functions that are written with operators, and matching against them.

A pattern may say less than its function: operands and attributes are holes that a match fills.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product as choices_of
from typing import Any, ClassVar, cast

import numpy as np

from tunesmith.ir.graph import Node, Value
from tunesmith.ir.ops import Attribute, Expr, OpDef, Scalar, pop_emitter, push_emitter
from tunesmith.ir.types import DType

__all__ = ["ANY", "Hole", "Match", "Pattern", "Search", "find_matches", "trace_patterns"]


@dataclass(frozen=True, eq=False)
class Hole:
    """An attribute that a pattern leaves open; with a name, a match captures it."""

    name: str = ""
    is_pattern_attribute: ClassVar[bool] = True


ANY = Hole()


@dataclass(frozen=True, eq=False)
class Operand:
    """A place in a pattern where any value fits, the same one wherever the name stands."""

    name: str


@dataclass(frozen=True, eq=False)
class Literal:
    """A place in a pattern where a constant of one element stands."""

    value: Scalar | Hole


@dataclass(frozen=True, eq=False)
class Applied:
    """A place in a pattern where a node with this operator stands."""

    op: OpDef
    operands: tuple[Term | None, ...]
    attributes: Mapping[str, Attribute]


Term = Operand | Literal | Applied


class PatternBuilder:
    """An emitter that writes terms instead of nodes."""

    def emit(
        self, op: OpDef, operands: Sequence[Expr | None], attributes: Mapping[str, Attribute]
    ) -> Expr:
        """Write one term; only the first result of an operator can be matched."""
        terms = tuple(None if x is None else cast(Term, x.value) for x in operands)
        return Expr(self, Applied(op, terms, dict(attributes)))

    def literal(self, value: Scalar | Hole, like: Expr) -> Expr:
        """A constant with this value, or with one that is captured."""
        return Expr(self, Literal(value))


@dataclass(frozen=True, eq=False)
class Pattern:
    """What is sought: a term, and what was chosen when its function was traced."""

    name: str
    root: Applied
    fixed: Mapping[str, Attribute]
    size: int


def trace_patterns(
    function: Callable[..., Any],
    choices: Mapping[str, Sequence[Attribute]] | None = None,
    *,
    keep_defaults: bool = True,
) -> list[Pattern]:
    """The patterns that a function writes, largest first.

    There is one with and one without each optional operand, and one for each of the `choices` of
    an attribute. An attribute with a default has that value, unless `keep_defaults` is off, as it
    is for a decomposition; the others are holes.
    """
    parameters = inspect.signature(function).parameters.values()
    operands = [p for p in parameters if p.kind is p.POSITIONAL_ONLY]
    keywords = [p for p in parameters if p.kind is p.KEYWORD_ONLY]
    names = [p.name for p in keywords]
    values = [
        (p.default,)
        if keep_defaults and p.default is not p.empty
        else tuple((choices or {}).get(p.name, (Hole(p.name),)))
        for p in keywords
    ]
    present = [(True,) if p.default is p.empty else (True, False) for p in operands]
    found = []
    for given in choices_of(*present):
        for chosen in choices_of(*values):
            builder = PatternBuilder()
            exprs = [
                Expr(builder, Operand(p.name)) if there else None
                for p, there in zip(operands, given, strict=True)
            ]
            attributes = dict(zip(names, chosen, strict=True))
            push_emitter(cast(Any, builder))
            try:
                root = function(*exprs, **attributes).value
            finally:
                pop_emitter()
            if isinstance(root, Applied):
                fixed = {k: v for k, v in attributes.items() if not isinstance(v, Hole)}
                found.append(Pattern(function.__name__, root, fixed, len(_applied(root))))
    return sorted(found, key=lambda pattern: -pattern.size)


def _applied(root: Applied) -> set[Applied]:
    seen: set[Applied] = set()
    work = [root]
    while work:
        term = work.pop()
        if term not in seen:
            seen.add(term)
            work.extend(x for x in term.operands if isinstance(x, Applied))
    return seen


@dataclass(frozen=True, eq=False)
class Match:
    """What was found: the values and attributes that fill the holes, and the nodes in between."""

    pattern: Pattern
    root: Node
    operands: Mapping[str, Value] = field(default_factory=dict)
    attributes: Mapping[str, Attribute] = field(default_factory=dict)
    terms: Mapping[Applied, Node] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Value:
        return self.operands[name]

    def get(self, name: str) -> Value | None:
        """The value of an optional operand."""
        return self.operands.get(name)

    def escaping(self) -> Value | None:
        """A value inside the match that a node outside of it reads."""
        inside = set(self.terms.values())
        for node in inside - {self.root}:
            for value in node.results:
                if any(user not in inside for user, _ in value.users):
                    return value
        return None


@dataclass
class Search:
    """How far the matching of one root came: for notes on near misses."""

    matched: int = 0
    reason: str = ""

    def stopped(self, match: Match, reason: str) -> None:
        """Note why a partial match cannot go on, if it is the largest yet."""
        if len(match.terms) > self.matched:
            self.matched, self.reason = len(match.terms), reason


def find_matches(pattern: Pattern, root: Node, search: Search) -> Iterator[Match]:
    """Every way in which `root` and the nodes above it match; mutates nothing."""
    if root.op is pattern.root.op:
        yield from _match(pattern.root, root.results[0], Match(pattern, root), search)


def _match(term: Term | None, value: Value | None, match: Match, search: Search) -> Iterator[Match]:
    if term is None or value is None:
        if term is None and value is None:
            yield match
        else:
            search.stopped(match, "an optional operand is there, or is absent, unlike the pattern")
        return
    match term:
        case Operand(name):
            bound = match.operands.get(name)
            if bound is None:
                yield replace(match, operands={**match.operands, name: value})
            elif bound is value or (bound.constant and bound.constant == value.constant):
                yield match
            else:
                search.stopped(match, f"`%{value.name}` is not `%{bound.name}`")
        case Literal(wanted):
            scalar = None if value.constant is None else value.constant.scalar
            if scalar is None:
                search.stopped(match, f"`%{value.name}` is not a constant of one element")
                return
            found = _fill(wanted, _short(scalar, value.type.dtype), match, value.type.dtype)
            if found is None:
                search.stopped(match, f"`%{value.name}` is {scalar}, not {_text(wanted)}")
            else:
                yield found
        case Applied():
            yield from _match_node(term, value, match, search)


def _match_node(term: Applied, value: Value, match: Match, search: Search) -> Iterator[Match]:
    node = value.producer
    known = match.terms.get(term)
    if known is not None:
        if known is node:
            yield match
        else:
            search.stopped(match, f"`%{value.name}` is computed twice")
        return
    if node is None or node.op is not term.op or value.index:
        what = "an input" if node is None else f"`{node.op.name}`"
        search.stopped(match, f"`%{value.name}` is {what}, not `{term.op.name}`")
        return
    found = replace(match, terms={**match.terms, term: node})
    rank = node.operands[0].type.rank if node.operands and node.operands[0] is not None else 0
    for name, wanted in term.attributes.items():
        filled = _fill_attribute(name, wanted, node.attributes[name], found, rank)
        if filled is None:
            text = f"`{name}` of `{node.op.name}` is {node.attributes[name]}, not {_text(wanted)}"
            search.stopped(found, text)
            return
        found = filled
    count = max(len(term.operands), len(node.operands))
    terms = [*term.operands, *[None] * (count - len(term.operands))]
    values = [*node.operands, *[None] * (count - len(node.operands))]
    yield from _match_all(terms, values, found, search)
    if count == 2 and "commutative" in node.op.traits and terms[0] is not terms[1]:
        yield from _match_all(terms, values[::-1], found, search)


def _match_all(
    terms: Sequence[Term | None], values: Sequence[Value | None], match: Match, search: Search
) -> Iterator[Match]:
    if not terms:
        yield match
        return
    for found in _match(terms[0], values[0], match, search):
        yield from _match_all(terms[1:], values[1:], found, search)


def _fill_attribute(
    name: str, wanted: object, value: Attribute, match: Match, rank: int
) -> Match | None:
    if isinstance(wanted, tuple):
        if not isinstance(value, tuple) or len(wanted) != len(value):
            return None
        found: Match | None = match
        for one, other in zip(wanted, value, strict=True):
            found = found and _fill_attribute(name, one, other, found, rank)
        return found
    if name in ("axis", "axes") and rank and isinstance(value, int):
        # stored counted from the back: the one form that a decomposition and a graph share
        value = value % rank - rank
        wanted = wanted % rank - rank if isinstance(wanted, int) else wanted
    return _fill(wanted, value, match, DType.f32)


def _fill(wanted: object, value: Attribute, match: Match, dtype: DType) -> Match | None:
    """`match` with `value` in the hole, or as it is if a fixed `wanted` is met."""
    if not isinstance(wanted, Hole):
        return match if _equal(wanted, value, dtype) else None
    if not wanted.name:
        return match
    if wanted.name in match.attributes:
        return match if _equal(match.attributes[wanted.name], value, dtype) else None
    return replace(match, attributes={**match.attributes, wanted.name: value})


def _short(value: Scalar, dtype: DType) -> Scalar:
    """The shortest decimal that rounds to the element: 1e-05, not 9.999999747378752e-06."""
    if isinstance(value, float) and dtype in (DType.f32, DType.f16) and np.isfinite(value):
        return float(str(dtype.numpy.type(value)))
    return value


def _equal(wanted: object, value: object, dtype: DType) -> bool:
    """Equality; floats may differ by how `wanted` is rounded to the element type, and a bit."""
    numbers = isinstance(wanted, int | float) and isinstance(value, int | float)
    if not numbers or not (isinstance(wanted, float) or isinstance(value, float)):
        return bool(wanted == value)
    one, other = float(cast(float, wanted)), float(cast(float, value))
    step = {DType.f64: 2e-15, DType.f32: 2.5e-7, DType.f16: 1e-3, DType.bf16: 8e-3}.get(dtype, 0.0)
    return one == other or bool(np.isfinite(one) and abs(one - other) <= step * abs(one))


def _text(wanted: object) -> str:
    return "captured before" if isinstance(wanted, Hole) else str(wanted)
