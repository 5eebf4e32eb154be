"""TVM's tracker and server of RPC, started so that they go on and end with whoever started them.

TVM's own commands listen on all interfaces, and a server of theirs accepts nobody any more once a
session has crashed. There is no login: who reaches a port can run any code on that machine.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import tvm

from tunesmith.ir.diagnostics import TuneError
from tunesmith.runtime.processes import die_with_parent

from .boards import ASK

__all__ = ["Answering", "run_server", "run_tracker"]

# Seconds in which a session that crashed lets go of the port, and between two attempts to have it.
_HELD, _AGAIN = 60.0, 0.2

# Made in the process of a session, with a folder of its own: from a header and data to an answer.
Answering = Callable[[Path], Callable[[str, bytes], str]]


def run_tracker(host: str, port: int, told: Callable[[str], None]) -> None:
    """Be a tracker, until this process ends.

    Raises:
        TuneError: the port is taken, or the package `tornado` is missing.
    """
    try:
        from tvm.rpc.tracker import PopenTrackerServerState
    except ImportError as error:
        raise TuneError(f"TVM's tracker needs another package: {error}",
                        hint="pip install 'tunesmith[rpc]'") from error  # fmt: skip
    state = _bound(PopenTrackerServerState, host, port, silent=True)
    told(f"tracker at {host}:{state.port}")
    _wait_for(state.thread)


def run_server(
    tracker: tuple[str, int],
    key: str,
    host: str,
    port: int,
    answering: Answering,
    told: Callable[[str], None],
) -> None:
    """Offer this machine to the clients of a tracker, until this process ends.

    Each session has a process, in which `answering` says what its one function is. A tracker that
    is not there is waited for.

    Raises:
        TuneError: the port is taken.
    """
    from tvm.rpc.server import PopenRPCServerState

    multiprocessing.set_start_method("fork", force=True)  # sessions have what is registered here
    session: list[Callable[[str, bytes], str]] = []

    def ask(header: str, data: Any) -> str:
        if not session:
            die_with_parent()
            session.append(answering(Path.cwd()))  # of which TVM made a new one
        return session[0](header, bytes(data))

    tvm.register_global_func(ASK, ask, override=True)
    home, why = Path.cwd(), list[str]()
    threading.excepthook = lambda facts: why.append(str(facts.exc_value))
    patience = 0.0
    while True:
        state = _bound(PopenRPCServerState, host, port, patience, tracker_addr=tracker, key=key,
                       silent=True)  # fmt: skip
        patience = _HELD
        told(f"serving `{key}` at {host}:{state.port}, by the tracker at {tracker[0]}:{tracker[1]}")
        _wait_for(state.thread)  # it ends with a session that crashed, or without a tracker
        told(f"the server ended and is started anew: {why.pop() if why else 'no reason given'}")
        state.sock.close()
        os.chdir(home)  # TVM left it in the folder of the session, which is gone


def _bound(
    make: Callable[..., Any], host: str, port: int, patience: float = 0.0, **more: Any
) -> Any:
    """What listens at this port, which may be held for `patience` seconds by what ends just now."""
    end = time.monotonic() + patience
    while True:
        try:
            return make(host, port, port + 1, **more)
        except (OSError, ValueError) as error:
            if time.monotonic() >= end:
                raise TuneError(f"cannot listen: {error}", where=f"{host}:{port}",
                                hint="take another `--port`") from error  # fmt: skip
        time.sleep(_AGAIN)


def _wait_for(thread: threading.Thread) -> None:
    """Until it ends; Ctrl-C ends this process, of which TVM's thread would keep it."""
    with suppress(KeyboardInterrupt):
        thread.join()
        return
    os._exit(130)
