"""What a pass is, and what it may ask."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import ClassVar

from tunesmith.ir.graph import Graph
from tunesmith.ir.limits import LIMITS
from tunesmith.ir.target import HOST_LIKE, Target

__all__ = ["Note", "Pass", "PassContext"]


@dataclass(frozen=True)
class Note:
    """One thing a pass tells the user.

    A match, a near miss with the condition that failed, or a constant that is stored otherwise.
    """

    pass_name: str
    kind: str  # "match", "near-miss" or "stored"
    what: str  # the composite that was, or was nearly, formed; the type that is stored
    where: str  # the location of the node
    reason: str = ""


@dataclass
class PassContext:
    """What passes may ask and tell while a pipeline runs."""

    target: Target = HOST_LIKE
    notes: list[Note] = field(default_factory=list)
    fold_budget: int = LIMITS.folded_bytes  # of one folded constant, at most
    fold_left: int | None = None  # bytes that may still be folded, once it is known how many

    def matches(self, what: str) -> list[Note]:
        """The matches of one composite, in order."""
        return [n for n in self.notes if n.kind == "match" and n.what == what]


@dataclass(frozen=True, kw_only=True)
class Pass(ABC):
    """A rewrite of graphs; its fields are its options.

    Valid before, valid after; the same meaning (`exact`), or a tolerance that the pass documents;
    tells whether it changed anything; deterministic; keeps nothing between runs.
    """

    name: ClassVar[str]
    exact: ClassVar[bool] = True

    @abstractmethod
    def run(self, graph: Graph, context: PassContext) -> bool:
        """Rewrite `graph` in place; tells whether it changed."""
