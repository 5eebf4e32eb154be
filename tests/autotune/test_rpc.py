"""A tracker and two servers of TVM's RPC on this machine, and what boards do that misbehave."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.autotune.elsewhere import Cases, build_body, end_orphans, processes
from tests.autotune.test_local import SIZES, points, task_of
from tests.backends.running import target
from tests.test_layout import ROOT
from tunesmith.autotune.boards import Board, BoardLost, Boards
from tunesmith.autotune.device import device_of
from tunesmith.autotune.records import Verdict
from tunesmith.autotune.rpc_workers import RpcWorkers, target_there
from tunesmith.backends.tvm.kernels.kernel import Kernel
from tunesmith.backends.tvm.standalone import build_variant
from tunesmith.ir.diagnostics import TuneError
from tunesmith.ir.target import Target

pytestmark = [
    pytest.mark.tvm,
    pytest.mark.rpc,
    pytest.mark.slow,
    pytest.mark.skipif(find_spec("tornado") is None, reason="the extra `rpc` is not installed"),
]

OURS = "TUNESMITH_TEST_BOARDS"
PORT, SERVERS, STOCK = 26_411, (26_412, 26_413), 26_414
ADDRESS = ("127.0.0.1", PORT)


def listening(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


class Lab:
    """The processes of a tracker and its boards, which can be ended one by one."""

    def __init__(self, logs: Path) -> None:
        self.mark, self.logs = f"{os.getpid()}", logs
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, *arguments: str) -> None:
        """Start `tunesmith board …`, and wait until it says that it listens."""
        env = os.environ | {OURS: self.mark, "PYTHONPATH": str(ROOT)}
        log = self.logs / f"{name}.log"
        with log.open("w") as file:
            self.running[name] = subprocess.Popen(
                [sys.executable, "-m", "tunesmith", "board", *arguments],
                stdout=file, stderr=file, env=env,
            )  # fmt: skip
        end = time.monotonic() + 120
        while " at 127.0.0.1:" not in log.read_text():
            assert self.running[name].poll() is None and time.monotonic() < end, log.read_text()
            time.sleep(0.1)

    def serve(self, name: str, port: int) -> None:
        """Start a board with the key `lab`."""
        self.start(name, "serve", "--tracker", f"127.0.0.1:{PORT}", "--key", "lab",
                   "--port", str(port))  # fmt: skip

    def log(self, name: str) -> str:
        return (self.logs / f"{name}.log").read_text()

    def end(self, name: str, by: signal.Signals = signal.SIGTERM) -> None:
        process = self.running.pop(name)
        process.send_signal(by)
        process.wait(20)


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    """A tracker and two servers."""
    made = Lab(tmp_path_factory.mktemp("lab"))
    try:
        made.start("tracker", "tracker", "--port", str(PORT))
        for number, port in enumerate(SERVERS):
            made.serve(f"board{number}", port)
        yield made
    finally:
        for name in list(made.running):
            made.end(name)
        left = end_orphans(OURS, made.mark, 5)
        assert not left, "nobody outlives the servers"


@pytest.fixture
def boards() -> Iterator[Boards]:
    made = Boards(ADDRESS, "lab", patience=60.0)
    yield made
    made.close()


def test_it_says_that_there_is_no_login_and_listens_on_loopback_alone(lab: Lab) -> None:
    for name in ("tracker", "board0"):
        assert "no login" in lab.log(name).splitlines()[0]
    for port in (PORT, *SERVERS):
        table = Path("/proc/net/tcp").read_text().splitlines()[1:]
        local = [row.split()[1] for row in table if row.split()[3] == "0A"]
        assert [where for where in local if where.endswith(f":{port:04X}")] == [
            f"0100007F:{port:04X}"
        ]


def test_the_device_is_what_the_board_says(lab: Lab, boards: Boards) -> None:
    where = target_there(boards.session(), 1)
    assert where == target()
    told = boards.session().ask({"do": "facts", "threads": 1}, seconds=30)["device"]
    assert told == device_of(where).text


def test_good_candidates_are_measured_and_bad_ones_are_recorded(lab: Lab, boards: Boards) -> None:
    """Each kind, built here and measured there."""
    cases = Cases()

    def build(kernel: Kernel, where: Target, path: Path) -> None:
        numbers = kernel.chosen.numbers() if kernel.chosen is not None else {}
        if numbers == cases.dying:
            os.abort()
        bodies = [body for knobs, body in cases.bad if knobs == numbers]
        if bodies:
            build_body(bodies[0], path)
        else:
            build_variant(kernel, where, path)

    workers = RpcWorkers(boards, target(), SIZES, 0, run_deadline=3.0, build=build)
    try:
        outcomes = cases.measured(workers)
    finally:
        workers.close()
    cases.check(outcomes)


def session_of(lab: Lab, number: int) -> list[int]:
    """The processes that a server has forked or started, for its session."""
    pid = lab.running[f"board{number}"].pid
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if f"\nPPid:\t{pid}\n" in (folder / "status").read_text():
                found.append(int(folder.name))
    return found


def test_a_board_that_hangs_or_dies_costs_a_deadline_and_another_one_goes_on(
    lab: Lab, boards: Boards
) -> None:
    task = task_of("gemm")
    one, two, three, four = points(task, 4)
    workers = RpcWorkers(boards, target(), SIZES, 0)
    try:
        (first,) = workers.measure(task, [one], 0.02)
        used = next(n for n in (0, 1) if session_of(lab, n))
        (session,) = session_of(lab, used)
        os.kill(session, signal.SIGKILL)  # as a board whose session crashes
        (second,) = workers.measure(task, [two], 0.02)
        used = next(n for n in (0, 1) if session_of(lab, n))
        lab.end(f"board{used}", signal.SIGKILL)  # as one whose plug is pulled
        (third,) = workers.measure(task, [three], 0.02)
        (session,) = session_of(lab, 1 - used)
        os.kill(session, signal.SIGSTOP)  # as one that hangs
        start = time.monotonic()
        with pytest.raises(BoardLost, match="no answer within 1 s"):
            boards.session().ask({"do": "facts", "threads": 1}, seconds=1.0)
        assert time.monotonic() - start < 4.0
        os.kill(session, signal.SIGCONT)
        with pytest.raises(BoardLost, match="has ended"):
            assert boards.board is not None
            boards.board.ask({"do": "facts", "threads": 1}, seconds=1.0)
        (fourth,) = workers.measure(task, [four], 0.02)
    finally:
        workers.close()
    for outcome in (first, second, third, fourth):
        assert outcome.verdict in (Verdict.ok, Verdict.slower), outcome.reason
        assert outcome.checked
    assert any("started anew" in lab.log(f"board{n}") for n in (0, 1))
    lab.serve(f"board{used}", SERVERS[used])


def test_a_candidate_with_which_two_boards_are_lost_is_recorded(lab: Lab, boards: Boards) -> None:
    task = task_of("gemm")
    good, bad = points(task, 2)
    workers = RpcWorkers(boards, target(), SIZES, 0)

    class Losing(Board):
        def ask(self, request, data=b"", *, seconds):  # type: ignore[no-untyped-def]
            if request["do"] == "measure":
                self.close()
                raise BoardLost("pulled")
            return super().ask(request, data, seconds=seconds)

    whole = boards.session
    try:
        boards.session = lambda: Losing(ADDRESS, "lab")  # type: ignore[method-assign]
        (outcome,) = workers.measure(task, [bad], 0.02)
        boards.session = whole  # type: ignore[method-assign]
        (after,) = workers.measure(task, [good], 0.02)
    finally:
        workers.close()
    assert (outcome.verdict, outcome.checked) == (Verdict.crashed, False)
    assert "2 boards in a row: pulled" in outcome.reason
    assert after.checked


def test_who_waits_gets_a_board_or_hears_why_not(lab: Lab) -> None:
    first, second = (Board(ADDRESS, "lab") for _ in range(2))
    with pytest.raises(TuneError, match="no board was free within 1 s"):
        Board(ADDRESS, "lab", patience=1.0)
    second.close()
    third = Board(ADDRESS, "lab", patience=30.0)
    third.close()
    first.close()
    with pytest.raises(TuneError, match=r"no board has this key; there is `lab`"):
        Board(ADDRESS, "nowhere")
    with pytest.raises(TuneError, match="no tracker"):
        Board(("127.0.0.1", 1), "lab")


def test_a_session_ends_after_its_lease(lab: Lab) -> None:
    board = Board(ADDRESS, "lab", lease=2.0)
    time.sleep(3.0)
    with pytest.raises(BoardLost):
        board.ask({"do": "facts", "threads": 1}, seconds=10.0)


def test_content_is_what_its_name_says_and_has_no_path(lab: Lab, boards: Boards) -> None:
    board = boards.session()
    name = "0" * 64
    for request, words in (
        ({"do": "keep", "name": name, "start": 0, "last": True}, "not what its name says"),
        ({"do": "keep", "name": "../../x", "start": 0, "last": True}, "no digest"),
        ({"do": "keep", "name": name, "start": 7, "last": True}, "part of the content is missing"),
        ({"do": "format"}, "KeyError"),
    ):
        with pytest.raises(TuneError, match=words):
            board.ask(request, b"other", seconds=10.0)
    large = os.urandom((9 << 20) + 5)  # in three parts
    assert board.keep(large) in board.kept


def test_a_server_that_is_not_ours_is_refused(lab: Lab) -> None:
    """TVM's own, which would run candidates in the session."""
    pytest.importorskip("cloudpickle")
    env = os.environ | {OURS: lab.mark}
    arguments = ["--host", "127.0.0.1", "--port", str(STOCK), "--port-end", str(STOCK + 1),
                 "--tracker", f"127.0.0.1:{PORT}", "--key", "stock", "--silent"]  # fmt: skip
    with subprocess.Popen([sys.executable, "-m", "tvm.exec.rpc_server", *arguments],
                          env=env, stderr=subprocess.DEVNULL) as server:  # fmt: skip
        try:
            end = time.monotonic() + 60
            while not listening(STOCK) and time.monotonic() < end:
                time.sleep(0.2)
            with pytest.raises(TuneError, match="not ours"):
                Board(ADDRESS, "stock")
        finally:
            server.kill()
            for pid in set(processes(OURS, lab.mark)) - known_of(lab):
                os.kill(pid, signal.SIGKILL)  # TVM's command leaves its server behind


