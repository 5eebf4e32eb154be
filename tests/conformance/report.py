"""`docs/conformance.json`, every case over every engine, and `docs/conformance.md`, the tables."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TypedDict

from tests.conformance.engines import ENGINES
from tests.conformance.records import COLUMNS, Known, Row
from tests.conformance.suite import TOLERANCES, listed, names, networks

__all__ = ["render", "write_report"]

PACKAGES = ("onnx", "numpy", "apache-tvm", "apache-tvm-ffi", "onnxruntime")
OURS = "tunesmith"
FARTHEST = 10  # cases that are shown with their distance

_HEAD = """\
Written by `make conformance`; every case is in `conformance.json`, and why a case does not pass
stands in `tests/conformance/known.txt`. A run that ends otherwise than that list says, also by a
pass, fails."""

_METHOD = """\
The suite is the one inside the Python package `onnx`: node cases and the models of the kinds
`simple`, `pytorch-operator` and `pytorch-converted`, each counted once, for the CPU. `core` are the
cases whose inputs and outputs are plain tensors of f16, f32, f64, i8, u8, i32, i64 or bool, whose
operators are all in the standard domain, and whose opset is 23 or less; the list is frozen in
`tests/conformance/cases.txt`. `networks` are the nine of the package, of the size of real ones and
with weights that are one number each; they are counted by themselves. A case passes if the number
of its outputs, their shapes and their element types are equal, and all elements are close: rtol
1e-3 and atol 1e-7, the suite's own; bfloat16 is widened to rtol 2^-6. NaN equals NaN, and text is
exact. Each case runs in a forked child with a deadline of 60 s, the engine on one thread.
`unsupported` was refused by name before anything ran; `error` was accepted and failed then.

