"""What a fusion is: a composite, its spellings, and a guard."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from tunesmith.ir.builder import Builder
from tunesmith.ir.diagnostics import VerifyError
from tunesmith.ir.graph import Graph, Node, Value
from tunesmith.ir.ops import Attribute, OpDef
from tunesmith.ir.rewriter import Rewriter

from .base import Note, Pass, PassContext
from .patterns import Match, Pattern, Search, find_matches, trace_patterns

__all__ = ["FusePass"]

_PATTERNS: dict[type[FusePass], tuple[Pattern, ...]] = {}
_ROUNDS = 8
_TRIES = 16  # matches of one pattern at one root that are shown to the guard


@dataclass(frozen=True, kw_only=True)
class FusePass(Pass):
    """Replaces what a composite means, in any of its spellings, by the composite.

    Roots are tried from the last node to the first, large patterns before small ones, until
    nothing matches any more. A value that is read outside of a match refuses it.
    """

    result: ClassVar[OpDef]
    spellings: ClassVar[tuple[Callable[..., Any], ...]] = ()
    choices: ClassVar[Mapping[str, tuple[Attribute, ...]]] = {}
    from_decomposition: ClassVar[bool] = True  # off where the decomposition branches on types

    def guard(self, match: Match) -> str | None:
        """Why a match must not be rewritten; `None` allows it, "" refuses what is no near miss."""
        return None

    def operands(self, match: Match, build: Builder) -> list[Value | None]:
        """The operands of the composite; an override may write nodes for them."""
        found = [match.get(name) for name in self.result.operand_names]
        while found and found[-1] is None:
            found.pop()
        return found

    @classmethod
    def patterns(cls) -> tuple[Pattern, ...]:
        """What the fusion looks for, largest first."""
        if cls not in _PATTERNS:
            found = [p for f in cls.spellings for p in trace_patterns(f, cls.choices)]
            if cls.from_decomposition:
                meaning = cls.result.function
                found = trace_patterns(meaning, cls.choices, keep_defaults=False) + found
            _PATTERNS[cls] = tuple(sorted(found, key=lambda pattern: -pattern.size))
        return _PATTERNS[cls]

    def run(self, graph: Graph, context: PassContext) -> bool:
        """Fuse every match."""
        rewriter = Rewriter(graph)
        refused: dict[Node, Note] = {}
        roots = {pattern.root.op for pattern in self.patterns()}
        for _ in range(_ROUNDS):
            refused.clear()
            nodes = [node for node in graph.nodes if node.op in roots]
            fused = [
                node.owner is graph and self._fuse_at(node, rewriter, context, refused)
                for node in reversed(nodes)
            ]
            if not any(fused):
                break
        seen = set(context.notes)
        context.notes.extend(
            note for node, note in refused.items() if node.owner is not None and note not in seen
        )
        return rewriter.changed

    def _fuse_at(
        self, root: Node, rewriter: Rewriter, context: PassContext, refused: dict[Node, Note]
    ) -> bool:
        """Try the patterns on one root; tells whether one was rewritten."""
        reason = ""
        for pattern in self.patterns():
            if pattern.root.op is not root.op:
                continue
            search = Search()
            for tries, match in enumerate(find_matches(pattern, root, search)):
                refusal = self._refusal(match)
                if refusal is None:
                    refusal = self._rewrite(match, rewriter)
                if refusal is None:
                    if self.result not in {node.op for node in match.terms.values()}:
                        context.notes.append(self._note(root, "match"))  # else it has only grown
                    return True
                reason = reason or refusal
                if tries + 1 >= _TRIES:
                    break
            if search.matched >= max(3, pattern.size * 2 // 3) and not reason:
                reason = search.reason
        if reason:
            refused[root] = self._note(root, "near-miss", reason)
        return False

    def _note(self, root: Node, kind: str, reason: str = "") -> Note:
        return Note(self.name, kind, self.result.name, str(root.location), reason)

    def _refusal(self, match: Match) -> str | None:
        refusal = self.guard(match)
        if refusal is not None:
            return refusal
        value = match.escaping()
        return None if value is None else f"`%{value.name}` is used outside of the match"

    def _rewrite(self, match: Match, rewriter: Rewriter) -> str | None:
        root = match.root
        build, changed = Builder(rewriter.graph, root), rewriter.changed
        known = self.result.attribute_defaults
        attributes = {**match.attributes, **match.pattern.fixed}
        operands: list[Value | None] = []
        try:
            operands = self.operands(match, build)
            kept = {k: v for k, v in attributes.items() if k in known}
            results = build.emit_values(self.result, operands, kept)
        except VerifyError as error:
            self._undo(operands, rewriter)
            rewriter.changed = changed
            return error.message
        if [value.type for value in results] != [value.type for value in root.results]:
            rewriter.erase(node := _producer(results[0]))
            self._undo(operands, rewriter)
            rewriter.changed = changed
            return f"`{node.op.name}` would give {results[0].type}, not {root.results[0].type}"
        for value, old in zip(results, root.results, strict=True):
            rewriter.replace(old, value)
        rewriter.erase_dead([root])
        return None

    @staticmethod
    def _undo(operands: list[Value | None], rewriter: Rewriter) -> None:
        made = [v.producer for v in operands if v is not None and v.producer is not None]
        rewriter.erase_dead(made)


def _producer(value: Value) -> Node:
    assert value.producer is not None
    return value.producer
