"""The rows of the spine as a document: one verdict for each bound, and every figure behind it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from statistics import median

from benchmarks.spine_rows import (
    RATIO_LIMIT,
    Facts,
    Ratio,
    Row,
    SizeRow,
    failures,
    found_all,
    worst_error,
)
from benchmarks.spine_verdicts import Rows, verdicts

__all__ = ["render"]

NOISY = 0.025  # coefficient of variation of the medians of rounds


def render(rows: Rows, facts: Facts) -> str:
    """The whole document."""
    ordered = sorted(rows.values(), key=lambda r: (r["subject"], r["kind"], r.get("threads", 0)))
    parts = [
        "# What the spine must show, measured",
        "Written by `make figures` (`python -m benchmarks.spine`); every sample is in the JSON file"
        " beside it. The weights of the zoo are random: nothing here is about accuracy.",
        "\n".join(_setting(ordered, facts)),
        "## Bounds",
        _table(
            ("bound", "limit", "worst", "verdict"),
            [(v.bound, v.limit, v.worst, v.word) for v in verdicts(rows)],
        ),
        "`make demo` and `make test` on a fresh clone are not timed here.",
        *_failures(ordered),
        *_compiles_section(ordered),
        *_errors_section(ordered),
        *_speed_section(ordered),
    ]
    return "\n\n".join(parts) + "\n"


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    lines += ["| " + " | ".join(c.replace("|", "\\|") for c in row) + " |" for row in rows]
    return "\n".join(lines)


def _setting(rows: Sequence[Row], facts: Facts) -> Iterator[str]:
    for name in ("cpu", "features", "memory", "system", "governor"):
        yield f"* {name}: {facts.get(name, '?')}"
    machine = {"cpu", "features", "memory", "system", "governor"}
    yield "* versions: " + ", ".join(f"{k} {v}" for k, v in facts.items() if k not in machine)
    dates = sorted(row["date"] for row in rows if "date" in row)
    loads = [row["load"] for row in rows if "load" in row]
    if dates:
        yield f"* measured: {dates[0]} to {dates[-1]}"
        yield f"* load average before a step: median {median(loads):.2f}, most {max(loads):.2f}"
    commits = Counter(row["commit"] for row in rows if "commit" in row)
    yield "* commits: " + ", ".join(f"{c} ({n} rows)" for c, n in commits.items())


def _failures(rows: Sequence[Row]) -> Iterator[str]:
    bad = [(row, reason) for row in rows for reason in failures(row)]
    if not bad:
        return
    yield "## Failures"
    yield "\n".join(f"* `{row['key']}`: {reason}" for row, reason in bad)
    for row in rows:
        if len(row.get("error", "").splitlines()) > 1:
            yield f"`{row['key']}`:\n\n```text\n{row['error'].strip()}\n```"


def _compiles_section(rows: Sequence[Row]) -> Iterator[str]:
    mine = [row for row in rows if row["kind"] in ("check", "fix", "build")]
    if not mine:
        return
    yield "## Compiles"
    yield (
        "Seconds include reading and saving; the cache of kernels is empty before each. `peak` is"
        " the memory of the process after that. *fixed* is compiled for one size alone."
    )
    head = ("model", "dims", "compile", "import, optimize, lower, build", "artifact", "peak",
            "load", "nodes", "kernels", "attention")  # fmt: skip
    yield _table(head, map(_compile_cells, mine))
    misses = [
        f"* `{row['key']}`: {miss}"
        for row in mine
        if "compiled" in row
        for miss in row["compiled"]["near_misses"]
    ]
    if misses:
        yield "Near misses of attention:"
        yield "\n".join(misses)


def _compile_cells(row: Row) -> tuple[str, ...]:
    compiled = row.get("compiled")
    if compiled is None:
        return (row["subject"], "FAILED", *[""] * 7, f"0/{row['expected']} FAILED")
    stages = ", ".join(f"{seconds:.1f}" for seconds in compiled["stages"].values())
    load = row.get("load_ms")
    return (
        row["subject"], compiled["dims"] or "*fixed*", f"{compiled['seconds']:.1f} s", stages,
        f"{compiled['bytes'] / 1e6:.1f} MB", f"{compiled['peak_mb']} MB",
        "" if load is None else f"{load:.0f} ms", "{} -> {}".format(*compiled["nodes"]),
        str(compiled["kernels"]),
        f"{compiled['attention']}/{row['expected']} {'PASSED' if found_all(row) else 'FAILED'}",
    )  # fmt: skip


def _errors_section(rows: Sequence[Row]) -> Iterator[str]:
    mine = [row for row in rows if row["kind"] in ("check", "fix") and row.get("sizes")]
    groups = sorted({_labels(row) for row in mine}, key=len, reverse=True)
    if groups:
        yield "## Max abs error against ONNX Runtime"
    for group in groups:
        cells = [c for row in mine if _labels(row) == group for c in _error_cells(row)]
        yield _table(("model", "output", "dtype, largest", *group, "verdict"), cells)
    skipped = [
        f"* `{row['key']}` at {_label(size)}: {size['skipped']}"
        for row in mine
        for size in row["sizes"]
        if size["skipped"]
    ]
    if skipped:
        yield "Skipped, as ONNX Runtime itself cannot run these sizes:"
        yield "\n".join(skipped)


def _label(size: SizeRow) -> str:
    return "×".join(map(str, size["size"]))  # noqa: RUF001  # the sign of multiplication


def _labels(row: Row) -> tuple[str, ...]:
    return tuple(map(_label, row["sizes"]))


def _error_cells(row: Row) -> Iterator[tuple[str, ...]]:
    name = row["subject"] + (" *fixed*" if row["kind"] == "fix" else "")
    known = {o["output"]: o for size in row["sizes"] for o in size["outputs"]}
    for output in known or ["-"]:
        found = [_error_cell(size, output) for size in row["sizes"]]
        passed = not any("FAILED" in cell for cell in found) and bool(known)
        scale = f"{known[output]['dtype']}, {known[output]['scale']:.3g}" if known else "-"
        yield (name, f"`{output}`", scale, *found, "PASSED" if passed else "FAILED")


def _error_cell(size: SizeRow, output: str) -> str:
    if size["skipped"]:
        return "skipped"
    for o in size["outputs"]:
        if o["output"] == output:
            text = "-" if o["max_abs"] is None else f"{o['max_abs']:.1e}"
            return text if o["passed"] else f"{text} FAILED"
    return "FAILED"


def _speed_section(rows: Sequence[Row]) -> Iterator[str]:
    mine = [row for row in rows if row["kind"] == "time"]
    if not mine:
        return
    yield "## Latency"
    yield (
        "Milliseconds of one run: batch 1, 128 tokens or one image. Both engines take turns in one"
        " process ([how](bench.md)), with the same inputs and threads, which are not pinned; a"
        " process for each number of threads. ONNX Runtime has all its optimizations and spins as"
        " by default, so each turn begins with a pause of 120 ms and a run that is not timed."
        " *fixed*: both know the shapes when they compile. `cv` is of the medians of the rounds,"
        " ours and theirs; above 2.5 % (!) small differences mean nothing."
    )
    head = ("model", "threads", "ours: median (p90, p99)", "ONNX Runtime", "ratio", "95 %", "cv",
            "n", "load, first run", "max abs error", "verdict")  # fmt: skip
    yield _table(head, [cells for row in mine for cells in _speed_cells(row)])


def _speed_cells(row: Row) -> Iterator[tuple[str, ...]]:
    threads = str(row.get("threads", "?"))
    if not row.get("ratios"):
        yield (row["subject"], threads, *[""] * 8, "FAILED")
    for index, ratio in enumerate(row.get("ratios", ())):
        yield _pair_cells(row, ratio, threads, index)


def _pair_cells(row: Row, ratio: Ratio, threads: str, index: int) -> tuple[str, ...]:
    ours, theirs = (row["engines"][ratio[side]] for side in ("ours", "theirs"))
    noisy = "!" if max(ours["cv"], theirs["cv"]) > NOISY else ""
    error = worst_error(row["sizes"][index : index + 1])
    started = f"{row['load_ms']:.0f}, {row['first_run_ms']:.1f}"
    return (
        row["subject"] + (" *fixed*" if "fixed" in ratio["ours"] else ""),
        threads,
        f"{ours['median_ms']:.2f} ({ours['p90_ms']:.2f}, {ours['p99_ms']:.2f})",
        f"{theirs['median_ms']:.2f} ({theirs['p90_ms']:.2f}, {theirs['p99_ms']:.2f})",
        f"{ratio['ratio']:.3f}",
        f"[{ratio['low']:.3f}, {ratio['high']:.3f}]",
        f"{100 * ours['cv']:.1f}, {100 * theirs['cv']:.1f} %{noisy}",
        f"{ours['n']}, {theirs['n']}",
        "" if "fixed" in ratio["ours"] else started,
        "-" if error is None else f"{error:.1e}",
        "PASSED" if ratio["ratio"] <= RATIO_LIMIT else "FAILED",
    )
