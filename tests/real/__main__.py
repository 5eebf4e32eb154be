"""`python -m tests.real`: compile and compare every pinned real file, and write `docs/real.md`."""

from __future__ import annotations

import argparse
import platform
import sys
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from benchmarks.spine_facts import commit, gather, now
from benchmarks.spine_rows import write_text

from .run import Result, measure
from .subjects import SUBJECTS, TOLERANCE

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "real.md"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is asked for; 1 if a file is not installed, refused, or differs."""
    parser = argparse.ArgumentParser(prog="python -m tests.real", description=__doc__)
    parser.add_argument("names", nargs="*", default=["*"], metavar="GLOB", help="such as 'ocr-*'")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--write", action="store_true", help="write docs/real.md; wants all files")
    options = parser.parse_args(arguments)
    chosen = [s for s in SUBJECTS if any(fnmatchcase(s.name, name) for name in options.names)]
    if not chosen or (options.write and len(chosen) < len(SUBJECTS)):
        parser.error("no file is called so" if not chosen else "`--write` wants all files")
    results, missing = [], 0
    for subject in chosen:
        try:
            result = measure(subject, threads=options.threads)
        except LookupError as error:
            missing += 1
            print(f"{subject.name:32} not there: {error}", flush=True)
            continue
        results.append(result)
        print(f"{subject.name:32} {verdict(result):7} {result.worst:.1e} of {result.largest:.3g}"
              f"  compiled in {result.seconds} s  {result.error}", flush=True)  # fmt: skip
    if options.write and not missing:
        write_text(DOCUMENT, render(results))
    return int(bool(missing) or not all(result.passed for result in results))


def verdict(result: Result) -> str:
    """In a word."""
    return "passed" if result.passed else "FAILED"


def render(results: Sequence[Result]) -> str:
    """The document."""
    facts = gather()
    lines = [
        "# Real models",
        "",
        f"Written by `make real` on {now()}, at commit {commit()}: no figure here was written by"
        " hand.",
        "",
        "Every ONNX file of the pinned packages, compiled once for all of its sizes and run beside"
        f" ONNX Runtime {facts.get('onnxruntime', '')} on the same inputs: a file passes if every"
        f" element of every result is within {TOLERANCE:g} of ONNX Runtime's, absolute, and"
        " integers are equal. Inputs are tokens with padding, pictures of dark strokes on light"
        " paper, bytes of files of this repository, and vowels with pauses; of voice models both"
        " engines get their own state back, call after call.",
        "",
        f"{sum(r.passed for r in results)} of {len(results)} pass.",
        "",
        "| model | file | any size of | fixed when compiling | sizes tried | largest difference |"
        " largest element | verdict |",
        "|---|---|---|---|---|---:|---:|---|",
    ]
    for r in results:
        lines.append(
            f"| {r.subject} | `{r.file}` | {', '.join(r.symbols) or '-'} |"
            f" {', '.join(r.fixed) or '-'} | {', '.join(r.streams) or '-'} | {r.worst:.1e} |"
            f" {r.largest:.3g} | {verdict(r)}{': ' + r.error if r.error else ''} |"
        )
    lines += [
        "",
        "`12 of 3x576` are twelve calls with a batch of three. What is fixed when compiling is what"
        " the graph of the file branches on: sample rate, and lengths for which the branches of an"
        " `If` have one shape; the executable refuses others. A layer of an LSTM is unrolled, so"
        " the file that takes many frames at once is compiled once for each number of them.",
        "",
        f"{facts['cpu']}; Python {platform.python_version()}.",
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
