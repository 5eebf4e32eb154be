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
        flags = {f.name for f in fields(cls) if f.type == "bool"}
        return cls(**{name: bool(n) if name in flags else n for name, n in numbers.items()})

    def numbers(self) -> dict[str, int]:
        """The number of each knob."""
        return {f.name: int(getattr(self, f.name)) for f in fields(self)}