The suite calls `prepare(model)` and then `run(inputs)`, and feeds axes, sizes and places as inputs,
which models hold as constants. Where elements of inputs decide sizes, `tunesmith.onnx_backend`
compiles when `run` brings them, once for each of their values, and refuses the executable any other
ones; which inputs these are is what the importer asks for. `of these, values seen` counts the
passes that were compiled so; `all ahead of time` is the same compiler without a look at any
input: there they are refused."""


class _Engine(TypedDict):
    """What one engine gave: its columns, distances and reasons, by case."""

    title: str
    rows: dict[str, list[str | int]]


def write_report(
    folder: Path, found: Mapping[str, tuple[str, Sequence[Row]]], known: Mapping[str, Known]
) -> None:
    """Write both files; engines that did not run keep the rows of the run before, if they are left.

    `found` holds the title and the rows of each engine by its key.
    """
    path = folder / "conformance.json"
    versions = {name: metadata.version(name) for name in PACKAGES}
    before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    engines: dict[str, _Engine] = {}
    if before.get("versions", {}).get("onnx") == versions["onnx"]:
        engines.update({key: was for key, was in before["engines"].items() if key in ENGINES})
    for key, (title, rows) in found.items():
        engines[key] = {
            "title": title,
            "rows": {r.name: _cells(r, key == OURS) for r in rows},
        }
    order = [key for key in (OURS, *engines) if key in engines]
    engines = {key: engines[key] for key in dict.fromkeys(order)}
    path.write_text(_as_json(versions, engines), encoding="utf-8")
    (folder / "conformance.md").write_text(render(versions, engines, known), encoding="utf-8")


def _cells(row: Row, ours: bool) -> list[str | int]:
    """What is kept of a case: column, distance, our reason, the inputs whose values it took."""
    cells: list[str | int] = [row.column, row.ulp, row.reason if ours else ""]
    return [*cells, ", ".join(row.deciding)] if row.deciding else cells


def _as_json(versions: Mapping[str, str], engines: Mapping[str, _Engine]) -> str:
    """A line for each case, so that a difference of two runs can be read."""
    parts = []
    for key, engine in engines.items():
        rows = ",\n".join(
            f"    {json.dumps(name)}: {json.dumps(row)}" for name, row in engine["rows"].items()
        )
        title = json.dumps(engine["title"])
        parts.append(f'  {json.dumps(key)}: {{"title": {title}, "rows": {{\n{rows}\n  }}}}')
    body = ",\n".join(parts)
    return f'{{"versions": {json.dumps(versions)},\n "engines": {{\n{body}\n}}}}\n'


def render(
    versions: Mapping[str, str], engines: Mapping[str, _Engine], known: Mapping[str, Known]
) -> str:
    """The tables."""
    ours = engines[OURS]["rows"]
    parts = [
        "# ONNX conformance",
        _HEAD,
        "\n".join(_table(engines)),
        "## What is refused",
        "\n".join(_refused(ours)),
        "## What else does not pass",
        "\n".join(_failures(known)),
        "## Held to another tolerance",
        "The exact answer, computed in f64 and rounded once, misses what these cases expect; a\n"
        "test shows it. Every engine is held to the same.",
        "\n".join(_tolerances()),
        "## Distances",
        f"The {FARTHEST} cases that pass with the most units in the last place (ULP) between an\n"
        "element and the expected one; elements of a size below atol do not count.",
        "\n".join(_farthest(ours)),
        "## How it is counted",
        _METHOD,
        "Versions: " + ", ".join(f"{name} {version}" for name, version in versions.items()) + ".",
    ]
    return "\n\n".join(parts) + "\n"


def _table(engines: Mapping[str, _Engine]) -> Iterator[str]:
    core = set(names(core=True))
    shown = [COLUMNS[0], "of these, values seen", *COLUMNS[1:]]
    yield f"| engine | cases | {' | '.join(shown)} | share |"
    yield f"|---|---|{'---:|' * (len(shown) + 1)}"
    for engine in engines.values():
        sets = (("core", core), ("all", set(names())), ("networks", set(networks())))
        for label, chosen in sets:
            rows = [row for name, row in engine["rows"].items() if name in chosen]
            if not rows:
                continue
            counts = Counter(row[0] for row in rows)
            seen = sum(row[0] == "pass" and len(row) > 3 for row in rows)
            figures = [counts[COLUMNS[0]], seen, *(counts[column] for column in COLUMNS[1:])]
            cells = " | ".join(f"{figure:,}" for figure in figures)
            share = counts["pass"] / len(rows) if rows else 0.0
            cell = f"| {engine['title']} | {label} {len(rows):,} | {cells} | {share:.1%} |"
            yield cell.replace("%", " %")


def _refused(rows: Mapping[str, Sequence[str | int]]) -> Iterator[str]:
    core = {case.name for case in listed() if case.core}
    every: Counter[str] = Counter()
    inside: Counter[str] = Counter()
    for name, (column, _, reason, *_) in rows.items():
        if column == "unsupported":
            every[str(reason)] += 1
            inside[str(reason)] += name in core
    yield "| reason | core | all |"
    yield "|---|---:|---:|"
    for reason, count in sorted(every.items(), key=lambda item: (-item[1], item[0])):
        yield f"| {reason.replace('|', chr(92) + '|')} | {inside[reason]} | {count} |"


def _failures(known: Mapping[str, Known]) -> Iterator[str]:
    rest = {name: why for name, why in known.items() if why.column != "unsupported"}
    if not rest:
        yield "Nothing: no case ends as error, wrong, crash or hang."
        return
    yield "| case | column | reason |"
    yield "|---|---|---|"
    for name, why in sorted(rest.items(), key=lambda item: (item[1].column, item[0])):
        yield f"| `{name}` | {why.column} | {why.reason} |"


def _tolerances() -> Iterator[str]:
    yield "| case | rtol | atol | reason |"
    yield "|---|---:|---:|---|"
    for name, held in sorted(TOLERANCES.items()):
        yield f"| `{name}` | {held.rtol:g} | {held.atol:g} | {held.reason} |"


def _farthest(rows: Mapping[str, Sequence[str | int]]) -> Iterator[str]:
    yield "| case | ULP |"
    yield "|---|---:|"
    passed = [(int(ulp), name) for name, (column, ulp, *_) in rows.items() if column == "pass"]
    for ulp, name in sorted(passed, key=lambda item: (-item[0], item[1]))[:FARTHEST]:
        yield f"| `{name}` | {ulp:,} |"
