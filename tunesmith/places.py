"""Where tuning measures: on this machine, on a device of a cluster, or on a board."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from tunesmith.children import answer_of_child
from tunesmith.ir.diagnostics import TuneError
from tunesmith.random_inputs import make_inputs
from tunesmith.runtime import Artifact, load
from tunesmith.runtime.manifest import Json

if TYPE_CHECKING:
    from tunesmith.autotune.boards import Board, Boards
    from tunesmith.autotune.measure import Workers
    from tunesmith.autotune.ray_workers import Cluster
    from tunesmith.autotune.records import Device
    from tunesmith.ir.target import Target

__all__ = [
    "RUNS_OF_A_TURN", "Here", "Place", "Profiled", "RayPlace", "RpcPlace", "open_boards",
    "open_place", "profile_paths",
]  # fmt: skip

_ROUNDS, _SECONDS = 5, 0.5  # runs of an artifact that is profiled alone, fewer if they take longer
_IN_TURN = 2  # runs of one that is compared, behind one that is not counted: short turns are alike
RUNS_OF_A_TURN = 1 + _IN_TURN
_DEADLINE, _SLACK = 600.0, 30.0  # seconds of running the artifacts; of waiting for the answer
_HINT = "tune at smaller sizes: `--at NAME=SIZE`"

Profiled = tuple[float, list[tuple[str, float]]]  # seconds of a run; of each kernel, in order


class Place(Protocol):
    """A device that kernels are built for and measured on."""

    def target(self, threads: int | None) -> Target:
        """It as a target, for so many of its cores."""
        ...

    def close(self) -> None:
        """Let go of it."""
        ...

    def device(self, target: Target) -> Device:
        """What records that are made there are of."""
        ...

    def workers(self, target: Target, sizes: Mapping[str, int], weights: int) -> Workers:
        """Those who measure there; `weights` are the model's, in bytes."""
        ...

    def profiles(
        self, artifacts: Sequence[Artifact], sizes: Mapping[str, int], turns: int
    ) -> list[list[Profiled]]:
        """Run artifacts in turns: for each turn, a profile of each."""
        ...


class Here:
    """This machine."""

    def close(self) -> None:
        """See `Place`."""

    def target(self, threads: int | None) -> Target:
        """See `Place`."""
        from tunesmith.backends.targets import find_target

        return find_target("host", threads)

    def device(self, target: Target) -> Device:
        """See `Place`."""
        from tunesmith.autotune.device import device_of

        return device_of(target)

    def workers(self, target: Target, sizes: Mapping[str, int], weights: int) -> Workers:
        """See `Place`."""
        from tunesmith.autotune.local import LocalWorkers

        return LocalWorkers(target, sizes, weights)

    def profiles(
        self, artifacts: Sequence[Artifact], sizes: Mapping[str, int], turns: int
    ) -> list[list[Profiled]]:
        """See `Place`; in a child, because this process must not run kernels."""

        def work() -> dict[str, Any]:
            return {"turns": _profiles(artifacts, sizes, turns)}

        return _read(answer_of_child(work, _DEADLINE, _HINT)["turns"])


class RayPlace:
    """The device of a cluster that has a resource of this name."""

    def __init__(self, cluster: Cluster) -> None:
        self.cluster = cluster

    def target(self, threads: int | None) -> Target:
        """See `Place`."""
        return self.cluster.target(threads)

    def close(self) -> None:
        """Leave the cluster."""
        self.cluster.close()

    def device(self, target: Target) -> Device:
        """See `Place`."""
        return self.cluster.device(target)

    def workers(self, target: Target, sizes: Mapping[str, int], weights: int) -> Workers:
        """See `Place`."""
        from tunesmith.autotune.ray_workers import RayWorkers

        return RayWorkers(self.cluster, target, sizes, weights)

    def profiles(
        self, artifacts: Sequence[Artifact], sizes: Mapping[str, int], turns: int
    ) -> list[list[Profiled]]:
        """See `Place`."""
        with tempfile.TemporaryDirectory(prefix="tunesmith-") as folder:
            files = [a.save(Path(folder) / f"{i}.tsm").read_bytes()
                     for i, a in enumerate(artifacts)]  # fmt: skip
        return _read(self.cluster.on_device(profile_files, files, {**sizes}, turns))


class RpcPlace:
    """A board behind TVM's tracker; see `tunesmith board`."""

    def __init__(self, boards: Boards) -> None:
        self.boards = boards

    def target(self, threads: int | None) -> Target:
        """See `Place`."""
        from tunesmith.autotune.rpc_workers import target_there

        return target_there(self.boards.session(), threads)

    def device(self, target: Target) -> Device:
        """See `Place`."""
        from tunesmith.autotune.rpc_workers import device_there

        return device_there(self.boards.session(), target)

    def workers(self, target: Target, sizes: Mapping[str, int], weights: int) -> Workers:
        """See `Place`."""
        from tunesmith.autotune.rpc_workers import RpcWorkers

        return RpcWorkers(self.boards, target, sizes, weights)

    def profiles(
        self, artifacts: Sequence[Artifact], sizes: Mapping[str, int], turns: int
    ) -> list[list[Profiled]]:
        """See `Place`; if a board is lost over it, another one has a try."""
        from tunesmith.autotune.boards import BoardLost

        with tempfile.TemporaryDirectory(prefix="tunesmith-") as folder:
            files = [a.save(Path(folder) / f"{i}.tsm") for i, a in enumerate(artifacts)]
            self.boards.rest()
            try:
                return _profiled_there(self.boards.session(), files, sizes, turns)
            except BoardLost:
                self.boards.close()
            return _profiled_there(self.boards.session(), files, sizes, turns)

    def close(self) -> None:
        """Give the board back."""
        self.boards.close()


