"""A limit on the time of one command."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from tunesmith.ir.diagnostics import TimeLimit
from tunesmith.ir.limits import VARIABLE

__all__ = ["deadline"]


@contextmanager
def deadline(seconds: float, what: str) -> Iterator[None]:
    """Raise `TimeLimit` in the block once it has run so long, and again until it ends.

    Python looks at the clock between two steps of its own: a single call into a library is not cut
    short. Only the main thread can be interrupted; elsewhere there is no limit.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    over = TimeLimit(
        f"{what} took longer than {seconds:g} s",
        hint=f"set `{VARIABLE}=compile_seconds=3600` if it may, or split the model",
    )
    fired = False

    def ring(number: int, frame: object) -> None:
        nonlocal fired
        fired = True
        raise over

    handler = signal.signal(signal.SIGALRM, ring)
    left, interval = signal.setitimer(signal.ITIMER_REAL, seconds, 1.0)
    try:
        yield
    except Exception as error:
        if fired and error is not over:  # what was interrupted says something else
            raise over from error
        raise
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        signal.setitimer(signal.ITIMER_REAL, left, interval)
