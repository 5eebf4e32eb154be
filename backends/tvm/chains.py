"""Which convolutions become one kernel that goes over the image by strips of rows."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .kernels.strips import as_stage, strip_work
from .schedule.strips import pays

if TYPE_CHECKING:
    from tunesmith.ir.graph import Value
    from tunesmith.ir.target import Machine

    from .groups import Group

__all__ = ["join_chains"]


def join_chains(groups: list[Group], machine: Machine) -> list[Group]:
    """Put a convolution before the one that alone reads its result, where strips pay.

    One of the two is depthwise and the other pointwise, so that a strip of one needs a strip of the
    other and no more than a few rows twice. What follows on a chain may be joined to it again.
    """
    ends: dict[Value, Group] = {}
    joined: set[Group] = set()
    for group in groups:
        if as_stage(group) is None:
            continue
        image = group.anchor.present_operands[0]
        feeder = ends.get(image)
        if feeder is not None and len(image.users) == 1 and _linked(feeder, group):
            before = feeder.products
            if pays(strip_work([*before, group]), machine):
                group.feeding, feeder.feeding = before, []
                joined.add(feeder)
        ends[group.outputs[0]] = group
    return [group for group in groups if group not in joined]


def _linked(feeder: Group, group: Group) -> bool:
    """Whether a strip of one needs a strip of the other, and their weights are two."""
    one, two = as_stage(feeder), as_stage(group)
    assert one is not None and two is not None
    weights = [g.anchor.operands[1] for g in feeder.products]
    same = feeder.outputs[0].type == feeder.anchor.result.type
    return same and (one.groups > 1) != (two.groups > 1) and group.anchor.operands[1] not in weights
