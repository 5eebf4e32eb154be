"""`tunesmith compile` and `tunesmith run`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tunesmith.cli_console import Progress, note, out
from tunesmith.cli_place import Elsewhere
from tunesmith.cli_values import (
    check_output,
    fixed_sizes,
    parse_dims,
    parse_shapes,
    parse_values,
    read_npz,
    write_json,
    write_npz,
)
from tunesmith.deadline import deadline
from tunesmith.ir.diagnostics import CompilerError
from tunesmith.ir.limits import LIMITS

__all__ = ["compile_command", "require_file", "run_command"]


def require_file(path: Path) -> Path:
    """The path, if a file is there."""
    if path.is_dir():
        raise CompilerError("this is a folder, not a file", where=str(path))
    if not path.exists():
        near = (
            sorted(p.name for p in path.parent.glob(f"*{path.suffix}"))[:5] if path.suffix else []
        )
        hint = f"the folder has {', '.join(f'`{n}`' for n in near)}" if near else None
        raise CompilerError("there is no such file", where=str(path), hint=hint)
    return path


def compile_command(
    model: Path,
    output: Path | None,
    target: str,
    shapes: Sequence[str],
    dims: Sequence[str],
    values: Sequence[str],
    cache: int | None,
    level: int,
    threads: int | None,
    verify: bool | None,
    db: str | None,
    at: Sequence[str],
    json: Path | None,
    elsewhere: Elsewhere,
) -> None:
    """Compile `model`, save it, and print the summary."""
    wanted_shapes, wanted_dims = parse_shapes(shapes), parse_dims(dims)
    wanted_values = parse_values(values)
    if at and db is None:
        raise CompilerError("`--at` says at which sizes records were tuned", hint="add `--db`")
    if elsewhere and db is None:
        raise CompilerError("`--on` and `--rpc` say where records are tried", hint="add `--db`")
    if elsewhere and target != "host":
        raise CompilerError("the target is the device that records are tried on", where=target,
                            hint="leave `--target` out")  # fmt: skip
    require_file(model)
    path = output or Path(f"{model.stem}.tsm")
    check_output(path, model)
    from tunesmith import report
    from tunesmith.driver import compile_model

    options: dict[str, Any] = {
        "target": target, "preset": f"O{level}", "shapes": wanted_shapes or None,
        "dims": wanted_dims or None, "values": wanted_values or None, "cache": cache,
        "threads": threads,
        "verify": target == "host" and not elsewhere if verify is None else verify,
    }  # fmt: skip
    start = time.perf_counter()
    with (
        deadline(LIMITS.compile_seconds, "compiling"),
        Progress(f"compile {model.name}") as progress,
    ):
        if db is None:
            artifact = compile_model(model, **options, progress=progress)
        else:
            from tunesmith.autotune.database import open_database
            from tunesmith.tuned_compile import compile_with_records

            with open_database(db) as store, elsewhere.open() as place:
                if elsewhere:
                    options["target"] = place.target(threads)
                artifact = compile_with_records(
                    model, store, at=fixed_sizes(at, "--at"), place=place, progress=progress,
                    warn=lambda text: note(f"warning: {text}"), **options,
                )  # fmt: skip
        progress("save")
        artifact.save(path)
    took = time.perf_counter() - start
    size = path.stat().st_size
    manifest = artifact.manifest
    summary = report.compile_summary(manifest, path, took, size)
    for line in summary:
        (note if str(json) == "-" else out)(line)
    if json is not None:
        rows = {"artifact": str(path), "bytes": size, "seconds": took, "report": manifest.report}
        write_json(json, rows)


def run_command(artifact: Path, inputs: Path, outputs: Path, threads: int | None) -> None:
    """Run `artifact` on the arrays in `inputs`."""
    require_file(artifact)
    check_output(outputs, artifact, inputs)
    feeds = read_npz(inputs)
    from tunesmith.report import seconds
    from tunesmith.runtime import load

    executable = load(artifact, threads=threads, strict=True)
    start = time.perf_counter()
    results = executable.run(feeds)
    took = time.perf_counter() - start
    write_npz(outputs, results)
    for name, array in results.items():
        note(f"{name} {array.dtype}{list(array.shape)}")
    note(f"written {outputs} (first run {seconds(took)})")
