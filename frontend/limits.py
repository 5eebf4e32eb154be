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
    elements: int = 1 << 62  # of one declared tensor
    name_bytes: int = 1024
    constant_bytes: int = 64 * MEBIBYTE  # one constant that import works out
    folded_factor: int = 2  # all of them, as a multiple of the model …
    folded_floor: int = 64 * MEBIBYTE  # … but this much in any case
    content: int = 1024  # elements of a shape, or of a tensor of indices, that import looks into
    facts: int = 64  # sizes found equal, or bounded, by the model itself
    opsets: tuple[int, int] = (7, 28)


LIMITS = Limits()
