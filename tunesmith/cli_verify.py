"""`tunesmith verify`: a compiled model beside the engine it came from, at several sizes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from tunesmith.cli_compile import require_file
from tunesmith.cli_console import note, out
from tunesmith.cli_values import fixed_sizes, parse_shapes, read_npz, write_json

if TYPE_CHECKING:
    from tunesmith.oracle import Arrays, OutputReport, Session
    from tunesmith.runtime import Executable, Manifest

__all__ = ["verify_command", "verify_once"]

Trial = tuple[dict[str, int], "Arrays"]


def verify_command(
    artifact: Path,
    model: Path,
    inputs: Path | None,
    shapes: Sequence[str],
    dims: Sequence[str],
    atol: float | None,
    rtol: float | None,
    seed: int,
    threads: int | None,
    json: Path | None,
) -> None:
    """Compare, print a verdict for each output, and exit 1 if one failed."""
    wanted_shapes, wanted = parse_shapes(shapes), fixed_sizes(dims)
    require_file(artifact)
    require_file(model)
    from tunesmith import oracle, report
    from tunesmith.runtime import load

    executable = load(artifact, threads=threads, strict=True)
    trials = _trials(executable.manifest, inputs, wanted_shapes, wanted, seed)
    names = [spec.name for spec in executable.manifest.outputs]
    session = oracle.open_session(model, names, threads=executable.threads)
    show = note if str(json) == "-" else out
    reports: list[OutputReport] = []
    rows: list[dict[str, object]] = []
    for sizes, feeds in trials:
        found = verify_once(executable, session, feeds, atol=atol, rtol=rtol)
        for line in report.verdict_lines(found, sizes):
            show(line)
        reports += found
        rows += [r.as_json() | {"sizes": dict(sizes)} for r in found]
    passed = all(r.passed for r in reports)
    failures = sum(not r.passed for r in reports)
    verdict = "all outputs agree" if passed else f"{failures} of {len(reports)} outputs differ"
    show(f"{'PASSED' if passed else 'FAILED'} {verdict} with {session.label}")
    if json is not None:
        worst = max((r.max_abs for r in reports if r.max_abs != float("inf")), default=0.0)
        write_json(json, {
            "passed": passed, "outputs": rows, "shapes": [dict(sizes) for sizes, _ in trials],
            "max_abs": worst, "threads": executable.threads, "seed": seed,
            "oracle": session.label, "artifact": str(artifact), "model": str(model),
        })  # fmt: skip
    if not passed:
        raise typer.Exit(1)


def verify_once(
    executable: Executable,
    session: Session,
    feeds: Arrays,
    *,
    atol: float | None = None,
    rtol: float | None = None,
) -> list[OutputReport]:
    """Run both on the same inputs and compare; inputs that the other does not have are ours."""
    from tunesmith.oracle import compare
    from tunesmith.runtime.cache import plain_inputs

    known = plain_inputs(executable.manifest, feeds)
    ours = executable.run(feeds)
    theirs = session.run({name: known[name] for name in session.input_names if name in known})
    return compare(ours, theirs, atol=atol, rtol=rtol)


def _trials(
    manifest: Manifest,
    inputs: Path | None,
    shapes: Mapping[str, tuple[int, ...]],
    dims: Mapping[str, int],
    seed: int,
) -> list[Trial]:
    """The inputs of the user, or random ones at several sizes."""
    from tunesmith.random_inputs import (
        check_sizes,
        fitting,
        make_inputs,
        sizes_of,
        sizes_to_verify,
    )

    if inputs is not None:
        feeds = read_npz(inputs)
        known = {s.name: s for s in manifest.inputs}
        given = {n: a.shape for n, a in feeds.items() if n in known}
        return [(sizes_of(manifest.inputs, given, {}), feeds)]
    check_sizes(dims, manifest.symbols)
    symbols = [s for s in manifest.given if s.name not in dims]
    sizes = [{**fitting(manifest, {**trial, **dims}), **dims} for trial in sizes_to_verify(symbols)]
    sizes = [sizes_of(manifest.inputs, shapes, trial) for trial in sizes]
    sizes = [trial for i, trial in enumerate(sizes) if trial not in sizes[:i]]
    return [
        (trial, make_inputs(manifest.inputs, trial, seed=seed + i)) for i, trial in enumerate(sizes)
    ]
