"""The board as Markdown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from benchmarks.board.bounds import bounds
from benchmarks.board.records import RowRecord
from benchmarks.board.runs import entry_of, is_timed, run_with, runs_of
from benchmarks.board.verdicts import (
    Verdict,
    best_peer,
    is_quiet,
    means,
    ratio_of,
    reference_of,
    statistics_of,
    verdict,
)
from benchmarks.peers import DYNAMIC, PEERS, STATIC, TUNED
from benchmarks.peers_contract import SLOW_SECONDS, SLOW_TIMES

__all__ = ["render"]

_METHOD = """\
Latency in milliseconds, the median of all runs; **bold** is the fastest engine of a row. Each
engine has a process of its own, pinned to as many cores as it has threads; rounds of blocks are
interleaved in random order, and an engine that is not timed waits blocked in a read. The ratio is
our median over that of the best peer, with its 95 % bootstrap interval over rounds: below 1 we are
faster. `this size` means that an engine knew the shapes when it compiled, as OpenVINO,
`torch.compile`, IREE and TVM do too. Outputs are compared with ONNX Runtime's in every row, and a
wrong output has no time. OpenVINO computes in f32, `torch.compile` with frozen weights; IREE and
TVM get the graph after ONNX Runtime's basic clean-up, without which they import few of them. An
engine of which one run takes more than {slow:g} times as long as the quickest engine's, and more
than {least:g} s, ran once: rounds would tell nothing more.

