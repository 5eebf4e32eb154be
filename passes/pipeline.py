"""Pipelines: passes in order, as objects and as text."""

from __future__ import annotations

import re
import typing
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import MISSING, dataclass, fields
from difflib import get_close_matches
from typing import Any, NamedTuple, NoReturn

from tunesmith.ir.diagnostics import ParseError
from tunesmith.ir.graph import Graph

from .base import Pass, PassContext
from .instruments import Instrument, Step

__all__ = ["Pipeline", "Repeat"]

_ROUNDS = 8


@dataclass(frozen=True, kw_only=True)
class Repeat(Pass):
    """A group of passes that is run until none of them changes anything, a few times at most."""

    name = "repeat"
    passes: tuple[Pass, ...] = ()

    def run(self, graph: Graph, context: PassContext) -> bool:
        """Run the rounds without instruments; a pipeline runs them with."""
        return Pipeline(self.passes).run_group(graph, context, (), ())


class Pipeline:
    """An ordered list of passes; `str` and `parse` are inverses.

    >>> str(Pipeline.parse("repeat{canonicalize,fold-constants}, decompose{keep=gelu}"))
    'repeat{canonicalize,fold-constants},decompose{keep=gelu}'
    """

    def __init__(self, passes: Iterable[Pass]) -> None:
        self.passes = tuple(passes)

    def __str__(self) -> str:
        return ",".join(map(_text, self.passes))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Pipeline) and self.passes == other.passes

    def __hash__(self) -> int:
        return hash(self.passes)

    @classmethod
    def parse(cls, text: str) -> Pipeline:
        """The pipeline that a text names; `ParseError` shows the place and the nearest name."""
        reader = _Reader(text)
        passes = reader.passes("")
        return cls(passes)

    def run(
        self, graph: Graph, context: PassContext, instruments: Sequence[Instrument] = ()
    ) -> list[bool]:
        """Run the passes in order; for each, whether it changed the graph."""
        changes = []
        for place, one in enumerate(self.passes):
            rest = self.passes[place + 1 :]
            try:
                if isinstance(one, Repeat):
                    changes.append(
                        Pipeline(one.passes).run_group(graph, context, instruments, rest)
                    )
                else:
                    changes.append(_run_pass(one, rest, graph, context, instruments))
            except Exception as error:
                label = f"in pass {place + 1} of {len(self.passes)}: {one.name}"
                error.add_note(label)
                raise
        return changes

    def run_group(
        self,
        graph: Graph,
        context: PassContext,
        instruments: Sequence[Instrument],
        rest: tuple[Pass, ...],
    ) -> bool:
        """Run all passes again and again until none changes anything."""
        changed = False
        whole = Repeat(passes=self.passes)
        for _ in range(_ROUNDS):
            again = False
            for place, one in enumerate(self.passes):
                after = (*self.passes[place + 1 :], whole, *rest)
                try:
                    again |= _run_pass(one, after, graph, context, instruments)
                except Exception as error:
                    error.add_note(f"in pass {place + 1} of {len(self.passes)}: {one.name}")
                    raise
            changed |= again
            if not again:
                break
        return changed


def _run_pass(
    one: Pass,
    rest: tuple[Pass, ...],
    graph: Graph,
    context: PassContext,
    instruments: Sequence[Instrument],
) -> bool:
    step = Step(one, str(Pipeline((one, *rest))))
    for instrument in instruments:
        instrument.before(step, graph)
    try:
        changed = one.run(graph, context)
        for instrument in instruments:
            instrument.after(step, graph, changed)
    except Exception as error:
        for instrument in instruments:
            instrument.failed(step, error)
        raise
    return changed


def _text(one: Pass) -> str:
    if isinstance(one, Repeat):
        return f"repeat{{{Pipeline(one.passes)}}}"
    options = [
        f"{field.name.replace('_', '-')}={_value_text(getattr(one, field.name))}"
        for field in fields(one)
        if getattr(one, field.name) != _default(field)
    ]
    return f"{one.name}{{{' '.join(options)}}}" if options else one.name


