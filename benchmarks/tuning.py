"""`python -m benchmarks.tuning`: tune the models of the board, into the store that it reads.

The board's engine `tunesmith-tuned` compiles with the records of the user's store (`TUNESMITH_DB`)
and tunes nothing, so rows are tuned here first: `--budget` for each row and number of threads.
Calling it again goes on where it stopped. What came of each is added to `tuned.json`, beside the
board.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.board.measure import prepare
from benchmarks.board.records import key_of
from benchmarks.board.rows import ROWS, BoardRow, choose
from benchmarks.spine_facts import ROOT, commit, gather, now
from benchmarks.spine_rows import write_text
from tunesmith import report_tune
from tunesmith.autotune.database import Database, open_database
from tunesmith.autotune.tune import Tuner
from tunesmith.cli_tune import parse_budget
from tunesmith.tuning import tune_model

__all__ = ["main"]

_EVERY = 30.0  # seconds between two lines of progress


def main(arguments: Sequence[str] | None = None) -> int:
    """Tune and write; 1 if a row's inputs could not be made."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.tuning", description=(__doc__ or "").partition("\n")[0]
    )
    add = parser.add_argument
    add("--rows", nargs="+", default=["*"], metavar="GLOB", help="such as 'bert-base/*'")
    add("--threads", default="1,2", metavar="COUNTS", help="such as 1,2")
    add("--budget", default="10m", help="for each row and number of threads")
    add("--db", default=None, metavar="URL", help="the user's store if not given")
    add("--out", type=Path, default=ROOT / "docs/board", metavar="FOLDER", help="of the board")
    chosen = parser.parse_args(arguments)
    cpu, out = gather()["cpu"], chosen.out / "tuned.json"
    if others := {str(row.get("cpu", "unknown")) for row in _known(out).values()} - {cpu}:
        parser.error(f"the rows in {out} are of another processor ({', '.join(sorted(others))}; "
                     f"this is {cpu}): --out another folder")  # fmt: skip
    budget = parse_budget(chosen.budget)
    cores = len(os.sched_getaffinity(0))
    good = True
    with open_database(chosen.db) as store:
        for row in choose(chosen.rows, ROWS):
            for threads in map(int, chosen.threads.split(",")):
                if threads <= cores:
                    found = _tune(row, threads, budget, store)
                    good &= bool(found)
                    if found:
                        _add(out, key_of(row.name, threads), {**found, "cpu": cpu})
    return int(not good)


def _tune(row: BoardRow, threads: int, budget: float, store: Database) -> dict[str, object]:
    """What came of it; nothing if the inputs could not be made."""
    key, start, last = key_of(row.name, threads), time.perf_counter(), [0.0]

    def told(tuner: Tuner) -> None:
        if time.perf_counter() - last[0] > _EVERY:
            last[0] = time.perf_counter()
            print(f"  {key}: {report_tune.line(tuner)}", file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory(prefix="tunesmith-board-") as text:
        facts = prepare(row, Path(text))
        if facts["error"]:
            print(f"{key}: {facts['error']}", file=sys.stderr)
            return {}
        with np.load(Path(text) / "inputs.npz") as stored:
            shapes = {name: stored[name].shape for name in stored.files}
        tuned = tune_model(facts["model"], store, budget=budget, shapes=shapes, threads=threads,
                           told=told)  # fmt: skip
        facts_of = report_tune.as_json(tuned, Path(), time.perf_counter() - start)
    print(f"{key}: {'; '.join(report_tune.summary(tuned, Path(key), 0.0)[:2])}", flush=True)
    return {**facts_of, "date": now(), "commit": commit(), "budget": budget}


def _known(path: Path) -> dict[str, dict[str, object]]:
    """The rows of earlier runs."""
    found: dict[str, dict[str, object]] = json.loads(path.read_text()) if path.is_file() else {}
    return found


def _add(path: Path, key: str, row: Mapping[str, object]) -> None:
    """Add a row to the file, which is written whole."""
    known = _known(path)
    known[key] = {name: value for name, value in row.items() if name != "artifact"}
    write_text(path, json.dumps(dict(sorted(known.items())), indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
