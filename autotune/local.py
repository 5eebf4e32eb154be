"""Workers of this machine: builders and a runner, forked from a process that has TVM in memory.

A candidate is built by a process of its own, with a deadline. It runs in another, which stays for
the kernel it was made for and holds the default beside which everything is measured; one that hangs
or dies is replaced. All of them end with their parent, however that ends.
"""

from __future__ import annotations

import json
import os
import select
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from tunesmith.backends.tvm.kernels.kernel import Kernel
from tunesmith.backends.tvm.standalone import (
    Variant,
    Workbench,
    build_variant,
    other_sizes,
    with_knobs,
)
from tunesmith.ir.target import Target
from tunesmith.runtime.processes import die_with_parent

from .measure import Outcome, Task
from .records import Verdict

__all__ = ["LocalWorkers"]

_BUILD_DEADLINE, _RUN_DEADLINE = 30.0, 20.0  # seconds, of one candidate
_CALLS = 60  # at most, of the default's time each, before a candidate counts as hanging
_SLOWER = 0.995  # above this ratio a candidate does not count as quicker
_WORDS = 300  # of a failure are kept


@dataclass
class _Runner:
    """A process that measures variants of one kernel."""

    pid: int
    orders: IO[str]
    answers: IO[str]

    def ask(self, order: Mapping[str, Any], deadline: float) -> dict[str, Any] | Verdict:
        """Its answer, or how it failed to give one."""
        try:
            self.orders.write(json.dumps(order) + "\n")
            self.orders.flush()
        except BrokenPipeError:
            return Verdict.crashed
        ready, _, _ = select.select([self.answers], [], [], deadline)
        if not ready:
            return Verdict.timeout
        try:
            answer: dict[str, Any] = json.loads(self.answers.readline())
        except ValueError:  # nothing, or a part of a line
            return Verdict.crashed
        return answer

    def end(self) -> int:
        """Kill it; its exit status."""
        with suppress(ProcessLookupError):
            os.kill(self.pid, signal.SIGKILL)
        _, status = os.waitpid(self.pid, 0)
        for pipe in (self.orders, self.answers):
            with suppress(OSError):
                pipe.close()
        return status


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
        self.build_deadline, self.run_deadline, self.build = build_deadline, run_deadline, build
        self.cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
        self.folder = tempfile.TemporaryDirectory(prefix="tunesmith-tune-")
        self.runner: tuple[str, _Runner] | None = None
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
        self._end_runner()
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
            _begin_child()
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
        runner = self._runner_for(task, kernel)
        order = {"path": str(path), "knobs": {**knobs}, "seconds": seconds}
        # each is called some twenty times at least, whatever a call takes
        deadline = self.run_deadline + seconds + _CALLS * task.seconds / max(1, task.calls)
        try:
            answer = runner.ask(order, deadline)
        except BaseException:  # interrupted: its answer would be taken for that of the next order
            self._end_runner()
            raise
        if isinstance(answer, Verdict):
            self.runner = None
            status = runner.end()
            ended = f"ended by signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else "ended"
            hung = f"did not end within {deadline:.3g} s"
            return Outcome(answer, reason=hung if answer is Verdict.timeout else ended)
        times = tuple(answer["seconds"]), tuple(answer["baseline"])
        outcome = Outcome(Verdict(answer["verdict"]), *times, reason=answer["reason"][:_WORDS],
                          checked=bool(answer["checked"]))  # fmt: skip
        quick = outcome.ratio is not None and outcome.ratio < _SLOWER
        if outcome.verdict is Verdict.ok and not quick:
            return Outcome(Verdict.slower, *times, checked=outcome.checked)
        return outcome

    def _runner_for(self, task: Task, kernel: Kernel) -> _Runner:
        if self.runner is not None and self.runner[0] == task.name:
            return self.runner[1]
        self._end_runner()
        order_read, order_write = os.pipe()
        answer_read, answer_write = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                _begin_child()
                os.close(order_write)
                os.close(answer_read)
                with os.fdopen(order_read) as orders, os.fdopen(answer_write, "w") as answers:
                    self._serve(kernel, self.bases[task.name], orders, answers)
            finally:
                os._exit(1)
        os.close(order_read)
        os.close(answer_write)
        runner = _Runner(child, os.fdopen(order_write, "w"), os.fdopen(answer_read))
        self.runner = (task.name, runner)
        return runner

    def _end_runner(self) -> None:
        if self.runner is not None:
            self.runner[1].end()
            self.runner = None

    def _serve(self, kernel: Kernel, base: Path, orders: IO[str], answers: IO[str]) -> None:
        """The runner's life: an order a line, an answer a line."""
        os.environ["TVM_NUM_THREADS"] = str(self.target.machine.cores)
        failure = ""
        try:
            benches = [Workbench(kernel, self.sizes, self.spread)]
            benches += [Workbench(kernel, some, 0) for some in other_sizes(kernel, self.sizes)]
            references = [bench.load(base, kernel) for bench in benches]
        except Exception as error:  # which every order is answered with
            failure = f"the kernel as it is: {type(error).__name__}: {error}"
        for line in orders:
            if failure:
                answer = _no_answer("crashed", failure)
            else:
                answer = _answer(kernel, benches, references, json.loads(line))
            answers.write(json.dumps(answer) + "\n")
            answers.flush()


def _no_answer(verdict: str, reason: str) -> dict[str, Any]:
    return {"verdict": verdict, "reason": reason, "seconds": [], "baseline": [], "checked": False}


def _answer(
    kernel: Kernel,
    benches: Sequence[Workbench],
    references: Sequence[Variant],
    order: Mapping[str, Any],
) -> dict[str, Any]:
    """Compare the results at all sizes, then race at the first."""
    try:
        assert kernel.template is not None
        chosen = with_knobs(kernel, kernel.template.knobs(order["knobs"]))
        first: Variant | None = None
        for bench, reference in zip(benches, references, strict=True):
            variant = bench.load(Path(order["path"]), chosen)
            first = first or variant
            reason = bench.differs(variant, reference)
            if reason:
                at = f" at {bench.sizes}" if bench.sizes else ""
                return _no_answer("wrong", reason + at) | {"checked": True}
        assert first is not None
        seconds, baseline = benches[0].race(first, references[0], seconds=order["seconds"])
    except Exception as error:  # whatever a candidate raises, the next one has its turn
        return _no_answer("crashed", f"{type(error).__name__}: {error}")
    return {"verdict": "ok", "reason": "", "seconds": seconds, "baseline": baseline,
            "checked": True}  # fmt: skip


def _build_failure(path: Path, status: int) -> Outcome | None:
    """Why a builder that ended with this status failed; `None` if it did not."""
    if status == 0 and path.exists():
        return None
    note = path.with_name("error")
    if os.WIFSIGNALED(status):
        words = f"the code generator ended by signal {os.WTERMSIG(status)}"
    else:
        words = note.read_text() if note.exists() else f"the builder ended with status {status}"
    return Outcome(Verdict.build_failed, reason=words[:_WORDS])


def _begin_child() -> None:
    """Die with the parent; leave the terminal's interrupts to it."""
    die_with_parent()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError, ChildProcessError):
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
