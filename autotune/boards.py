"""Boards behind TVM's RPC tracker: sessions, each of them held by a process of ours.

A call over TVM's RPC has no deadline: whoever waits for a board that hangs, or is unplugged, waits
for ever. So a forked process holds the session and is asked through pipes; after a deadline it is
killed, which ends the session at both ends.
"""

from __future__ import annotations

import json
import os
import select
import signal
import socket
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import IO, Any

from tunesmith.ir.diagnostics import TuneError

from .bench import content_name
from .runner import begin_child

__all__ = ["ASK", "Board", "BoardLost", "Boards"]

ASK = "tunesmith.ask"  # the function that our servers have, and TVM's own do not
_PART = 4 << 20  # bytes of content in one request
_PART_SECONDS = 60.0  # in which a part gets there
_CONNECT = 5.0  # seconds until somebody answers at the tracker's address
_APPEAR = 5.0  # seconds until a server is there again that was started anew
_LEASE = 600.0  # seconds after which a server ends a session, whatever its client does
_TURN = 60.0  # seconds after which a board is offered to others that wait for it
_PATIENCE = 120.0  # seconds to wait for a board that others use


class BoardLost(TuneError):
    """A board that no longer answers: `late` if it may still be there, but its time was up."""

    late = False


class Board:
    """A session on one board; nobody else has it until `close`.

    Raises:
        TuneError: no board with this key, or none that becomes free within `patience` seconds.
    """

    def __init__(
        self, address: tuple[str, int], key: str, *, patience: float = _PATIENCE,
        lease: float = _LEASE,
    ) -> None:  # fmt: skip
        self.name = f"`{key}` at {address[0]}:{address[1]}"
        self.kept: set[str] = set()
        self.began, self.closed = time.monotonic(), False
        request_read, request_write = os.pipe()
        answer_read, answer_write = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                begin_child()
                os.close(request_write)
                os.close(answer_read)
                with os.fdopen(request_read, "rb") as asked, os.fdopen(answer_write, "wb") as to:
                    _relay(address, key, lease, asked, to)
            finally:
                os._exit(0)
        os.close(request_read)
        os.close(answer_write)
        self.requests, self.answers = os.fdopen(request_write, "wb"), os.fdopen(answer_read, "rb")
        try:
            self._answer(patience)
        except BoardLost as error:
            if not error.late:
                raise TuneError(f"there is no session: {error.message}", where=self.name) from error
            raise TuneError(
                f"no board was free within {patience:g} s", where=self.name,
                hint="wait for those who use it, or start another server with this key",
            ) from error  # fmt: skip
        except TuneError:
            self.close()
            raise

    def ask(
        self, request: Mapping[str, Any], data: bytes = b"", *, seconds: float
    ) -> dict[str, Any]:
        """What the board answers.

        Raises:
            BoardLost: nothing, within `seconds`, or it is gone; the session is at its end.
            TuneError: that it cannot do this.
        """
        if self.closed:
            raise BoardLost("the session has ended", where=self.name)
        try:
            self.requests.write(json.dumps({**request, "size": len(data)}).encode() + b"\n" + data)
            self.requests.flush()
        except BrokenPipeError:
            self.close()
            raise BoardLost("the session has ended", where=self.name) from None
        except BaseException:  # interrupted: the rest would be taken for the next request
            self.close()
            raise
        return self._answer(seconds)

    def keep(self, data: bytes) -> str:
        """Bring content there, once and in parts; the result is its name."""
        name = content_name(data)
        if name not in self.kept:
            for start in range(0, max(1, len(data)), _PART):
                part = data[start : start + _PART]
                last = start + _PART >= len(data)
                request = {"do": "keep", "name": name, "start": start, "last": last}
                self.ask(request, part, seconds=_PART_SECONDS)
            self.kept.add(name)
        return name

    def close(self) -> None:
        """End the session, however it is."""
        if self.closed:
            return
        self.closed = True
        with suppress(ProcessLookupError, ChildProcessError):
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
        for pipe in (self.requests, self.answers):
            with suppress(OSError):
                pipe.close()

    def _answer(self, seconds: float) -> dict[str, Any]:
        try:
            ready, _, _ = select.select([self.answers], [], [], seconds)
            line = self.answers.readline() if ready else b""
        except BaseException:  # interrupted: its answer would be taken for that of the next request
            self.close()
            raise
        found: dict[str, Any] = json.loads(line) if line.endswith(b"\n") else {}
        if not line or "lost" in found:
            self.close()
            why = found.get("lost", "it ended" if ready else f"no answer within {seconds:.3g} s")
            lost = BoardLost(f"the board was lost: {why}", where=self.name)
            lost.late = not ready
            raise lost
        if "error" in found:
            raise TuneError(found["error"], where=self.name, hint=found.get("hint"))
        return found


