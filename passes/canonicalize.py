"""Small local rewrites towards one form of each thing, until none applies."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from tunesmith.ir.builder import Builder
from tunesmith.ir.graph import Graph, Node
from tunesmith.ir.ops import Expr
from tunesmith.ir.rewriter import Rewriter

from .base import Pass, PassContext
from .canonicalize_broadcast import BROADCAST_RULES
from .canonicalize_index import INDEX_RULES
from .canonicalize_logic import LOGIC_RULES
from .canonicalize_math import MATH_RULES
from .canonicalize_movement import MOVEMENT_RULES
from .canonicalize_rows import ROW_RULES
from .local_rule import LocalRule, RuleTable

__all__ = ["Canonicalize"]

_TABLES: tuple[RuleTable, ...] = (
    MATH_RULES, LOGIC_RULES, MOVEMENT_RULES, BROADCAST_RULES, INDEX_RULES, ROW_RULES,
)  # fmt: skip
_LIMIT = 64  # rewrites a node, on average, before we call it a circle


def _rules() -> dict[str, list[LocalRule]]:
    found: dict[str, list[LocalRule]] = {}
    for table in _TABLES:
        for name, rules in table.items():
            found.setdefault(name, []).extend(rules)
    return found


@dataclass(frozen=True, kw_only=True)
class Canonicalize(Pass):
    """Brings each thing that can be written in several ways into one form.

    A rule is a function of a node and a builder in front of it. It gives the value that replaces
    the node's result, or `None` before it has written anything; its docstring is the rewrite.
    """

    name = "canonicalize"

    def run(self, graph: Graph, context: PassContext) -> bool:
        """Apply the rules to every node, and again to those around each change."""
        rewriter, rules = Rewriter(graph), _rules()
        everywhere = rules.pop("*", [])
        work = deque(graph.nodes)
        waiting = set(work)
        left = _LIMIT * (len(graph) + 16)
        while work:
            node = work.popleft()
            waiting.discard(node)
            if node.owner is None:
                continue
            for rule in (*rules.get(node.op.name, ()), *everywhere):
                touched = _apply(rule, node, rewriter)
                if touched is None:
                    continue
                left -= 1
                if left < 0:
                    raise AssertionError(f"`{rule.__name__}` goes round in circles")
                fresh = [n for n in touched if n not in waiting and n.owner is graph]
                work.extend(fresh)
                waiting.update(fresh)
                break
        return rewriter.changed


def _apply(rule: LocalRule, node: Node, rewriter: Rewriter) -> list[Node] | None:
    """Rewrite `node` if the rule wants to; gives the nodes to look at again."""
    before = node.previous
    found = rule(node, Builder(rewriter.graph, node))
    if found is None:
        assert node.previous is before, f"`{rule.__name__}` wrote nodes and gave none"
        return None
    new = found.value if isinstance(found, Expr) else found
    above = [v.producer for v in node.present_operands if v.producer is not None]
    written: list[Node] = []
    walk = node.previous
    while walk is not before and walk is not None:
        written.append(walk)
        walk = walk.previous
    rewriter.replace_node(node, [new])
    rewriter.erase_dead(written + above)
    around = [new.producer] if new.producer is not None else []
    for one in above:
        if one.owner is not None:
            around.extend(user for value in one.results for user in value.user_nodes)
    users = [n for n in new.user_nodes if n is not rewriter.graph.terminator]
    return [n for n in (*written[::-1], *above, *around, *users) if n.op.name != "return"]
