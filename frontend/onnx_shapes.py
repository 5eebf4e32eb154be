"""What is known of sizes while a model is imported: comparisons, and facts that it implies."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from math import gcd, lcm

from tunesmith.ir.diagnostics import FrontendError
from tunesmith.ir.dims import (
    Dim,
    DimExpr,
    FloorDiv,
    Sym,
    bounds,
    dim,
    exact_div,
    substitute,
    symbols_of,
)

__all__ = ["Facts", "Learned", "at_least", "identifier", "plain_symbol", "same", "text_of"]


class Learned(Exception):
    """A fact about symbols that the model implies: import starts again with it.

    Types are written as nodes are, so a symbol cannot be replaced halfway.
    """


def text_of(shape: Iterable[Dim]) -> str:
    """A shape as text."""
    return f"[{', '.join(map(str, shape))}]"


def at_least(a: Dim, b: Dim) -> bool | None:
    """Whether `a >= b` for all sizes that the symbols can have; `None` if it depends."""
    if _never_negative(a - b):
        return True
    return False if _never_negative(b - a - 1) else None


def _never_negative(rest: Dim) -> bool:
    """Whether a difference is at least 0, with quotients replaced by what they lie between."""
    if bounds(rest)[0] >= 0:
        return True
    scale = 1
    for _ in range(8):
        found = _quotient(rest)
        if found is None or not isinstance(rest, DimExpr):
            break
        floor, factor = found
        rest = (rest - DimExpr((((floor,), factor),))) * floor.denominator
        least = floor.numerator if factor < 0 else floor.numerator - (floor.denominator - 1)
        rest, scale = rest + least * factor, scale * floor.denominator
    return bounds(rest)[0] > -scale


def _quotient(rest: Dim) -> tuple[FloorDiv, int] | None:
    """A term that is a quotient times a number."""
    for monomial, factor in rest.terms if isinstance(rest, DimExpr) else ():
        if len(monomial) == 1 and isinstance(monomial[0], FloorDiv):
            return monomial[0], factor
    return None


def same(a: Dim, b: Dim) -> bool | None:
    """Whether `a == b` always (`True`), never (`False`), or sometimes (`None`)."""
    if a == b:
        return True
    return False if _never_negative(a - b - 1) or _never_negative(b - a - 1) else None


def plain_symbol(value: Dim) -> Sym | None:
    """The symbol that a size is, if it is one."""
    if isinstance(value, DimExpr) and len(value.terms) == 1:
        monomial, factor = value.terms[0]
        if factor == 1 and len(monomial) == 1 and isinstance(monomial[0], Sym):
            return monomial[0]
    return None


def identifier(name: str) -> str:
    """`name` with the characters that an identifier cannot have replaced."""
    clean = re.sub(r"\W", "_", name, flags=re.ASCII).strip("_") or "dim"
    return f"d{clean}" if clean[0].isdigit() else clean


@dataclass
class Facts:
    """The symbols of a model in order of declaration: their bounds, and those that are others."""

    ranges: dict[str, tuple[int, int]] = field(default_factory=dict)
    chosen: set[str] = field(default_factory=set)  # whose bounds the caller gave
    sizes: dict[str, Dim] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    measured: set[str] = field(default_factory=set)  # which data decides, when the model runs

    def declare(self, name: str) -> None:
        """Enter a symbol with open bounds."""
        self.ranges.setdefault(name, (1, 0))

    def from_data(self, name: str, high: int) -> Dim:
        """The size of this name, or one like it, that data decides: from 0 to `high`, 0 is open."""
        while name in self.ranges and name not in self.measured:
            name += "_"
        self.measured.add(name)
        self.ranges.setdefault(name, (0, high))
        return self.resolve(name)

    def resolve(self, name: str) -> Dim:
        """The size that a symbol stands for."""
        if name not in self.sizes:
            return dim(Sym(name, *self.ranges[name]))
        return self.current(self.sizes[name])

    def current(self, value: Dim) -> Dim:
        """`value` in terms of what is known now."""
        return substitute(value, {name: self.resolve(name) for name in _names(value)})

    def fix(self, name: str, value: Dim, why: str) -> None:
        """Let a symbol stand for another size."""
        low, high = self.ranges[name]
        least, most = bounds(value)
        if isinstance(value, int) and (value < low or (high and value > high)):
            raise FrontendError(
                f"`{name}` must be {value}, outside of its bounds {low}..{high or ''}",
                hint=f"{why}; bound it otherwise, or fix it",
            )
        if isinstance(value, int) and name in self.chosen and low != high:
            raise FrontendError(
                f"`{name}` is bounded by {low}..{high or ''}, the model works for {value} only",
                hint=f"{why}; pass dims={{'{name}': {value}}}",
            )
        other = plain_symbol(value)
        self.sizes[name] = value
        if other is not None and (least < low or (high and (most is None or most > high))):
            self.narrow(other.name, low, high, why)
        self.notes.append(f"{name} = {value}: {why}")

    def narrow(self, name: str, low: int, high: int, why: str) -> None:
        """Tighten the bounds of a symbol; `high` 0 is open."""
        old_low, old_high = self.ranges[name]
        new_low = max(old_low, low)
        new_high = min(old_high, high) if old_high and high else old_high or high
        if new_high and new_low > new_high:
            raise FrontendError(
                f"`{name}` cannot be both in {old_low}..{old_high or ''} and {low}..{high or ''}",
                hint=why,
            )
        if name in self.measured and (new_low, new_high) != (old_low, old_high):
            raise FrontendError(
                f"`{name}` depends on data, the model works for {new_low}..{new_high or ''} only",
                hint=why,
            )
        if name in self.chosen and (new_low, new_high) != (old_low, old_high):
            raise FrontendError(
                f"`{name}` is bounded by {old_low}..{old_high or ''}, the model works for "
                f"{new_low}..{new_high or ''} only",
                where=None,
                hint=f"{why}; pass dims={{'{name}': ({new_low}, {new_high or 'high'})}}",
            )
        self.ranges[name] = (new_low, new_high)
        self.notes.append(f"{name} in {new_low}..{new_high or ''}: {why}")

    def at_least(self, size: Dim, low: int, why: str) -> bool:
        """Whether `size` is `low` or more; what bounds its one symbol then is learned.

        `False` if neither is known: only running tells.
        """
        if bounds(size)[0] >= low:
            return True
        symbol, factor, constant = _line(size) or (None, 0, 0)
        if factor < 1 or not isinstance(symbol, Sym) or symbol.name in self.measured:
            return False
        self.narrow(symbol.name, -(-(low - constant) // factor), 0, why)
        raise Learned

    def equate(self, a: Dim, b: Dim, why: str) -> None:
        """Record that two sizes are one and raise `Learned`, or `ValueError` if they cannot be.

        Sizes that are rounded differently are one for multiples of some number: then the symbol
        becomes that multiple, and the loader refuses others. A quotient that must be a number
        bounds the symbol under it.
        """
        if same(a, b) is False:
            raise ValueError(f"{a} is not {b}")
        between = _between(a - b, 0, 0)
        if between is not None and between[0].name not in self.measured:
            self.narrow(between[0].name, *between[1:], why)
            raise Learned
        solved = self._solve(a - b)
        if solved is None:
            found = _multiple(a - b)
            if found is not None and found[0].name not in self.measured:
                self._make_multiple(*found, why)
            raise ValueError(f"{a} is not {b}")
        name, value = solved
        self.fix(name, value, why)
        raise Learned

    def _make_multiple(self, symbol: Sym, factor: int, why: str) -> None:
        """Let a symbol stand for `factor` times a new one."""
        low, high = self.ranges[symbol.name]
        least, most = -(-low // factor), high // factor
        if high and least > most:
            raise FrontendError(
                f"`{symbol.name}` must be a multiple of {factor}, none is in {low}..{high}",
                hint=why,
            )
        name = f"{symbol.name}_by_{factor}"
        self.ranges.setdefault(name, (least, most))
        self.sizes[symbol.name] = dim(Sym(name, *self.ranges[name])) * factor
        self.notes.append(f"{symbol.name} is a multiple of {factor}: {why}")
        raise Learned

    def require(self, a: Dim, b: Dim, why: str) -> None:
        """Record that `a >= b` and raise `Learned`; `ValueError` if no bound can say so."""
        rest = a - b
        if isinstance(rest, DimExpr):
            constant = next((c for m, c in rest.terms if not m), 0)
            terms = [(m, c) for m, c in rest.terms if m]
            if len(terms) == 1 and len(terms[0][0]) == 1 and isinstance(terms[0][0][0], Sym):
                symbol, factor = terms[0][0][0], terms[0][1]
                low, high = 0, 0
                if factor > 0:
                    low = -(constant // factor)
                else:
                    high = constant // -factor
                if factor > 0 or high > 0:
                    self.narrow(symbol.name, low, high, why)
                    raise Learned
        raise ValueError(f"whether {a} is at least {b} is not known")

    def _solve(self, rest: Dim) -> tuple[str, Dim] | None:
        """The symbol declared last that `rest == 0` determines, with the size it must have."""
        if not isinstance(rest, DimExpr):
            return None
        rest = _reduced(rest)
        if not isinstance(rest, DimExpr):
            return None
        order = list(self.ranges)
        best: tuple[int, str, Dim] | None = None
        for monomial, factor in rest.terms:
            if len(monomial) != 1 or not isinstance(monomial[0], Sym):
                continue
            name = monomial[0].name
            value = exact_div(dim(monomial[0]) * factor - rest, factor)
            if value is None or name in _names(value) or bounds(value)[1] == 0:
                continue
            rank = order.index(name)
            if best is None or rank > best[0]:
                best = (rank, name, value)
        return None if best is None else best[1:]


def _line(size: Dim) -> tuple[Sym | FloorDiv, int, int] | None:
    """The atom, factor and constant of `factor * atom + constant`, if a size is that."""
    if not isinstance(size, DimExpr):
        return None
    terms = [(m, c) for m, c in size.terms if m]
    if len(terms) != 1 or len(terms[0][0]) != 1:
        return None
    (atom,), factor = terms[0]
    return atom, factor, next((c for m, c in size.terms if not m), 0)


def _between(rest: Dim, low: int, high: int) -> tuple[Sym, int, int] | None:
    """The symbol, and its bounds, that `low <= rest <= high` says where `rest` is a quotient.

    Quotients may be nested, each with a number added. `None` if `rest` is no such thing.
    """
    nested = False
    while (line := _line(rest)) is not None:
        atom, factor, constant = line
        low, high = low - constant, high - constant
        if factor < 0:
            low, high, factor = -high, -low, -factor
        low, high = -(-low // factor), high // factor
        if isinstance(atom, Sym):
            return (atom, low, high) if nested and 0 < high >= low else None
        nested = True
        rest, divisor = atom.numerator, atom.denominator
        low, high = low * divisor, high * divisor + divisor - 1
    return None


def _multiple(rest: Dim) -> tuple[Sym, int] | None:
    """A symbol, and the least factor whose multiples make `rest` 0."""
    for symbol in dict.fromkeys(symbols_of(rest)):
        most = _denominators(rest, symbol)
        for factor in range(2, min(most, 4096) + 1):
            if most % factor == 0:
                scaled = dim(Sym(f"{symbol.name}_by_{factor}")) * factor
                if substitute(rest, {symbol.name: scaled}) == 0:
                    return symbol, factor
    return None


def _denominators(value: Dim, symbol: Sym) -> int:
    """The product of the divisors that a symbol stands under, in the term with the greatest."""
    most = 1
    for monomial, _ in value.terms if isinstance(value, DimExpr) else ():
        for atom in monomial:
            if isinstance(atom, FloorDiv) and symbol in symbols_of(atom.numerator):
                inner = _denominators(atom.numerator, symbol)
                most = lcm(most, atom.denominator * inner)
    return most


def _reduced(rest: DimExpr) -> Dim:
    """`rest` without the factors that all its terms have."""
    shared = gcd(*(c for _, c in rest.terms))
    for atom in rest.terms[0][0]:
        if bounds(dim(atom) if isinstance(atom, Sym) else 0)[0] > 0 and all(
            m.count(atom) >= rest.terms[0][0].count(atom) for m, _ in rest.terms
        ):
            divided = exact_div(rest, DimExpr((((atom,), 1),)))
            if isinstance(divided, DimExpr):
                rest = divided
    divided = exact_div(rest, shared)
    return rest if divided is None else divided


def _names(value: Dim) -> set[str]:
    if not isinstance(value, DimExpr):
        return set()
    names: set[str] = set()
    for monomial, _ in value.terms:
        for atom in monomial:
            names |= _names(atom.numerator) if isinstance(atom, FloorDiv) else {atom.name}
    return names
