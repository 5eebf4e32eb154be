"""Where the compiler finds tuned knobs: those just chosen, or those of a store."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from .device import workload_of
from .records import Device, Record, best_of
from .tune import CONFIRMED, DROPPED, Store

__all__ = ["Chosen", "FromStore"]

_NEAR = 1.0  # doublings of sizes, all together, up to which the knobs of another shape are used


@dataclass
class Chosen:
    """Knobs by the kernel: `by_kernel` has the template and the text of a kernel as its key."""

    by_kernel: dict[tuple[str, str], Mapping[str, int]] = field(default_factory=dict)

    def knobs(
        self, template: str, text: str, features: Mapping[str, int]
    ) -> Mapping[str, int] | None:
        """See `TuningRecords`."""
        return self.by_kernel.get((template, text))


@dataclass
class FromStore:
    """The records of a store for one device, at the sizes that a model is tuned at.

    Only records count whose results were compared with the untuned kernel's and that won the race
    at the end of a search. For a shape that was never tuned it is the knobs of the nearest one, if
    that is near; `used` tells which were taken, and for whom, `tried` of which kernels the
    store has trials, won or lost.
    """

    store: Store
    device: Device
    versions: str
    sizes: Mapping[str, int]
    used: dict[tuple[str, str], Record] = field(default_factory=dict)
    tried: set[tuple[str, str]] = field(default_factory=set)

    def knobs(
        self, template: str, text: str, features: Mapping[str, int]
    ) -> Mapping[str, int] | None:
        """See `TuningRecords`."""
        workload = workload_of(template, text, features, self.sizes)
        trials = self.store.trials(workload, self.device, self.versions)
        if trials:
            self.tried.add((template, text))
        found = best_of(_raced(trials))
        if not any(record.seed == CONFIRMED for record in trials):
            near = self.store.near(template, self.device, self.versions, workload.features)
            alike = [
                best_of(_raced(self.store.trials(record.workload, self.device, self.versions)))
                for record in near
                if _doublings(record.workload.features, workload.features) <= _NEAR
            ]
            found = next((record for record in alike if record is not None), None)
        if found is None:
            return None
        self.used[template, text] = found
        return found.knobs


def _raced(trials: Sequence[Record]) -> list[Record]:
    """The last races, without those whose winner lost inside a model."""
    dropped = [dict(record.knobs) for record in trials if record.seed == DROPPED]
    return [
        record
        for record in trials
        if record.seed == CONFIRMED and dict(record.knobs) not in dropped
    ]


def _doublings(one: Mapping[str, int], other: Mapping[str, int]) -> float:
    """How many times sizes have to be doubled or halved to become the others."""
    if {*one} != {*other}:
        return math.inf
    pairs = [(one[name], other[name]) for name in one if one[name] != other[name]]
    return sum(abs(math.log2(a / b)) if a > 0 and b > 0 else math.inf for a, b in pairs)
