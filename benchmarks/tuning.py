"""`python -m benchmarks.tuning`: tune the models of the board, into the store that it reads.

The board's engine `tunesmith-tuned` compiles with the records of the user's store (`TUNESMITH_DB`)
and tunes nothing, so rows are tuned here first: `--budget` for each row and number of threads.
Calling it again goes on where it stopped. What came of each is added to `docs/board/tuned.json`.
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
from benchmarks.spine_facts import ROOT, commit, now
from benchmarks.spine_rows import write_text
from tunesmith import report_tune
from tunesmith.autotune.database import Database, open_database
from tunesmith.autotune.tune import Tuner
from tunesmith.cli_tune import parse_budget
from tunesmith.tuning import tune_model

__all__ = ["main"]

OUT = ROOT / "docs/board/tuned.json"
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
    chosen = parser.parse_args(arguments)
    budget = parse_budget(chosen.budget)
    cores = len(os.sched_getaffinity(0))
    good = True
    with open_database(chosen.db) as store:
        for row in choose(chosen.rows, ROWS):
            for threads in map(int, chosen.threads.split(",")):
                if threads <= cores:
                    good &= _tune(row, threads, budget, store)
    return int(not good)


def _tune(row: BoardRow, threads: int, budget: float, store: Database) -> bool:
    key, start, last = key_of(row.name, threads), time.perf_counter(), [0.0]

    def told(tuner: Tuner) -> None:
        if time.perf_counter() - last[0] > _EVERY:
            last[0] = time.perf_counter()
            print(f"  {key}: {report_tune.line(tuner)}", file=sys.stderr, flush=True)

    with tempfile.TemporaryDirectory(prefix="tunesmith-board-") as text:
        facts = prepare(row, Path(text))
        if facts["error"]:
            print(f"{key}: {facts['error']}", file=sys.stderr)
            return False
        with np.load(Path(text) / "inputs.npz") as stored:
            shapes = {name: stored[name].shape for name in stored.files}
        tuned = tune_model(facts["model"], store, budget=budget, shapes=shapes, threads=threads,
                           told=told)  # fmt: skip
        facts_of = report_tune.as_json(tuned, Path(), time.perf_counter() - start)
    print(f"{key}: {'; '.join(report_tune.summary(tuned, Path(key), 0.0)[:2])}", flush=True)
    _add(key, {**facts_of, "date": now(), "commit": commit(), "budget": budget})
    return True


def _add(key: str, row: Mapping[str, object]) -> None:
    """Add a row to the file, which is written whole."""
    known: dict[str, object] = json.loads(OUT.read_text()) if OUT.is_file() else {}
    known[key] = {name: value for name, value in row.items() if name != "artifact"}
    write_text(OUT, json.dumps(dict(sorted(known.items())), indent=1) + "\n")


if __name__ == "__main__":
    sys.exit(main())
