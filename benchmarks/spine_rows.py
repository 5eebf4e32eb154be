"""The records of the spine, as its JSON file holds them, and the bounds that they must keep."""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NotRequired, TypedDict, cast

__all__ = [
    "BERT_SECONDS", "ERROR_LIMIT", "HELP_SECONDS", "IMPORT_SECONDS", "PAIRS", "RATIO_LIMIT",
    "Compiled", "Engine", "Facts", "OutputRow", "Ratio", "Row", "SizeRow", "failures", "found_all",
    "read_json", "worst_error", "write_json", "write_text",
]  # fmt: skip

FORMAT = 1  # of the file: raise it when the fields of a row change
ERROR_LIMIT = 1e-4
RATIO_LIMIT = 1.3
BERT_SECONDS = 60.0
IMPORT_SECONDS = 0.3
HELP_SECONDS = 0.5

# Each engine of ours beside ONNX Runtime with the same knowledge of the shapes.
PAIRS = (("tunesmith", "onnxruntime"), ("tunesmith fixed", "onnxruntime fixed"))

Facts = dict[str, str]


class Compiled(TypedDict):
    """What a compile took, and what it found."""

    seconds: float  # with saving
    stages: dict[str, float]
    bytes: int
    peak_mb: int
    dims: str
    nodes: list[int]  # before and after
    kernels: int
    attention: int
    near_misses: list[str]


class OutputRow(TypedDict):
    """How far one output is from ONNX Runtime's."""

    output: str
    dtype: str
    scale: float  # the largest magnitude of ONNX Runtime's
    max_abs: float | None  # None where the outputs cannot be compared
    passed: bool
    reason: str


class SizeRow(TypedDict):
    """The comparison at one size."""

    size: list[int]
    outputs: list[OutputRow]
    skipped: str  # why ONNX Runtime cannot run it
    error: str  # why we cannot


class Engine(TypedDict):
    """The latency of one engine."""

    median_ms: float
    p90_ms: float
    p99_ms: float
    cv: float
    n: int
    samples_ms: list[list[float]]  # by round


class Ratio(TypedDict):
    """Our median over ONNX Runtime's."""

    ours: str
    theirs: str
    ratio: float
    low: float  # of the 95 % bootstrap interval
    high: float


class Row(TypedDict):
    """One measurement, made by one process."""

    key: str
    kind: str  # "check", "fix", "time" or "start"
    subject: str
    expected: int  # attention blocks
    date: NotRequired[str]
    commit: NotRequired[str]
    load: NotRequired[float]  # average over a minute, when it began
    seconds: NotRequired[float]
    error: NotRequired[str]
    compiled: NotRequired[Compiled]
    sizes: NotRequired[list[SizeRow]]
    threads: NotRequired[int]
    load_ms: NotRequired[float]
    first_run_ms: NotRequired[float]
    engines: NotRequired[dict[str, Engine]]
    ratios: NotRequired[list[Ratio]]
    starts: NotRequired[dict[str, list[float]]]  # seconds of each run, by command


def worst_error(rows: Iterable[SizeRow]) -> float | None:
    """The largest error of all outputs at all sizes."""
    found = [o["max_abs"] for row in rows for o in row["outputs"]]
    known = [error for error in found if error is not None]
    return max(known) if known else None


def found_all(row: Row) -> bool:
    """Whether every attention block was found."""
    compiled = row.get("compiled")
    return compiled is not None and compiled["attention"] == row["expected"]


def failures(row: Row) -> list[str]:
    """The bounds that a row does not keep, as text."""
    found = [f"{row['kind']}: {row['error'].splitlines()[0]}"] if row.get("error") else []
    compiled = row.get("compiled")
    if compiled is not None and not found_all(row):
        found.append(f"attention {compiled['attention']}/{row['expected']}")
    if compiled is not None and _is_bert(row["subject"]) and compiled["seconds"] > BERT_SECONDS:
        found.append(f"compiled in {compiled['seconds']:.1f} s")
    for size in row.get("sizes", ()):
        label = "x".join(map(str, size["size"]))
        if size["error"]:
            found.append(f"{label}: {size['error'].splitlines()[0]}")
        found += [
            f"{o['output']} at {label}: {o['reason']}" for o in size["outputs"] if not o["passed"]
        ]
    for ratio in row.get("ratios", ()):
        if ratio["ratio"] > RATIO_LIMIT:
            found.append(f"{ratio['ours']} takes {ratio['ratio']:.2f} of {ratio['theirs']}")
    return found


def _is_bert(subject: str) -> bool:
    return subject.startswith("bert-base/") and not subject.endswith("/small")


def read_json(path: Path) -> dict[str, Row]:
    """The rows of an earlier run by key; none if there is no such file, or of another format."""
    if not path.is_file():
        return {}
    content = json.loads(path.read_text(encoding="utf-8"))
    if content.get("format") != FORMAT:
        return {}
    return {row["key"]: row for row in cast("list[Row]", content["rows"])}


def write_json(path: Path, rows: Mapping[str, Row], facts: Facts) -> None:
    """Write all rows, whole or not at all: a line for each."""
    lines = ",\n".join(json.dumps(row) for row in rows.values())
    write_text(
        path, f'{{"format": {FORMAT}, "facts": {json.dumps(facts)},\n"rows": [\n{lines}\n]}}\n'
    )


def write_text(path: Path, text: str) -> None:
    """Replace a file in one step."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    _write(temporary, lambda: temporary.write_text(text, encoding="utf-8"))
    os.replace(temporary, path)


def _write(temporary: Path, write: Callable[[], object]) -> None:
    try:
        write()
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
