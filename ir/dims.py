"""Sizes of axes: integers, bounded symbols, and polynomials over them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from math import prod

__all__ = [
    "Dim",
    "DimExpr",
    "FloorDiv",
    "Sym",
    "bounds",
    "dim",
    "evaluate_dim",
    "exact_div",
    "floor_div",
    "product",
    "substitute",
    "symbols_of",
]


_REMEMBERED = 1 << 14  # results of arithmetic: layers of a model compute the same sizes


@dataclass(frozen=True, order=True)
class Sym:
    """A named size, known when the model runs; `low` and `high` are inclusive, `high` 0 is open."""

    name: str
    low: int = 1
    high: int = 0

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class FloorDiv:
    """The integer part of `numerator / denominator`, as an atom of an expression."""

    numerator: DimExpr
    denominator: int

    def __str__(self) -> str:
        return f"({self.numerator})//{self.denominator}"


Atom = Sym | FloorDiv
Monomial = tuple[Atom, ...]


def _key(monomial: Monomial) -> tuple[int, list[str]]:
    return (-len(monomial), [str(atom) for atom in monomial])


@dataclass(frozen=True)
class DimExpr:
    """A polynomial with integer coefficients over symbols: `2*S + 1`, `B*S`; canonical, hashable.

    Products occur because exporters flatten batch and sequence into one axis. Build one with
    arithmetic on `dim(...)`; a constant polynomial is always an `int`, never a `DimExpr`.
    """

    terms: tuple[tuple[Monomial, int], ...]

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return hash(self.terms)

    def __add__(self, other: Dim) -> Dim:
        return _sum(self, other)

    __radd__ = __add__

    def __neg__(self) -> Dim:
        return _from_terms((m, -c) for m, c in self.terms)

    def __sub__(self, other: Dim) -> Dim:
        return self + (-other)

    def __rsub__(self, other: Dim) -> Dim:
        return -self + other

    def __mul__(self, other: Dim) -> Dim:
        return _product(self, other)

    __rmul__ = __mul__

    @cached_property
    def _text(self) -> str:
        parts = []
        for monomial, factor in self.terms:
            names = "*".join(str(atom) for atom in monomial)
            sign = "-" if factor < 0 else "+"
            size = abs(factor)
            body = names if names and size == 1 else f"{size}*{names}" if names else str(size)
            parts.append((sign, body))
        first_sign, first = parts[0]
        text = first if first_sign == "+" else f"-{first}"
        return text + "".join(f" {sign} {body}" for sign, body in parts[1:])

    def __str__(self) -> str:
        return self._text

    def __repr__(self) -> str:
        return f"DimExpr({self._text})"


Dim = int | DimExpr


def _terms(value: Dim) -> Iterable[tuple[Monomial, int]]:
    if isinstance(value, DimExpr):
        return value.terms
    return (((), int(value)),)


def _from_terms(terms: Iterable[tuple[Monomial, int]]) -> Dim:
    total: dict[Monomial, int] = {}
    for monomial, factor in terms:
        total[monomial] = total.get(monomial, 0) + factor
    kept = sorted(((m, c) for m, c in total.items() if c), key=lambda item: _key(item[0]))
    if not kept:
        return 0
    if len(kept) == 1 and not kept[0][0]:
        return kept[0][1]
    return DimExpr(tuple(kept))


@lru_cache(_REMEMBERED)
def _sum(left: DimExpr, right: Dim) -> Dim:
    return _from_terms([*left.terms, *_terms(right)])


@lru_cache(_REMEMBERED)
def _product(left: DimExpr, right: Dim) -> Dim:
    return _from_terms(
        (tuple(sorted(m + n, key=str)), c * d) for m, c in left.terms for n, d in _terms(right)
    )


def dim(value: int | str | Sym | DimExpr) -> Dim:
    """The size that `value` names: an integer, a symbol (or its name), or itself."""
    if isinstance(value, str):
        value = Sym(value)
    if isinstance(value, Sym):
        return DimExpr((((value,), 1),))
    return value


def product(dims: Iterable[Dim]) -> Dim:
    """The number of elements of a shape."""
    total: Dim = 1
    for size in dims:
        total = total * size
    return total


def exact_div(numerator: Dim, denominator: Dim) -> Dim | None:
    """`numerator / denominator` if it is a polynomial without remainder, else `None`."""
    if isinstance(denominator, int):
        if denominator == 0:
            return None
        if isinstance(numerator, int):
            return None if numerator % denominator else numerator // denominator
        if any(c % denominator for _, c in numerator.terms):
            return None
        return _from_terms((m, c // denominator) for m, c in numerator.terms)
    if isinstance(numerator, int):
        return 0 if numerator == 0 else None
    quotient: Dim = 0
    lead, lead_factor = denominator.terms[0]
    rest: Dim = numerator
    for _ in range(64):
        if not isinstance(rest, DimExpr):
            return quotient if rest == 0 else None
        monomial, factor = rest.terms[0]
        left = list(monomial)
        for atom in lead:
            if atom not in left:
                return None
            left.remove(atom)
        if factor % lead_factor:
            return None
        term = _from_terms([(tuple(left), factor // lead_factor)])
        quotient = quotient + term
        rest = rest - term * denominator
    return None


def floor_div(numerator: Dim, denominator: int) -> Dim:
    """The integer part of `numerator / denominator`, a number where it is always the same."""
    if denominator < 1:
        raise ValueError(f"a size can be divided by a positive integer only, not {denominator}")
    if isinstance(numerator, int):
        return numerator // denominator
    exact = exact_div(numerator, denominator)
    if exact is not None:
        return exact
    whole = _from_terms((m, c // denominator) for m, c in numerator.terms if c % denominator == 0)
    rest = _from_terms((m, c) for m, c in numerator.terms if c % denominator)
    if isinstance(rest, int):
        return whole + rest // denominator
    low, high = _atom_bounds(quotient := FloorDiv(rest, denominator))
    return whole + (low if low == high else DimExpr((((quotient,), 1),)))


def symbols_of(value: Dim) -> Iterator[Sym]:
    """The symbols in a size, in the order of its text, repeats included."""
    if isinstance(value, DimExpr):
        for monomial, _ in value.terms:
            for atom in monomial:
                if isinstance(atom, Sym):
                    yield atom
                else:
                    yield from symbols_of(atom.numerator)


def substitute(value: Dim, sizes: Mapping[str, Dim]) -> Dim:
    """`value` with the symbols that `sizes` names replaced."""
    if not isinstance(value, DimExpr):
        return value
    total: Dim = 0
    for monomial, factor in value.terms:
        term: Dim = factor
        for atom in monomial:
            if isinstance(atom, Sym):
                term = term * sizes.get(atom.name, dim(atom))
            else:
                term = term * floor_div(substitute(atom.numerator, sizes), atom.denominator)
        total = total + term
    return total


def evaluate_dim(value: Dim, sizes: Mapping[str, int]) -> int:
    """The number that `value` is when each symbol has the size given; `KeyError` names a gap."""
    result = substitute(value, sizes)
    if isinstance(result, DimExpr):
        raise KeyError(next(symbols_of(result)).name)
    return result


def bounds(value: Dim) -> tuple[int, int | None]:
    """The least and the greatest that a size can be; `None` where there is no upper bound."""
    if isinstance(value, int):
        return value, value
    low, high = 0, 0
    open_above = False
    for monomial, factor in value.terms:
        ranges = [_atom_bounds(atom) for atom in monomial]
        least = prod(r[0] for r in ranges)
        most = None if any(r[1] is None for r in ranges) else prod(r[1] or 0 for r in ranges)
        if factor > 0:
            low += factor * least
            high, open_above = (high + factor * most, open_above) if most is not None else (0, True)
        else:
            high += factor * least
            low = low + factor * most if most is not None else -(2**62)
    return max(low, -(2**62)), None if open_above else high


def _atom_bounds(atom: Atom) -> tuple[int, int | None]:
    if isinstance(atom, Sym):
        return atom.low, atom.high or None
    low, high = bounds(atom.numerator)
    return low // atom.denominator, None if high is None else high // atom.denominator
