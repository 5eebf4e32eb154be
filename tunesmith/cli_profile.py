"""`tunesmith profile`: where the time of a call goes, beside what this machine could do."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from tunesmith.cli_compile import require_file
from tunesmith.cli_console import note, out, print_table
from tunesmith.cli_values import fixed_sizes, parse_shapes, read_npz, write_json
from tunesmith.ir.diagnostics import CompilerError

if TYPE_CHECKING:
    from tunesmith.backends.measure import Peaks
    from tunesmith.oracle import Arrays
    from tunesmith.runtime import Manifest
    from tunesmith.runtime.profiler import Probe

__all__ = ["profile_command"]


def profile_command(
    artifact: Path,
    inputs: Path | None,
    shapes: Sequence[str],
    dims: Sequence[str],
    threads: int | None,
    rounds: int,
    by: str,
    least: bool,
    cpu_time: bool,
    measure_again: bool,
    json: Path | None,
) -> None:
    """Measure, print the table, and write JSON."""
    wanted_shapes, wanted = parse_shapes(shapes), fixed_sizes(dims)
    require_file(artifact)
    from tunesmith import report, report_profile
    from tunesmith.runtime import load

    executable = load(artifact, threads=threads)
    sizes, feeds = _feeds(executable.manifest, inputs, wanted_shapes, wanted)
    peaks = _peaks(executable.threads, measure_again)
    probe = None if peaks is None else _probe(executable.threads)
    profile = executable.profile(feeds, rounds=rounds, cpu_time=cpu_time, probe=probe)
    if peaks is not None:
        peaks = report_profile.peaks_beside(peaks, profile, least=least)
    groups = report_profile.group_rows(profile, peaks, by, least=least)
    if str(json) != "-":
        _print(report_profile.HEAD, report_profile.table_rows(groups))
        out(f"{executable.manifest.name} at {report.sizes_text(sizes)}")
        for line in report_profile.profile_lines(profile, peaks, groups):
            out(line)
    if (warning := report_profile.noise_of(profile)) is not None:
        note(f"warning: {warning}")
    if json is not None:
        facts = {"artifact": str(artifact), "by": by, "statistic": "min" if least else "median"}
        write_json(json, facts | report_profile.profile_json(profile, peaks, groups))


def _print(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> None:
    """Print the table; on a narrow terminal it is the origin of kernels that is cut."""
    if not sys.stdout.isatty():
        print_table(head, rows)
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, pad_edge=False)
    for number, title in enumerate(head):
        last = number == len(head) - 1
        align: Literal["left", "right"] = "right" if 2 <= number <= 7 else "left"
        table.add_column(title, justify=align, no_wrap=True, overflow="ellipsis",
                         min_width=4 if last else max(len(row[number]) for row in (head, *rows))
                         )  # fmt: skip
    for row in rows:
        table.add_row(*map(Text, row))
    Console().print(table)


def _feeds(
    manifest: Manifest,
    inputs: Path | None,
    shapes: Mapping[str, tuple[int, ...]],
    dims: Mapping[str, int],
) -> tuple[dict[str, int], Arrays]:
    """The inputs of the user, or random ones of typical sizes."""
    from tunesmith.random_inputs import fitting, make_inputs, sizes_of, sizes_to_bench

    if inputs is not None:
        feeds = read_npz(inputs)
        given = {n: a.shape for n, a in feeds.items() if n in {s.name for s in manifest.inputs}}
        return sizes_of(manifest.inputs, given, {}), feeds
    typical = fitting(manifest, {**sizes_to_bench(manifest.given), **dims})
    sizes = sizes_of(manifest.inputs, shapes, {**typical, **dims})
    bounds = {spec.name: spec.rows for spec in manifest.inputs if spec.rows is not None}
    return sizes, make_inputs(manifest.inputs, sizes, bounds=bounds)


def _probe(threads: int) -> Probe | None:
    """What the machine reaches in the same seconds: clocks change with the load."""
    try:
        from tunesmith.backends.targets import find_target
        from tunesmith.backends.tvm.peaks import Probe as Kernels

        return Kernels(find_target("host", threads), threads)
    except (CompilerError, MemoryError) as error:
        note(f"warning: {error}; the peaks are those that were measured once")
        return None


def _peaks(threads: int, again: bool) -> Peaks | None:
    """The peaks of this machine; a profile without them is still one."""
    from tunesmith.backends.measure import cache_file, measured_peaks

    if again or not cache_file().exists():
        note("measuring the peaks of this machine: a few seconds")
    try:
        peaks = measured_peaks(threads, refresh=again)
    except CompilerError as error:
        note(f"warning: {error.message}; the table says nothing of peaks")
        return None
    if peaks.noisy:
        note("warning: the second cache was measured while other work ran, and may be faster;"
             " `--measure-again` keeps the better of both")  # fmt: skip
    return peaks
