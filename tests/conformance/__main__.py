"""`python -m tests.conformance`: run the suite, hold it against the list, write the tables."""

from __future__ import annotations

import argparse
import fnmatch
import gc
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tests.conformance.child import DEADLINE, run_cases
from tests.conformance.engines import ENGINES
from tests.conformance.records import (
    COLUMNS,
    KNOWN,
    Row,
    faults,
    read_known,
    unexplained,
    updated,
    write_known,
)
from tests.conformance.suite import Case, collect, listed, names, networks

ROOT = Path(__file__).resolve().parents[2]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.conformance", description=__doc__)
    add = parser.add_argument
    add("--engines", default="tunesmith", metavar="NAMES",
        help=f"with commas between them, of {', '.join(ENGINES)}")  # fmt: skip
    add("--cases", nargs="+", default=["*"], metavar="GLOB", help="such as 'test_conv_*'")
    add("--core", action="store_true", help="only the core")
    add("--quick", action="store_true", help="only what `make test` runs")
    add("--jobs", type=int, default=os.cpu_count() or 1, help="cases at a time")
    add("--deadline", type=float, default=DEADLINE, metavar="SECONDS", help="for one case")
    add("--update", action="store_true", help=f"write {KNOWN.name} as this run found it")
    add("--write", action="store_true", help="write docs/conformance.md and .json")
    add("--rows", type=Path, metavar="FILE", help="write every row, a line of JSON each")
    add("--times", action="store_true", help="say where the time went")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; 1 if anything ended other than the list says."""
    chosen = _parser().parse_args(arguments)
    some = names(core=chosen.core, quick=chosen.quick)
    wanted = [
        name for name in (some if chosen.core or chosen.quick else (*some, *networks()))
        if any(fnmatch.fnmatch(name, glob) for glob in chosen.cases)
    ]  # fmt: skip
    everything = len(wanted) == len(listed())
    cases = collect(None if everything else wanted)
    found: dict[str, list[Row]] = {}
    for name in chosen.engines.split(","):
        found[name] = _over(name, list(cases.values()), chosen)
    if chosen.rows:
        lines = [f"{row.as_json()}\n" for rows in found.values() for row in rows]
        chosen.rows.write_text("".join(lines), encoding="utf-8")
    if chosen.update:
        write_known(updated(found["tunesmith"], read_known()))
    known = read_known()
    wrong = faults(found.get("tunesmith", []), known, wanted if "tunesmith" in found else [])
    extra = [name for name in cases if name not in set(wanted)]
    wrong += [f"`{name}` is not in the list of cases" for name in extra]
    wrong += [f"`{name}` is known without a reason" for name in unexplained(known)]
    if chosen.write:
        from tests.conformance.report import write_report

        if everything:
            write_report(
                ROOT / "docs", {n: (ENGINES[n]().title, rows) for n, rows in found.items()}, known
            )
        else:
            wrong.append("only a run of every case writes the tables")
    for line in wrong:
        print(f"error: {line}", file=sys.stderr)
    if wrong:
        print(f"hint: `--update` writes {KNOWN.name} as the run found it; read the difference",
              file=sys.stderr)  # fmt: skip
    return 1 if wrong else 0


def _over(name: str, cases: Sequence[Case], chosen: argparse.Namespace) -> list[Row]:
    """All rows of one engine, told as they come."""
    engine = ENGINES[name]()
    engine.warm()
    gc.collect()
    gc.freeze()  # children then touch no page of what the parent holds
    start = time.perf_counter()
    rows: list[Row] = []
    for row in run_cases(cases, engine, jobs=chosen.jobs, deadline=chosen.deadline):
        rows.append(row)
        if row.column not in ("pass", "unsupported") and name == "tunesmith":
            print(f"{row.column:<6} {row.name}: {row.reason}", file=sys.stderr)
        if len(rows) % 100 == 0:
            print(f"{name}: {len(rows)}/{len(cases)}", file=sys.stderr)
    place = {case.name: number for number, case in enumerate(cases)}
    rows.sort(key=lambda row: place[row.name])
    counts = Counter(row.column for row in rows)
    told = "  ".join(f"{column} {counts[column]}" for column in COLUMNS)
    print(f"{engine.title}: {told}  in {time.perf_counter() - start:.0f} s")
    if chosen.times:
        stages: Counter[str] = Counter()
        for row in rows:
            stages.update(row.stages or {})
        for stage, seconds in stages.most_common():
            print(f"  {stage:<9} {seconds:8.1f} s")
    return rows


if __name__ == "__main__":
    sys.exit(main())
