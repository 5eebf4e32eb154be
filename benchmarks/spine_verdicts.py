"""The bounds of the spine: the worst figure of each, and whether it holds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

from benchmarks.spine_rows import (
    BERT_SECONDS,
    ERROR_LIMIT,
    HELP_SECONDS,
    IMPORT_SECONDS,
    RATIO_LIMIT,
    Row,
    SizeRow,
    found_all,
    worst_error,
)

__all__ = ["Rows", "Verdict", "verdicts"]

Rows = Mapping[str, Row]


@dataclass(frozen=True)
class Verdict:
    """One bound: its worst figure, and whether it holds; None is not measured."""

    bound: str
    limit: str
    worst: str
    passed: bool | None

    @property
    def word(self) -> str:
        """What the table says."""
        return {None: "not measured", True: "PASSED", False: "FAILED"}[self.passed]


def verdicts(rows: Rows) -> list[Verdict]:
    """All bounds, in the order of the issue."""
    checks = [row for row in rows.values() if row["kind"] in ("check", "build")]
    return [
        _compiles(checks),
        _agrees([row for row in rows.values() if row.get("sizes")]),
        _attention(checks),
        *(_speed(rows.values(), threads) for threads in (1, 2)),
        _bert(rows.values()),
        _start(rows, "import tunesmith", IMPORT_SECONDS),
        _start(rows, "tunesmith --help", HELP_SECONDS),
    ]


def _compiles(checks: Sequence[Row]) -> Verdict:
    done = [row for row in checks if "compiled" in row and not row.get("error")]
    text = f"{len(done)} of {len(checks)}"
    passed = len(done) == len(checks) if checks else None
    return Verdict("models compile with dynamic dims and run", "all", text, passed)


def _agrees(compared: Sequence[Row]) -> Verdict:
    """Also false if a row has no figure at any size, or a size at which we failed."""
    bound, limit = "max abs error against ONNX Runtime", f"{ERROR_LIMIT:g}"
    if not compared:
        return Verdict(bound, limit, "", None)
    known = [(e, row["key"]) for row in compared if (e := worst_error(row["sizes"])) is not None]
    bad = [row for row in compared if not _right(row["sizes"])]
    error, where = max(known, default=(float("nan"), "none"))
    count = sum(len(size["outputs"]) for row in compared for size in row["sizes"])
    worst = f"{error:.2g} at {where}; {count} comparisons"
    if bad:
        worst += f"; {len(bad)} of {len(compared)} rows differ"
    return Verdict(bound, limit, worst, not bad)


def _right(sizes: Sequence[SizeRow]) -> bool:
    outputs = [o for size in sizes for o in size["outputs"]]
    return bool(outputs) and all(o["passed"] for o in outputs) and not any(
        size["error"] for size in sizes
    )  # fmt: skip


def _attention(checks: Sequence[Row]) -> Verdict:
    have = sum(row["compiled"]["attention"] for row in checks if "compiled" in row)
    wanted = sum(row["expected"] for row in checks)
    passed = all(map(found_all, checks)) if checks else None
    return Verdict("attention blocks found", "100 %", f"{have} of {wanted}", passed)


def _speed(rows: Iterable[Row], threads: int) -> Verdict:
    name = "thread" if threads == 1 else "threads"
    bound = f"latency over ONNX Runtime's, {threads} {name}"
    timed = [row for row in rows if row["kind"] == "time" and row.get("threads") == threads]
    if not timed:
        return Verdict(bound, f"{RATIO_LIMIT}", "", None)
    ratios = [(r["ratio"], r, row) for row in timed for r in row.get("ratios", ())]
    missing = [row for row in timed if not row.get("ratios")]
    passed = not missing and all(ratio <= RATIO_LIMIT for ratio, _, _ in ratios)
    worst = f"no figure for {len(missing)} of {len(timed)}; " if missing else ""
    if ratios:
        ratio, pair, row = max(ratios, key=lambda r: r[0])
        worst += f"{ratio:.3f} at {row['subject']} ({pair['ours']}); n = {len(ratios)}"
    return Verdict(bound, f"{RATIO_LIMIT}", worst, passed)


def _bert(rows: Iterable[Row]) -> Verdict:
    bound, limit = "compile of BERT-base", f"{BERT_SECONDS:.0f} s"
    mine = [r for r in rows if r["subject"].startswith("bert-base/")]
    mine = [r for r in mine if "compiled" in r and not r["subject"].endswith("/small")]
    if not mine:
        return Verdict(bound, limit, "", None)
    worst = max(mine, key=lambda r: r["compiled"]["seconds"])
    took = worst["compiled"]["seconds"]
    text = f"{took:.1f} s at {worst['key']}; n = {len(mine)}"
    return Verdict(bound, limit, text, took <= BERT_SECONDS)


def _start(rows: Rows, command: str, limit: float) -> Verdict:
    row = rows.get("start")
    seconds = row.get("starts", {}).get(command, []) if row else []
    bound = f"`{command}`"
    if not seconds:
        return Verdict(bound, f"{limit} s", "", False if row else None)
    text = f"median {median(seconds):.3f} s of the whole process, most {max(seconds):.3f} s"
    return Verdict(bound, f"{limit} s", f"{text}; n = {len(seconds)}", median(seconds) < limit)
