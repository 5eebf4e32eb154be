"""What commands print, as text: the summary of a compile, verdicts of a comparison, timings."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tunesmith.ir.dims import Dim, Sym, dim, product

if TYPE_CHECKING:
    from tunesmith.bench import Measurement, Statistics
    from tunesmith.oracle import OutputReport
    from tunesmith.runtime.manifest import Manifest, SymbolSpec, TensorSpec

__all__ = [
    "bench_lines", "cache_lines", "compile_summary", "graph_lines", "megabytes", "seconds",
    "sizes_text", "spec_text", "symbols_text", "tolerance_lines", "verdict_lines",
]  # fmt: skip

_NEAR_MISSES_SHOWN = 8


def megabytes(size: int) -> str:
    """A size for people.

    >>> megabytes(23_456_789), megabytes(12_345), megabytes(12)
    ('23.5 MB', '12.3 kB', '12 B')
    """
    for unit, name in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if size >= unit:
            return f"{size / unit:.1f} {name}"
    return f"{size} B"


def seconds(value: float) -> str:
    """A time for people.

    >>> seconds(0.0042), seconds(0.42), seconds(12.3)
    ('4.2 ms', '420 ms', '12.3 s')
    """
    if value >= 1:
        return f"{value:.1f} s"
    return f"{value * 1e3:.1f} ms" if value < 0.1 else f"{value * 1e3:.0f} ms"


def symbols_text(symbols: Sequence[SymbolSpec]) -> str:
    """The symbols and their bounds: `batch 1..8, seq 1..128`."""
    return ", ".join(f"{s.name} {s.min}..{'' if s.max is None else s.max}" for s in symbols)


def spec_text(spec: TensorSpec) -> str:
    """A tensor: `input_ids int64[batch, seq]`; one whose value is fixed: `axes int64[1] = [0]`.

    One that is the value of a size: `past int64[], the size past`.
    """
    if spec.binds is not None:
        return f"{spec.name} {spec}, the size {spec.binds}"
    if (value := spec.array) is None:
        return f"{spec.name} {spec}"
    from tunesmith.runtime.manifest import array_text

    return f"{spec.name} {spec} = {array_text(value)}"


def sizes_text(sizes: Mapping[str, int]) -> str:
    """The sizes of symbols: `batch=1 seq=128`."""
    return " ".join(f"{name}={size}" for name, size in sizes.items()) or "static shapes"


def compile_summary(manifest: Manifest, path: Path, took: float, size: int) -> list[str]:
    """The block that ends a compile."""
    report: Mapping[str, object] = manifest.report
    lines = [f"compiled {manifest.name} in {seconds(took)}{_stages(report.get('seconds'))}"]
    lines += graph_lines(report)
    if manifest.symbols:
        lines.append(f"dims      {symbols_text(manifest.symbols)}")
    lines += [*cache_lines(manifest), *memory_lines(manifest), *tolerance_lines(manifest)]
    target = manifest.target
    lines.append(f"target    {target.cpu} ({target.triple}), {_count(target.threads, 'thread')}")
    lines.append(f"written   {path} ({megabytes(size)})")
    lines.append(f"run it    tunesmith run {path} --inputs in.npz --outputs out.npz")
    return lines


def cache_lines(manifest: Manifest) -> list[str]:
    """The caches that are written in place, and the bytes of their buffers."""
    if not manifest.caches:
        return []
    names = {cache.input for cache in manifest.caches}
    total: Dim = 0
    for spec in manifest.inputs:
        if spec.name in names:
            total = total + _bytes(spec)
    rows = {t.dims[c.axis] for c in manifest.caches for t in manifest.inputs if t.name == c.input}
    room = " or ".join(map(str, sorted(rows, key=str)))
    taken = megabytes(total) if isinstance(total, int) else f"{total} bytes"
    return [f"caches    {_count(len(names), 'buffer')} of {room} rows, written in place: {taken}"]


def _bytes(spec: TensorSpec) -> Dim:
    """The bytes of a tensor, in symbols."""
    from tunesmith.runtime.manifest import DTYPES

    sizes = (size if isinstance(size, int) else dim(Sym(size)) for size in spec.dims)
    return product(sizes) * DTYPES[spec.dtype]


def memory_lines(manifest: Manifest) -> list[str]:
    """What a run takes: the weights, which are mapped, and the planned arena."""
    arena, weights = manifest.report.get("arena"), manifest.report.get("weights")
    if not isinstance(arena, str) or not arena or not isinstance(weights, int):
        return []
    taken = megabytes(int(arena)) if re.fullmatch("[0-9]{1,18}", arena) else f"{arena} bytes"
    return [f"memory    {megabytes(weights)} of weights, and while it runs {taken}"]


def graph_lines(report: Mapping[str, object]) -> list[str]:
    """What the passes made of the graph: nodes, fusions, near misses and why."""
    lines = []
    if "nodes_before" in report:
        kernels = f", {report['kernels']} kernels" if report.get("kernels") else ""
        lines.append(f"nodes     {report['nodes_before']} -> {report.get('nodes_after')}{kernels}")
    fused, missed = report.get("fused"), report.get("near_misses")
    misses = list(missed) if isinstance(missed, list | tuple) else []
    if isinstance(fused, dict) and (fused or misses):
        lines.append(f"fused     {_fused(fused, misses)}")
    stored = report.get("stored")
    if isinstance(stored, dict) and stored:
        each = [f"{_count(int(str(n)), 'weight')} as {name}" for name, n in stored.items()]
        lines.append(f"stored    {', '.join(each)}: the numbers are the same")
    lines += [f"near miss {_near_miss(m)}" for m in misses[:_NEAR_MISSES_SHOWN]]
    if len(misses) > _NEAR_MISSES_SHOWN:
        lines.append(f"near miss … and {len(misses) - _NEAR_MISSES_SHOWN} more, see the manifest")
    return lines


def tolerance_lines(manifest: Manifest) -> list[str]:
    """How far the outputs were from those of the oracle when the model was compiled."""
    tolerance = manifest.tolerance or {}
    skipped = tolerance.get("skipped")
    if skipped is not None:
        return [f"not verified: {skipped}"]
    rows = tolerance.get("outputs")
    if not isinstance(rows, list) or not rows:
        return []
    found = [row for row in rows if isinstance(row, dict)]
    worst = max((v for row in found if isinstance(v := row.get("max_abs"), int | float)), default=0)
    sizes = len({str(row.get("sizes")) for row in found})
    where = f"at {_count(sizes, 'size')} beside {tolerance.get('oracle', 'the oracle')}"
    return [f"verified  max abs {worst:.3g} {where}"]


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _stages(stages: object) -> str:
    if not isinstance(stages, dict) or not stages:
        return ""
    parts = [f"{n} {seconds(v)}" for n, v in stages.items() if isinstance(v, int | float)]
    return f" ({', '.join(parts)})"


def _fused(fused: Mapping[str, object], misses: Sequence[object]) -> str:
    """`attention 6/6, linear 36/36`: formed, of what was formed or nearly so."""
    near: dict[str, int] = {}
    for miss in misses:
        if isinstance(miss, dict):
            what = str(miss.get("what", "?"))
            near[what] = near.get(what, 0) + 1
    counts = {str(name): int(str(count)) for name, count in fused.items()}
    names = [*counts, *(name for name in near if name not in counts)]
    names.sort(key=lambda name: name != "attention")
    return ", ".join(f"{n} {counts.get(n, 0)}/{counts.get(n, 0) + near.get(n, 0)}" for n in names)


def _near_miss(miss: object) -> str:
    if isinstance(miss, dict):
        return f"{miss.get('what', '?')} at {miss.get('where', '?')}: {miss.get('reason', '?')}"
    return str(miss)


def verdict_lines(reports: Sequence[OutputReport], sizes: Mapping[str, int]) -> list[str]:
    """One line for each output, and what would pass where one fails."""
    lines = []
    for r in reports:
        head = f"{'PASSED' if r.passed else 'FAILED'} {r.name} {r.dtype}{list(r.shape)}"
        if r.reason and r.max_abs == float("inf"):
            lines.append(f"{head} at {sizes_text(sizes)}: {r.reason}")
            continue
        lines.append(
            f"{head} at {sizes_text(sizes)}: max abs {r.max_abs:.3g}  max rel {r.max_rel:.3g}  "
            f"ULP {r.max_ulp}  (atol={r.atol:g}, rtol={r.rtol:g})"
        )
        if not r.passed:
            relative = "none" if r.needed_rtol is None else f"{r.needed_rtol:.3g}"
            least = f"least that passes: atol={r.needed_atol:.3g} or rtol={relative}"
            lines.append(f"       {r.reason}; {least}")
    return lines


def bench_lines(measurement: Measurement, versions: Mapping[str, str]) -> list[str]:
    """The timing block: a line for each engine, and the ratio with its interval."""
    known = measurement.statistics
    lines = [_timing(name, stats, versions.get(name, "")) for name, stats in known.items()]
    ours = next(iter(known.values()))
    lines.append(f"throughput   {1e3 / ours.median_ms:.1f} runs/s")
    ratio, interval, peer = measurement.ratio, measurement.interval, measurement.best_peer
    if ratio is not None and interval is not None:
        low, high = interval
        word = "equal" if low <= 1 <= high else "faster" if ratio < 1 else "slower"
        lines.append(
            f"ratio        {ratio:.3f} [{low:.3f}, {high:.3f}] of the time of {peer}: {word}"
        )
    return lines


def _timing(name: str, stats: Statistics, version: str) -> str:
    label = f"{name} {version}".strip()
    return (
        f"{label:19} median {stats.median_ms:.3f} ms  p90 {stats.p90_ms:.3f}  "
        f"p99 {stats.p99_ms:.3f}  min {stats.min_ms:.3f}  n={stats.n}  cv {100 * stats.cv:.1f} %"
    )
