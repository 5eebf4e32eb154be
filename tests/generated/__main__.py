"""`python -m tests.generated FOLDER`: every generated model over all engines, voted upon."""

from __future__ import annotations

import argparse
import os
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
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
from tests.generated.stability import moved, unstable
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
CHUNK = 100  # models after which the report is written
VOTERS = ("reference", "onnxruntime-plain")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.generated", description=__doc__)
    add = parser.add_argument
    add("folder", type=Path, nargs="?", default=KEPT, help="what generate.py wrote")
    add("--seeds", type=int, nargs="+", help="only these")
    add("--engines", default=",".join(JUDGED), help="with commas between them")
    add("--jobs", type=int, default=os.cpu_count() or 1, help="models at a time")
    add("--deadline", type=float, default=DEADLINE, metavar="SECONDS", help="for one model")
    add("--rewritten", type=int, default=200, metavar="SEED", help="rewrite those below it")
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
    run = Run(chosen.engines.split(","), chosen.jobs, chosen.deadline)
    for number, at in enumerate(range(0, len(cases), CHUNK), 1):
        plain = cases[at : at + CHUNK]
        run.go_on(plain, [case for case in plain if int(case.name) < chosen.rewritten])
        print(f"{min(number * CHUNK, len(cases))}/{len(cases)}", file=sys.stderr)
        if chosen.write:
            write_report(DOCS, run.titled(), run.unlike, OURS)
    for name, rows in run.verdicts.items():
        counts = Counter(row.column for row in rows.values())
        print(f"{ENGINES[name]().title}: ", "  ".join(f"{c} {counts[c]}" for c in COLUMNS))
    return 1 if run.bad else 0


@dataclass
class Run:
    """What was found so far."""

    engines: Sequence[str]
    jobs: int
    deadline: float
    verdicts: dict[str, dict[str, Verdict]] = field(default_factory=dict)
    unlike: dict[str, dict[str, str]] = field(default_factory=dict)
    shaken: dict[str, list[Answer]] = field(default_factory=dict)
    bad: int = 0

    def go_on(self, cases: Sequence[Case], some: Sequence[Case]) -> None:
        """Some more models over each engine; of these `some` rewritten."""
        found = {name: self._ask(name, some if name in REWRITTEN else cases)
                 for name in self.engines}  # fmt: skip
        doubted = [case for case in cases if any(_doubtful(case, y) for y in found.values())]
        voices = {name: self._ask(name, doubted) for name in VOTERS}
        for name, answered in found.items():
            rows = judge_all([c for c in cases if c.name in answered], answered, voices)
            for case in [c for c in cases if c.name in rows and rows[c.name].column == "mismatch"]:
                reason = unstable(
                    answered[case.name].outputs, self._moved(case), case.rtol, case.atol
                )
                if reason:
                    rows[case.name] = replace(rows[case.name], column="unstable", reason=reason)
            self._enter(name, rows)
            if name in REWRITTEN and REWRITTEN[name] in found:
                self._compare(name, compare_rewritten(some, answered, found[REWRITTEN[name]]))

    def _moved(self, case: Case) -> list[Answer]:
        """What a voter that can run a model says of it, and of inputs nearby."""
        if case.name not in self.shaken:
            for name in reversed(VOTERS):
                cases = moved(case)
                found = self._ask(name, cases)
                self.shaken[case.name] = [found[c.name] for c in cases]
                if found[case.name].column == "ran":
                    break
        return self.shaken[case.name]

    def titled(self) -> dict[str, tuple[str, dict[str, Verdict]]]:
        """The verdicts, with how the engines are called."""
        return {name: (ENGINES[name]().title, rows) for name, rows in self.verdicts.items()}

    def _enter(self, name: str, rows: Mapping[str, Verdict]) -> None:
        self.verdicts.setdefault(name, {}).update(rows)
        for seed, row in rows.items():
            if name in OURS and row.column in (*BAD, "disputed"):
                self.bad += row.column in BAD
                print(f"{row.column} {name} {seed}: {row.reason}", file=sys.stderr)

    def _compare(self, name: str, unlike: Mapping[str, str]) -> None:
        self.unlike.setdefault(name, {}).update(unlike)
        for seed, reason in unlike.items():
            if name in OURS and reason:
                self.bad += 1
                print(f"unlike before: {name} {seed}: {reason}", file=sys.stderr)

    def _ask(self, name: str, cases: Sequence[Case]) -> dict[str, Answer]:
        engine = ENGINES[name]()
        engine.warm()
        return dict(answers(cases, engine, jobs=self.jobs, deadline=self.deadline))


def _doubtful(case: Case, answered: Mapping[str, Answer]) -> bool:
    """Whether there is something to vote about."""
    nobody = {voter: {case.name: Answer("unsupported")} for voter in VOTERS}
    return case.name in answered and bool(
        judge_all([case], answered, nobody)[case.name].column in ("disputed", "inside")
    )


def judge_all(
    cases: Sequence[Case], ours: Mapping[str, Answer], found: Mapping[str, Mapping[str, Answer]]
) -> dict[str, Verdict]:
    """The verdicts about one engine; `found` holds the answers of the voters, by their names.

    A voter that was not asked about a model has no voice.
    """
    verdicts = {}
    for case in cases:
        ((_, wanted),) = case.data_sets()
        silent = Answer("unsupported", (), "nobody asked")
        others = {voter: found[voter].get(case.name, silent) for voter in VOTERS}
        oracle = [np.asarray(y) for y in wanted]
        verdicts[case.name] = vote(ours[case.name], oracle, others, case.rtol, case.atol)
    return verdicts


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


if __name__ == "__main__":
    sys.exit(main())
