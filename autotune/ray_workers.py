"""Workers of a Ray cluster: any node builds, nodes with the device measure, one trial at a time.

What is sent is the function of a kernel as TVM's JSON, the library that was made of it, how it is
called as text, and weights as bytes. Ray itself pickles between its own processes, and whoever
reaches its ports can run code on all nodes: it is for networks where that may be.
"""

from __future__ import annotations

import json
import signal
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from tunesmith.backends.targets import find_target
from tunesmith.backends.tvm.kernels.kernel import Kernel
from tunesmith.backends.tvm.launch import weights_of
from tunesmith.backends.tvm.schedule.knobs import Knobs
from tunesmith.backends.tvm.standalone import build_written, with_knobs, written
from tunesmith.ir.diagnostics import BuildError, TuneError
from tunesmith.ir.target import Target

from .bench import Bench, content_name, order_of, outcome_of
from .device import device_of, target_from, versions_text
from .measure import Outcome, Task
from .records import Device, Verdict
from .runner import WORDS

__all__ = ["Cluster", "RayWorkers"]

_BUILD_DEADLINE, _RUN_DEADLINE = 30.0, 20.0  # seconds, of one candidate
_PATIENCE = 5.0  # seconds between two looks at whether the device is still there
_benches: dict[tuple[int, float], Bench] = {}  # of a process of Ray, which it keeps for a while


class Cluster:
    """A connection to a cluster, in which some nodes carry `resource`, one for each device.

    `address` is `ray` for the cluster that runs here, or `ray://HOST:PORT` for Ray's client server.

    Raises:
        TuneError: nobody answers there, or no node has the device.
    """

    def __init__(self, address: str, resource: str) -> None:
        self.address, self.resource = address, resource
        try:
            ray.init("auto" if address == "ray" else address, log_to_driver=False,
                     configure_logging=False)  # fmt: skip
        except (ConnectionError, RuntimeError, ValueError, RayError) as error:
            words = str(error).strip().splitlines() or [type(error).__name__]
            raise TuneError(
                f"there is no Ray cluster: {words[0]}", where=address,
                hint="start one: `ray start --head`; see docs/tuning.md",
            ) from error  # fmt: skip
        try:
            self._require()
        except BaseException:
            self.close()
            raise

    def _require(self) -> None:
        there = ray.cluster_resources()
        if self.resource not in there:
            devices = sorted(name for name in there if name.startswith("tunesmith:"))
            text = json.dumps({self.resource: 1})
            raise TuneError(
                f"no node has the resource `{self.resource}`, only {devices}", where=self.address,
                hint=f"on the device: ray start --address … --resources='{text}'",
            )  # fmt: skip
        if not there.get("CPU"):
            raise TuneError("no node of the cluster has a CPU to build on", where=self.address)

    def target(self, threads: int | None) -> Target:
        """The device as a target for `threads` of its cores."""
        return target_from(self.on_device(_host, threads), "device", self.resource)

    def device(self, target: Target) -> Device:
        """What records are of that are measured there."""
        return Device(text=str(self.on_device(_device, target.machine.cores)))

    def on_device(self, function: Callable[..., Any], *arguments: object) -> Any:
        """What an importable function returns on a device, in a process that ends after it."""
        options = {"max_calls": 1, "max_retries": 0, **self.there}
        return self.answer(ray.remote(**options)(function).remote(*arguments))

    @property
    def there(self) -> dict[str, Any]:
        """The options of tasks that need the device for themselves."""
        return {"num_cpus": 0, "resources": {self.resource: 1}}

    def answer(self, reference: Any) -> Any:
        """The result of a task, waited for as long as there is who can run it."""
        try:
            while not ray.wait([reference], timeout=_PATIENCE)[0]:
                self._require()
            return ray.get(reference)
        except RayTaskError as error:
            raise TuneError(f"{type(error.cause).__name__}: {error.cause}",
                            where=self.address) from error  # fmt: skip
        except RayError as error:
            words = str(error).strip().splitlines()[0]
            raise TuneError(f"a process of the cluster was lost: {words}",
                            where=self.address) from error  # fmt: skip
        except BaseException:
            ray.cancel(reference)
            raise

    def close(self) -> None:
        """Leave the cluster, which goes on."""
        ray.shutdown()


