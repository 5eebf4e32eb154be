"""`--on` and `--rpc`: options of commands that measure, on another machine if these are given."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from tunesmith.cli_board import warn_of_rpc

if TYPE_CHECKING:
    from tunesmith.places import Place

__all__ = ["Elsewhere", "Key", "On", "Resource", "Rpc"]

On = Annotated[
    str | None,
    typer.Option(
        "--on",
        metavar="ADDRESS",
        help="Measure on a Ray cluster: `ray`, `ray://HOST:PORT`. "
        "Whoever reaches its ports can run code there.",
    ),
]
Resource = Annotated[
    str | None,
    typer.Option(
        "--device-resource",
        metavar="NAME",
        help="With --on: on nodes with the resource tunesmith:NAME.",
    ),
]
Rpc = Annotated[
    str | None,
    typer.Option(
        "--rpc",
        metavar="HOST:PORT",
        help="Measure on a board, by TVM's tracker: see `tunesmith board`. "
        "Whoever reaches its ports can run code there.",
    ),
]
Key = Annotated[
    str | None,
    typer.Option("--key", metavar="NAME", help="With --rpc: on boards that are called this."),
]


@dataclass(frozen=True)
class Elsewhere:
    """Where the user wants to measure; here, if nothing is given."""

    on: str | None = None
    resource: str | None = None
    rpc: str | None = None
    key: str | None = None

    def __post_init__(self) -> None:
        for one, name, other, second in (
            (self.on, "--on", self.resource, "--device-resource"),
            (self.rpc, "--rpc", self.key, "--key"),
        ):
            if (one is None) != (other is None):
                raise typer.BadParameter(f"`{name}` and `{second}` go together")
        if self.on is not None and self.rpc is not None:
            raise typer.BadParameter("`--on` and `--rpc` are two places: name one")

    def __bool__(self) -> bool:
        return self.on is not None or self.rpc is not None

    @contextmanager
    def open(self) -> Iterator[Place]:
        """The place, for as long as it is used; `TuneError` if it cannot be reached."""
        from tunesmith.places import Here, open_boards, open_place

        if self.on is not None:
            place: Here | Place = open_place(self.on, f"tunesmith:{self.resource}")
        elif self.rpc is not None and self.key is not None:
            warn_of_rpc(self.rpc)
            place = open_boards(self.rpc, self.key)
        else:
            place = Here()
        try:
            yield place
        finally:
            place.close()
