"""Work in a forked child, which may crash or hang without taking this process with it."""

from __future__ import annotations

import json
import os
import select
import signal
from collections.abc import Callable
from typing import Any

from tunesmith.ir.diagnostics import BackendError
from tunesmith.runtime.processes import die_with_parent

__all__ = ["answer_of_child", "ask_child"]


_HINT = "`--no-verify` compiles without trying the result"
_FAULT = "this is a fault of tunesmith: please report it with the model"


def ask_child(
    work: Callable[[], dict[str, Any]],
    seconds: float,
    hint: str = _HINT,
) -> dict[str, Any]:
    """What `work` returns in a child, which must be JSON; `{"error": …}` if it raises.

    The child is forked from a process that has run no kernel, so it may run them. `hint` is what to
    do if it does not end.

    Raises:
        BackendError: the child crashed, or did not end in time.
    """
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            die_with_parent()
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent answers for it
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.close(read)
            with os.fdopen(write, "w") as pipe:
                try:
                    pipe.write(json.dumps(work()))
                except BaseException as error:  # the parent has to hear of everything
                    pipe.write(json.dumps({"error": f"{type(error).__name__}: {error}"}))
        finally:
            os._exit(0)
    os.close(write)
    ended = False
    try:
        with os.fdopen(read) as pipe:
            ready, _, _ = select.select([pipe], [], [], seconds)
            text = pipe.read() if ready else ""
        if ready:
            _, status = os.waitpid(child, 0)
            ended = True
    finally:
        if not ended:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
    if not ready:
        raise BackendError(f"the compiled model did not end within {seconds:g} s", hint=hint)
    if status or not text:
        raise BackendError(
            f"the compiled model ended the process that tried it (status {status})",
            hint=_FAULT,
        )
    found: dict[str, Any] = json.loads(text)
    return found


def answer_of_child(
    work: Callable[[], dict[str, Any]], seconds: float, hint: str = _HINT
) -> dict[str, Any]:
    """The same, where `work` is not expected to raise: then that is a `BackendError` as well."""
    answer = ask_child(work, seconds, hint)
    if "error" in answer:
        raise BackendError(f"the compiled model could not be run: {answer['error']}", hint=_FAULT)
    return answer
