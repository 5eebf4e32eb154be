"""Work in a process forked from this one, which takes its crashes and its threads with it."""

from __future__ import annotations

import json
import os
import select
import signal
from collections.abc import Callable

from tunesmith.ir.diagnostics import BackendError
from tunesmith.runtime.manifest import Json
from tunesmith.runtime.processes import die_with_parent

__all__ = ["run_in_child"]

_FAULT = "this is a fault of tunesmith: please report it with the model"


def run_in_child(
    work: Callable[[], dict[str, Json]], *, deadline: float, hint: str
) -> dict[str, Json]:
    """What `work` returns, when it ran in a child of its own; `deadline` is in seconds.

    The child is forked from a process that has run no kernel, so an artifact needs no file, and a
    kernel that crashed takes nobody with it. `hint` is what to do if it hangs.

    Raises:
        BackendError: it raised, crashed, or did not end in time.
    """
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        die_with_parent()
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.close(read)
        with os.fdopen(write, "w") as pipe:
            try:
                pipe.write(json.dumps(work()))
            except BaseException as error:  # the parent has to hear of everything
                pipe.write(json.dumps({"error": f"{type(error).__name__}: {error}"}))
        os._exit(0)
    os.close(write)
    ended = False
    try:
        with os.fdopen(read) as pipe:
            ready, _, _ = select.select([pipe], [], [], deadline)
            text = pipe.read() if ready else ""
        if ready:
            _, status = os.waitpid(child, 0)
            ended = True
    finally:
        if not ended:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    if not ready:
        raise BackendError(f"the compiled model did not end within {deadline:g} s", hint=hint)
    if status or not text:
        raise BackendError(f"the compiled model ended the process that tried it (status {status})",
                           hint=_FAULT)  # fmt: skip
    result: dict[str, Json] = json.loads(text)
    if "error" in result:
        raise BackendError(f"the compiled model could not be run: {result['error']}", hint=_FAULT)
    return result
