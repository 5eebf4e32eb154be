"""A profile as people and programs read it: rows grouped, beside what the machine could do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tunesmith.backends.measure import Peaks
    from tunesmith.runtime.profiler import KernelTime, Profile

__all__ = [
    "GROUPINGS",
    "HEAD",
    "Group",
    "group_rows",
    "peaks_beside",
    "profile_json",
    "profile_lines",
    "table_rows",
]

_SOURCES_SHOWN = 2
_SOURCE_WIDTH = 44
_NOISY = 1.15  # the median over the least time of whole calls


@dataclass(frozen=True)
class Group:
    """Rows of a profile under one name. A figure is `None` if it is not known for each of them."""

    name: str
    kind: str
    is_kernel: bool
    calls: int
    seconds: float
    share: float
    flops: int | None
    nbytes: int | None
    least_needed: float | None  # seconds that the machine needs by its measured peaks
    bound: str  # what it needs them for: `compute`, `memory`, `l2`, or nothing known
    sources: tuple[str, ...]

    @property
    def gflops(self) -> float | None:
        """GFLOP/s."""
        return self.flops / self.seconds / 1e9 if self.flops and self.seconds else None

    @property
    def gbs(self) -> float | None:
        """GB/s, if each operand and each result moves once."""
        return self.nbytes / self.seconds / 1e9 if self.nbytes and self.seconds else None

    @property
    def of_peak(self) -> float | None:
        """The part of the roofline that is reached; above 1, some data came from a nearer cache."""
        if self.least_needed is None or not self.seconds:
            return None
        return self.least_needed / self.seconds


def _by_kernel(row: KernelTime) -> str:
    return row.name


def _by_kind(row: KernelTime) -> str:
    return row.kind


def _by_node(row: KernelTime) -> str:
    return row.sources[-1] if row.sources else row.name


GROUPINGS: dict[str, Callable[[KernelTime], str]] = {
    "kernel": _by_kernel, "kind": _by_kind, "node": _by_node,
}  # fmt: skip


def group_rows(
    profile: Profile, peaks: Peaks | None, by: str = "kernel", *, least: bool = False
) -> list[Group]:
    """Groups of rows, the longest first, with the median of the times or the least of them.

    A kernel stands under the last node it came from, whose result it writes. Where a probe ran, the
    roofline of a round is what the machine reached around it, and a group has the median of the
    shares of the rounds: clocks that change from one round to the next cancel out.
    """
    members: dict[tuple[bool, str], list[KernelTime]] = {}
    for row in profile.rows:
        members.setdefault((row.is_kernel, GROUPINGS[by](row)), []).append(row)
    total = sum(_taken(row, least) for row in profile.rows)
    streamed = _streamed(profile, peaks)
    rounds = [] if peaks is None or least else [_reached(peaks, row) for row in profile.beside]
    groups = [
        _group(name, rows, peaks, rounds, total, least, streamed)
        for (_, name), rows in members.items()
    ]
    return sorted(groups, key=lambda group: -group.seconds)


def peaks_beside(peaks: Peaks, profile: Profile, *, least: bool = False) -> Peaks:
    """The peaks that were reached between the rounds: their median, or the best of them."""
    if not profile.beside:
        return peaks
    pick = max if least else median
    names = ("gflops", "memory_gbs")
    return _reached(peaks, {name: pick(row[name] for row in profile.beside) for name in names})


def _reached(peaks: Peaks, rates: Mapping[str, float]) -> Peaks:
    return replace(peaks, gflops=rates["gflops"], memory_gbs=rates["memory_gbs"])


def _taken(row: KernelTime, least: bool) -> float:
    return row.least if least else row.seconds


def _streamed(profile: Profile, peaks: Peaks | None) -> bool:
    """Whether weights come from memory in each run: together they are more than the caches hold."""
    return peaks is not None and sum(row.weight_bytes for row in profile.rows) > peaks.l2_bytes


def _group(
    name: str,
    rows: Sequence[KernelTime],
    peaks: Peaks | None,
    rounds: Sequence[Peaks],
    total: float,
    least: bool,
    streamed: bool,
) -> Group:
    seconds = sum(_taken(row, least) for row in rows)
    needs = [_needed(row, peaks, streamed) for row in rows]
    by_bound: dict[str, float] = {}
    for need in needs:
        if need is not None:
            by_bound[need[1]] = by_bound.get(need[1], 0.0) + need[0]
    known = None not in needs
    needed = sum(by_bound.values())
    if known and rounds and all(len(row.each) == len(rounds) for row in rows):
        shares = [_share(rows, number, at, streamed) for number, at in enumerate(rounds)]
        needed = seconds * median(shares)
    return Group(
        name=name,
        kind=rows[0].kind if len({row.kind for row in rows}) == 1 else "several",
        is_kernel=rows[0].is_kernel,
        calls=sum(row.calls for row in rows),
        seconds=seconds,
        share=seconds / total if total else 0.0,
        flops=_sum(row.flops for row in rows),
        nbytes=_sum(row.nbytes for row in rows),
        least_needed=needed if known else None,
        bound=max(by_bound, key=by_bound.__getitem__, default="") if known else "",
        sources=tuple(dict.fromkeys(source for row in rows for source in row.sources)),
    )


def _share(rows: Sequence[KernelTime], number: int, peaks: Peaks, streamed: bool) -> float:
    """The part of the roofline that rows reach in one round."""
    needs = (_needed(row, peaks, streamed) for row in rows)
    taken = sum(row.each[number] for row in rows)
    return sum(need[0] for need in needs if need is not None) / taken if taken else 0.0


def _needed(row: KernelTime, peaks: Peaks | None, streamed: bool) -> tuple[float, str] | None:
    """The roofline: arithmetic and movement at their peaks at the same time, the longer counts."""
    if peaks is None or row.flops is None or row.nbytes is None:
        return None
    compute = row.flops / (peaks.gflops * 1e9)
    far = row.weight_bytes if streamed else 0
    near = row.nbytes - far
    from_memory = far / (peaks.memory_gbs * 1e9)
    movement = from_memory + near / (peaks.bandwidth(near) * 1e9)
    if compute >= movement:
        return compute, "compute"
    outside = near > peaks.l2_bytes or from_memory > movement / 2
    return movement, "memory" if outside else "l2"


def _sum(values: Iterable[int | None]) -> int | None:
    total = 0
    for value in values:
        if value is None:
            return None
        total += value
    return total


HEAD = ("kernel", "kind", "calls", "ms", "share", "GFLOP/s", "GB/s", "of peak", "bound", "from")


def table_rows(groups: Sequence[Group]) -> list[tuple[str, ...]]:
    """The groups as text, and a row with their total."""
    rows = [
        (
            group.name, group.kind, str(group.calls), f"{group.seconds * 1e3:.3f}",
            f"{group.share:.1%}", _figure(group.gflops), _figure(group.gbs),
            _percent(group.of_peak), group.bound or "-",
            _sources(group.sources),
        )
        for group in groups
    ]  # fmt: skip
    calls, total = sum(g.calls for g in groups), sum(g.seconds for g in groups)
    share = sum(g.share for g in groups)
    dashes = ("-",) * 5
    return [*rows, ("total", "", str(calls), f"{total * 1e3:.3f}", f"{share:.1%}", *dashes)]


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}" if value < 99.95 else f"{value:.0f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}" if value <= 1.1 else ">100%"


def _sources(names: Sequence[str]) -> str:
    if not names:
        return "-"
    text = ", ".join(names[:_SOURCES_SHOWN])
    more = len(names) - _SOURCES_SHOWN
    if len(text) > _SOURCE_WIDTH:
        text = text[: _SOURCE_WIDTH - 1] + "…"
    return f"{text} +{more}" if more > 0 else text


def profile_lines(profile: Profile, peaks: Peaks | None, groups: Sequence[Group]) -> list[str]:
    """What stands below the table: the call as a whole, and the peaks."""
    around = [group for group in groups if not group.is_kernel]
    inside = sum(group.seconds for group in groups) - sum(group.seconds for group in around)
    clock = "" if profile.clock == "wall" else f"  {profile.clock} time"
    lines = [
        f"whole call   median {profile.whole * 1e3:.3f} ms  min {profile.whole_least * 1e3:.3f}"
        f"  n={profile.rounds}  threads {profile.threads}{clock}",
        f"kernels      {inside * 1e3:.3f} ms; outside of them at most"
        f" {sum(group.share for group in around):.1%}",
    ]
    if peaks is not None:
        lines.append(
            f"peaks        {peaks.gflops:.0f} GFLOP/s fp32  memory {peaks.memory_gbs:.1f} GB/s"
            f"{' between the rounds' if profile.beside else ''}"
            f"  l2 {peaks.l2_gbs:.0f} GB/s  (threads {peaks.threads})"
        )
    return lines


def noise_of(profile: Profile) -> str | None:
    """A warning if the rounds differ so much that medians mislead."""
    ratio = profile.whole / profile.whole_least if profile.whole_least else 1.0
    if ratio < _NOISY:
        return None
    way = "`--cpu-time` leaves it out" if profile.threads == 1 else "`--least` shows least times"
    if profile.clock == "cpu":
        way = "caches are shared even so"
    return f"the median call took {ratio:.2f} times the quickest: other work runs here; {way}"


def profile_json(
    profile: Profile, peaks: Peaks | None, groups: Sequence[Group]
) -> dict[str, object]:
    """Everything: each call in order of execution, the groups of the table, and the peaks."""
    return {
        "whole_ms": profile.whole * 1e3,
        "whole_min_ms": profile.whole_least * 1e3,
        "instrumented_ms": profile.instrumented * 1e3,
        "outside": profile.outside,
        "hook_us": profile.hook_seconds * 1e6,
        "rounds": profile.rounds,
        "threads": profile.threads,
        "clock": profile.clock,
        "sizes": dict(profile.sizes),
        "peaks": None if peaks is None else asdict(peaks),
        "groups": [_group_json(group) for group in groups],
        "rows": [_row_json(row, peaks, _streamed(profile, peaks)) for row in profile.rows],
    }


def _group_json(group: Group) -> Mapping[str, object]:
    return {
        "name": group.name, "kind": group.kind, "calls": group.calls, "ms": group.seconds * 1e3,
        "share": group.share, "flops": group.flops, "bytes": group.nbytes,
        "gflops": group.gflops, "gbs": group.gbs, "of_peak": group.of_peak,
        "bound": group.bound or None, "from": list(group.sources),
    }  # fmt: skip


def _row_json(row: KernelTime, peaks: Peaks | None, streamed: bool) -> Mapping[str, object]:
    need = _needed(row, peaks, streamed)
    return {
        "name": row.name, "kind": row.kind, "calls": row.calls, "ms": row.seconds * 1e3,
        "min_ms": row.least * 1e3, "flops": row.flops, "bytes": row.nbytes,
        "needed_ms": None if need is None else need[0] * 1e3,
        "bound": None if need is None else need[1],
        "nodes": list(row.nodes), "from": list(row.sources),
    }  # fmt: skip