Milliseconds of a row are of one run of the board, in which these engines took turns. `x 1.23` is an
engine that another run measured beside ours, in the same rounds: it takes 1.23 times as long as
ours there. No ratio on this page is between engines of different runs; where peers are of several,
the best one is that with the smallest ratio to ours."""


_DETAILS = """\
Compile is with an empty cache, and `again` with what the first one left there; load is from the
file to ready in a fresh process whose libraries are imported. The peak of engines that compile
while they load (`torch.compile`, TVM) holds the compiler. What does not depend on the number of
threads is compiled once for all of them, and its time stands in each row. Lines with another date
are of another run, with the engine of ours that it held the others against.
"""

_QUIET = """\
What the engines that were not timed used of the processors while another was, and what everything
besides the board did: on a quiet machine both are about 0.
"""


def render(rows: Mapping[str, RowRecord], facts: Mapping[str, str], chart: str = "") -> str:
    """All tables."""
    parts = ["# The board", "Written by `make board`; every sample is in `board.json`."]
    parts += [f"![Latency of every engine over ours]({chart})"] if chart else []
    method = _METHOD.format(slow=SLOW_TIMES, least=SLOW_SECONDS)
    parts += [method, *_warning(rows), "\n".join(_summary(rows)), "\n".join(_main(rows))]
    parts += ["## Bounds", "\n".join(_bounds(rows))]
    parts += ["## Not timed", "\n".join(_absent(rows)) or "Every engine was timed in every row."]
    parts += ["## Details", "\n".join(_details(rows))]
    parts += ["## Conditions", "\n".join(_conditions(rows)), "\n".join(_facts(facts))]
    return "\n\n".join(parts) + "\n"


def _warning(rows: Mapping[str, RowRecord]) -> Iterator[str]:
    """Which rows were measured while the machine did other things as well."""
    loud = [key for key, record in rows.items() if not is_quiet(record)]
    if loud:
        which = "all rows" if len(loud) == len(rows) else "; ".join(loud)
        yield f"**The machine was not quiet** ({which}): see the conditions at the end."


def _table(head: list[str], rows: list[list[str]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"|{'---|' * len(head)}"
    yield from (f"| {' | '.join(row)} |" for row in rows)


def _summary(rows: Mapping[str, RowRecord]) -> Iterator[str]:
    lines = [
        [m.family, str(m.threads), title, str(m.rows), f"{m.mean:.3f}",
         f"{m.worst:.3f} ({m.worst_row})", str(m.noisy)]
        for title, ours in (("this size", STATIC), ("any size", DYNAMIC), ("tuned", TUNED))
        for m in means(rows.values(), ours)
    ]  # fmt: skip
    head = ["rows", "threads", "artifact", "n", "geometric mean", "worst", "too noisy to call"]
    return _table(head, lines)


def _main(rows: Mapping[str, RowRecord]) -> Iterator[str]:
    names = [n for n in PEERS if any(entry_of(record, n) for record in rows.values())]
    head = ["row", "size", "threads", *(PEERS[n].title for n in names)]
    head += ["best peer", "ratio", "95 %", "we are", "any size / this size"]
    lines = []
    for record in rows.values():
        best = _fastest(record)
        cells = [_cell(record, name, best) for name in names]
        peer, found = best_peer(record), verdict(record)
        lines.append([
            record["row"], record["size"], str(record["threads"]), *cells,
            PEERS[peer].title if peer else "-", *_ratio(found), _dynamic(record),
        ])  # fmt: skip
    return _table(head, lines)


def _fastest(record: RowRecord) -> str:
    """The engine that is fastest beside ours, or ours."""
    ours, peer = reference_of(record), best_peer(record)
    known = {n: ratio for n in PEERS if (ratio := ratio_of(record, n, ours)) is not None}
    return min(known, key=known.__getitem__) if known else peer or ""


def _cell(record: RowRecord, name: str, fastest: str) -> str:
    """Milliseconds in the run that the row is shown by, or the ratio to ours in another one."""
    ours = reference_of(record)
    run = run_with(record, name, ours) or run_with(record, name)
    entry = record["engines"].get(name)
    if run is record or (name == ours and is_timed(entry)):
        found = statistics_of(entry) if entry is not None else None
        text = _ms(found.median_ms) if found is not None else ""
    else:
        entry, ratio = entry_of(record, name), ratio_of(record, name, ours)
        text = "" if ratio is None else f"x {_ms(ratio)}"
    if entry is None:
        return "-"
    if not is_timed(entry):
        return entry["state"]
    return (f"**{text}**" if name == fastest else text) or "not beside ours"


def _ms(value: float | None) -> str:
    """Three digits that count.

    >>> _ms(0.12345), _ms(12.345), _ms(1234.5), _ms(None)
    ('0.123', '12.3', '1234', '-')
    """
    if value is None:
        return "-"
    digits = 3 if value < 1 else max(0, 3 - len(str(int(value))))
    return f"{value:.{digits}f}"


def _ratio(found: Verdict | None) -> list[str]:
    if found is None:
        return ["-", "-", "-"]
    return [f"{found.ratio:.3f}", f"{found.low:.3f} to {found.high:.3f}", found.call]


def _dynamic(record: RowRecord) -> str:
    found = verdict(record, DYNAMIC, STATIC)
    return f"{found.ratio:.3f} ({found.low:.3f} to {found.high:.3f})" if found else "-"


def _bounds(rows: Mapping[str, RowRecord]) -> Iterator[str]:
    words = {True: "PASSED", False: "FAILED", None: "not measured"}
    lines = [
        [b.what, f"≤ {b.limit:g}", "-" if b.found is None else f"{b.found:.3g}", b.where,
         words[b.passed]]
        for b in bounds(rows)
    ]  # fmt: skip
    return _table(["figure", "bound", "found", "where", "verdict"], lines)


def _absent(rows: Mapping[str, RowRecord]) -> Iterator[str]:
    reasons: dict[tuple[str, str, str], list[str]] = {}
    for record in rows.values():
        for run in runs_of(record):
            if run["error"]:
                yield f"* {record['key']}: {run['error']}"
        for name in PEERS:
            entry = entry_of(record, name)
            if entry is not None and entry["state"] != "timed":
                reason = (PEERS[name].title, entry["state"], entry["why"])
                reasons.setdefault(reason, []).append(record["key"])
    for (title, state, why), keys in reasons.items():
        where = "all rows" if len(keys) == len(rows) else "; ".join(keys)
        text = why.replace("|", "\\|").replace("<", "\\<")
        yield f"* {title}, {state}: {text} ({where})"


def _details(rows: Mapping[str, RowRecord]) -> Iterator[str]:
    head = ["row", "threads", "run", "engine", "median ms", "p90", "p99", "spread of rounds",
            "runs", "compile s", "again s", "load ms", "first run ms", "peak MB", "file MB",
            "max abs difference"]  # fmt: skip
    lines = []
    for record in rows.values():
        for run, name in _shown(record):
            entry = run["engines"][name]
            found = statistics_of(entry)
            if found is None:
                continue
            error = entry.get("max_abs")
            lines.append([
                record["row"], str(record["threads"]), run["date"], PEERS[name].title,
                _ms(found.median_ms),
                _ms(found.p90_ms), _ms(found.p99_ms), f"{found.cv:.1%}", str(found.n),
                _seconds(entry.get("build_s")), _seconds(entry.get("rebuild_s")),
                _ms(entry.get("load_ms")), _ms(entry.get("first_ms")), _whole(entry.get("peak_mb")),
                _whole(entry.get("file_mb")), "-" if error is None else f"{error:.1e}",
            ])  # fmt: skip
    yield _DETAILS
    yield from _table(head, lines)


def _shown(record: RowRecord) -> Iterator[tuple[RowRecord, str]]:
    """The engines of each run: all of the one that the row is shown by, what others add or need."""
    for run in (record, *record.get("others", [])):
        for name in run["engines"]:
            if run is record or PEERS[name].ours or run_with(record, name) is run:
                yield run, name


def _seconds(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _whole(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f}" if value >= 10 else f"{value:.1f}"


def _conditions(rows: Mapping[str, RowRecord]) -> Iterator[str]:
    head = ["row", "threads", "cores", "date", "commit", "rounds", "load average before",
            "idle engines, CPUs", "others, CPUs"]  # fmt: skip
    lines = []
    for run in (run for record in rows.values() for run in (record, *record.get("others", []))):
        quiet = run.get("quiet")
        lines.append([
            run["row"], str(run["threads"]), ",".join(map(str, run["cores"])), run["date"],
            run["commit"], str(run["rounds"]), f"{run['load']:.2f}",
            f"{quiet['idle']:.2f}" if quiet else "-", f"{quiet['others']:.2f}" if quiet else "-",
        ])  # fmt: skip
    yield _QUIET
    yield from _table(head, lines)


def _facts(facts: Mapping[str, str]) -> Iterator[str]:
    yield from (f"* {name}: {value}" for name, value in facts.items())
