"""What a local rewrite is: see `Canonicalize`."""

from __future__ import annotations

from collections.abc import Callable

from tunesmith.ir.builder import Builder
from tunesmith.ir.graph import Node, Value
from tunesmith.ir.ops import Expr

__all__ = ["LocalRule", "RuleTable"]

LocalRule = Callable[[Node, Builder], Value | Expr | None]
RuleTable = dict[str, tuple[LocalRule, ...]]
