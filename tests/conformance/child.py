"""Cases in forked children: whatever one does, the next one runs.

A child has every library in memory and one case to run. It answers with one line of JSON; without
a line it has crashed, and after the deadline it is killed.
"""

from __future__ import annotations

import faulthandler
import os
import resource
import selectors
import signal
import time
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from tests.conformance.engines import Engine, Refused, deciding, one_line
from tests.conformance.judge import judge
from tests.conformance.records import Row
from tests.conformance.suite import Case, as_value
from tunesmith.runtime.processes import die_with_parent

__all__ = ["DEADLINE", "run_case", "run_cases"]

DEADLINE = 60.0  # seconds for one case


@dataclass
class _Child:
    """A case that runs."""

    name: str
    process: int
    pipe: int
    until: float
    text: bytes = b""


def run_cases(
    cases: Iterable[Case],
    engine: Engine,
    *,
    jobs: int = 1,
    deadline: float = DEADLINE,
    body: Callable[[Case, Engine], Row] | None = None,
) -> Iterator[Row]:
    """Run each case in a child of its own, `jobs` at a time; rows come as they are done."""
    waiting = iter(cases)
    selector = selectors.DefaultSelector()
    running: dict[int, _Child] = {}
    body = body or run_case
    try:
        while True:
            while len(running) < jobs and (case := next(waiting, None)) is not None:
                child = _fork(case, engine, deadline, body)
                running[child.pipe] = child
                selector.register(child.pipe, selectors.EVENT_READ)
            if not running:
                return
            left = min(child.until for child in running.values()) - time.monotonic()
            for key, _ in selector.select(max(left, 0)):
                child = running[key.fd]
                data = os.read(child.pipe, 1 << 16)
                if data:
                    child.text += data
                    continue
                _forget(child, selector, running)
                yield _row(child, os.waitpid(child.process, 0)[1])
            for child in [c for c in running.values() if c.until <= time.monotonic()]:
                _forget(child, selector, running)
                _kill(child.process)
                yield Row(child.name, "hang", f"it did not end within {deadline:g} s")
    finally:
        for child in list(running.values()):
            _forget(child, selector, running)
            _kill(child.process)
        selector.close()


def _forget(child: _Child, selector: selectors.BaseSelector, running: dict[int, _Child]) -> None:
    selector.unregister(child.pipe)
    os.close(child.pipe)
    del running[child.pipe]


def _kill(process: int) -> None:
    """End a child and all that it started: it leads a process group."""
    os.killpg(process, signal.SIGKILL)
    os.waitpid(process, 0)


def _row(child: _Child, status: int) -> Row:
    if status or not child.text:
        if os.WIFSIGNALED(status):
            how = signal.Signals(os.WTERMSIG(status)).name
        else:
            how = f"status {os.waitstatus_to_exitcode(status)}"
        return Row(child.name, "crash", f"the process ended: {how}")
    return Row.from_json(child.text.decode())


def _fork(
    case: Case, engine: Engine, deadline: float, body: Callable[[Case, Engine], Row]
) -> _Child:
    read, write = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python 3.12 warns of a fork beside threads
        process = os.fork()
    if process == 0:
        status = 1
        try:
            os.setpgid(0, 0)
            die_with_parent()
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            faulthandler.disable()  # a crash is a result, and its traceback is nobody's
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            nowhere = os.open(os.devnull, os.O_RDWR)
            for stream in (0, 1, 2):
                os.dup2(nowhere, stream)
            warnings.simplefilter("ignore")
            with os.fdopen(write, "w") as pipe:
                pipe.write(body(case, engine).as_json())
            status = 0
        finally:
            os._exit(status)
    os.close(write)
    try:  # in both, whoever is first: else a kill could come before the group is there
        os.setpgid(process, process)
    except (PermissionError, ProcessLookupError):  # it has ended already
        pass
    return _Child(case.name, process, read, time.monotonic() + deadline)


def run_case(case: Case, engine: Engine) -> Row:
    """Run a case in this process."""
    stages: dict[str, float] = {}
    try:
        run = engine.prepare(case.model, stages)
    except Refused as error:
        return Row(case.name, "unsupported", str(error), stages=stages)
    except Exception as error:  # whatever an engine raises is its result
        return Row(case.name, "error", f"{type(error).__name__}: {one_line(error)}", stages=stages)
    worst = 0
    for given, wanted in case.data_sets():
        start = time.perf_counter()
        try:
            outputs = [as_value(item) for item in run(given)]
        except Refused as error:  # of an engine that compiles when it first runs
            return Row(case.name, "unsupported", str(error), stages=stages)
        except Exception as error:  # as above
            reason = f"{type(error).__name__}: {one_line(error)}"
            return Row(case.name, "error", reason, stages=stages)
        stages["run"] = stages.get("run", 0.0) + time.perf_counter() - start
        reason, ulp = judge(outputs, wanted, case.rtol, case.atol)
        worst = max(worst, ulp)
        if reason:
            return Row(case.name, "wrong", reason, worst, stages, deciding(run))
    return Row(case.name, "pass", "", worst, stages, deciding(run))
