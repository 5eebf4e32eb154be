"""Products of the same rows become one kernel: what feeds a product, and what stands beside it.

The gate of a gated layer is read by the epilogue of the other product alone: both sums of a tile
are computed one after the other, and neither is ever a tensor. Queries, keys and values stand
beside each other: one loop runs over the panels of all, and each has its own result and epilogue.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence

from tunesmith.ir.graph import Value
from tunesmith.ir.target import Machine

from .groups import Group, Plan, is_elementwise
from .kernels.products import gemm_work
from .schedule.gemm_knobs import padded_columns

__all__ = ["join_products"]

_MOST = 8  # results of a kernel: which one a tile belongs to is found by comparing
_PRODUCTS = ("gemm", "conv", "attention", "matmul", "loops")


def join_products(plan: Plan, machine: Machine) -> Plan:
    """The same plan with fewer kernels; `plan` is changed.

    Two kernels of linear layers are joined if they read the same value, their weights have one
    element type, and no more padded columns are computed than by each alone. They also have to be
    as many kernels away from the inputs: then neither depends on the other, and as all edges still
    lead from lower to higher, no joined kernel closes a cycle, whatever else is joined. Between
    them there may be no product of something else, so that no result waits long to be read.
    """
    groups, in_memory = _feed(plan)
    before = _before(groups, in_memory)
    levels: dict[Group, int] = {}
    for group in groups:
        levels[group] = 1 + max((levels[other] for other in before[group]), default=0)
    opened: dict[object, Group] = {}
    member: dict[Group, Group] = {}  # of a kernel, itself or the one that it is a part of
    for group in groups:
        member[group] = group
        if group.kind != "gemm":
            if group.kind in _PRODUCTS:
                opened.clear()
            continue
        x, weight = group.anchor.present_operands[:2]
        opened = {key: one for key, one in opened.items() if one.anchor.operands[0] is x}
        key = weight.type.dtype, len(group.products), levels[group]
        leader = opened.setdefault(key, group)
        if leader is group:
            continue
        if len(leader.parts) < _MOST and _pays(leader, group, machine):
            leader.siblings.append(group)
            member[group] = leader
    return Plan(_ordered(groups, member, before), in_memory)


def _feed(plan: Plan) -> tuple[list[Group], set[Value]]:
    """Join each product whose result only the epilogue of one other reads, element by element."""
    made = {group.last.results[0]: group for group in plan.groups if group.kind == "gemm"}
    gone: dict[Group, None] = {}
    for group in plan.groups:
        if group.kind != "gemm":
            continue
        for value in dict.fromkeys(v for node in group.epilogue for v in node.present_operands):
            other = made.get(value)
            if (
                other is not None
                and other is not group
                and other not in gone
                and not other.feeding
                and not group.feeding
                and _feeds(other, value, group)
            ):
                group.feeding.append(other)
                gone[other] = None
    dropped = {group.last.result for group in gone}
    return [group for group in plan.groups if group not in gone], plan.in_memory - dropped


def _feeds(one: Group, value: Value, other: Group) -> bool:
    """Whether `value`, the result of `one`, is read where `other` has its own element only."""
    inside = set(other.epilogue)
    (x, w), (z, u) = (group.anchor.present_operands[:2] for group in (one, other))
    return (
        x is z
        and w.type == u.type
        and all(user in inside and is_elementwise(user) for user, _ in value.users)
        and all(user.result.type.shape == value.type.shape for user, _ in value.users)
        and not any(node.op.name == "transpose" for node in one.epilogue)
    )


def _pays(one: Group, other: Group, machine: Machine) -> bool:
    """Whether panels of one width suit both: by what is computed, padded columns included."""
    apart = [Group("gemm", part.anchor, feeding=part.feeding) for part in (*one.parts, other)]
    joined = Group("gemm", one.anchor, feeding=one.feeding, siblings=apart[1:])
    alone = [gemm_work(part) for part in apart]
    return all(work.cols > 0 for work in alone) and padded_columns(
        gemm_work(joined), machine
    ) <= sum(padded_columns(work, machine) for work in alone)


def _reads(group: Group, in_memory: Container[Value]) -> Iterable[Value]:
    """The values in memory that a kernel reads, also through what it computes on the way."""
    seen = {value for node in group.nodes for value in node.results}
    work = [value for node in group.nodes for value in node.present_operands]
    while work:
        value = work.pop()
        if value in seen:
            continue
        seen.add(value)
        if value in in_memory:
            yield value
        elif value.producer is not None:
            work.extend(value.producer.present_operands)


def _before(groups: Sequence[Group], in_memory: Container[Value]) -> dict[Group, list[Group]]:
    """The kernels that must run before each one; what binds a size comes before all after it."""
    made = {value: group for group in groups for value in group.outputs}
    result: dict[Group, list[Group]] = {}
    bound: list[Group] = []
    for group in groups:
        result[group] = [*bound, *(made[v] for v in _reads(group, in_memory) if v in made)]
        if group.kind == "bind":
            bound = [group]
    return result


def _ordered(
    groups: Sequence[Group], member: Mapping[Group, Group], before: Mapping[Group, list[Group]]
) -> list[Group]:
    """The kernels in their order, but what a joined one needs stands in front of it."""
    needs: dict[Group, list[Group]] = {}
    for group in groups:
        needs.setdefault(member[group], []).extend(member[other] for other in before[group])
    result: dict[Group, None] = {}
    for group in groups:
        stack = [member[group]]
        while stack:
            missing = [other for other in needs[stack[-1]] if other not in result]
            if missing and stack[-1] not in result:
                stack.append(missing[0])
            else:
                result[stack.pop()] = None
    return [*result]
