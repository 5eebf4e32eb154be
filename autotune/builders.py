"""Builders of this machine: each candidate is built by a process of its own, with a deadline.

They are forked from a process that has TVM in memory, and end with it, however that ends.
"""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tunesmith.backends.tvm.kernels.kernel import Kernel
from tunesmith.backends.tvm.standalone import build_variant, with_knobs
from tunesmith.ir.diagnostics import TuneError
from tunesmith.ir.target import Target

from .measure import Outcome, Task
from .records import Verdict
from .runner import WORDS, begin_child

__all__ = ["BUILD_DEADLINE", "Builders", "Built"]

BUILD_DEADLINE = 30.0  # seconds, of one candidate


@dataclass(frozen=True)
class Built:
    """A kernel by some knobs, and its library or why there is none."""

    kernel: Kernel
    knobs: Mapping[str, int]  # none for the kernel as it is
    path: Path
    failure: Outcome | None = None


class Builders:
    """Builds on all cores of this machine, and keeps what it has built."""

    def __init__(
        self,
        target: Target,
        deadline: float = BUILD_DEADLINE,
        build: Callable[[Kernel, Target, Path], None] = build_variant,
    ) -> None:
        self.target, self.deadline, self.build = target, deadline, build
        self.cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
        self.folder = tempfile.TemporaryDirectory(prefix="tunesmith-tune-")
        self.built: dict[tuple[str, str], Built] = {}
        self.count = 0

    def all_of(
        self, task: Task, candidates: Sequence[Mapping[str, int]]
    ) -> tuple[Built, list[Built]]:
        """The kernel of a task as it is, and by each of the knobs; what is new is built now.

        Raises:
            TuneError: the kernel as it is cannot be built: there is nothing to compare with.
        """
        kernel = task.kernel
        assert isinstance(kernel, Kernel) and kernel.template is not None
        new: dict[tuple[str, str], tuple[Kernel, Mapping[str, int]]] = {}
        for knobs in ({}, *candidates):
            key = task.key(knobs)
            if key in self.built or key in new:
                continue
            wanted = kernel.template.knobs(knobs) if knobs else None
            if knobs and wanted is None:
                failure = Outcome(Verdict.build_failed, reason="the knobs do not fit")
                self.built[key] = Built(kernel, knobs, Path(), failure)
            else:
                new[key] = (with_knobs(kernel, wanted) if knobs else kernel), knobs
        results = self._build_all([kernel for kernel, _ in new.values()])
        for (key, (variant, knobs)), (path, failed) in zip(new.items(), results, strict=True):
            self.built[key] = Built(variant, knobs, path, failed)
        base = self.built[task.key({})]
        if base.failure is not None:
            raise TuneError(f"the kernel as it is could not be built: {base.failure.reason}",
                            where=task.name)  # fmt: skip
        return base, [self.built[task.key(knobs)] for knobs in candidates]

    def batches(
        self, task: Task, candidates: Sequence[Mapping[str, int]]
    ) -> Iterator[tuple[Built, list[Built]]]:
        """What `all_of` gives, in the order of the candidates, and in one or two parts.

        If the first ones are the kernel as it is, they can be measured before others are built.
        """
        as_it_is = [task.key(knobs) == task.key({}) for knobs in candidates]
        first = (*as_it_is, False).index(False)
        for part in (candidates[:first], candidates[first:]):
            if part:
                yield self.all_of(task, part)

    def close(self) -> None:
        """Remove what was built."""
        self.folder.cleanup()

    def _build_all(self, kernels: Sequence[Kernel]) -> list[tuple[Path, Outcome | None]]:
        """Build each in a process of its own, as many at a time as there are cores."""
        results: dict[int, tuple[Path, Outcome | None]] = {}
        running: dict[int, tuple[int, Path, float]] = {}
        waiting = list(enumerate(kernels))
        try:
            while waiting or running:
                while waiting and len(running) < self.cores:
                    place, kernel = waiting.pop(0)
                    self.count += 1
                    path = Path(self.folder.name) / str(self.count) / "kernel.so"
                    path.parent.mkdir()
                    pid = self._fork(kernel, path)
                    running[pid] = (place, path, time.monotonic() + self.deadline)
                for pid, (place, path, deadline) in list(running.items()):
                    ended, status = os.waitpid(pid, os.WNOHANG)
                    if ended:
                        del running[pid]
                        results[place] = (path, _failure(path, status))
                    elif time.monotonic() > deadline:
                        del running[pid]
                        _kill(pid)
                        words = f"not built within {self.deadline:g} s"
                        results[place] = (path, Outcome(Verdict.timeout, reason=words))
                if running:
                    time.sleep(0.005)
        finally:
            for pid in running:
                _kill(pid)
        return [results[place] for place in range(len(kernels))]

    def _fork(self, kernel: Kernel, path: Path) -> int:
        child = os.fork()
        if child:
            return child
        status = 1
        try:
            begin_child()
            self.build(kernel, self.target, path)
            status = 0
        except BaseException as error:
            path.with_name("error").write_text(f"{type(error).__name__}: {error}")
        finally:
            os._exit(status)


def _failure(path: Path, status: int) -> Outcome | None:
    """Why a builder that ended with this status failed; `None` if it did not."""
    if status == 0 and path.exists():
        return None
    note = path.with_name("error")
    if os.WIFSIGNALED(status):
        words = f"the code generator ended by signal {os.WTERMSIG(status)}"
    else:
        words = note.read_text() if note.exists() else f"the builder ended with status {status}"
    return Outcome(Verdict.build_failed, reason=words[:WORDS])


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError, ChildProcessError):
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
