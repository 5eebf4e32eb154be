"""How much a model may ask for before it is refused."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["LIMITS", "Limits"]

MEBIBYTE = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Every bound of the importer; a model at a bound is imported, one past it is refused."""

    file_bytes: int = 2048 * MEBIBYTE  # what protobuf can hold
    nodes: int = 50_000  # subgraphs and functions, expanded, included
    depth: int = 32  # of subgraphs inside each other
    rank: int = 16
    elements: int = 1 << 62  # of one declared tensor: its bytes are still counted in 64 bits
    name_bytes: int = 1024
    content: int = 1024  # elements of a constant that import works out: nothing larger is folded
    value_bytes: int = MEBIBYTE  # of an input whose elements are fixed when compiling
    padding: int = 1 << 40  # elements added to one axis
    facts: int = 64  # sizes found equal, or bounded, by the model itself
    steps: int = 1024  # of a loop or a recurrent layer that is unrolled
    opsets: tuple[int, int] = (1, 28)


LIMITS = Limits()
