"""`docs/generated.json`, every verdict, and `docs/generated.md`, the tables."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import TypeVar

from tests.generated.corpus import ATOL, RTOL
from tests.generated.stability import MOVES, UNITS
from tests.generated.vote import COLUMNS, Verdict

__all__ = ["render", "write_report"]

PACKAGES = ("onnx", "numpy", "apache-tvm", "apache-tvm-ffi", "onnxruntime")
REQUIREMENTS = Path(__file__).with_name("requirements.txt")

_HEAD = """\
Written by `make generated`: no figure here was written by hand; every verdict is by its seed in
`generated.json`. Models of eight operators that nnsmith draws at random (Liu et al., 2023), with
inputs and with what PyTorch gives for them. Small ones are in `tests/generated/models`, and
`make test` runs these."""

_METHOD = f"""\
Each model runs over each engine in a forked child with a deadline of 60 s, on one thread. Outputs
are equal if their number, shapes and element types are, integers exactly, floats within rtol
{RTOL:g} and atol {ATOL:g}, NaN and infinities in their places. Three voters know the answer:
PyTorch, from which the model was exported (the oracle), ONNX's reference, and ONNX Runtime with all
optimizations off, which speaks for ONNX Runtime more often than a stranger would. They are asked
where an engine differs from the oracle.

| column | what it means |
|---|---|
| pass | equal to the oracle |
| inside | NaN and infinities as at the oracle, and other numbers differ |
| oracle fault | unlike the oracle, and equal to both other voters: the exporter is wrong |
| unsupported | refused by name, before anything ran |
| unstable | a mismatch, and a voter differs from itself in these places for inputs nearby |
| disputed | unlike the oracle, and the others do not agree, or one of them cannot run it |
| error | accepted, and failed then |
| mismatch | unlike every voter that could run it, two at least |
| crash, hang | the process ended, or did not end within the deadline |

