"""Sizes of axes as text, and the values of their symbols found from the shapes of inputs."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache

__all__ = ["DimText", "ShapeSolver", "parse_dim"]

Tree = int | str | tuple[str, "Tree", "Tree"]

_TOKEN = re.compile(r"\s*(?:(\d{1,18})|([A-Za-z_][A-Za-z0-9_]*)|(//|[-+*()]))")
_MAX_TEXT = 200


@dataclass(frozen=True)
class DimText:
    """A size written with `+`, `-`, `*`, `//`, integers and symbols: `2*S + 1`.

    >>> parse_dim("2*S + 1").evaluate({"S": 4})
    9
    >>> parse_dim("2*S + 1").solve("S", 9, {})
    4
    """

    text: str
    tree: Tree

    @cached_property
    def symbols(self) -> tuple[str, ...]:
        """The symbols in it, each once, in the order of the text."""
        return tuple(dict.fromkeys(_symbols(self.tree)))

    def evaluate(self, sizes: Mapping[str, int]) -> int:
        """The size when each symbol has the value given; `KeyError` names one that has none."""
        return _evaluate(self.tree, sizes)

    def solve(self, unknown: str, value: int, sizes: Mapping[str, int]) -> int | None:
        """The `unknown` that makes this `value`; `None` if there is none, or not just one."""
        line = _line(self.tree, unknown, sizes)
        if line is None or line[0] == 0 or (value - line[1]) % line[0]:
            return None
        return (value - line[1]) // line[0]

    def __str__(self) -> str:
        return self.text


@lru_cache(maxsize=4096)
def parse_dim(text: str) -> DimText:
    """Parse a size; `ValueError` says what is wrong with it."""
    if len(text) > _MAX_TEXT:
        raise ValueError(f"longer than {_MAX_TEXT} characters")
    tokens: list[str] = []
    position = 0
    while position < len(text.rstrip()):
        match = _TOKEN.match(text, position)
        if match is None:
            raise ValueError(f"unexpected `{text[position]}` in `{text}`")
        tokens.append(match.group().strip())
        position = match.end()
    tree = _Parser(tokens, text).parse()
    return DimText(text, tree)


class _Parser:
    """Recursive descent over the tokens of one size."""

    def __init__(self, tokens: list[str], text: str) -> None:
        self.tokens = [*tokens, ""]
        self.text = text
        self.at = 0

    def parse(self) -> Tree:
        tree = self.sum()
        if self.tokens[self.at]:
            raise ValueError(f"unexpected `{self.tokens[self.at]}` in `{self.text}`")
        return tree

    def next(self) -> str:
        self.at += 1
        return self.tokens[self.at - 1]

    def sum(self) -> Tree:
        tree = self.product()
        while self.tokens[self.at] in ("+", "-"):
            tree = (self.next(), tree, self.product())
        return tree

    def product(self) -> Tree:
        tree = self.atom()
        while self.tokens[self.at] in ("*", "//"):
            operator = self.next()
            right = self.atom()
            if operator == "//" and not (isinstance(right, int) and right > 0):
                raise ValueError(f"`//` needs a positive integer on its right in `{self.text}`")
            tree = (operator, tree, right)
        return tree

    def atom(self) -> Tree:
        token = self.next()
        if token == "-":
            return ("-", 0, self.atom())
        if token == "(":
            tree = self.sum()
            if self.next() != ")":
                raise ValueError(f"`(` without `)` in `{self.text}`")
            return tree
        if token.isdigit():
            return int(token)
        if not token or token in ("+", "*", "//", ")"):
            raise ValueError(f"a size or a symbol is missing in `{self.text}`")
        return token


def _symbols(tree: Tree) -> Iterable[str]:
    if isinstance(tree, str):
        yield tree
    elif isinstance(tree, tuple):
        yield from _symbols(tree[1])
        yield from _symbols(tree[2])


def _evaluate(tree: Tree, sizes: Mapping[str, int]) -> int:
    if isinstance(tree, int):
        return tree
    if isinstance(tree, str):
        return sizes[tree]
    left, right = _evaluate(tree[1], sizes), _evaluate(tree[2], sizes)
    match tree[0]:
        case "+":
            return left + right
        case "-":
            return left - right
        case "*":
            return left * right
        case _:
            return left // right


def _line(tree: Tree, unknown: str, sizes: Mapping[str, int]) -> tuple[int, int] | None:
    """`(a, b)` where `tree` is `a * unknown + b`; `None` if it is not of that form."""
    if isinstance(tree, int):
        return (0, tree)
    if isinstance(tree, str):
        return (1, 0) if tree == unknown else (0, sizes[tree])
    left, right = _line(tree[1], unknown, sizes), _line(tree[2], unknown, sizes)
    if left is None or right is None:
        return None
    match tree[0]:
        case "+":
            return (left[0] + right[0], left[1] + right[1])
        case "-":
            return (left[0] - right[0], left[1] - right[1])
        case "*" if left[0] == 0 or right[0] == 0:
            return (left[0] * right[1] + left[1] * right[0], left[1] * right[1])
        case "//" if left[0] == 0:
            return (0, left[1] // right[1])
        case _:
            return None


Place = tuple[int, int]  # (which input, which axis)


class ShapeSolver:
    """The shapes of inputs as equations: which axis gives each symbol, which axes then agree.

    The plan is made once; `solve` only follows it. `missing` names the symbols that no axis gives.
    """

    def __init__(self, shapes: Sequence[Sequence[int | str]]) -> None:
        axes: list[tuple[Place, DimText]] = [
            ((i, axis), parse_dim(size) if isinstance(size, str) else DimText(str(size), size))
            for i, shape in enumerate(shapes)
            for axis, size in enumerate(shape)
        ]
        self.checks: tuple[tuple[Place, DimText], ...] = ()
        self.gives: tuple[tuple[Place, DimText, str], ...] = ()
        known: dict[str, int] = {}
        rest = sorted(axes, key=lambda item: not isinstance(item[1].tree, str))
        progress = True
        while progress:
            progress = False
            for item in list(rest):
                place, size = item
                open_symbols = [s for s in size.symbols if s not in known]
                if len(open_symbols) == 1 and _line(size.tree, open_symbols[0], known) is not None:
                    known[open_symbols[0]] = 1  # any number: the form of a line does not depend
                    self.gives += ((place, size, open_symbols[0]),)
                    rest.remove(item)
                    progress = True
        self.checks = tuple((p, s) for p, s in axes if not isinstance(s.tree, str))
        self.checks += tuple((p, s) for p, s in rest if isinstance(s.tree, str))
        self.missing = tuple(
            sorted({s for _, size in axes for s in size.symbols if s not in known})
        )

    def solve(
        self, shapes: Sequence[tuple[int, ...]]
    ) -> tuple[dict[str, int], tuple[Place, DimText] | None]:
        """The value of each symbol, and the first axis that contradicts them, if one does."""
        sizes: dict[str, int] = {}
        for place, size, symbol in self.gives:
            actual = shapes[place[0]][place[1]]
            value = actual if size.tree == symbol else size.solve(symbol, actual, sizes)
            if value is None:
                return sizes, (place, size)
            sizes[symbol] = value
        for place, size in self.checks:
            actual = shapes[place[0]][place[1]]
            tree = size.tree
            if actual != (tree if isinstance(tree, int) else _evaluate(tree, sizes)):
                return sizes, (place, size)
        return sizes, None
