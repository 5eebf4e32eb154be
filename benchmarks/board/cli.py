"""`python -m benchmarks.board`: measure the rows, and write JSON, Markdown and a picture.

What was measured is on disk after every row. A run that measures a part of the rows, or of the
engines of a row, keeps the others; a board of another processor stays as it is.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path

from benchmarks.board import chart
from benchmarks.board.measure import Options, Workplace, cores_for, measure
from benchmarks.board.records import (
    RowRecord,
    facts_of_board,
    key_of,
    read_board,
    write_board,
)
from benchmarks.board.render import render
from benchmarks.board.rows import ROWS, SMOKE, BoardRow, choose
from benchmarks.board.runs import merge
from benchmarks.board.verdicts import verdict
from benchmarks.peers import DYNAMIC, PEERS, STATIC
from benchmarks.spine_facts import ROOT, commit, gather, now
from benchmarks.spine_rows import write_text

__all__ = ["main"]

SMOKE_ENGINES = (DYNAMIC, STATIC, "onnxruntime")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.board", description=(__doc__ or "").partition("\n")[0]
    )
    add = parser.add_argument
    add("--rows", nargs="+", default=["*"], metavar="GLOB", help="such as 'bert-base/*'")
    add("--engines", default="", metavar="NAMES",
        help=f"with commas between them, of {', '.join(PEERS)}; without one of ours, {STATIC} is"
             " measured as well: a ratio needs both in the same rounds")  # fmt: skip
    add("--threads", default="1,2", metavar="COUNTS", help="such as 1,2")
    add("--rounds", type=int, default=0, help="of interleaved blocks: 9, or 2 in a smoke")
    add("--seconds", type=float, default=3.0, help="timed runs of each engine, all rounds together")
    add("--seed", type=int, default=0, help="of the order in each round")
    add("--build-limit", type=float, default=900.0, metavar="SECONDS",
        help="for one engine to compile or load a model")  # fmt: skip
    add("--run-limit", type=float, default=60.0, metavar="SECONDS", help="for one run of a model")
    add("--smoke", action="store_true", help="a small model, our engines and ONNX Runtime")
    add("--fresh", action="store_true", help="forget the rows of earlier runs")
    add("--render", action="store_true", help="measure nothing, write the table and the picture")
    add("--list", action="store_true", help="show rows and engines, and measure nothing")
    add("--out", type=Path, metavar="FOLDER", help="docs/board, or out/board in a smoke")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and write; 1 if a row could not be measured or an output was wrong."""
    parser = _parser()
    chosen = parser.parse_args(arguments)
    rows = choose(chosen.rows, SMOKE if chosen.smoke else ROWS)
    engines = tuple(filter(None, chosen.engines.split(",")))
    engines = engines or (SMOKE_ENGINES if chosen.smoke else tuple(PEERS))
    if not rows:
        parser.error(f"no row is called {' or '.join(chosen.rows)}")
    if unknown := [name for name in engines if name not in PEERS]:
        parser.error(f"no engine is called {unknown[0]}: one of {', '.join(PEERS)}")
    if not any(PEERS[name].ours for name in engines):
        engines = (STATIC, *engines)
    if chosen.list:
        return _list(rows)
    allowed = sorted(os.sched_getaffinity(0))
    threads = [int(count) for count in chosen.threads.split(",") if int(count) <= len(allowed)]
    out: Path = chosen.out or ROOT / ("out/board" if chosen.smoke else "docs/board")
    known = facts_of_board(out / "board.json")
    facts = known if chosen.render else gather()
    board = {} if chosen.fresh else read_board(out / "board.json")
    if board and facts["cpu"] != known["cpu"]:
        parser.error(f"the rows in {out} are of another processor ({known['cpu']}; this is"
                     f" {facts['cpu']}): --out another folder, or --fresh to forget")  # fmt: skip
    options = Options(
        engines=engines, rounds=chosen.rounds or (2 if chosen.smoke else 9),
        seconds=0.05 if chosen.smoke else chosen.seconds, least_runs=4 if chosen.smoke else 18,
        seed=chosen.seed, build_limit=chosen.build_limit, load_limit=chosen.build_limit,
        run_limit=chosen.run_limit, cold=not chosen.smoke,
    )  # fmt: skip
    good = True
    try:
        for _, same in groupby([] if chosen.render else rows, key=lambda row: row.model):
            # Builds are large: they are kept for the rows of one model only.
            with tempfile.TemporaryDirectory(prefix="tunesmith-board-") as folder:
                place = Workplace(Path(folder))
                for row in same:
                    for count in threads:
                        record = _row(row, count, cores_for(count, allowed), options, place)
                        board[record["key"]] = merge(board.get(record["key"]), record)
                        good &= _is_good(record)
                        _write(out, board, facts)
    except KeyboardInterrupt:
        print("stopped: the rows that were measured are kept", file=sys.stderr)
        return 130
    _write(out, board, facts)
    print(f"written {out}/board.json, board.md" + (f"; {why}" if (why := chart.missing()) else ""))
    return int(not good)


def _row(
    row: BoardRow, threads: int, cores: list[int], options: Options, place: Workplace
) -> RowRecord:
    """One record; it tells how it went."""
    start = time.perf_counter()
    record = RowRecord(
        key=key_of(row.name, threads), row=row.name, family=row.family, model=row.model,
        size=row.label, inputs=row.inputs, precision=row.precision, threads=threads, cores=cores,
        date=now(), commit=commit(), load=round(os.getloadavg()[0], 2), rounds=options.rounds,
        seed=options.seed + threads, error="", engines={},
    )  # fmt: skip

    def progress(what: str) -> None:
        after = time.perf_counter() - start
        print(f"  {after:6.1f} s  {record['key']}: {what}", file=sys.stderr, flush=True)

    measure(row, threads, options, place, record, progress)
    record["seconds"] = round(time.perf_counter() - start, 1)
    found = verdict(record)
    if found is not None:
        progress(f"{found.ours} takes {found.ratio:.3f} [{found.low:.3f}, {found.high:.3f}] of "
                 f"{found.peer}: {found.call}")  # fmt: skip
    for name, entry in record["engines"].items():
        if entry["why"]:
            progress(f"{name}: {entry['state']}: {entry['why']}")
    if record["error"]:
        progress(record["error"])
    return record


def _is_good(record: RowRecord) -> bool:
    """Whether ours were measured, and right."""
    ours = [e for name, e in record["engines"].items() if PEERS[name].ours]
    return not record["error"] and all(entry["state"] in ("timed", "slow") for entry in ours)


def _write(out: Path, board: dict[str, RowRecord], facts: dict[str, str]) -> None:
    """Write all files, the rows in the order of their table."""
    places = {row.name: place for place, row in enumerate((*SMOKE, *ROWS))}
    order = sorted(board, key=lambda k: (places.get(board[k]["row"], len(places)),
                                         board[k]["threads"]))  # fmt: skip
    rows = {key: board[key] for key in order}
    write_board(out / "board.json", rows, facts)
    drawn = not chart.missing() and chart.draw(rows, facts, out / "board.png")
    write_text(out / "board.md", render(rows, facts, "board.png" if drawn else ""))


def _list(rows: Sequence[BoardRow]) -> int:
    for row in rows:
        print(f"{row.name:22} {row.family:12} {row.label:10} {row.inputs:9} {row.model}")
    for peer in PEERS.values():
        print(f"{peer.name:22} {peer.title:36} {peer.missing or peer.version}")
    return 0