class RayWorkers:
    """Build on the CPUs of all nodes, measure where the device is; see `Workers`."""

    def __init__(
        self,
        cluster: Cluster,
        target: Target,
        sizes: Mapping[str, int],
        spread: int,
        *,
        build_deadline: float = _BUILD_DEADLINE,
        run_deadline: float = _RUN_DEADLINE,
        build: Callable[[str, Target, Path], None] = build_written,
    ) -> None:
        self.cluster, self.target, self.sizes, self.spread = cluster, target, {**sizes}, spread
        self.build_deadline, self.run_deadline = build_deadline, run_deadline
        self.device = cluster.device(target).text
        self.builder = ray.remote(num_cpus=1, num_returns=2, max_retries=0)(_build)
        self.measurer = ray.remote(max_retries=2, **cluster.there)(_measure)
        self.build = build
        self.built: dict[tuple[str, str], tuple[Any, Any]] = {}
        self.contents: dict[str, tuple[str, Any]] = {}  # of weights: digest and where it is

    def measure(
        self, task: Task, candidates: Sequence[Mapping[str, int]], seconds: float
    ) -> Iterator[Outcome]:
        """Try knobs; see `Workers`."""
        kernel = task.kernel
        assert isinstance(kernel, Kernel) and kernel.template is not None
        self._start(task, kernel, {})
        chosen = [kernel.template.knobs(knobs) for knobs in candidates]
        for knobs, wanted in zip(candidates, chosen, strict=True):
            if wanted is not None:
                self._start(task, with_knobs(kernel, wanted), knobs)
        try:
            base = self._order(task, kernel, {})
        except BuildError as error:
            raise TuneError(f"the kernel as it is could not be built: {error}",
                            where=task.name) from error  # fmt: skip
        orders = [
            self._order_or_why(task, kernel, knobs, wanted)
            for knobs, wanted in zip(candidates, chosen, strict=True)
        ]  # all are built before the first runs: a build beside it would be heard
        for order in orders:
            yield order if isinstance(order, Outcome) else self._run(task, base, order, seconds)

    def close(self) -> None:
        """Let go of what was sent; the cluster ends its processes when they idle."""
        self.built.clear()
        self.contents.clear()

    def _start(self, task: Task, kernel: Kernel, knobs: Mapping[str, int]) -> None:
        """Have it built, unless it was: `_order` waits for it."""
        key = task.key(knobs)
        if key not in self.built:
            text = written(kernel)
            self.built[key] = self.builder.remote(
                text, self.target, self.build_deadline, self.build
            )

    def _order(self, task: Task, kernel: Kernel, knobs: Mapping[str, int]) -> dict[str, Any]:
        """What `Bench.measure` wants, with `contents` beside it; `BuildError` if it has no code."""
        name, library = self.built[task.key(knobs)]
        try:
            digest = str(self.cluster.answer(name))
        except TuneError as error:
            hint = f"the code generator ended or took more than {self.build_deadline:g} s"
            raise BuildError(f"{hint}: {error}") from error
        for weight, array in weights_of(kernel).items():
            if weight not in self.contents:
                data = array().tobytes()
                self.contents[weight] = (content_name(data), ray.put(data))
        names = {weight: self.contents[weight][0] for weight in weights_of(kernel)}
        order = order_of(kernel, self.sizes, self.spread, digest, names)
        contents = {digest: library} | dict(self.contents[name] for name in order["weights"])
        return {**order, "contents": contents}

    def _order_or_why(
        self, task: Task, kernel: Kernel, knobs: Mapping[str, int], wanted: Knobs | None
    ) -> dict[str, Any] | Outcome:
        if wanted is None:
            return Outcome(Verdict.build_failed, reason="the knobs do not fit")
        try:
            return self._order(task, with_knobs(kernel, wanted), knobs)
        except BuildError as error:
            return Outcome(Verdict.build_failed, reason=str(error)[:WORDS])

    def _run(
        self, task: Task, base: Mapping[str, Any], order: Mapping[str, Any], seconds: float
    ) -> Outcome:
        limits = self.target.machine.cores, self.run_deadline
        answer = self.measurer.remote(task.name, base, order, seconds, limits, self.device)
        return outcome_of(self.cluster.answer(answer))


# ---------------------------------------------------------------- what processes of Ray call


def _host(threads: int | None) -> dict[str, Any]:
    return {"target": asdict(find_target("host", threads)), "versions": versions_text()}


def _device(threads: int) -> str:
    return device_of(find_target("host", threads)).text


def _build(
    text: str, target: Target, deadline: float, build: Callable[[str, Target, Path], None]
) -> tuple[str, bytes]:
    """A library and its digest. The code generator cannot be interrupted: an alarm ends all."""
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, deadline)
    try:
        with tempfile.TemporaryDirectory(prefix="tunesmith-build-") as folder:
            path = Path(folder) / "kernel.so"
            build(text, target, path)
            data = path.read_bytes()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return content_name(data), data


def _measure(
    kernel: str,
    base: Mapping[str, Any],
    order: Mapping[str, Any],
    seconds: float,
    limits: tuple[int, float],
    device: str,
) -> dict[str, Any]:
    """Measure in the process of this worker that is kept for it; it is sent what it lacks."""
    found = _device(limits[0])
    if found != device:
        raise TuneError(f"machines of two kinds have this resource: {found} and {device}")
    if limits not in _benches:
        _benches[limits] = Bench(*limits)
    bench = _benches[limits]
    try:
        for side in (base, order):
            for name, reference in side["contents"].items():
                if name not in bench.kept:
                    bench.keep(ray.get(reference))
        return bench.measure(kernel, _plain(base), _plain(order), seconds)
    except BaseException:
        _benches.pop(limits).close()
        raise


def _plain(order: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in order.items() if key != "contents"}
