"""The child of the board: one engine with one model, told what to do line by line.

`python -m benchmarks.board.worker ENGINE JOB` reads a request in JSON from its standard input and
answers each with a line. While it waits it is blocked in a read: nothing in it runs.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from benchmarks.peers import PEERS
from benchmarks.peers_contract import Job, Loaded, Peer, Unsupported

__all__ = ["main"]

Answer = dict[str, object]
Request = Mapping[str, object]

WARM_UP_SECONDS = 0.25
WARM_UP_RUNS = 3


@dataclass
class Worker:
    """An engine, and the model once it is loaded."""

    peer: Peer
    job: Job
    loaded: Loaded | None = None
    first: Any = None  # what the first run returned, until its outputs are written

    def build(self, request: Request) -> Answer:
        """Do what the engine does before it can load."""
        if self.peer.build is None:
            return {}
        start = time.perf_counter()
        self.peer.build(self.job)
        return {"build_s": time.perf_counter() - start}

    def load(self, request: Request) -> Answer:
        """Make the engine ready, and run once."""
        start = time.perf_counter()
        self.peer.start()
        self.job.feeds()  # reading the inputs is no part of a load
        imported, before = time.perf_counter(), _memory("VmRSS")
        self.loaded = self.peer.load(self.job)
        ready = time.perf_counter()
        self.first = self.loaded.run()
        first = time.perf_counter()
        compiled = self.loaded.compile_s
        return {
            "import_ms": 1e3 * (imported - start),
            "load_ms": None if compiled is not None else 1e3 * (ready - imported),
            "build_s": compiled,
            "first_ms": 1e3 * (first - ready),
            "before_mb": before,
            "file_bytes": self.loaded.file_bytes,
            "engaged": dict(self.loaded.engaged),
        }

    def outputs(self, request: Request) -> Answer:
        """Write the outputs of the first run."""
        save = cast("Callable[..., None]", np.savez)
        save(str(request["path"]), **self._ready.outputs(self.first))
        self.first = None
        return {}

    def warm(self, request: Request) -> Answer:
        """Run until the time of a run is known; one slow run is enough."""
        slow, took = cast("float", request["slow_s"]), [self._time()]
        while took[0] < slow and (sum(took) < WARM_UP_SECONDS or len(took) < WARM_UP_RUNS):
            took.append(self._time())
        each = float(np.median(took[1:])) if len(took) > 1 else took[0]
        return {"each_s": each, "samples_ms": [1e3 * seconds for seconds in took]}

    def run(self, request: Request) -> Answer:
        """A block of timed runs, after one that is not where a run is short."""
        count = cast("int", request["count"])
        run, clock = self._ready.run, time.perf_counter_ns
        if request["warm"]:
            run()
        gc.collect()
        gc.disable()
        ticks = []
        for _ in range(count):
            start = clock()
            run()
            ticks.append(clock() - start)
        gc.enable()
        return {"samples_ms": [tick / 1e6 for tick in ticks]}

    def memory(self, request: Request) -> Answer:
        """The most memory that the process has had."""
        return {"peak_mb": _memory("VmHWM")}

    @property
    def _ready(self) -> Loaded:
        assert self.loaded is not None, "`load` comes first"
        return self.loaded

    def _time(self) -> float:
        start = time.perf_counter()
        self._ready.run()
        return time.perf_counter() - start


def _memory(field: str) -> float:
    """A line of the process's status, in megabytes."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024 / 1e6
    return 0.0


def main(arguments: list[str]) -> int:
    """Answer until the board says stop, or is gone."""
    engine, path = arguments
    # What engines print goes to the log; only answers go to the board.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    job = Job.from_json(json.loads(Path(path).read_text(encoding="utf-8")))
    worker = Worker(PEERS[engine], job)
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "stop":
            break
        step: Callable[[Request], Answer] = getattr(worker, request["do"])
        try:
            answer: Answer = {"ok": True, **step(request)}
        except Unsupported as error:
            answer = {"ok": False, "kind": "unsupported", "why": str(error)}
        except Exception as error:  # of any kind: the table tells what it was
            traceback.print_exc()
            why = " ".join(f"{type(error).__name__}: {error}".split())[:400]
            answer = {"ok": False, "kind": "failed", "why": why}
        print(json.dumps(answer), file=answers, flush=True)
    # Some engines' destructors crash or wait for threads; what they had to tell is told.
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
