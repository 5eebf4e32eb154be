"""One measurement of the spine, in a process of its own.

`python -m benchmarks.spine_work KIND SUBJECT FOLDER REQUEST` is what `benchmarks.spine` starts. It
writes `FOLDER/row.json` after every step, so that a crash loses only what was under way.
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import cast

from benchmarks.spine_compare import Request, Work, check, fix
from benchmarks.spine_rows import Row
from benchmarks.spine_subjects import find_subject
from benchmarks.spine_time import timing
from tunesmith.ir.diagnostics import CompilerError

__all__ = ["main"]

KINDS: dict[str, Callable[[Work], object]] = {
    "build": lambda work: work.subject.path(),
    "check": check,
    "fix": fix,
    "time": timing,
}


def main(arguments: list[str]) -> int:
    """Measure, and write the row; every error is a part of it."""
    kind, name, folder, text = arguments
    subject, request = find_subject(name), cast("Request", json.loads(text))
    row = Row(key=request["key"], kind=kind, subject=name, expected=subject.blocks)
    if kind == "time":
        row["threads"] = request["threads"]
    work = Work(subject, Path(folder), request, row)
    try:
        KINDS[kind](work)
    except Exception as error:  # of any kind: the table tells what it was
        traceback.print_exc()
        traced = "".join(traceback.format_exception(error)[-6:])
        known = isinstance(error, CompilerError)
        row["error"] = str(error) if known else f"{type(error).__name__}: {error}\n{traced}"
    work.save()
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
