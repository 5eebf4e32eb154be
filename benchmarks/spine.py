"""Every figure that the spine must show: compile, compare and time the whole zoo.

`python -m benchmarks.spine` measures each model in processes of its own, one at a time, and writes
a table and a JSON file after every step. A run that measures a part keeps the other rows.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from benchmarks.spine_compare import DYNAMIC, FIXED, Request
from benchmarks.spine_facts import ROOT, commit, gather, measure_starts, now
from benchmarks.spine_rows import (
    Facts,
    Row,
    failures,
    found_all,
    read_json,
    worst_error,
    write_json,
    write_text,
)
from benchmarks.spine_subjects import Subject, subjects
from benchmarks.spine_table import render
from benchmarks.spine_verdicts import verdicts

__all__ = ["Step", "main", "plan"]

TIMEOUT_SECONDS = 1800.0
THREADS = (1, 2)


@dataclass(frozen=True)
class Step:
    """One process: its kind, and for timing the number of threads."""

    kind: str
    subject: Subject
    threads: int = 0

    @property
    def key(self) -> str:
        """The name of its row."""
        return " ".join(filter(None, (self.kind, self.subject.name, self._threads)))

    @property
    def _threads(self) -> str:
        return f"threads={self.threads}" if self.threads else ""


def plan(subject: Subject, *, speed: bool, threads: Sequence[int] = THREADS) -> Iterator[Step]:
    """The steps of one model, in order: later ones use the artifacts of earlier ones."""
    if not subject.is_built:
        yield Step("build", subject)
    yield Step("check", subject)
    if speed:
        yield Step("fix", subject)
        for count in threads:
            yield Step("time", subject, count)


@dataclass
class Run:
    """All rows so far, and where they are written."""

    options: argparse.Namespace
    rows: dict[str, Row]
    facts: Facts

    def add(self, row: Row) -> None:
        """Keep a row, on disk too, and tell how it went."""
        self.rows[row["key"]] = row
        self.save()
        bad = failures(row)
        print(f"    {_summary(row)}", file=sys.stderr)
        for reason in bad:
            print(f"    FAILED {reason}", file=sys.stderr, flush=True)

    def save(self) -> None:
        """Write both files."""
        write_json(self.options.json, self.rows, self.facts)
        write_text(self.options.out, render(self.rows, self.facts))


def _summary(row: Row) -> str:
    parts = [f"{row.get('seconds', 0):.0f} s"]
    compiled, error = row.get("compiled"), worst_error(row.get("sizes", ()))
    if compiled is not None:
        parts.append(f"compiled in {compiled['seconds']:.1f} s")
        parts.append(f"attention {compiled['attention']}/{row['expected']}")
        parts += [] if found_all(row) else compiled["near_misses"]
    if error is not None:
        parts.append(f"max abs error {error:.2g}")
    parts += [
        f"{r['ours']} {r['ratio']:.3f} [{r['low']:.3f}, {r['high']:.3f}] of {r['theirs']}"
        for r in row.get("ratios", ())
    ]
    for name, seconds in row.get("starts", {}).items():
        parts.append(f"{name} {sorted(seconds)[len(seconds) // 2]:.3f} s")
    return "; ".join(parts)


def run_step(step: Step, folder: Path, options: argparse.Namespace) -> Row:
    """Run one process, and read its row; there is always one."""
    row = Row(key=step.key, kind=step.kind, subject=step.subject.name, expected=step.subject.blocks)
    if step.kind == "time" and not all((folder / name).is_file() for name in (DYNAMIC, FIXED)):
        row["error"] = "not timed: it did not compile"
        return row | Row(threads=step.threads)  # type: ignore[typeddict-item]  # a part of a row
    request = Request(
        key=step.key, threads=step.threads, sizes=[list(size) for size in step.subject.sizes],
        rounds=options.rounds, seconds=options.seconds,
    )  # fmt: skip
    command = [sys.executable, "-m", "benchmarks.spine_work", step.kind, step.subject.name]
    written, log = folder / "row.json", folder / "log.txt"
    written.unlink(missing_ok=True)
    ended = ""
    # Kernels that an earlier compile left in the cache would make this one look fast.
    environment = os.environ | {"TUNESMITH_CACHE": str(folder / f"cache-{step.kind}")}
    with log.open("w") as stream:
        process = subprocess.Popen(
            [*command, str(folder), json.dumps(request)],
            cwd=ROOT,
            env=environment,
            stdout=stream,
            stderr=stream,
            start_new_session=True,  # so that the workers of a compile can be stopped with it
        )
        try:
            code = process.wait(options.timeout)
            ended = "" if code == 0 else _how_it_ended(code)
        except subprocess.TimeoutExpired:
            ended = f"it took longer than {options.timeout:.0f} s"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    if written.is_file():
        row = cast("Row", json.loads(written.read_text(encoding="utf-8")))
    if ended:
        known = row.get("error", "")
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-12:])
        row["error"] = f"{known}: {ended}".removeprefix(": ") + f"\n{tail}"
    return row


def _how_it_ended(code: int) -> str:
    if code >= 0:
        return f"the process ended with {code}"
    name = signal.Signals(-code).name
    return f"the process was killed by {name}" + (", out of memory?" if code == -9 else "")


def _measure(chosen: Sequence[Subject], run: Run) -> None:
    """All steps of all models; a step that fails does not stop the rest."""
    options = run.options
    timed = [s for s in chosen if not options.skip_speed]
    timed = [s for s in timed if options.all_routes or s.is_timed_route]
    _starts(run)
    for number, subject in enumerate(chosen, 1):
        with tempfile.TemporaryDirectory(prefix="tunesmith-spine-") as folder:
            for step in plan(subject, speed=subject in timed, threads=options.threads):
                print(f"[{number}/{len(chosen)}] {step.key}", file=sys.stderr, flush=True)
                start, load = time.perf_counter(), os.getloadavg()[0]
                row = run_step(step, Path(folder), options)
                row["seconds"] = round(time.perf_counter() - start, 1)
                if step.kind == "build" and not row.get("error"):
                    continue
                run.add(row | Row(date=now(), commit=commit(), load=round(load, 2)))  # type: ignore[typeddict-item]  # a part of a row


def _starts(run: Run) -> None:
    print("[start-up]", file=sys.stderr, flush=True)
    load = round(os.getloadavg()[0], 2)
    row = Row(key="start", kind="start", subject="", expected=0, date=now(), commit=commit(),
              load=load)  # fmt: skip
    try:
        row["starts"] = measure_starts()
    except (OSError, subprocess.CalledProcessError) as error:
        row["error"] = str(error)
    run.add(row)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.spine", description=(__doc__ or "").partition("\n")[0]
    )
    parser.add_argument("--models", nargs="+", default=["*"], metavar="GLOB",
                        help="names such as 'bert-base/*' or 'minilm-*'")  # fmt: skip
    parser.add_argument("--small", action="store_true", help="the small variants of the zoo")
    parser.add_argument("--skip-speed", action="store_true", help="compile and compare only")
    parser.add_argument("--all-routes", action="store_true", help="time all exporter routes")
    parser.add_argument("--threads", nargs="+", type=int, default=list(THREADS), metavar="N",
                        help="how many threads to time with, each in a process")  # fmt: skip
    parser.add_argument("--rounds", type=int, default=9, help="of interleaved blocks")
    parser.add_argument("--seconds", type=float, default=3.0, help="timed runs of each engine")
    parser.add_argument("--timeout", type=float, default=TIMEOUT_SECONDS, metavar="SECONDS",
                        help="for one process")  # fmt: skip
    parser.add_argument("--fresh", action="store_true", help="forget rows of earlier runs")
    parser.add_argument("--render", action="store_true", help="measure nothing, write the table")
    parser.add_argument("--out", type=Path, metavar="FILE",
                        help="the table: docs/spine.md, or out/spine-small.md")  # fmt: skip
    parser.add_argument("--json", type=Path, metavar="FILE",
                        help="every sample: beside the table, as .json")  # fmt: skip
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, write, print the table; 1 if a bound does not hold, 130 after Ctrl-C."""
    parser = _parser()
    options = parser.parse_args(arguments)
    if options.out is None:
        options.out = ROOT / ("out/spine-small.md" if options.small else "docs/spine.md")
    if options.json is None:
        options.json = options.out.with_suffix(".json")
    chosen = subjects(options.models, small=options.small)
    if not chosen:
        parser.error(f"no model is called {' or '.join(options.models)}")
    rows = {} if options.fresh else read_json(options.json)
    run = Run(options, rows, gather())
    stopped = False
    try:
        if not options.render:
            _measure(chosen, run)
    except KeyboardInterrupt:
        stopped = True
        print("stopped: what was measured is kept", file=sys.stderr)
    run.save()
    print(render(run.rows, run.facts))
    print(f"written {options.out} and {options.json}", file=sys.stderr)
    if stopped:
        return 130
    return int(any(v.passed is False for v in verdicts(run.rows)))


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a stop is a stop
    sys.exit(main())
