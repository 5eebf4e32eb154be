"""The words of the text of a graph, and errors that point at them."""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from collections.abc import Callable, Iterator
from typing import NamedTuple, NoReturn, TypeVar

from .diagnostics import ParseError

__all__ = ["Token", "TokenStream"]

T = TypeVar("T")

_TOKEN = re.compile(
    r"""
    (?P<skip>\s+ | //(?!\d)[^\n]*)
  | (?P<value>%(?:[A-Za-z0-9_.$]+|"(?:[^"\\\n]|\\.)*"))
  | (?P<title>@(?:[A-Za-z0-9_.$]+|"(?:[^"\\\n]|\\.)*"))
  | (?P<string>"(?:[^"\\\n]|\\.)*")
  | (?P<symbol>`(?:[^`\\\n]|\\.)*`)
  | (?P<digest>\#[0-9a-fA-F]*)
  | (?P<bits>0x[0-9a-fA-F]+)
  | (?P<float>\d+\.\d*(?:[eE][+-]?\d+)?|\d+[eE][+-]?\d+)
  | (?P<int>\d+)
  | (?P<word>[A-Za-z_][A-Za-z0-9_.$]*)
  | (?P<mark><=|//|[(){}\[\],:=+*-])
    """,
    re.VERBOSE,
)


class Token(NamedTuple):
    kind: str
    text: str
    start: int

    @property
    def end(self) -> int:
        return self.start + len(self.text)

    @property
    def name(self) -> str:
        """What a `%value`, a `@title`, a "string" or a `symbol` names."""
        body = self.text[1:] if self.kind in ("value", "title") else self.text
        if body.startswith("`"):
            body = f'"{body[1:-1]}"'
        return str(json.loads(body)) if body.startswith('"') else body


class TokenStream:
    """The tokens of a text, read from left to right."""

    def __init__(self, text: str, file: str) -> None:
        self.text = text
        self.file = file
        self.at = 0
        self._breaks = [at for at, c in enumerate(text) if c == "\n"]
        self.tokens = list(self._lex())

    def _lex(self) -> Iterator[Token]:
        at = 0
        while at < len(self.text):
            found = _TOKEN.match(self.text, at)
            if found is None:
                token = Token("mark", self.text[at], at)
                if token.text in '"`':
                    self.fail(token, "this quote is not closed on its line")
                self.fail(token, f"unexpected character `{token.text}`")
            if found.lastgroup != "skip":
                token = Token(str(found.lastgroup), found.group(), at)
                self._check_escapes(token)
                yield token
            at = found.end()
        yield Token("end", "", len(self.text.rstrip()))

    def _check_escapes(self, token: Token) -> None:
        try:
            _ = token.name
        except ValueError:
            self.fail(token, "a quoted text has an escape that is not one of JSON")

    def fail(
        self, token: Token, message: str, hint: str | None = None, end: int | None = None
    ) -> NoReturn:
        """Raise `ParseError` with the line of `token` and a caret under it."""
        first = self.text.rfind("\n", 0, token.start) + 1
        last = self.text.find("\n", first)
        line = self.text[first : last if last >= 0 else None]
        margin = len(line) - len(line.lstrip())
        column = token.start - first
        width = max(1, min((end or token.end) - token.start, len(line) - column))
        pad = "".join("\t" if c == "\t" else " " for c in line[margin:column])
        shown = f"{message}\n    {line.strip()}\n    {pad}{'^' * width}"
        raise ParseError(shown, where=f"{self.file}:{self.line(token)}:{column + 1}", hint=hint)

    def line(self, token: Token) -> int:
        """The number of the line that a token stands on, from 1."""
        return bisect_left(self._breaks, token.start) + 1

    @property
    def token(self) -> Token:
        """The token at hand."""
        return self.tokens[self.at]

    def take(self) -> Token:
        """The token at hand, left behind."""
        token = self.tokens[self.at]
        self.at += token.kind != "end"
        return token

    def peek(self, *texts: str) -> bool:
        """Whether a mark or a word is at hand."""
        return self.token.kind in ("mark", "word") and self.token.text in texts

    def accept(self, text: str) -> bool:
        """Take a mark or a word if it is at hand; tells whether."""
        found = self.peek(text)
        self.at += found
        return found

    def expect(self, text: str) -> Token:
        """Take a mark or a word that must be there."""
        if not self.peek(text):
            self.fail(self.token, f"expected `{text}`, found {self.found()}")
        return self.take()

    def expect_kind(self, kind: str, what: str) -> Token:
        """Take a token of a kind that must be there."""
        if self.token.kind != kind:
            self.fail(self.token, f"expected {what}, found {self.found()}")
        return self.take()

    def found(self) -> str:
        """The token at hand, for a message."""
        return f"`{self.token.text}`" if self.token.text else "the end of the text"

    def listed(self, close: str, item: Callable[[], T]) -> list[T]:
        """Items with commas between them, up to and with `close`."""
        items: list[T] = []
        while not self.accept(close):
            if items and not self.accept(","):
                self.fail(self.token, f"expected `,` or `{close}`, found {self.found()}")
            items.append(item())
        return items