class Boards:
    """The boards with one key, of which one at a time is used, and given back after a while."""

    def __init__(self, address: tuple[str, int], key: str, *, patience: float = _PATIENCE) -> None:
        self.address, self.key, self.patience = address, key, patience
        self.board: Board | None = None

    def session(self) -> Board:
        """The board at hand, or another one.

        Raises:
            TuneError: see `Board`.
        """
        if self.board is None or self.board.closed:  # by an interrupt, or because it was lost
            self.board = Board(self.address, self.key, patience=self.patience)
        return self.board

    def rest(self) -> None:
        """Let others have their turn, if it is time: the next session may be on another board."""
        if self.board is not None and time.monotonic() - self.board.began > _TURN:
            self.close()

    def close(self) -> None:
        """Give the board back."""
        if self.board is not None:
            self.board.close()
            self.board = None


def _keys(tracker: Any) -> set[str]:
    """The keys of all boards, also of those that are in use."""
    return {row["key"].partition(":")[2] for row in tracker.summary()["server_info"]}


def _requested(tracker: Any, key: str, lease: float) -> Any:
    """A session; the tracker may first name servers that have just ended."""
    end = time.monotonic() + _APPEAR
    while True:
        try:
            return tracker.request(key, session_timeout=lease, max_retry=1)
        except RuntimeError:
            if time.monotonic() > end:
                raise
            time.sleep(0.2)


def _words(error: BaseException) -> str:
    """The cause in a line: TVM's errors end with it, after the calls that led there."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[-1].strip()}" if lines else type(error).__name__


def _relay(
    address: tuple[str, int], key: str, lease: float, requests: IO[bytes], answers: IO[bytes]
) -> None:
    """The life of the process that holds a session."""

    def say(**facts: Any) -> None:
        answers.write(json.dumps(facts).encode() + b"\n")
        answers.flush()

    start = "start one: `tunesmith board tracker`"
    try:
        with socket.create_connection(address, _CONNECT):
            pass
    except OSError as error:
        say(error=f"there is no tracker: {_words(error)}", hint=start)
        return
    try:
        from tvm import rpc

        tracker = rpc.connect_tracker(*address)
        end = time.monotonic() + _APPEAR
        while key not in (there := _keys(tracker)) and time.monotonic() < end:
            time.sleep(0.2)
    except Exception as error:  # TVM's own kinds, by version; or its package is not whole
        say(error=f"who answers there is no tracker of TVM: {_words(error)}", hint=start)
        return
    if key not in there:
        words = ", ".join(f"`{name}`" for name in sorted(there)) or "none at all"
        say(error=f"no board has this key; there is {words}", hint="see docs/tuning.md")
        return
    try:
        session = _requested(tracker, key, lease)
        tracker.close()
    except Exception as error:  # see above
        say(error=f"the tracker gave no session with a board: {_words(error)}",
            hint="look at what `tunesmith board serve` prints there")  # fmt: skip
        return
    try:
        ask = session.get_function(ASK)
    except Exception as error:  # see above
        say(error=f"the server of this board is not ours: {_words(error)}",
            hint="on the board: `tunesmith board serve`")  # fmt: skip
        return
    say()
    for line in requests:
        try:
            data = requests.read(json.loads(line)["size"])
            answer = str(ask(line.decode(), data))
        except Exception as error:  # of TVM, or of the socket
            say(lost=_words(error))
            return
        answers.write(answer.encode() + b"\n")
        answers.flush()