def _default(field: Any) -> object:
    return field.default_factory() if field.default_factory is not MISSING else field.default


def _value_text(value: object) -> str:
    if isinstance(value, tuple):
        value = " ".join(
            str(item).lower() if isinstance(item, bool) else str(item) for item in value
        )
    text = str(value).lower() if isinstance(value, bool) else str(value)
    return text if re.fullmatch(r"[^\s,{}=\"]+", text) else f'"{text}"'


class _Token(NamedTuple):
    text: str
    column: int


_TOKENS = re.compile(r'\s*("[^"]*"|[{},=]|[^\s,{}="]+)')


class _Reader:
    """Reads the text of a pipeline from left to right."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self.tokens: list[_Token] = []
        at = 0
        while text[at:].strip():
            found = _TOKENS.match(text, at)
            if found is None:
                self._fail("this quote is not closed", at)
            self.tokens.append(_Token(found.group(1), found.start(1)))
            at = found.end()

    def _fail(self, message: str, column: int, hint: str | None = None) -> NoReturn:
        shown = f"{message}\n    {self.text}\n    {' ' * column}^"
        raise ParseError(shown, where=f"pipeline:{column + 1}", hint=hint)

    def _peek(self) -> str:
        return self.tokens[self.at].text if self.at < len(self.tokens) else ""

    def _next(self, what: str) -> _Token:
        if self.at == len(self.tokens):
            self._fail(f"{what} is missing", len(self.text))
        self.at += 1
        return self.tokens[self.at - 1]

    def _expect(self, mark: str) -> None:
        token = self._next(f"`{mark}`")
        if token.text != mark:
            self._fail(f"`{mark}` is expected, not `{token.text}`", token.column)

    def passes(self, end: str) -> tuple[Pass, ...]:
        """Passes with commas in between, up to `end`."""
        found: list[Pass] = []
        while self._peek() != end:
            if found:
                self._expect(",")
            found.append(self._one())
        return tuple(found)

    def _one(self) -> Pass:
        from . import PASSES

        token = self._next("the name of a pass")
        known = {one.name: one for one in PASSES}
        if token.text == "repeat":
            self._expect("{")
            inner = self.passes("}")
            self._expect("}")
            return Repeat(passes=inner)
        if token.text not in known:
            hint = _nearest(token.text, [*known, "repeat"], "passes")
            self._fail(f"unknown pass `{token.text}`", token.column, hint)
        row = known[token.text]
        return row(**dict(self._options(row)))

    def _options(self, row: type[Pass]) -> Iterator[tuple[str, object]]:
        if self._peek() != "{":
            return
        self._expect("{")
        hints = typing.get_type_hints(row)
        names = {field.name.replace("_", "-"): field.name for field in fields(row)}
        while self._peek() != "}":
            key = self._next("an option, or `}`")
            if key.text not in names:
                hint = _nearest(key.text, names, "options")
                self._fail(f"`{row.name}` has no option `{key.text}`", key.column, hint)
            self._expect("=")
            value = self._next(f"a value of `{key.text}`")
            try:
                parsed = _parse_value(value.text.strip('"'), hints[names[key.text]])
            except ValueError as error:
                self._fail(f"`{key.text}`: {error}", value.column)
            yield names[key.text], parsed
        self._expect("}")


def _parse_value(text: str, hint: Any) -> object:
    """The value that a text is in an option of this type."""
    if typing.get_origin(hint) is tuple:
        return tuple(_parse_value(part, typing.get_args(hint)[0]) for part in text.split())
    if hint is bool:
        if text not in ("true", "false"):
            raise ValueError(f"`{text}` is not true or false")
        return text == "true"
    if hint in (int, float):
        try:
            return hint(text)
        except ValueError:
            kind = "an integer" if hint is int else "a number"
            raise ValueError(f"`{text}` is not {kind}") from None
    return text


def _nearest(name: str, known: Iterable[str], what: str) -> str:
    names = sorted(known)
    close = get_close_matches(name, names, n=1)
    if close:
        return f"did you mean `{close[0]}`?"
    return f"known {what}: {', '.join(names)}" if names else f"it has no {what}"
