"""Knobs: the numbers of a template that may be chosen, each with the values worth trying."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Self

__all__ = ["Knobs", "knob"]


def knob(default: int | bool, *values: int | bool) -> Any:
    """A field with its default and, in order, the values that a search tries."""
    return field(default=default, metadata={"values": values or (default,)})


@dataclass(frozen=True)
class Knobs:
    """Numbers that change how fast a kernel is, and nothing of what it computes.

    >>> from tunesmith.backends.tvm.schedule.depthwise import PlaneKnobs
    >>> PlaneKnobs.of({"rows": 8, "high": 2}).numbers()
    {'rows': 8, 'high': 2, 'wide': 1}
    """

    @classmethod
    def values(cls) -> dict[str, tuple[int, ...]]:
        """The values of each knob; those of neighbours in the list are close to each other."""
        return {f.name: tuple(map(int, f.metadata["values"])) for f in fields(cls)}

    @classmethod
    def of(cls, numbers: dict[str, int]) -> Self:
        """Knobs from their numbers; `TypeError` if there are others."""
        flags = _flags(cls)
        return cls(**{name: bool(n) if flags.get(name) else n for name, n in numbers.items()})

    def numbers(self) -> dict[str, int]:
        """The number of each knob."""
        return {name: int(getattr(self, name)) for name in _flags(type(self))}


_known: dict[type, dict[str, bool]] = {}


def _flags(kind: type[Knobs]) -> dict[str, bool]:
    """The name of each knob, and whether it is one of two; a search asks for millions of them."""
    if kind not in _known:
        _known[kind] = {f.name: f.type == "bool" for f in fields(kind)}
    return _known[kind]
