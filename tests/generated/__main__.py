"""`python -m tests.generated FOLDER`: every generated model over all engines, voted upon."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from tests.conformance.child import DEADLINE
from tests.conformance.engines import ENGINES as SUITE
from tests.conformance.engines import Engine
from tests.conformance.suite import Case
from tests.generated.answers import answers
from tests.generated.corpus import KEPT, keep, read, seeds
from tests.generated.report import write_report
from tests.generated.rewrites import Rewritten
from tests.generated.vote import BAD, COLUMNS, Answer, Verdict, differs, vote

__all__ = ["ENGINES", "OURS", "VOTERS", "compare_rewritten", "judge_all", "main"]


def _rewritten(name: str) -> Engine:
    return Rewritten(SUITE[name]())


DOCS = Path(__file__).resolve().parents[2] / "docs"
REWRITTEN = {f"{name}-rewritten": name for name in ("tunesmith-O3", "onnxruntime")}
ENGINES: dict[str, Callable[[], Engine]] = {
    **SUITE,
    **{name: partial(_rewritten, plain) for name, plain in REWRITTEN.items()},
}
OURS = ("tunesmith-O0", "tunesmith-O3", "tunesmith-O3-rewritten", "interpreter")
JUDGED = (*OURS, "onnxruntime", "onnxruntime-rewritten")
VOTERS = ("reference", "onnxruntime-plain")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.generated", description=__doc__)
    add = parser.add_argument
    add("folder", type=Path, nargs="?", default=KEPT, help="what generate.py wrote")
    add("--seeds", type=int, nargs="+", help="only these")
    add("--engines", default=",".join(JUDGED), help="with commas between them")
    add("--jobs", type=int, default=os.cpu_count() or 1, help="models at a time")
    add("--deadline", type=float, default=DEADLINE, metavar="SECONDS", help="for one model")
    add("--least", type=int, default=1, help="fewer models than that are an error")
    add("--write", action="store_true", help="write docs/generated.md and .json")
    add("--keep", type=int, metavar="N", help="keep N small ones for the tests, and run nothing")
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run; 1 if an answer of ours is wrong or missing, and not refused."""
    chosen = _parser().parse_args(arguments)
    if chosen.keep:
        print(f"kept {len(keep(chosen.folder, chosen.keep))} models in {KEPT}")
        return 0
    cases = read(chosen.folder, chosen.seeds or seeds(chosen.folder))
    if len(cases) < chosen.least:
        print(f"error: {len(cases)} models in `{chosen.folder}`, not {chosen.least}",
              "hint: `make generated` has them written", sep="\n", file=sys.stderr)  # fmt: skip
        return 1
    names = chosen.engines.split(",")
    found = {
        name: _all_answers(name, cases, chosen.jobs, chosen.deadline) for name in VOTERS
    }  # fmt: skip
    verdicts: dict[str, dict[str, Verdict]] = {}
    bad = 0
    for name in names:
        if name not in found:
            found[name] = _all_answers(name, cases, chosen.jobs, chosen.deadline)
        verdicts[name] = judge_all(cases, found[name], found)
        bad += _tell(name, verdicts[name])
    same = {
        name: compare_rewritten(cases, found[name], found[plain])
        for name, plain in REWRITTEN.items() if name in found and plain in found
    }  # fmt: skip
    for name, unlike in same.items():
        for seed, reason in unlike.items():
            if reason and name in OURS:
                bad += 1
                print(f"unlike before {name} {seed}: {reason}", file=sys.stderr)
    if chosen.write:
        titles = {name: ENGINES[name]().title for name in names}
        write_report(DOCS, {n: (titles[n], rows) for n, rows in verdicts.items()}, same, OURS)
    return 1 if bad else 0


def judge_all(
    cases: Sequence[Case], ours: Mapping[str, Answer], found: Mapping[str, Mapping[str, Answer]]
) -> dict[str, Verdict]:
    """The verdicts about one engine; `found` holds the answers of the voters, by their names."""
    verdicts = {}
    for case in cases:
        ((_, wanted),) = case.data_sets()
        others = {voter: found[voter][case.name] for voter in VOTERS}
        oracle = [np.asarray(y) for y in wanted]
        verdicts[case.name] = vote(ours[case.name], oracle, others, case.rtol, case.atol)
    return verdicts


def _tell(name: str, rows: Mapping[str, Verdict]) -> int:
    """Say how an engine did; how many answers of ours must not be."""
    counts = Counter(row.column for row in rows.values())
    print(f"{ENGINES[name]().title}: ", "  ".join(f"{c} {counts[c]}" for c in COLUMNS), flush=True)
    if name not in OURS:
        return 0
    for seed, row in rows.items():
        if row.column in (*BAD, "disputed"):
            print(f"{row.column} {name} {seed}: {row.reason}", file=sys.stderr)
    return sum(counts[column] for column in BAD)


def compare_rewritten(
    cases: Sequence[Case], after: Mapping[str, Answer], before: Mapping[str, Answer]
) -> dict[str, str]:
    """What a rewritten model gives otherwise than the plain one, or nothing, where both ran."""
    return {
        case.name: differs(
            after[case.name].outputs, before[case.name].outputs, case.rtol, case.atol
        )
        for case in cases
        if after[case.name].column == before[case.name].column == "ran"
    }


def _all_answers(name: str, cases: Sequence[Case], jobs: int, deadline: float) -> dict[str, Answer]:
    engine = ENGINES[name]()
    engine.warm()
    start = time.perf_counter()
    found: dict[str, Answer] = {}
    for seed, answer in answers(cases, engine, jobs=jobs, deadline=deadline):
        found[seed] = answer
        if len(found) % 100 == 0:
            print(f"{name}: {len(found)}/{len(cases)}", file=sys.stderr)
    print(f"{name}: {len(found)} in {time.perf_counter() - start:.0f} s", file=sys.stderr)
    return found


if __name__ == "__main__":
    sys.exit(main())
