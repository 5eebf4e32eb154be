"""The board's side of a worker: a process on its own cores that answers within a time or dies."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from benchmarks.spine_facts import ROOT

__all__ = ["Child", "ChildError", "busy_seconds", "environment"]

WORKER = "benchmarks.board.worker"
_TICK = os.sysconf("SC_CLK_TCK")


class ChildError(Exception):
    """A worker that could not do what it was told: `unsupported`, `failed` or `slow`."""

    def __init__(self, kind: str, why: str) -> None:
        super().__init__(why)
        self.kind = kind


def environment(threads: int, extra: Mapping[str, str]) -> dict[str, str]:
    """The environment of a worker: every library that asks it gets the same number of threads."""
    counts = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "TVM_NUM_THREADS")
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    fixed = {"PYTHONPATH": paths, "TVM_BIND_THREADS": "0", "TUNESMITH_CRASH_DIR": os.devnull}
    return {**os.environ, **fixed, **dict.fromkeys(counts, str(threads)), **extra}


class Child:
    """One worker, killed with all its processes at the end of a `with` block."""

    def __init__(
        self, engine: str, job: Path, log: Path, cores: tuple[int, ...], settings: Mapping[str, str]
    ) -> None:
        self.engine, self.log = engine, log
        self._pending = b""
        with log.open("ab") as stream:
            self._process = subprocess.Popen(
                [sys.executable, "-m", WORKER, engine, str(job)],
                cwd=ROOT, env=dict(settings), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                stderr=stream, start_new_session=True,
            )  # fmt: skip
        if cores:  # the interpreter has not started yet: every thread inherits the mask
            os.sched_setaffinity(self._process.pid, cores)

    def __enter__(self) -> Child:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        self.stop()

    def ask(self, do: str, limit: float, **fields: object) -> dict[str, Any]:
        """Send a request and wait for the answer.

        Raises:
            ChildError: the worker said no, died, or took longer than `limit` seconds.
        """
        assert self._process.stdin is not None
        line = json.dumps({"do": do, **fields}) + "\n"
        try:
            self._process.stdin.write(line.encode())
            self._process.stdin.flush()
        except BrokenPipeError:
            raise ChildError("failed", self._end()) from None
        answer: dict[str, Any] = json.loads(self._line(do, limit))
        if not answer["ok"]:
            raise ChildError(answer["kind"], answer["why"])
        return answer

    def _line(self, do: str, limit: float) -> bytes:
        assert self._process.stdout is not None
        stream, deadline = self._process.stdout.fileno(), time.monotonic() + limit
        while b"\n" not in self._pending:
            ready, _, _ = select.select([stream], [], [], max(0.0, deadline - time.monotonic()))
            if not ready:
                raise ChildError("slow", f"`{do}` took longer than {limit:.0f} s")
            part = os.read(stream, 1 << 16)
            if not part:
                raise ChildError("failed", self._end())
            self._pending += part
        line, _, self._pending = self._pending.partition(b"\n")
        return line

    def _end(self) -> str:
        """How the process ended, and the last thing it said."""
        code = self._process.wait(10)
        how = f"killed by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
        said = self.log.read_text(errors="replace").strip().splitlines()[-1:]
        return f"the process {how}" + (f": {said[0][:300]}" if said else "")

    def cpu_seconds(self) -> float:
        """The processor time of the process so far, all threads together."""
        try:
            text = Path(f"/proc/{self._process.pid}/stat").read_text(encoding="ascii")
        except OSError:
            return 0.0
        fields = text.rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICK

    def stop(self) -> None:
        """End the process and whatever it started."""
        if self._process.poll() is None:
            with contextlib.suppress(OSError):
                assert self._process.stdin is not None
                self._process.stdin.write(b'{"do": "stop"}\n')
                self._process.stdin.close()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(2)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(OSError):
                    stream.close()


def busy_seconds() -> float:
    """The processor time of the whole machine so far, and what the hypervisor took from it."""
    first = Path("/proc/stat").read_text(encoding="ascii").splitlines()[0].split()[1:]
    user, nice, system, _, _, irq, soft, steal = map(int, first[:8])
    return (user + nice + system + irq + soft + steal) / _TICK
