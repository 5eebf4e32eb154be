"""Where an element lies: indices over runs of axes, split and merged only where it is needed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

from tvm import tirx
from tvm.ir import Expr as Prim

from tunesmith.ir.dims import Dim, DimExpr, FloorDiv, Sym, exact_div, product
from tunesmith.ir.types import Shape

__all__ = ["Index", "Sizes", "int64"]


def int64(value: int) -> Prim:
    """An index constant."""
    return tirx.IntImm("int64", value)


class Sizes:
    """The variables that stand for the symbols of a graph in one kernel or function."""

    def __init__(self) -> None:
        self.variables: dict[str, tirx.Var] = {}

    def variable(self, name: str) -> tirx.Var:
        """The variable of a symbol, made when it is first asked for."""
        if name not in self.variables:
            self.variables[name] = tirx.Var(name, "int64")
        return self.variables[name]

    def expr(self, size: Dim) -> Prim:
        """A size as an `int64` expression."""
        if not isinstance(size, DimExpr):
            return int64(size)
        total: Prim | None = None
        for monomial, factor in size.terms:
            term: Prim | None = None if factor == 1 and monomial else int64(factor)
            for atom in monomial:
                one = self.atom(atom)
                term = one if term is None else term * one
            total = term if total is None else total + term
        assert total is not None
        return total

    def atom(self, atom: Sym | FloorDiv) -> Prim:
        """A symbol, or a quotient, as an expression."""
        if isinstance(atom, Sym):
            return self.variable(atom.name)
        return tirx.floordiv(self.expr(atom.numerator), int64(atom.denominator))


@dataclass(frozen=True)
class Index:
    """A place in a tensor: each segment is a run of axes and the row-major offset within it."""

    segments: tuple[tuple[Shape, Prim], ...]
    sizes: Sizes

    @classmethod
    def of(cls, shape: Sequence[Dim], parts: Sequence[Prim], sizes: Sizes) -> Index:
        """One segment an axis."""
        return cls(tuple(((d,), p) for d, p in zip(shape, parts, strict=True)), sizes)

    @property
    def shape(self) -> Shape:
        """The shape of the tensor that the index is for."""
        return tuple(d for dims, _ in self.segments for d in dims)

    def flat(self) -> Prim:
        """The row-major offset in the whole tensor."""
        result: Prim | None = None
        for dims, part in self.segments:
            result = part if result is None else result * self.sizes.expr(product(dims)) + part
        return int64(0) if result is None else result

    def axes(self) -> list[Prim]:
        """One offset for each axis."""
        parts: list[Prim] = []
        for dims, part in self.segments:
            parts.extend(self._split(dims, part))
        return parts

    def _split(self, dims: Shape, part: Prim) -> list[Prim]:
        wide = [i for i, d in enumerate(dims) if d != 1]
        result: list[Prim] = [int64(0)] * len(dims)
        if 0 in dims:  # there is no place to find, and no remainder of a division by 0
            return result
        for i in reversed(wide[1:]):
            size = self.sizes.expr(dims[i])
            result[i] = tirx.floormod(part, size)
            part = tirx.floordiv(part, size)
        if wide:
            result[wide[0]] = part
        return result

    def _apart(self, dims: Shape, part: Prim, cuts: Sequence[int]) -> list[tuple[Shape, Prim]]:
        """A segment as several, that end at the axes in `cuts`: no axis is divided off in vain."""
        if not cuts:
            return [(dims, part)]
        runs = [dims[a:b] for a, b in pairwise([0, *cuts, len(dims)])]
        return list(zip(runs, self._split(tuple(map(product, runs)), part), strict=True))

    def per_axis(self) -> Index:
        """The same place with one segment an axis."""
        return Index.of(self.shape, self.axes(), self.sizes)

    def cut(self, cuts: Sequence[int]) -> list[tuple[Shape, Prim]]:
        """Segments that end exactly at the axes in `cuts` (ascending, the last is the rank)."""
        pieces: list[tuple[Shape, Prim]] = []
        position = 0
        for dims, part in self.segments:
            inner = [c - position for c in cuts if position < c < position + len(dims)]
            pieces.extend(self._apart(dims, part, inner))
            position += len(dims)
        merged: list[tuple[Shape, Prim]] = []
        position = 0
        pending: list[tuple[Shape, Prim]] = []
        ends = set(cuts)
        for dims, part in pieces:
            pending.append((dims, part))
            position += len(dims)
            if position in ends:
                merged.append(_merge(pending, self.sizes))
                pending = []
        if pending or not self.segments:
            merged.append(_merge(pending, self.sizes))
        return merged

    def broadcast_to(self, shape: Shape) -> Index:
        """The place in an operand of `shape` that an elementwise operator reads."""
        mine = self.shape
        if shape == mine:
            return self
        skip = len(mine) - len(shape)
        segments: list[tuple[Shape, Prim]] = []
        position = 0
        for dims, part in self.segments:
            low = position
            position += len(dims)
            own = tuple(shape[i - skip] if i >= skip else 1 for i in range(low, position))
            kept = tuple(shape[i - skip] for i in range(max(low, skip), position))
            if not kept:  # none of these axes is the operand's
                continue
            if own == dims:
                segments.append((kept, part))
            elif all(d == 1 for d in own):
                segments.append((kept, int64(0)))
            else:
                same = [a == b for a, b in zip(own, dims, strict=True)]
                cuts = [i for i in range(1, len(dims)) if same[i] != same[i - 1] or low + i == skip]
                at = low
                for run, piece in self._apart(dims, part, cuts):
                    if at >= skip:
                        read = tuple(shape[at - skip : at - skip + len(run)])
                        segments.append((read, piece if read == run else int64(0)))
                    at += len(run)
        return Index(tuple(segments), self.sizes)

    def reshape_to(self, shape: Shape) -> Index:
        """The same row-major place in a tensor of the same size but another shape.

        Runs of axes are taken apart nowhere: rows and columns of an image stay the one place that
        they are, so that no size which is known at run time only divides it.
        """
        mine = self.shape
        if shape == mine:
            return self
        ends = {*accumulate(len(dims) for dims, _ in self.segments), len(mine)}
        groups = [group for group in _common_groups(mine, shape) if group[0] in ends]
        segments: list[tuple[Shape, Prim]] = []
        pieces = self.cut([mine_end for mine_end, _ in groups])
        start = 0
        for (_, part), (_, end) in zip(pieces, groups, strict=True):
            segments.append((shape[start:end], part))
            start = end
        return Index(tuple(segments), self.sizes)


def _merge(pieces: list[tuple[Shape, Prim]], sizes: Sizes) -> tuple[Shape, Prim]:
    dims: tuple[Dim, ...] = ()
    total: Prim | None = None
    for shape, part in pieces:
        size = product(shape)
        if total is None:
            total = part
        elif size == 1:
            pass
        else:
            total = total * sizes.expr(size) + part
        dims += tuple(shape)
    return dims, int64(0) if total is None else total


def _common_groups(left: Shape, right: Shape) -> list[tuple[int, int]]:
    """Ends `(i, j)` of the shortest runs of axes that hold equally many elements on both sides."""
    groups: list[tuple[int, int]] = []
    i = j = 0
    a: Dim = 1
    b: Dim = 1
    while i < len(left) or j < len(right):
        if i < len(left) and (j >= len(right) or a == b or exact_div(b, a) is not None):
            a = a * left[i]
            i += 1
        elif j < len(right):
            b = b * right[j]
            j += 1
        else:
            a = a * left[i]
            i += 1
        if a == b and i and j:
            if groups and (groups[-1][0] == i or groups[-1][1] == j):
                groups.pop()  # an axis of size 1 on one side belongs to the run before it
            groups.append((i, j))
            a = b = 1
    if not groups or groups[-1] != (len(left), len(right)):
        groups = [g for g in groups if g[0] < len(left) and g[1] < len(right)]
        groups.append((len(left), len(right)))
    return groups
