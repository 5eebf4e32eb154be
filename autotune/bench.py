"""A process that measures for somebody elsewhere: `python -m tunesmith.autotune.bench`.

It reads requests from its standard input and writes answers to its standard output, both a line of
JSON with `size` bytes of content behind it. Whoever may write to it can run any code: it is given
libraries to load. So it has no port; it is started by one who may run code there anyway.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from tunesmith.backends.tvm.kernels.kernel import Kernel
from tunesmith.backends.tvm.launch import Launch, launch_of
from tunesmith.backends.tvm.standalone import other_sizes
from tunesmith.ir.diagnostics import BuildError, TuneError
from tunesmith.runtime.processes import die_with_parent

from .measure import Outcome
from .records import Verdict
from .runner import Order, Runners

__all__ = ["Bench", "content_name", "order_of", "outcome_of"]

_PREFIX = "tunesmith-bench-"
_YOUNG = 60.0  # seconds in which a folder may not have its lock yet


def content_name(data: bytes) -> str:
    """What a library or a weight is called where it is kept."""
    return hashlib.sha256(data).hexdigest()


def order_of(
    kernel: Kernel,
    sizes: Mapping[str, int],
    spread: int,
    library: str,
    contents: Mapping[str, str],
) -> dict[str, Any]:
    """A kernel as `Bench.measure` wants it, also at sizes where its code takes other branches.

    `library` is the name of the content of its library, `contents` those of its weights, by the
    weights' names.

    Raises:
        BuildError: it cannot be called; see `launch_of`.
    """
    try:
        launch = launch_of(kernel, sizes, spread)
        others = [launch_of(kernel, each, 0).text() for each in other_sizes(kernel, sizes)]
    except KeyError as error:
        raise BuildError(f"only data decides the size {error}") from error
    weights = {name: contents[name] for name in launch.weights}
    return {"library": library, "launch": launch.text(), "others": others, "weights": weights}


class Bench:
    """The near end: starts the process, and says what is to be measured."""

    def __init__(self, threads: int, deadline: float) -> None:
        command = [sys.executable, "-m", "tunesmith.autotune.bench", str(threads), str(deadline)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.kept: set[str] = set()

    def keep(self, data: bytes) -> str:
        """Bring content there, once; the result is its name."""
        name = content_name(data)
        if name not in self.kept:
            self._ask({"do": "keep", "name": name}, data)
            self.kept.add(name)
        return name

    def measure(
        self, kernel: str, base: Mapping[str, Any], variant: Mapping[str, Any], seconds: float
    ) -> dict[str, Any]:
        """The fields of an `Outcome`.

        `base` and `variant` are of `order_of`; all content that they name was kept before.
        """
        order = {"kernel": kernel, "base": {**base}, "variant": {**variant}, "seconds": seconds}
        return self._ask({"do": "measure", **order})

    def close(self) -> None:
        """End the process, and with it its runner."""
        self.process.terminate()
        self.process.communicate()

    def _ask(self, request: Mapping[str, Any], data: bytes = b"") -> dict[str, Any]:
        assert self.process.stdin is not None and self.process.stdout is not None
        try:
            self.process.stdin.write(_frame(request, data))
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = b""
        if not line:
            raise TuneError(f"the process that measures ended: status {self.process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise TuneError(f"the process that measures: {answer['error']}")
        return answer


def _frame(header: Mapping[str, Any], data: bytes) -> bytes:
    return json.dumps({**header, "size": len(data)}).encode() + b"\n" + data


class _Server:
    """The far end."""

    def __init__(self, folder: Path, threads: int, deadline: float) -> None:
        self.folder, self.runners = folder, Runners(threads, deadline)

    def serve(self, requests: IO[bytes], answers: IO[bytes]) -> None:
        """Answer until the requests end."""
        for line in requests:
            request = json.loads(line)
            data = requests.read(int(request["size"]))
            try:
                answer = getattr(self, f"_{request['do']}")(request, data)
            except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
                answer = {"error": f"{type(error).__name__}: {error}"}
            answers.write(json.dumps(answer).encode() + b"\n")
            answers.flush()
        self.runners.close()

    def _keep(self, request: Mapping[str, Any], data: bytes) -> dict[str, Any]:
        if content_name(data) != request["name"]:
            raise ValueError("the content is not what its name says")
        self._place(request["name"]).write_bytes(data)
        return {}

    def _measure(self, request: Mapping[str, Any], _: bytes) -> dict[str, Any]:
        base, variant = (self._order(request[side]) for side in ("base", "variant"))
        outcome = self.runners.measure(
            request["kernel"], base, variant, float(request["seconds"]), self._supply
        )
        return asdict(outcome)

    def _order(self, facts: Mapping[str, Any]) -> Order:
        launch, *others = (Launch.parse(text) for text in (facts["launch"], *facts["others"]))
        shapes = {each.weight: [each.dtype, list(each.shape)] for each in launch.reads}
        weights = {name: [facts["weights"][name], *shapes[name]] for name in launch.weights}
        library = self._place(facts["library"])
        loadable = library.with_suffix(".so")  # of which TVM knows what to do
        if not loadable.exists():
            os.link(library, loadable)
        return Order(loadable, launch, weights, tuple(others))

    def _supply(self, weights: Mapping[str, Any]) -> Mapping[str, Callable[[], NDArray[Any]]]:
        def read(content: str, dtype: str, shape: list[int]) -> NDArray[Any]:
            return np.fromfile(self._place(content), dtype).reshape(shape)

        return {name: partial(read, *row) for name, row in weights.items()}

    def _place(self, name: str) -> Path:
        if len(name) != 64 or not name.isalnum():
            raise ValueError(f"`{name}` is no digest")
        return self.folder / name


def outcome_of(facts: Mapping[str, Any]) -> Outcome:
    """The outcome whose fields `Bench.measure` gave."""
    return Outcome(
        Verdict(facts["verdict"]), tuple(map(float, facts["seconds"])),
        tuple(map(float, facts["baseline"])), str(facts["reason"]), bool(facts["checked"]),
    )  # fmt: skip


def _sweep(where: Path) -> None:
    """Remove the folders of those that were killed: nobody holds their locks."""
    for folder in where.glob(f"{_PREFIX}*"):
        with suppress(OSError):  # it is in use, or somebody else's, or gone
            if time.time() - folder.stat().st_mtime < _YOUNG:
                continue
            handle = os.open(folder, os.O_RDONLY)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder)
            finally:
                os.close(handle)


def main() -> None:
    """Serve on the standard streams."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # the folder is removed on the way out
    die_with_parent(signal.SIGTERM)
    _sweep(Path(tempfile.gettempdir()))
    with tempfile.TemporaryDirectory(prefix=_PREFIX) as folder:
        fcntl.flock(os.open(folder, os.O_RDONLY), fcntl.LOCK_EX)  # for as long as this lives
        server = _Server(Path(folder), int(sys.argv[1]), float(sys.argv[2]))
        server.serve(sys.stdin.buffer, sys.stdout.buffer)


if __name__ == "__main__":
    main()
