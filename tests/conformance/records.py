"""What became of a case, and what is known about the cases that do not pass.

`known.txt` is a list of groups: a line `== column: reason`, then the names of its cases. A case
that is not listed must pass, and one that is listed must end as its group says: a pass that nobody
expects is a fault too, of the list.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

__all__ = ["COLUMNS", "KNOWN", "Known", "Row", "faults", "read_known", "unexplained", "updated",
           "write_known"]  # fmt: skip

# From the best to the worst. `unsupported` was refused by name, before anything ran; `error` was
# accepted and failed; `wrong` ran and gave something else.
COLUMNS = ("pass", "unsupported", "error", "wrong", "crash", "hang")
KNOWN = Path(__file__).with_name("known.txt")
UNEXPLAINED = "unexplained: "


@dataclass(frozen=True)
class Row:
    """One case over one engine."""

    name: str
    column: str
    reason: str = ""
    ulp: int = 0
    stages: Mapping[str, float] | None = None  # seconds, where the engine tells
    deciding: Sequence[str] = ()  # the inputs whose elements it compiled for

    def as_json(self) -> str:
        """One line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: str) -> Row:
        """The row that `as_json` wrote."""
        return cls(**json.loads(line))


@dataclass(frozen=True)
class Known:
    """Why a case does not pass."""

    column: str
    reason: str


def read_known(path: Path = KNOWN, columns: Sequence[str] = COLUMNS) -> dict[str, Known]:
    """The list, by the name of the case; the first column is for what needs no entry."""
    found: dict[str, Known] = {}
    group: Known | None = None
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line or line.startswith("# "):
            continue
        if line.startswith("== "):
            column, _, reason = line[3:].partition(": ")
            assert column in columns[1:] and reason, f"{path.name}:{number}: `== column: reason`"
            group = Known(column, reason)
        else:
            assert group is not None, f"{path.name}:{number}: a case stands before the first group"
            assert line not in found, f"{path.name}:{number}: `{line}` is listed twice"
            found[line] = group
    return found


def write_known(known: Mapping[str, Known], path: Path = KNOWN) -> None:
    """Write the list: the worst columns first, the largest groups of a column first."""
    groups: defaultdict[Known, list[str]] = defaultdict(list)
    for name, why in known.items():
        groups[why].append(name)
    lines = ["# Cases that do not pass, and why; `make conformance UPDATE=1` writes it anew."]
    for why in sorted(groups, key=lambda g: (-COLUMNS.index(g.column), -len(groups[g]), g.reason)):
        lines += ["", f"== {why.column}: {why.reason}", *sorted(groups[why])]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def updated(rows: Iterable[Row], known: Mapping[str, Known]) -> dict[str, Known]:
    """The list after a run: refusals explain themselves, everything else a person must explain."""
    result = dict(known)
    for row in rows:
        before = result.pop(row.name, None)
        if row.column == "pass":
            continue
        if row.column == "unsupported":
            result[row.name] = Known(row.column, row.reason)
        elif before is not None and before.column == row.column:
            result[row.name] = before
        else:
            result[row.name] = Known(row.column, UNEXPLAINED + row.reason)
    return result


def unexplained(known: Mapping[str, Known]) -> list[str]:
    """The cases whose reason nobody has written yet."""
    return [name for name, why in known.items() if why.reason.startswith(UNEXPLAINED)]


def faults(rows: Iterable[Row], known: Mapping[str, Known], floor: Iterable[str]) -> list[str]:
    """What fails a run: a case that is missing, or that ended other than the list says."""
    by_name = {row.name: row for row in rows}
    twice = [name for name, count in Counter(row.name for row in rows).items() if count > 1]
    found = [f"`{name}` ran twice" for name in twice]
    missing = [name for name in floor if name not in by_name]
    if missing:
        found.append(f"{len(missing)} listed cases were not collected, such as `{missing[0]}`")
    for name, row in by_name.items():
        why = known.get(name)
        if row.column == "pass" and why is not None:
            found.append(f"`{name}` passes, and is known as {why.column}: {why.reason}")
        elif row.column != "pass" and why is None:
            found.append(f"`{name}` ended as {row.column}: {row.reason}")
        elif why is not None and row.column != why.column:
            found.append(f"`{name}` is known as {why.column}, and ended as {row.column}: "
                         f"{row.reason}")  # fmt: skip
    return found
