"""Where the time of a call goes: kernel by kernel, as the virtual machine makes its calls.

The virtual machine calls a hook before and after each call that it makes. Here the hook is a plain
C function that reads the clock and nothing else: it does not look at its arguments, so that it
costs nearly the same for each call, below a microsecond, and that much is taken off again. A run
under the hook never counts as a run of the model: rounds of both kinds take turns.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from statistics import median
from typing import Protocol

from tunesmith.ir.diagnostics import InputError

from .manifest import Json, Manifest
from .shapes import parse_dim

__all__ = [
    "CALL",
    "CPU",
    "RUNTIME",
    "WALL",
    "KernelTime",
    "NativeHook",
    "Probe",
    "Profile",
    "profile_calls",
]

WALL, CPU = "wall", "cpu"  # clocks: of the world; of the calling thread, which stops with it
_CLOCKS: dict[str, Callable[[], int]] = {WALL: time.perf_counter_ns, CPU: time.thread_time_ns}
RUNTIME, CALL = "runtime", "call"  # kinds of rows that are no kernels

Probe = Callable[[Callable[[], int]], Mapping[str, float]]  # the rates of now, by a clock in ns
Times = list[list[float]]  # for each row, the seconds of each round


@dataclass(frozen=True, kw_only=True)
class KernelTime:
    """One call of a kernel, or, of another kind, all that one part of the runtime does.

    `flops` and `nbytes` are for the sizes of this run, `None` if the artifact does not tell;
    `weight_bytes` of the bytes are weights.
    """

    name: str
    kind: str
    nodes: tuple[str, ...] = ()  # operators in it
    sources: tuple[str, ...] = ()  # nodes of the model that it came from
    flops: int | None = None
    nbytes: int | None = None
    weight_bytes: int = 0
    calls: int = 1
    seconds: float  # the median of the rounds
    least: float  # the least of them: nearer the truth on a machine that others use
    each: tuple[float, ...] = ()  # of each round

    @property
    def is_kernel(self) -> bool:
        """Whether this is a kernel, and not the runtime around them."""
        return self.kind not in (RUNTIME, CALL)


@dataclass(frozen=True, kw_only=True)
class Profile:
    """The times of a model at certain sizes; rows in order of execution, the runtime's last.

    `whole` is the call as users know it, without the hook. `instrumented` is the one that the rows
    are parts of, after `hook_seconds` are taken off for each of its events.
    """

    rows: tuple[KernelTime, ...]
    whole: float
    whole_least: float
    instrumented: float
    hook_seconds: float
    rounds: int
    threads: int
    clock: str  # `wall`, or `cpu`: without the time in which other processes ran
    sizes: Mapping[str, int]
    beside: tuple[Mapping[str, float], ...] = ()  # for each round, what the probe found around it

    @property
    def kernels(self) -> tuple[KernelTime, ...]:
        """The calls of kernels, in order of execution."""
        return tuple(row for row in self.rows if row.is_kernel)

    @property
    def outside(self) -> float:
        """The share of the time outside of kernels, at most: the hook's noise is in it."""
        total = sum(row.seconds for row in self.rows)
        return sum(row.seconds for row in self.rows if not row.is_kernel) / total if total else 0.0


class NativeHook:
    """A C function for the virtual machine to call, which appends a clock's time to `ticks`."""

    _signature = ctypes.CFUNCTYPE(
        ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int32, ctypes.c_void_p
    )  # TVM's: itself, arguments, how many, result; 0 is success

    def __init__(self, clock: Callable[[], int] = time.perf_counter_ns) -> None:
        self.ticks: list[int] = []
        ticks = self.ticks

        def tick(_self: int, _arguments: int, _count: int, _result: int) -> int:
            ticks.append(clock())
            return 0

        self.function = self._signature(tick)  # must live as long as it can be called

    @property
    def address(self) -> int:
        """Where the function is."""
        return ctypes.cast(self.function, ctypes.c_void_p).value or 0


class Watched(Protocol):
    """A module whose calls can be watched: `TvmModule`."""

    threads: int

    def watch(self, hook: Callable[[str, bool], None] | NativeHook | None) -> None:
        """Call `hook` before and after each call; `None` ends it."""


def profile_calls(
    module: Watched,
    run: Callable[[], object],
    manifest: Manifest,
    sizes: Mapping[str, int],
    *,
    rounds: int,
    warmup: int,
    cpu_time: bool = False,
    probe: Probe | None = None,
) -> Profile:
    """Measure what `run`, which calls `module` once, spends on each kernel of the manifest.

    `probe` is called with the clock before and after each round, and says what the machine reaches
    then; a round has the mean of both.

    Raises:
        InputError: the counts are no counts, or CPU time is asked for, but threads share the work.
    """
    if rounds < 1 or warmup < 0:
        raise InputError(f"{rounds} rounds, {warmup} to warm up", hint="ask for 1 round or more")
    if cpu_time and module.threads > 1:
        raise InputError("CPU time is that of one thread, and this model runs on "
                         f"{module.threads}", hint="load it with `threads=1`")  # fmt: skip
    name = CPU if cpu_time else WALL
    clock = _CLOCKS[name]
    for _ in range(warmup):
        run()
    names = _names(module, run)
    table = _in_order(names, manifest.report.get("kernel_table"))
    hook, whole, ticks = NativeHook(clock), [], []
    reached = [probe(clock)] if probe is not None else []
    run()  # what the first call after a change costs belongs to nobody
    for _ in range(rounds):
        if probe is not None:
            run()  # what the probe has pushed out of the caches comes back
        whole.append(_seconds(run, clock))
        hook.ticks.clear()
        with _watching(module, hook):
            start = clock()
            run()
            end = clock()
        ticks.append([start, *hook.ticks, end])
        if probe is not None:
            reached.append(probe(clock))
    cost = _hook_cost(names, ticks)
    times, totals = _split(names, set(table), ticks, cost)
    rows = [_row(kernel, table.get(at), sizes, times[i])
            for i, (at, kernel) in enumerate(_kernels(names, set(table)))]  # fmt: skip
    around = ((RUNTIME, RUNTIME, len(names) - len(rows)), (CALL, CALL, 1))
    for (part, kind, calls), seconds in zip(around, times[len(rows) :], strict=True):
        rows.append(KernelTime(name=part, kind=kind, calls=calls, seconds=median(seconds),
                               least=min(seconds), each=tuple(seconds)))  # fmt: skip
    return Profile(
        rows=tuple(rows), whole=median(whole), whole_least=min(whole),
        instrumented=median(totals), hook_seconds=cost, rounds=rounds, threads=module.threads,
        clock=name, sizes=dict(sizes), beside=tuple(map(_mean, reached, reached[1:])),
    )  # fmt: skip


