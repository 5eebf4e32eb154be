"""`python -m tests.hostile`: the hostile models and the mutants, and `docs/hostile.md` from both.

`cases` compiles every hostile model, `fuzz` tries byte mutants; each keeps its part of the
document, and ends with status 1 if something happened that must not.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
from dataclasses import MISSING, fields
from pathlib import Path

from tunesmith.ir.limits import VARIABLE, Limits

from .cases import CASES
from .fuzz import corpus, fuzz, rows
from .run import MOST_MEMORY, Outcome, run_case

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "hostile.md"
HEAD = f"""# Hostile models

Written by `make hostile` and `make fuzz`: no figure here was written by hand.

A model is refused by one line that says what is wrong with it, where, and what to do. Nothing is
opened but the model, plain files in its folder, and what belongs to the machine; nothing is
unpickled; no size is allocated because a file declares it.

A `.pt2` program of PyTorch is a zip archive of JSON and raw tensors, and may hold pickles, compiled
libraries and sizes that PyTorch has Python evaluate (`torch.export.load`: "never load data from an
untrusted source"). It is never handed to PyTorch as it is. Weights, known operators
of PyTorch, arithmetic on sizes and plain names are copied to a new archive, which is loaded; sample
inputs, source locations, assertions as text and compiled libraries stay behind; a pickled weight, a
script object, any other operator or a text that is no name is refused.

## Limits

`{VARIABLE}=nodes=100000,depth=64` in the environment sets other ones.

| limit | value | of what |
|---|---|---|
"""


def main() -> int:
    """Run what is asked for; the result is the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tests.hostile", description=__doc__)
    parser.add_argument("part", choices=("cases", "fuzz"))
    parser.add_argument("--mutants", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0, help="of the first mutant")
    parser.add_argument("--only", default="", help="cases whose name has this text")
    parser.add_argument("--write", action="store_true", help="write docs/hostile.md")
    options = parser.parse_args()
    if options.part == "cases":
        text, bad = _cases(options.only)
    else:
        text, bad = _fuzz(options.seed, options.mutants)
    if options.write:
        _write(options.part, text)
    return 1 if bad else 0


def _cases(only: str) -> tuple[str, bool]:
    outcomes = []
    for case in CASES:
        if only in case.name:
            outcome = run_case(case)
            outcomes.append(outcome)
            wrong = f"  WRONG: {'; '.join(outcome.wrong)}" if outcome.wrong else ""
            print(f"{case.name:42} {outcome.verdict:9} {outcome.cpu:6.2f} s{wrong}", flush=True)
    bad = sum(bool(outcome.wrong) for outcome in outcomes)
    refused = [o for o in outcomes if o.case.says and not o.case.deadline]
    lines = [
        "## Cases",
        "",
        f"{len(outcomes)} models, each by `tunesmith compile` in its own process: {bad} wrong.",
        f"The {len(refused)} to be refused took at most {max(o.cpu for o in refused):.2f} s of the "
        f"processor and {max(o.peak for o in refused) >> 20} MiB; the limits are 5 s and "
        f"{MOST_MEMORY >> 20} MiB. An audit hook found",
        "no file opened outside of the model's folder, by whatever name; no file appeared or went;",
        f"the canary beside the folder was in no output. Python {platform.python_version()}.",
        "",
        "| model | verdict | processor s | MiB | the message |",
        "|---|---|---|---|---|",
        *map(_row, outcomes),
    ]
    return "\n".join(lines) + "\n", bool(bad)


def _row(outcome: Outcome) -> str:
    name = outcome.case.name
    verdict = f"**WRONG** {'; '.join(outcome.wrong)}" if outcome.wrong else outcome.verdict
    message = outcome.message.replace("|", "\\|")
    message = message if len(message) <= 90 else f"{message[:90]}…"
    return f"| {name} | {verdict} | {outcome.cpu:.2f} | {outcome.peak >> 20} | {message} |"


def _fuzz(seed: int, mutants: int) -> tuple[str, bool]:
    with tempfile.TemporaryDirectory(prefix="hostile-") as folder:
        tally = fuzz(range(seed, seed + mutants), Path(folder))
    counts = rows(tally)
    for number, kind in tally.bad[:50]:
        print(f"seed {number}: {kind.decode()}")
    print(json.dumps({**counts, "seconds": round(tally.seconds, 1)}))
    lines = [
        "## Byte mutants",
        "",
        f"{mutants:,} mutants of {len(corpus())} valid models (seeds {seed} to "
        f"{seed + mutants - 1}), each imported, verified,",
        "optimized and verified again in a forked child with a deadline and 8 GiB of addresses.",
        "",
        "| " + " | ".join(counts) + " |",
        "|" + "---|" * len(counts),
        "| " + " | ".join(f"{n:,}" for n in counts.values()) + " |",
    ]
    return "\n".join(lines) + "\n", bool(tally.bad)


def _write(part: str, text: str) -> None:
    """Write one part of the document anew, and keep the other."""
    kept = {"cases": "", "fuzz": ""}
    if DOCUMENT.exists():
        found = DOCUMENT.read_text(encoding="utf-8")
        for name, head, end in (("cases", "## Cases", "## Byte"), ("fuzz", "## Byte", "\0")):
            at = found.find(head)
            if at >= 0:
                until = found.find(end, at)
                kept[name] = found[at : until if until >= 0 else None].rstrip("\n") + "\n"
    kept[part] = text
    parts = [HEAD + _limits(), *(kept[name] for name in kept if kept[name])]
    DOCUMENT.write_text("\n".join(parts), encoding="utf-8")


def _limits() -> str:
    source = (Path(__file__).resolve().parents[2] / "ir" / "limits.py").read_text(encoding="utf-8")
    said = {}
    for line in source.splitlines():
        name, mark, comment = line.strip().partition(":")[0], "  # ", line.partition("  # ")[2]
        if mark in line and line.startswith("    "):
            said[name] = comment
    assert all(f.default is not MISSING for f in fields(Limits))
    return "".join(f"| {f.name} | {f.default} | {said.get(f.name, '')} |\n" for f in fields(Limits))


if __name__ == "__main__":
    sys.exit(main())
