"""What a tuner asks of its workers, whoever they are: try these knobs, and say how it went."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Protocol

from .records import Verdict, Workload
from .search import Space

__all__ = ["Outcome", "Task", "Workers"]


@dataclass(frozen=True)
class Task:
    """One kernel to tune, and how much of the model's time it takes.

    `seconds` are those of all its calls in one run of the model; `kernel` is in the words of the
    backend, for the workers alone.
    """

    name: str
    workload: Workload
    space: Space
    seconds: float
    calls: int
    kernel: object = field(default=None, compare=False)

    def key(self, knobs: Mapping[str, int]) -> tuple[str, str]:
        """What tells builds apart: knobs by analysis are the kernel as it is, `{}`."""
        given = {} if dict(knobs) == dict(self.space.default) else {**knobs}
        return self.name, json.dumps(given, sort_keys=True)


@dataclass(frozen=True)
class Outcome:
    """How a trial went: seconds of one call, of the candidate and of the default, in turns."""

    verdict: Verdict
    seconds: tuple[float, ...] = ()
    baseline: tuple[float, ...] = ()
    reason: str = ""
    checked: bool = False  # its results were compared with the default's

    @property
    def ratio(self) -> float | None:
        """The median of the ratios, below 1 if the candidate is quicker; `None` if it failed."""
        if self.verdict not in (Verdict.ok, Verdict.slower) or not self.seconds:
            return None
        return median(a / b for a, b in zip(self.seconds, self.baseline, strict=True))


class Workers(Protocol):
    """Those who build and measure: processes of this machine, or of others."""

    def measure(
        self, task: Task, candidates: Sequence[Mapping[str, int]], seconds: float
    ) -> Iterator[Outcome]:
        """Try knobs, with about `seconds` of measuring each; one outcome each, in order.

        Whatever a candidate does, there is an outcome: it hangs, crashes, computes something else.

        Raises:
            TuneError: the kernel as it is cannot be built, or nobody is left to measure.
        """
        ...

    def close(self) -> None:
        """End all processes."""
        ...