def _mean(one: Mapping[str, float], other: Mapping[str, float]) -> Mapping[str, float]:
    return {name: (rate + other[name]) / 2 for name, rate in one.items()}


def _seconds(run: Callable[[], object], clock: Callable[[], int]) -> float:
    start = clock()
    run()
    return (clock() - start) / 1e9


@contextmanager
def _watching(module: Watched, hook: Callable[[str, bool], None] | NativeHook) -> Iterator[None]:
    module.watch(hook)
    try:
        yield
    finally:
        module.watch(None)


def _names(module: Watched, run: Callable[[], object]) -> list[str]:
    """What the virtual machine calls, in order: the same each time, for the same inputs."""
    names: list[str] = []

    def note(name: str, before: bool) -> None:
        if before:
            names.append(name)

    with _watching(module, note):
        run()
    return names


def _in_order(names: Sequence[str], table: Json) -> dict[int, Mapping[str, Json]]:
    """The row of the kernel table for each call of a kernel, by its place among all calls."""
    waiting = [row for row in table if isinstance(row, dict)] if isinstance(table, list) else []
    found: dict[int, Mapping[str, Json]] = {}
    for at, name in enumerate(names):
        if len(found) < len(waiting) and waiting[len(found)].get("kernel") == name:
            found[at] = waiting[len(found)]
    return found


def _kernels(names: Sequence[str], known: set[int]) -> Iterator[tuple[int, str]]:
    """The calls that are kernels: those of the table; without one, those that are not TVM's."""
    for at, name in enumerate(names):
        own = name.startswith(("vm.", "shape_func")) if not known else at not in known
        if not own:
            yield at, name


def _hook_cost(names: Sequence[str], rounds: Sequence[Sequence[int]]) -> float:
    """Seconds that the hook adds between two events: all that the cheapest of calls takes.

    Medians, because it costs less while the caches are warm, and more after a large kernel.
    """
    spans: dict[str, list[int]] = {}
    for ticks in rounds:
        for name, before, after in zip(names, ticks[1::2], ticks[2::2], strict=False):
            spans.setdefault(name, []).append(after - before)
    return min((median(values) for values in spans.values()), default=0) / 1e9


def _split(
    names: Sequence[str], known: set[int], rounds: Sequence[Sequence[int]], cost: float
) -> tuple[Times, list[float]]:
    """The seconds of each kernel, of the runtime and of the rest of the call; and of all."""
    places = [at for at, _ in _kernels(names, known)]
    times: Times = [[] for _ in range(len(places) + 2)]
    totals = []
    for ticks in rounds:
        if len(ticks) != 2 * len(names) + 2:
            raise InputError("the model makes other calls each time, so they cannot be told apart")
        spans = [
            max(0.0, (ticks[2 * at + 2] - ticks[2 * at + 1]) / 1e9 - cost)
            for at in range(len(names))
        ]
        total = (ticks[-1] - ticks[0]) / 1e9 - cost * 2 * len(names)
        inside = [spans[at] for at in places]
        for row, seconds in zip(times, inside, strict=False):
            row.append(seconds)
        times[-2].append(sum(spans) - sum(inside))
        times[-1].append(max(0.0, total - sum(spans)))
        totals.append(max(total, sum(spans)))
    return times, totals


def _row(
    name: str, row: Mapping[str, Json] | None, sizes: Mapping[str, int], seconds: Sequence[float]
) -> KernelTime:
    known = row or {}
    return KernelTime(
        name=name,
        kind=str(known.get("kind", "kernel")),
        nodes=_texts(known.get("nodes")),
        sources=_texts(known.get("from")),
        flops=_number(known.get("flops"), sizes),
        nbytes=_number(known.get("bytes"), sizes),
        weight_bytes=_number(known.get("weight_bytes"), sizes) or 0,
        seconds=median(seconds),
        least=min(seconds),
        each=tuple(seconds),
    )


def _texts(value: Json) -> tuple[str, ...]:
    return tuple(map(str, value)) if isinstance(value, list) else ()


def _number(text: Json, sizes: Mapping[str, int]) -> int | None:
    """A size written over symbols; `None` if one of them is known to the data only."""
    if text is None:
        return None
    try:
        return parse_dim(str(text)).evaluate(sizes)
    except (ValueError, KeyError):
        return None