def _profiled_there(
    board: Board, files: Sequence[Path], sizes: Mapping[str, int], turns: int
) -> list[list[Profiled]]:
    names = [board.keep(path.read_bytes()) for path in files]
    order = {"do": "profile", "files": names, "sizes": {**sizes}, "turns": turns}
    return _read(board.ask(order, seconds=_DEADLINE + _SLACK)["turns"])


def open_boards(address: str, key: str) -> RpcPlace:
    """The boards with this key, of the tracker at `HOST:PORT`.

    Raises:
        TuneError: this is no address, nobody is there, or no board has the key.
    """
    from tunesmith.autotune.boards import Boards

    place = RpcPlace(Boards(parse_address(address), key))
    place.boards.session()
    return place


def parse_address(text: str) -> tuple[str, int]:
    """Host and port.

    >>> parse_address("127.0.0.1:9190")
    ('127.0.0.1', 9190)
    """
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdigit() or not 0 < int(port) < 1 << 16:
        raise TuneError("this is no address", where=text, hint="write `HOST:PORT`")
    return host.strip("[]"), int(port)


def open_place(address: str, resource: str) -> RayPlace:
    """The device of a cluster; `address` as in `--on`.

    Raises:
        TuneError: `ray` is not installed, nobody answers, or there is no such device.
    """
    if address != "ray" and not address.startswith("ray://"):
        raise TuneError("this is no address of a cluster", where=address,
                        hint="`ray` for the one that runs here, or `ray://HOST:10001`")  # fmt: skip
    try:
        from tunesmith.autotune.ray_workers import Cluster
    except ImportError as error:
        raise TuneError(f"clusters need Ray: {error}", where=address,
                        hint="pip install 'tunesmith[ray]'") from error  # fmt: skip
    return RayPlace(Cluster(address, resource))


def profile_files(files: Sequence[bytes], sizes: Mapping[str, int], turns: int) -> list[Json]:
    """Profile artifacts, as the content of their files, in this process."""
    with tempfile.TemporaryDirectory(prefix="tunesmith-") as folder:
        paths = [Path(folder) / f"{number}.tsm" for number, _ in enumerate(files)]
        for path, content in zip(paths, files, strict=True):
            path.write_bytes(content)
        return _profiles([Artifact.open(path) for path in paths], sizes, turns)


def profile_paths(
    paths: Sequence[Path], sizes: Mapping[str, int], turns: int
) -> list[list[Profiled]]:
    """Profile artifacts in turns in a child, because this process must not run kernels.

    Raises:
        BackendError: one cannot be run.
    """

    def work() -> dict[str, Any]:
        return {"turns": _profiles([Artifact.open(path) for path in paths], sizes, turns)}

    return _read(answer_of_child(work, _DEADLINE, _HINT)["turns"])


def _profiles(artifacts: Sequence[Artifact], sizes: Mapping[str, int], turns: int) -> list[Json]:
    alone = len(artifacts) == 1 and turns == 1
    profilers = [_profiler(artifact, sizes, alone=alone) for artifact in artifacts]
    return [[one() for one in profilers] for _ in range(turns)]


def _profiler(artifact: Artifact, sizes: Mapping[str, int], *, alone: bool) -> Callable[[], Json]:
    """Load an artifact; what is returned profiles some runs of it.

    `alone` is for shares of one artifact: nothing else runs before it, and a long run is enough.
    """
    executable = load(artifact, threads=artifact.manifest.target.threads)
    bounds = {t.name: t.rows for t in artifact.manifest.inputs if t.rows is not None}
    feeds = make_inputs(artifact.manifest.inputs, sizes, bounds=bounds)
    fitting = 0
    for _ in range(2):  # the first one reads the weights from the file
        start = time.perf_counter()
        executable.run(feeds)
        fitting = int(_SECONDS / (time.perf_counter() - start))
        if alone and fitting < _IN_TURN:
            break  # another one would tell no more
    rounds = max(1, min(_ROUNDS, fitting)) if alone else _IN_TURN

    def profiled() -> Json:
        profile = executable.profile(feeds, rounds=rounds, warmup=0 if alone else 1)
        return [profile.whole, [[row.name, row.seconds] for row in profile.kernels]]

    return profiled


def _read(turns: Sequence[Any]) -> list[list[Profiled]]:
    return [
        [(float(whole), [(str(n), float(s)) for n, s in kernels]) for whole, kernels in turn]
        for turn in turns
    ]
