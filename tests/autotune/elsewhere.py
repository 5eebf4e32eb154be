"""What tests of workers on other machines share: candidates of each kind, and a search for orphans.

Both the cluster and the boards of the tests run on this machine.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.autotune.test_local import HEAD, points, task_of
from tunesmith.autotune.measure import Outcome, Task, Workers
from tunesmith.autotune.records import Verdict
from tunesmith.backends.tvm.build import link

__all__ = ["BODIES", "Cases", "build_body", "end_orphans", "processes"]

BODIES = {
    "hangs": ("{ for (volatile int i = 0;; i++) {} }", Verdict.timeout),
    "segfaults": ("{ *(volatile int*)8 = 1; return 0; }", Verdict.crashed),
    "writes nothing": ("{ return 0; }", Verdict.wrong),
}


def build_body(body: str, path: Path) -> None:
    """Write a library that does this instead of what a kernel does."""
    path.with_suffix(".c").write_text(HEAD + body)
    link(str(path), [str(path.with_suffix(".c"))])


@dataclass
class Cases:
    """Some knobs that compute the right thing, then each kind that does not, and one after it."""

    task: Task = field(default_factory=lambda: task_of("gemm"))

    def __post_init__(self) -> None:
        self.good, self.dying, *self.tried = points(self.task, 2 + len(BODIES))
        self.bad = list(zip(self.tried, (body for body, _ in BODIES.values()), strict=True))

    def measured(self, workers: Workers) -> list[Outcome]:
        """What workers say of them, and of kernels of two other kinds."""
        misfit = {**self.task.space.default, "tile_m": 999}
        knobs = [self.good, self.dying, misfit, *self.tried, self.good]
        outcomes = list(workers.measure(self.task, knobs, 0.05))
        for name in ("conv", "attention"):
            other = task_of(name)
            outcomes += workers.measure(other, points(other, 1), 0.05)
        return outcomes

    @staticmethod
    def check(outcomes: Sequence[Outcome]) -> None:
        """The good ones are measured, the bad ones recorded."""
        fine = [outcomes[0], *outcomes[-3:]]
        for outcome in fine:
            assert outcome.verdict in (Verdict.ok, Verdict.slower), outcome.reason
            assert outcome.checked and outcome.ratio is not None and outcome.ratio > 0
            assert len(outcome.seconds) == len(outcome.baseline) >= 7
        wanted = [Verdict.build_failed] * 2 + [verdict for _, verdict in BODIES.values()]
        bad = outcomes[1:-3]
        assert [o.verdict for o in bad] == wanted, [(o.verdict, o.reason) for o in bad]
        assert all(o.reason for o in bad)


def processes(variable: str, mark: str) -> list[int]:
    """All that were started, by us or by them, with this mark in their environment."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if f"{variable}={mark}".encode() in (folder / "environ").read_bytes().split(b"\0"):
                found.append(int(folder.name))
    return found


def end_orphans(variable: str, mark: str, seconds: float) -> list[int]:
    """Wait until they have ended by themselves; those that did not are killed and told."""
    end = time.monotonic() + seconds
    while processes(variable, mark) and time.monotonic() < end:
        time.sleep(0.1)
    left = processes(variable, mark)
    for pid in left:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return left
