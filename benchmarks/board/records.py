"""The records of the board, as its JSON file holds them: raw samples, and what they depend on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import NotRequired, TypedDict, cast

from benchmarks.spine_rows import write_text

__all__ = [
    "EngineRecord",
    "Quiet",
    "RowRecord",
    "facts_of_board",
    "key_of",
    "read_board",
    "write_board",
]


class EngineRecord(TypedDict):
    """One engine in one row."""

    version: str
    state: str  # timed, slow (timed, but not in rounds), wrong, missing, unsupported or failed
    why: str  # it is not `timed`
    build_s: NotRequired[float | None]  # compile, import or optimize; in a cold cache
    rebuild_s: NotRequired[float | None]  # the same once more
    import_ms: NotRequired[float]
    load_ms: NotRequired[float | None]  # from the file to ready, in a fresh process
    first_ms: NotRequired[float]
    before_mb: NotRequired[float]  # of memory, before the load
    peak_mb: NotRequired[float]
    file_mb: NotRequired[float]
    engaged: NotRequired[dict[str, str]]
    max_abs: NotRequired[float | None]  # difference to ONNX Runtime
    samples_ms: NotRequired[list[list[float]]]  # by round


class Quiet(TypedDict):
    """How quiet the machine was while engines were timed, in processors."""

    idle: float  # the engines that were not timed
    others: float  # everything that is not the board's, and what the hypervisor took


class RowRecord(TypedDict):
    """One row with one number of threads."""

    key: str
    row: str
    family: str
    model: str
    size: str
    inputs: str
    precision: str
    threads: int
    cores: list[int]
    date: str
    commit: str
    load: float  # average over a minute, when it began
    rounds: int
    seed: int
    error: str  # no engine could be measured
    engines: dict[str, EngineRecord]
    quiet: NotRequired[Quiet]
    seconds: NotRequired[float]
    number: NotRequired[int]  # among the runs of this row: later ones have greater numbers
    others: NotRequired[list[RowRecord]]  # its other runs; see `runs.merge`


def key_of(row: str, threads: int) -> str:
    """The key of a record.

    >>> key_of("vit-b16", 2)
    'vit-b16 threads=2'
    """
    return f"{row} threads={threads}"


def read_board(path: Path) -> dict[str, RowRecord]:
    """The records of earlier runs; none if there is no such file."""
    if not path.is_file():
        return {}
    board = json.loads(path.read_text(encoding="utf-8"))
    return {row["key"]: row for row in cast("list[RowRecord]", board["rows"])}


def facts_of_board(path: Path) -> dict[str, str]:
    """The machine of an earlier run, as it told; nothing if there is no such file."""
    if not path.is_file():
        return {}
    board = json.loads(path.read_text(encoding="utf-8"))
    return {name: str(value) for name, value in board["facts"].items()}


def write_board(path: Path, rows: Mapping[str, RowRecord], facts: Mapping[str, str]) -> None:
    """Write all records, whole or not at all: a line for each."""
    lines = ",\n".join(json.dumps(row) for row in rows.values())
    write_text(path, f'{{"facts": {json.dumps(dict(facts))},\n"rows": [\n{lines}\n]}}\n')
