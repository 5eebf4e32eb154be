"""What goes wrong before a session with a board begins: the cause is in the message."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tunesmith.ir.diagnostics import TuneError

pytestmark = pytest.mark.tvm


def listen(port: int = 0) -> socket.socket:
    """A socket at a port of this machine."""
    made = socket.socket()
    try:
        made.bind(("127.0.0.1", port))
    except OSError:
        made.close()
        raise
    made.listen()
    return made


@pytest.fixture
def held() -> Iterator[socket.socket]:
    """A port that somebody has."""
    with listen() as made:
        yield made


def make(host: str, port: int, port_end: int, **more: Any) -> socket.socket:
    """What TVM's servers do with their port."""
    return listen(port)


def test_a_port_that_is_held_for_a_while_is_waited_for(held: socket.socket) -> None:
    from tunesmith.autotune.rpc_server import _bound

    port = held.getsockname()[1]
    threading.Timer(0.6, held.close).start()
    start = time.monotonic()
    with _bound(make, "127.0.0.1", port, 20.0) as made:
        assert made.getsockname()[1] == port
    assert 0.3 < time.monotonic() - start < 10


@pytest.mark.parametrize("patience", [0.0, 0.5])
def test_a_port_that_stays_held_is_an_error_with_its_cause(
    held: socket.socket, patience: float
) -> None:
    from tunesmith.autotune.rpc_server import _bound

    start = time.monotonic()
    with pytest.raises(TuneError, match=r"cannot listen: .*in use"):
        _bound(make, "127.0.0.1", held.getsockname()[1], patience)
    assert patience <= time.monotonic() - start < patience + 2


def test_who_answers_and_is_no_tracker_is_told_from_nobody(held: socket.socket) -> None:
    from tunesmith.autotune.boards import Board

    def answer() -> None:
        while True:
            try:
                held.accept()[0].close()
            except OSError:
                return

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    with pytest.raises(TuneError, match=r"no tracker of TVM: \w*Error: .*reset"):
        Board(("127.0.0.1", held.getsockname()[1]), "lab")
    held.shutdown(socket.SHUT_RDWR)
    thread.join(5)
    with pytest.raises(TuneError, match="there is no tracker: ConnectionRefusedError"):
        Board(("127.0.0.1", 1), "lab")


def test_a_session_that_cannot_be_had_says_why(
    held: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process that asks for it is forked from this one, with what is patched here."""
    from tvm import rpc

    from tunesmith.autotune import boards

    class Tracker:
        """One that knows a board, and fails to give it."""

        def summary(self) -> dict[str, Any]:
            return {"server_info": [{"key": "server:lab"}]}

        def request(self, *arguments: object, **more: object) -> object:
            raise RuntimeError("Traceback of many lines\n  InternalError: the board speaks 0.26")

    monkeypatch.setattr(rpc, "connect_tracker", lambda *address: Tracker())
    monkeypatch.setattr(boards, "_APPEAR", 0.3)
    address = ("127.0.0.1", held.getsockname()[1])
    with pytest.raises(TuneError, match=r"no session with a board: .*the board speaks 0\.26"):
        boards.Board(address, "lab")
    monkeypatch.setattr(rpc, "connect_tracker", lambda *address: exit(3))
    with pytest.raises(TuneError, match="there is no session: the board was lost: it ended"):
        boards.Board(address, "lab")
