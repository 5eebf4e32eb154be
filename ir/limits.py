"""How much a model may ask for before it is refused: every bound, in one table."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

from .diagnostics import InputError

__all__ = ["LIMITS", "VARIABLE", "Limits"]

MEBIBYTE = 1 << 20
VARIABLE = "TUNESMITH_LIMITS"


@dataclass(frozen=True, kw_only=True)
class Limits:
    """A model at a bound is compiled, one past it is refused."""

    file_bytes: int = 2048 * MEBIBYTE  # what protobuf can hold
    program_bytes: int = 256 * MEBIBYTE  # of the JSON of a program that PyTorch saved
    nodes: int = 50_000  # subgraphs and functions, expanded, included
    depth: int = 32  # of subgraphs inside each other
    rank: int = 16
    elements: int = 1 << 62  # of one declared tensor: its bytes are still counted in 64 bits
    name_bytes: int = 1024
    content: int = 1024  # elements of a constant that import works out: nothing larger is folded
    fixed_bytes: int = MEBIBYTE  # of an input whose elements are fixed when compiling
    padding: int = 1 << 40  # elements added to one axis
    facts: int = 64  # sizes found equal, or bounded, by the model itself
    steps: int = 1024  # of a loop or a recurrent layer that is unrolled
    opsets: tuple[int, int] = (1, 28)
    value_bytes: int = 2048 * MEBIBYTE  # of one result, where its size is known and it is no weight
    folded_bytes: int = 64 * MEBIBYTE  # of one constant that a pass works out
    folded_total: int = 256 * MEBIBYTE  # that constants grow by while they are worked out, together
    compile_seconds: int = 600  # of `tunesmith compile`, from the first byte to the last

    @classmethod
    def read(cls, environment: Mapping[str, str]) -> Limits:
        """The table, with what `TUNESMITH_LIMITS` says otherwise: `nodes=100000,depth=64`.

        `InputError` names an entry that is no limit.

        >>> Limits.read({"TUNESMITH_LIMITS": "nodes=7"}).nodes
        7
        """
        found = cls()
        known = {f.name for f in fields(cls) if isinstance(getattr(found, f.name), int)}
        for entry in filter(None, environment.get(VARIABLE, "").split(",")):
            name, _, value = (part.strip() for part in entry.partition("="))
            if name not in known or not (value.isascii() and value.isdigit()):
                raise InputError(
                    f"`{entry.strip()}` in `{VARIABLE}` is not a limit",
                    hint=f"write `name=number`; names: {', '.join(sorted(known))}",
                )
            found = replace(found, **{name: int(value)})  # type: ignore[arg-type]  # a number
        return found


LIMITS = Limits.read(os.environ)
