"""Workers of this machine: builders and a runner, forked from a process that has TVM in memory.

A candidate is built by a process of its own, with a deadline. It runs in a runner, beside the
kernel with the knobs by analysis. All of them end with their parent, however that ends.
"""

from __future__ import annotations

import json
import os
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from tunesmith.backends.tvm.kernels.kernel import Kernel
from tunesmith.backends.tvm.launch import launch_of, weights_of
from tunesmith.backends.tvm.standalone import build_variant, other_sizes, with_knobs
from tunesmith.ir.diagnostics import BuildError
from tunesmith.ir.target import Target

from .measure import Outcome, Task
from .records import Verdict
from .runner import WORDS, Order, Runners, begin_child

__all__ = ["LocalWorkers"]

_BUILD_DEADLINE, _RUN_DEADLINE = 30.0, 20.0  # seconds, of one candidate
_CALLS = 60  # at most, of the default's time each, before a candidate counts as hanging


class LocalWorkers:
    """Build on all cores, then measure with as many threads as the target has, one at a time."""

    def __init__(
        self,
        target: Target,
        sizes: Mapping[str, int],
        spread: int,
        *,
        build_deadline: float = _BUILD_DEADLINE,
        run_deadline: float = _RUN_DEADLINE,
        build: Callable[[Kernel, Target, Path], str] = build_variant,
    ) -> None:
        self.target, self.sizes, self.spread = target, dict(sizes), spread
        self.build_deadline, self.build = build_deadline, build
        self.cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
        self.folder = tempfile.TemporaryDirectory(prefix="tunesmith-tune-")
        self.runners = Runners(target.machine.cores, run_deadline)
        self.bases: dict[str, Path] = {}
        self.built: dict[tuple[str, str], tuple[Path, Outcome | None]] = {}
        self.count = 0

    def measure(
        self, task: Task, candidates: Sequence[Mapping[str, int]], seconds: float
    ) -> Iterator[Outcome]:
        """Try knobs; see `Workers`."""
        kernel = task.kernel
        assert isinstance(kernel, Kernel)
        if task.name not in self.bases:
            ((path, failure),) = self._build_all([kernel])
            if failure is not None:
                words = f"the kernel as it is: {failure.reason}"
                yield from (Outcome(failure.verdict, reason=words) for _ in candidates)
                return
            self.bases[task.name] = path
        keys = [(task.name, json.dumps({**knobs}, sort_keys=True)) for knobs in candidates]
        new: dict[tuple[str, str], Kernel] = {}
        for key, knobs in zip(keys, candidates, strict=True):
            wanted = kernel.template.knobs(knobs) if kernel.template is not None else None
            if wanted is None:
                failure = Outcome(Verdict.build_failed, reason="the knobs do not fit")
                self.built[key] = (Path(), failure)
            elif key not in self.built:
                new[key] = with_knobs(kernel, wanted)
        self.built.update(zip(new, self._build_all(list(new.values())), strict=True))
        for key, knobs in zip(keys, candidates, strict=True):
            path, failed = self.built[key]
            yield failed or self._run(task, kernel, knobs, path, seconds)

    def close(self) -> None:
        """End the runner and remove what was built."""
        self.runners.close()
        self.folder.cleanup()

    # ------------------------------------------------------------------------------- building

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
                    pid = self._fork_builder(kernel, path)
                    running[pid] = (place, path, time.monotonic() + self.build_deadline)
                for pid, (place, path, deadline) in list(running.items()):
                    ended, status = os.waitpid(pid, os.WNOHANG)
                    if ended:
                        del running[pid]
                        results[place] = (path, _build_failure(path, status))
                    elif time.monotonic() > deadline:
                        del running[pid]
                        _kill(pid)
                        words = f"not built within {self.build_deadline:g} s"
                        results[place] = (path, Outcome(Verdict.timeout, reason=words))
                if running:
                    time.sleep(0.005)
        finally:
            for pid in running:
                _kill(pid)
        return [results[place] for place in range(len(kernels))]

    def _fork_builder(self, kernel: Kernel, path: Path) -> int:
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

    # -------------------------------------------------------------------------------- running

    def _run(
        self, task: Task, kernel: Kernel, knobs: Mapping[str, int], path: Path, seconds: float
    ) -> Outcome:
        template = kernel.template
        assert template is not None
        variant = with_knobs(kernel, template.knobs(knobs))
        try:
            base = self._order(kernel, self.bases[task.name], {})
            order = self._order(variant, path, knobs)
        except (BuildError, KeyError) as error:  # a symbol that only data decides has no size
            return Outcome(Verdict.build_failed, reason=f"it cannot be called: {error}"[:WORDS])

        def supply(chosen: Mapping[str, int]) -> Mapping[str, Callable[[], Any]]:
            """Weights as these knobs want them: the runner has the constants, being forked."""
            return weights_of(with_knobs(kernel, template.knobs(chosen) if chosen else None))

        slow = _CALLS * task.seconds / max(1, task.calls)
        return self.runners.measure(task.name, base, order, seconds, supply, slow)

    def _order(self, kernel: Kernel, path: Path, knobs: Mapping[str, int]) -> Order:
        others = [launch_of(kernel, sizes, 0) for sizes in other_sizes(kernel, self.sizes)]
        launch = launch_of(kernel, self.sizes, self.spread)
        return Order(path, launch, {**knobs}, tuple(others))


def _build_failure(path: Path, status: int) -> Outcome | None:
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
