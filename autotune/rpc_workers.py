"""Workers on boards: candidates are built here for the board's target, and measured there.

A candidate runs there in a process of its own, with a deadline: it cannot take the session with
it. If a board is lost nevertheless, another one has a try.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tunesmith.backends.tvm.kernels.kernel import Kernel
from tunesmith.backends.tvm.launch import weights_of
from tunesmith.backends.tvm.standalone import build_variant
from tunesmith.ir.diagnostics import BuildError, TuneError
from tunesmith.ir.target import Target

from .bench import content_name, order_of, outcome_of
from .boards import Board, BoardLost, Boards
from .builders import BUILD_DEADLINE, Builders, Built
from .device import target_from
from .measure import Outcome, Task
from .records import Device, Verdict
from .runner import WORDS

__all__ = ["RpcWorkers", "device_there", "target_there"]

_RUN_DEADLINE = 20.0  # seconds, of one candidate
_SLACK = 30.0  # seconds beyond all deadlines of the board, in which it says how it went
_FACTS = 60.0  # seconds in which a board says what it is
_TRIES = 2  # boards that a candidate is given, if they are lost


def _facts(board: Board, threads: int | None) -> dict[str, Any]:
    return board.ask({"do": "facts", "threads": threads}, seconds=_FACTS)


def target_there(board: Board, threads: int | None) -> Target:
    """A board as a target for `threads` of its cores.

    Raises:
        TuneError: it has other versions than this process.
    """
    return target_from(_facts(board, threads), "board", board.name)


def device_there(board: Board, target: Target) -> Device:
    """What records are of that are measured on a board."""
    return Device(text=str(_facts(board, target.machine.cores)["device"]))


class RpcWorkers:
    """Build on all cores of this machine, measure on a board, one candidate at a time."""

    def __init__(
        self,
        boards: Boards,
        target: Target,
        sizes: Mapping[str, int],
        spread: int,
        *,
        build_deadline: float = BUILD_DEADLINE,
        run_deadline: float = _RUN_DEADLINE,
        build: Callable[[Kernel, Target, Path], None] = build_variant,
    ) -> None:
        self.boards, self.target, self.sizes, self.spread = boards, target, {**sizes}, spread
        self.run_deadline = run_deadline
        self.builders = Builders(target, build_deadline, build)
        boards.rest()  # a session from before the model was lowered may be at its end
        self.device = device_there(boards.session(), target).text
        self.known = {boards.session()}  # sessions of which the device was compared
        self.names: dict[str, str] = {}  # of the contents of weights, by their names

    def measure(
        self, task: Task, candidates: Sequence[Mapping[str, int]], seconds: float
    ) -> Iterator[Outcome]:
        """Try knobs; see `Workers`."""
        self.boards.rest()
        for base, variants in self.builders.batches(task, candidates):
            for variant in variants:
                yield variant.failure or self._run(task, base, variant, seconds)

    def close(self) -> None:
        """Give the board back, and remove what was built."""
        self.boards.close()
        self.builders.close()

    def _run(self, task: Task, base: Built, variant: Built, seconds: float) -> Outcome:
        lost = ""
        for _ in range(_TRIES):
            board = self._board()
            try:
                sides = [self._brought(board, built) for built in (base, variant)]
                facts = board.ask(
                    {"do": "measure", "kernel": task.name, "base": sides[0], "variant": sides[1],
                     "seconds": seconds, "limits": [self.target.machine.cores, self.run_deadline]},
                    seconds=self.run_deadline + seconds + _SLACK,
                )  # fmt: skip
                return outcome_of(facts)
            except BuildError as error:
                return Outcome(Verdict.build_failed, reason=f"it cannot be called: {error}"[:WORDS])
            except BoardLost as error:
                lost = error.message
                self.boards.close()
        return Outcome(Verdict.crashed, reason=f"{_TRIES} boards in a row: {lost}"[:WORDS])

    def _board(self) -> Board:
        """The board at hand, which is of the kind that the records are of."""
        board = self.boards.session()
        if board not in self.known:
            found = device_there(board, self.target).text
            if found != self.device:
                raise TuneError(f"boards of two kinds have this key: {found} and {self.device}",
                                where=board.name, hint="give each kind its own")  # fmt: skip
            self.known = {board}
        return board

    def _brought(self, board: Board, built: Built) -> dict[str, Any]:
        """The order for a kernel, all content of which is on the board."""
        library = board.keep(built.path.read_bytes())
        for name, array in weights_of(built.kernel).items():
            if self.names.get(name) in board.kept:
                continue
            data = array().tobytes()
            self.names[name] = content_name(data)
            board.keep(data)
        return order_of(built.kernel, self.sizes, self.spread, library, self.names)
