"""`python -m benchmarks.transfer`: how soon a model is quick whose near shapes were tuned before.

A model is tuned at one size into a new store. At a second size it is then compiled with these
records and without a search, tuned for a minute, and tuned for as long as the first; all three and
the untuned artifact run in turns at the end. The commands are those of a user, and their seconds
count from start to end of the process.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.spine_facts import ROOT, commit, gather, now
from benchmarks.spine_rows import write_text
from benchmarks.zoo import TABLE
from benchmarks.zoo import path as zoo_path
from tunesmith.cli_values import fixed_sizes
from tunesmith.places import profile_paths

__all__ = ["BEGIN", "END", "main", "section", "verdict", "write"]

FIGURES, TEXT = ROOT / "docs/board/transfer.json", ROOT / "docs/tuning.md"
BEGIN, END = "<!-- transfer: begin -->", "<!-- transfer: end -->"
NAMES = {
    "untuned": "untuned", "records": "records of the first size, no search",
    "quick": "tuned for {quick}", "full": "tuned for {budget} more",
}  # fmt: skip
SOON, ENOUGH = 60.0, 0.95  # seconds, and the share of the tuned speed to be reached in them
_TURNS = 15


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, and write if told; 1 if the second size is not quick soon enough."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.transfer", description=(__doc__ or "").partition("\n")[0]
    )
    add = parser.add_argument
    add("--model", default="bert-base/dynamo18-sdpa", help="an entry of the zoo, or a file")
    add("--first", default="batch=1,sequence=128", help="the size that is tuned first")
    add("--second", default="batch=1,sequence=160", help="and the one that profits")
    add("--budget", default="10m", help="of tuning the first, and of the second's full tuning")
    add("--quick", default="30s", help="of the second's short tuning, to which compiling is added")
    add("--threads", type=int, default=1)
    add("--turns", type=int, default=_TURNS, help="of the artifacts at the end")
    add("--write", action="store_true", help="write docs/board/transfer.json and docs/tuning.md")
    chosen = parser.parse_args(arguments)
    facts = measure(chosen)
    print(section(facts))
    if chosen.write:
        write(facts)
    return int(not verdict(facts))


def measure(chosen: argparse.Namespace) -> dict[str, Any]:
    """All figures of one run."""
    model = zoo_path(TABLE[chosen.model]) if chosen.model in TABLE else Path(chosen.model)
    load = [os.getloadavg()[0]]
    with tempfile.TemporaryDirectory(prefix="tunesmith-transfer-") as text:
        folder = Path(text)
        common = ["--threads", str(chosen.threads), "--no-verify"]
        store = ["--db", str(folder / "tune.db")]

        def run(name: str, size: str, command: str, *more: str) -> dict[str, Any]:
            dims = [word for dim in size.split(",") for word in ("--dim", dim)]
            out = folder / f"{name}.tsm"
            words = [command, str(model), "-o", str(out), *dims, *common, *more, "--json", "-"]
            start = time.perf_counter()
            done = subprocess.run(
                [sys.executable, "-m", "tunesmith", *words], stdout=subprocess.PIPE, text=True,
                check=True,
            )  # fmt: skip
            took = time.perf_counter() - start
            load.append(os.getloadavg()[0])
            print(f"{name}: {took:.1f} s", file=sys.stderr, flush=True)
            return {"took": took, **_figures(json.loads(done.stdout), took)}

        budget = ["--budget", chosen.budget]
        first = run("first", chosen.first, "tune", *store, *budget)
        rows = {
            "untuned": run("untuned", chosen.second, "compile"),
            "records": run("records", chosen.second, "compile", *store),
            "quick": run("quick", chosen.second, "tune", *store, "--budget", chosen.quick),
            "full": run("full", chosen.second, "tune", *store, *budget),
        }
        paths = [folder / f"{name}.tsm" for name in rows]
        turns = profile_paths(paths, fixed_sizes(chosen.second.split(",")), chosen.turns)
    for number, row in enumerate(rows.values()):
        row["seconds"] = median(turn[number][0] for turn in turns)
    for number, row in enumerate(rows.values()):
        row["share"] = median(turn[-1][0] / turn[number][0] for turn in turns)
    return {
        "date": now(), "commit": commit(), "machine": gather(), "load": [min(load), max(load)],
        "options": {**vars(chosen), "write": None}, "first": first, "rows": rows,
    }  # fmt: skip


def _figures(answer: Mapping[str, Any], took: float) -> dict[str, Any]:
    """What a command tells of itself that is shown."""
    if "trials" not in answer:
        tuned = answer["report"].get("tuned")
        return {} if tuned is None else {"kernels": len(tuned["kernels"])}
    starting = took - answer["seconds_of_tuning"]  # of the process, before and after tuning
    return {
        "trials": answer["trials"], "first_trial": answer["seconds_to_first_trial"] + starting,
        "kernels": sum(k["speedup"] is not None for k in answer["kernels"]),
    }  # fmt: skip


def verdict(facts: Mapping[str, Any]) -> bool | None:
    """Whether enough of the tuned speed is reached soon enough, in either way.

    `None` if nothing was found that could be transferred, or that was worth it: the speed of full
    tuning is then that of no tuning, which anything reaches.
    """
    if not facts["first"]["kernels"] or not facts["rows"]["full"]["kernels"]:
        return None
    return any(
        facts["rows"][name]["took"] < SOON and facts["rows"][name]["share"] >= ENOUGH
        for name in ("records", "quick")
    )


def section(facts: Mapping[str, Any]) -> str:
    """The text: what was measured where, and a row for each artifact."""
    options, low_high = facts["options"], facts["load"]
    command = " ".join(
        f"--{name} {options[name]}"
        for name in ("model", "first", "second", "budget", "quick", "threads")
    )
    lines = [
        f"Measured on {facts['date']} at commit {facts['commit']} by `python -m "
        f"benchmarks.transfer {command}`: {facts['machine']['cpu']}, load average "
        f"{low_high[0]:.1f} to {low_high[1]:.1f}. Tuning {options['first']} took "
        f"{facts['first']['took']:.0f} s and {facts['first']['trials']} trials; the first began "
        f"at most {facts['first']['first_trial']:.1f} s after the command was called.",
        "",
        f"| {options['second']} | seconds of the command | first trial after, s | trials "
        "| kernels by records | ms | share of the full speed |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, row in facts["rows"].items():
        begun = f"{row['first_trial']:.1f}" if "first_trial" in row else ""
        lines.append(
            f"| {NAMES[name].format(**options)} | {row['took']:.0f} | {begun} "
            f"| {row.get('trials', '')} | {row.get('kernels', '')} | {row['seconds'] * 1e3:.4g} "
            f"| {row['share']:.1%} |"
        )
    found = verdict(facts)
    goal = f"{ENOUGH:.0%} of the tuned speed within {SOON:.0f} s"
    where = options["second"] if facts["first"]["kernels"] else options["first"]
    lines += ["", f"Nothing to transfer: no kernel became quicker by tuning {where}, so nothing is "
              f"said of {goal}." if found is None
              else f"{goal}: {'reached' if found else 'not reached'}."]  # fmt: skip
    return "\n".join(lines)


def write(facts: Mapping[str, Any]) -> None:
    """Replace the figures, and the part of the text between the marks."""
    write_text(FIGURES, json.dumps(facts, indent=1) + "\n")
    text = TEXT.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, mark, after = rest.partition(END)
    if not mark:
        raise SystemExit(f"{TEXT}: no `{BEGIN}` … `{END}` to write between")
    write_text(TEXT, f"{before}{BEGIN}\n{section(facts)}\n{END}{after}")


if __name__ == "__main__":
    sys.exit(main())
