"""What a person sees: data on stdout; errors, hints and progress on stderr."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self, TextIO

from tunesmith.settings import Settings

if TYPE_CHECKING:
    from rich.status import Status

__all__ = ["Progress", "error", "note", "out", "print_table"]

_COLORS = {"PASSED": "32", "FAILED": "31", "ok": "32", "problem": "31"}


def _styled(text: str, color: str, stream: TextIO) -> str:
    if not stream.isatty() or Settings.read().no_color:
        return text
    return f"\x1b[1;{color}m{text}\x1b[0m"


def out(text: str = "") -> None:
    """Print data; a verdict at the start of a line is colored on a terminal."""
    for line in text.split("\n"):
        word, space, rest = line.partition(" ")
        if word in _COLORS:
            line = _styled(word, _COLORS[word], sys.stdout) + space + rest
        print(line)


def note(text: str) -> None:
    """Print a line for the person who waits, on stderr."""
    print(text, file=sys.stderr, flush=True)


def error(message: str, hint: str | None = None) -> None:
    """Print an error, and its hint if there is one."""
    print(f"{_styled('error:', '31', sys.stderr)} {message}", file=sys.stderr)
    if hint:
        print(f"{_styled('hint:', '36', sys.stderr)} {hint}", file=sys.stderr)
    sys.stderr.flush()


def print_table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """Print rows under a head: a drawn table on a terminal, aligned plain lines in a pipe."""
    if sys.stdout.isatty():
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(*head)
        for row in rows:
            table.add_row(*(Text(cell) for cell in row))  # as text: brackets are no markup
        Console().print(table)
        return
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    for row in (head, *rows):
        print(
            "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        )


class Progress:
    """The stages of a long command: one line that changes on a terminal, one line each in a pipe.

    Calling it begins a stage and ends the one before, or tells a step of the stage, `build 2/8`;
    leaving the context ends the last.
    """

    def __init__(self, title: str) -> None:
        self.title = title
        self.stage = ""
        self.began = 0.0
        self.status: Status | None = None

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            from rich.console import Console

            self.status = Console(stderr=True).status(self.title)
            self.status.start()
        return self

    def __call__(self, stage: str) -> None:
        name = re.sub(r" \d+/\d+$", "", stage)  # steps of one stage are one line in a pipe
        if name != self.stage:
            self._end_stage()
            self.stage = name
            self.began = time.perf_counter()
        if self.status is not None:
            from rich.markup import escape

            self.status.update(escape(f"{self.title}: {stage}"))

    def _end_stage(self) -> None:
        if self.stage and self.status is None:
            note(f"{self.title}: {self.stage} ({time.perf_counter() - self.began:.1f} s)")
        self.stage = ""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self._end_stage()
        if self.status is not None:
            self.status.stop()
