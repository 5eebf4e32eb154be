"""The process that measures: it holds one kernel's default, and races variants beside it.

It is forked from a process that has TVM in memory and has never run a kernel. It stays on as many
cores as it has threads, so that the system does not move it between candidate and default. It takes
an order a line and gives an answer a line; one that hangs or dies is replaced. All end with their
parent.
"""

from __future__ import annotations

import faulthandler
import json
import os
import select
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from tunesmith.backends.tvm.launch import Launch
from tunesmith.backends.tvm.standalone import Variant, Workbench
from tunesmith.runtime.cpu import quiet_cpus
from tunesmith.runtime.processes import die_with_parent

from .measure import Outcome
from .records import Verdict

__all__ = ["WORDS", "Order", "Runners", "begin_child"]

WORDS = 300  # of a failure are kept
_SLOWER = 0.995  # above this ratio a candidate does not count as quicker


@dataclass(frozen=True)
class Order:
    """A library to measure, how it is called, and whatever finds its weights."""

    path: Path
    launch: Launch
    weights: Mapping[str, Any]  # JSON for `Supply`
    others: tuple[Launch, ...] = ()  # at other sizes, where results are compared as well


# Gives each weight of an order by its name; called in the runner.
Supply = Callable[[Mapping[str, Any]], Mapping[str, Callable[[], NDArray[np.generic]]]]


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


class Runners:
    """One runner at a time, made anew for another kernel or after a failure."""

    def __init__(self, threads: int, deadline: float) -> None:
        self.threads, self.deadline = threads, deadline
        self.runner: tuple[str, _Runner] | None = None

    def measure(
        self,
        name: str,
        base: Order,
        variant: Order,
        seconds: float,
        supply: Supply,
        slow: float = 0.0,
    ) -> Outcome:
        """Compare `variant` with `base`, the default of kernel `name`, and race the two.

        `slow` seconds are added to the deadline: each is called some twenty times at least.
        """
        deadline = self.deadline + seconds + slow
        runner = self._runner_for(name, base, supply)
        order = _as_json(variant) | {"seconds": seconds}
        try:
            answer = runner.ask(order, deadline)
        except BaseException:  # interrupted: its answer would be taken for that of the next order
            self.close()
            raise
        if isinstance(answer, Verdict):
            self.runner = None
            status = runner.end()
            ended = f"ended by signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else "ended"
            hung = f"did not end within {deadline:.3g} s"
            return Outcome(answer, reason=hung if answer is Verdict.timeout else ended)
        times = tuple(answer["seconds"]), tuple(answer["baseline"])
        if answer["verdict"] == Verdict.wrong:  # what it wrote may be what the next one reads
            self.close()
        outcome = Outcome(Verdict(answer["verdict"]), *times, reason=answer["reason"][:WORDS],
                          checked=bool(answer["checked"]))  # fmt: skip
        quick = outcome.ratio is not None and outcome.ratio < _SLOWER
        if outcome.verdict is Verdict.ok and not quick:
            return Outcome(Verdict.slower, *times, checked=outcome.checked)
        return outcome

    def close(self) -> None:
        """End the runner."""
        if self.runner is not None:
            self.runner[1].end()
            self.runner = None

    def _runner_for(self, name: str, base: Order, supply: Supply) -> _Runner:
        if self.runner is not None and self.runner[0] == name:
            return self.runner[1]
        self.close()
        order_read, order_write = os.pipe()
        answer_read, answer_write = os.pipe()
        child = os.fork()
        if child == 0:
            try:
                begin_child()
                os.close(order_write)
                os.close(answer_read)
                os.environ["TVM_NUM_THREADS"] = str(self.threads)
                if cpus := quiet_cpus(self.threads):
                    os.sched_setaffinity(0, cpus)  # before TVM starts a thread
                with os.fdopen(order_read) as orders, os.fdopen(answer_write, "w") as answers:
                    _serve(_as_json(base), supply, orders, answers)
            finally:
                os._exit(1)
        os.close(order_read)
        os.close(answer_write)
        runner = _Runner(child, os.fdopen(order_write, "w"), os.fdopen(answer_read))
        self.runner = (name, runner)
        return runner


def begin_child() -> None:
    """Die with the parent; leave the terminal's interrupts, and words about crashes, to it."""
    die_with_parent()
    faulthandler.disable()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _as_json(order: Order) -> dict[str, Any]:
    weights = {**order.weights}
    launches = [launch.text() for launch in (order.launch, *order.others)]
    return {"path": str(order.path), "launches": launches, "weights": weights}


def _serve(base: Mapping[str, Any], supply: Supply, orders: IO[str], answers: IO[str]) -> None:
    """The runner's life."""
    benches = [Workbench(Launch.parse(text)) for text in base["launches"]]
    references: list[Variant] = []
    for line in orders:
        answer: dict[str, Any] = {"verdict": "ok", "reason": "", "seconds": [], "baseline": [],
                                  "checked": False}  # fmt: skip
        try:
            references = references or _load(benches, base, supply)
            answer |= _answer(benches, references, json.loads(line), supply)
        except Exception as error:  # whatever a candidate raises, the next one has its turn
            answer |= {"verdict": "crashed", "reason": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def _answer(
    benches: Sequence[Workbench],
    references: Sequence[Variant],
    order: Mapping[str, Any],
    supply: Supply,
) -> dict[str, Any]:
    """Compare the results at all sizes, then race at the first."""
    variants = _load(benches, order, supply)
    for bench, variant, reference in zip(benches, variants, references, strict=True):
        if reason := bench.differs(variant, reference):
            return {"verdict": "wrong", "checked": True, "reason": f"{reason}, {bench.title}"}
    seconds, baseline = benches[0].race(variants[0], references[0], seconds=order["seconds"])
    return {"seconds": seconds, "baseline": baseline, "checked": True}


def _load(benches: Sequence[Workbench], order: Mapping[str, Any], supply: Supply) -> list[Variant]:
    found = supply(order["weights"])
    return [
        bench.load(Path(order["path"]), Launch.parse(text), lambda name: found[name]())
        for bench, text in zip(benches, order["launches"], strict=True)
    ]