A model is unstable if it has no answer at this precision: floats of the inputs move by up to
{UNITS} units in the last place, {MOVES} times at random, and a voter's own output then changes at
each of the elements at which an engine differs from it. `not finite` counts the models for
which PyTorch gives NaN or infinity somewhere; they are in the other columns too."""

_REWRITES = """\
Three rewrites at random places of each model, which change nothing that it computes (after Zhou et
al., 2024): `x - 0`, `x` split and joined, padded and cut, transposed, cast, reshaped or negated and
back, `Gemm` as `MatMul` and `Add`, and others; `tests/generated/rewrites.py` has them all. Held
against what the same engine gives for the model as it was, where it takes both."""

Found = Mapping[str, tuple[str, Mapping[str, Verdict]]]
Same = Mapping[str, Mapping[str, str]]


def write_report(folder: Path, found: Found, same: Same, ours: Sequence[str]) -> None:
    """Write both files; engines and models that did not run keep what the run before gave.

    `found` holds the title and the verdicts of each engine by its key, `same` what differs from
    before by the key of an engine that was given rewritten models.
    """
    path = folder / "generated.json"
    versions = {name: metadata.version(name) for name in PACKAGES}
    lines = (line for line in REQUIREMENTS.read_text(encoding="utf-8").splitlines() if line)
    versions |= dict(line.split("==") for line in lines if not line.startswith("#"))
    titles: dict[str, str] = {}
    rows: dict[str, dict[str, Verdict]] = {}
    unlike: dict[str, dict[str, str]] = {}
    before = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    if before.get("versions") == versions:
        titles, unlike = before["engines"], before["rewritten"]
        for seed, by in before["models"].items():
            for key, (column, reason, finite) in by.items():
                rows.setdefault(key, {})[seed] = Verdict(column, reason, finite)
    for key, (title, fresh) in found.items():
        titles[key] = title
        rows.setdefault(key, {}).update(fresh)
    for key, differences in same.items():
        unlike.setdefault(key, {}).update(differences)
    whole = {key: (title, _sorted(rows[key])) for key, title in titles.items()}
    unlike = {key: _sorted(by) for key, by in unlike.items()}
    path.write_text(_as_json(versions, whole, unlike), encoding="utf-8")
    (folder / "generated.md").write_text(render(versions, whole, unlike, ours), encoding="utf-8")


Row = TypeVar("Row")


def _sorted(rows: Mapping[str, Row]) -> dict[str, Row]:
    return {seed: rows[seed] for seed in sorted(rows, key=int)}


def _as_json(versions: Mapping[str, str], found: Found, same: Same) -> str:
    """A line for each model, so that a difference of two runs can be read."""
    seeds = sorted({seed for _, rows in found.values() for seed in rows}, key=int)
    lines = []
    for seed in seeds:
        by = {
            key: [rows[seed].column, rows[seed].reason, rows[seed].finite]
            for key, (_, rows) in found.items()
            if seed in rows
        }
        lines.append(f"  {json.dumps(seed)}: {json.dumps(by)}")
    titles = {key: title for key, (title, _) in found.items()}
    head = f'{{"versions": {json.dumps(versions)},\n "engines": {json.dumps(titles)},\n'
    models = ",\n".join(lines)
    return f'{head} "rewritten": {json.dumps(same)},\n "models": {{\n{models}\n}}}}\n'


def render(versions: Mapping[str, str], found: Found, same: Same, ours: Sequence[str]) -> str:
    """The tables."""
    parts = [
        "# Generated models",
        _HEAD,
        "\n".join(_table(found)),
        "## What is refused",
        "\n".join(_reasons(found, ours, ("unsupported",))),
        "## What else does not pass",
        "\n".join(_cases(found, ours)),
        "## Rewritten models",
        _REWRITES,
        "\n".join(_rewritten(found, same)),
        "## How it is counted",
        _METHOD,
        "Versions: " + ", ".join(f"{name} {version}" for name, version in versions.items()) + ".",
    ]
    return "\n\n".join(parts) + "\n"


def _table(found: Found) -> Iterator[str]:
    yield f"| engine | models | {' | '.join(COLUMNS)} | not finite |"
    yield f"|---|{'---:|' * (len(COLUMNS) + 2)}"
    for title, rows in found.values():
        counts = Counter(row.column for row in rows.values())
        odd = sum(not row.finite for row in rows.values())
        cells = " | ".join(f"{counts[column]:,}" for column in COLUMNS)
        yield f"| {title} | {len(rows):,} | {cells} | {odd} |"


def _reasons(found: Found, ours: Sequence[str], columns: Sequence[str]) -> Iterator[str]:
    shown = [key for key in ours if key in found]
    counts: dict[str, Counter[str]] = {}
    for key in shown:
        for row in found[key][1].values():
            if row.column in columns:
                counts.setdefault(row.reason, Counter())[key] += 1
    if not counts:
        yield "Nothing."
        return
    yield f"| reason | {' | '.join(found[key][0] for key in shown)} |"
    yield f"|---|{'---:|' * len(shown)}"
    for reason, by in sorted(counts.items(), key=lambda item: (-item[1].total(), item[0])):
        cells = " | ".join(str(by[key]) for key in shown)
        yield f"| {_cell(reason)} | {cells} |"


def _cases(found: Found, ours: Sequence[str]) -> Iterator[str]:
    groups: dict[tuple[str, str, str], list[str]] = {}
    for key in ours:
        if key not in found:
            continue
        for seed, row in found[key][1].items():
            if row.column not in ("pass", "unsupported"):
                groups.setdefault((seed, row.column, row.reason), []).append(key)
    if not groups:
        yield "Nothing."
        return
    yield "| seed | column | of | what |"
    yield "|---:|---|---|---|"
    place = {column: number for number, column in enumerate(COLUMNS)}
    for (seed, column, reason), keys in sorted(
        groups.items(), key=lambda item: (-place[item[0][1]], int(item[0][0]))
    ):
        yield f"| {seed} | {column} | {', '.join(keys)} | {_cell(reason)} |"


def _rewritten(found: Found, same: Same) -> Iterator[str]:
    yield "| engine | models | as before | otherwise |"
    yield "|---|---:|---:|---|"
    for key, rows in same.items():
        unlike = [seed for seed, reason in rows.items() if reason]
        told = ", ".join(unlike) or "none"
        yield f"| {found[key][0]} | {len(rows):,} | {len(rows) - len(unlike):,} | {told} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