def known_of(lab: Lab) -> set[int]:
    """The tracker, the boards, and all that is theirs."""
    found = {process.pid for process in lab.running.values()}
    for pid in sorted(processes(OURS, lab.mark)):
        with suppress(OSError):
            words = Path(f"/proc/{pid}/status").read_text()
            if int(words.partition("\nPPid:")[2].split()[0]) in found:
                found.add(pid)
    return found


def test_the_command_tunes_on_a_board_and_compiles_with_its_records(
    lab: Lab, tmp_path: Path
) -> None:
    import json

    from tests.end_to_end.test_tune import RIGHT, trials_in
    from tests.end_to_end.test_tune import in_child as with_arguments
    from tests.end_to_end.test_tune import model as two_products

    path = two_products.__wrapped__(FolderMaker(tmp_path))  # type: ignore[attr-defined]
    out, store = tmp_path / "m.tsm", tmp_path / "t.db"
    there = ["--rpc", f"127.0.0.1:{PORT}", "--key", "lab", "--threads", "1", "--db", str(store)]
    done = subprocess.run(
        [sys.executable, "-m", "tunesmith", "tune", str(path), "-o", str(out), "--trials", "8",
         *there],
        capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "no login" in done.stderr.splitlines()[0]
    assert trials_in(store) >= 8
    with_arguments(RIGHT, str(out), str(path))
    done = subprocess.run(
        [sys.executable, "-m", "tunesmith", "compile", str(path), "-o", str(out), "--json", "-",
         *there],
        capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)["report"]
    assert all(row["checked"] for row in report["tuned"]["kernels"])
    with_arguments(RIGHT, str(out), str(path))


class FolderMaker:
    """What the fixture of the model asks of pytest."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def mktemp(self, name: str) -> Path:
        return self.path
