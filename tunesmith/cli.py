"""The command line: what each command takes. The work is in `cli_*.py`, imported when it runs."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from tunesmith.cli_board import board_app
from tunesmith.cli_db_app import db_app
from tunesmith.cli_options import (
    At,
    Atol,
    Backend,
    Cache,
    Compiled,
    Database,
    Dim,
    Emit,
    Engine,
    Grouping,
    Inputs,
    Json,
    Level,
    Model,
    Pipe,
    Rtol,
    Seed,
    Shape,
    TargetName,
    Threads,
    Tries,
    Value,
)
from tunesmith.cli_place import Elsewhere, Key, On, Resource, Rpc

__all__ = ["app", "execute", "main"]

app = typer.Typer(
    name="tunesmith",
    help="Compile models: ONNX in, one verified, fast, deployable file out.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        from tunesmith.cli_doctor import version_line

        print(version_line())
        raise typer.Exit()


app.add_typer(db_app, name="db")
app.add_typer(board_app, name="board")


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_version, is_eager=True, help="Show the versions."),
    ] = False,
) -> None:
    """Compile models: ONNX in, one verified, fast, deployable file out."""


@app.command("compile")
def _compile(
    model: Model,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="OUT.tsm", help="Beside the model if not given."),
    ] = None,
    target: TargetName = "host",
    shape: Shape = None,
    dim: Dim = None,
    value: Value = None,
    cache: Cache = None,
    level: Level = 2,
    threads: Threads = None,
    verify: Annotated[
        bool | None,
        typer.Option(
            "--verify/--no-verify",
            help="Try the result beside ONNX Runtime before it is written; on if the target is "
            "this machine.",
        ),
    ] = None,
    db: Database = None,
    at: At = None,
    on: On = None,
    device_resource: Resource = None,
    rpc: Rpc = None,
    key: Key = None,
    json: Json = None,
) -> None:
    """Compile a model to one file that runs on its own; with `--db`, by tuned kernels."""
    from tunesmith.cli_compile import compile_command

    compile_command(model, output, target, shape or [], dim or [], value or [], cache, level,
                    threads, verify, db, at or [], json,
                    Elsewhere(on, device_resource, rpc, key))  # fmt: skip


@app.command("tune")
def _tune(
    model: Model,
    output: Annotated[
        Path | None,
        typer.Option("-o", "--output", metavar="OUT.tsm", help="Beside the model if not given."),
    ] = None,
    target: TargetName = "host",
    shape: Shape = None,
    dim: Dim = None,
    at: At = None,
    level: Level = 2,
    threads: Threads = None,
    budget: Annotated[str, typer.Option(metavar="10m", help="How long to search.")] = "10m",
    trials: Annotated[
        int | None, typer.Option(min=1, help="At most so many candidates, of all kernels.")
    ] = None,
    db: Database = None,
    tasks: Annotated[
        list[str] | None,
        typer.Option("--tasks", metavar="GLOB", help="Only these kernels; repeatable."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the search.")] = 0,
    search: Annotated[
        str, typer.Option(metavar="NAME", help="`gaussian`, or `metaschedule`: TVM's.")
    ] = "gaussian",
    on: On = None,
    device_resource: Resource = None,
    rpc: Rpc = None,
    key: Key = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List the kernels and their shares; tune nothing.")
    ] = False,
    verify: Annotated[
        bool, typer.Option("--verify/--no-verify", help="Try the result beside ONNX Runtime.")
    ] = True,
    plot: Annotated[
        Path | None, typer.Option("--plot", metavar="OUT.png", help="Draw the curve of the search.")
    ] = None,
    json: Json = None,
) -> None:
    """Search for quicker kernels on this machine, and compile with them.

    Ctrl-C ends the search and keeps everything; the same call goes on where it stopped.
    """
    from tunesmith.cli_tune import tune_command

    tune_command(model, output, target, shape or [], dim or [], at or [], level, threads, budget,
                 trials, db, tasks or [], seed, search, dry_run, verify, plot, json,
                 Elsewhere(on, device_resource, rpc, key))  # fmt: skip


@app.command("run")
def _run(
    artifact: Compiled,
    inputs: Annotated[Path, typer.Option(metavar="IN.npz", help="Arrays by input name.")],
    outputs: Annotated[Path, typer.Option(metavar="OUT.npz", help="Where the outputs go.")],
    threads: Threads = None,
) -> None:
    """Run a compiled model once on the arrays of a file."""
    from tunesmith.cli_compile import run_command

    run_command(artifact, inputs, outputs, threads)


@app.command("verify")
def _verify(
    artifact: Compiled,
    model: Model,
    inputs: Inputs = None,
    shape: Shape = None,
    dim: Dim = None,
    atol: Annotated[float | None, typer.Option(min=0, help="Absolute tolerance.")] = None,
    rtol: Annotated[float | None, typer.Option(min=0, help="Relative tolerance.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the random inputs.")] = 0,
    threads: Threads = None,
    json: Json = None,
) -> None:
    """Compare a compiled model with ONNX Runtime; exit 1 if they differ."""
    from tunesmith.cli_verify import verify_command

    verify_command(artifact, model, inputs, shape or [], dim or [], atol, rtol, seed, threads, json)


@app.command("bench")
def _bench(
    artifact: Compiled,
    model: Annotated[
        Path | None,
        typer.Argument(metavar="[MODEL.onnx]", help="Also time ONNX Runtime on this model."),
    ] = None,
    inputs: Inputs = None,
    shape: Shape = None,
    dim: Dim = None,
    threads: Threads = None,
    rounds: Annotated[int, typer.Option(min=5, max=1000, help="Interleaved blocks.")] = 9,
    time: Annotated[float, typer.Option(min=0.1, help="Timed seconds for each engine.")] = 3.0,
    json: Json = None,
) -> None:
    """Measure latency, interleaved with ONNX Runtime if the model is given."""
    from tunesmith.cli_bench import bench_command

    bench_command(artifact, model, inputs, shape or [], dim or [], threads, rounds, time, json)


@app.command("profile")
def _profile(
    artifact: Compiled,
    inputs: Inputs = None,
    shape: Shape = None,
    dim: Dim = None,
    threads: Threads = None,
    rounds: Annotated[int, typer.Option(min=1, max=1000, help="Runs of each kind.")] = 20,
    by: Annotated[Grouping, typer.Option(help="What a row of the table is.")] = Grouping.kernel,
    least: Annotated[
        bool, typer.Option("--least", help="Show least times, not medians: for a busy machine.")
    ] = False,
    cpu_time: Annotated[
        bool, typer.Option("--cpu-time", help="Leave out other processes; one thread only.")
    ] = False,
    measure_again: Annotated[
        bool, typer.Option("--measure-again", help="Measure the peaks of this machine again.")
    ] = False,
    json: Json = None,
) -> None:
    """Show where the time goes, beside the measured peaks of this machine."""
    from tunesmith.cli_profile import profile_command

    profile_command(artifact, inputs, shape or [], dim or [], threads, rounds, by.value, least,
                    cpu_time, measure_again, json)  # fmt: skip


@app.command("inspect")
def _inspect(
    file: Annotated[Path, typer.Argument(help="A model or a compiled model.")],
    json: Json = None,
) -> None:
    """Show what a model, or a compiled model, holds."""
    from tunesmith.cli_inspect import inspect_command

    inspect_command(file, json)


@app.command("opt")
def _opt(
    model: Annotated[Path, typer.Argument(help="A model, `.onnx` or `.nir`.")],
    pipeline: Annotated[
        str | None, typer.Option("-p", "--pipeline", help="Passes; those of -O if not given.")
    ] = None,
    level: Level = 2,
    target: TargetName = "host",
    shape: Shape = None,
    dim: Dim = None,
    value: Value = None,
    print_after_all: Annotated[
        bool, typer.Option("--print-after-all", help="Print after each pass.")
    ] = False,
    print_after_change: Annotated[
        bool, typer.Option("--print-after-change", help="Print after each pass that changed it.")
    ] = False,
    dump_dir: Annotated[
        Path | None, typer.Option("--dump-dir", help="Write the graph after each pass.")
    ] = None,
    check_each: Annotated[
        Engine | None,
        typer.Option("--check-each", help="Compare the outputs after each pass."),
    ] = None,
    time: Annotated[bool, typer.Option("--time", help="Time each pass.")] = False,
    stats: Annotated[bool, typer.Option("--stats", help="Matches and near misses.")] = False,
    stop_after: Annotated[
        int | None, typer.Option("--stop-after", min=0, help="Run only the first N passes.")
    ] = None,
    emit: Annotated[Emit, typer.Option("--emit", help="What to write.")] = Emit.text,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Where to; stdout if not given.")
    ] = None,
) -> None:
    """Run passes on a model, and write the graph."""
    from tunesmith.cli_opt import Options, opt_command

    opt_command(
        model,
        Options(
            pipeline=pipeline, level=level, target=target, shapes=shape or [], dims=dim or [],
            values=value or [],
            print_after_all=print_after_all, print_after_change=print_after_change,
            dump_dir=dump_dir, check_each=check_each.value if check_each else None, time=time,
            stats=stats, stop_after=stop_after, emit=emit.value, output=output,
        ),
    )  # fmt: skip


@app.command("bisect")
def _bisect(
    model: Annotated[Path, typer.Argument(help="A model: `.onnx`, `.pt2` or `.nir`.")],
    pipeline: Pipe = None,
    level: Level = 2,
    target: TargetName = "host",
    shape: Shape = None,
    dim: Dim = None,
    backend: Backend = True,
    seed: Seed = 0,
    tries: Tries = 2,
    atol: Atol = None,
    rtol: Rtol = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Where the graph before it goes.")
    ] = None,
    json: Json = None,
) -> None:
    """Name the first pass that changes the outputs, or the backend; exit 1 if there is one."""
    from tunesmith.cli_bisect import Search, bisect_command

    bisect_command(
        model,
        Search(
            pipeline=pipeline, level=level, target=target, shapes=shape or [], dims=dim or [],
            backend=backend, seed=seed, tries=tries, atol=atol, rtol=rtol,
        ),
        output, json,
    )  # fmt: skip


@app.command("reduce")
def _reduce(
    model: Annotated[Path, typer.Argument(help="A model: `.onnx`, `.pt2` or `.nir`.")],
    output: Annotated[
        Path, typer.Option("-o", "--output", metavar="OUT", help="`.nir` or `.onnx`.")
    ],
    pipeline: Pipe = None,
    level: Level = 2,
    target: TargetName = "host",
    shape: Shape = None,
    dim: Dim = None,
    backend: Backend = True,
    seed: Seed = 0,
    tries: Tries = 2,
    atol: Atol = None,
    rtol: Rtol = None,
    time: Annotated[float, typer.Option(min=1, help="Seconds to shrink it.")] = 300.0,
    json: Json = None,
) -> None:
    """Shrink a model as long as the same pass, or the backend, changes the outputs."""
    from tunesmith.cli_bisect import Search, reduce_command

    reduce_command(
        model,
        Search(
            pipeline=pipeline, level=level, target=target, shapes=shape or [], dims=dim or [],
            backend=backend, seed=seed, tries=tries, atol=atol, rtol=rtol,
        ),
        output, time, json,
    )  # fmt: skip


@app.command("passes")
def _passes(json: Json = None) -> None:
    """List the passes, their options and what they do."""
    from tunesmith.cli_inspect import passes_command

    passes_command(json)


@app.command("targets")
def _targets(json: Json = None) -> None:
    """List the targets, and what this machine is."""
    from tunesmith.cli_inspect import targets_command

    targets_command(json)


@app.command("demo")
def _demo(threads: Threads = None) -> None:
    """Compile, verify and time a real sentence embedding model."""
    from tunesmith.demo import demo_command

    demo_command(threads)


@app.command("doctor")
def _doctor(json: Json = None) -> None:
    """Check that this machine can compile and run; exit 1 if it cannot."""
    from tunesmith.cli_doctor import doctor_command

    doctor_command(json)


def execute(arguments: Sequence[str]) -> int:
    """Run one command; the result is the exit status: 0, 1, 2, 4, 70 or 130."""
    from tunesmith.cli_errors import explain

    try:
        code: object = app(_with_default_check(arguments), "tunesmith", standalone_mode=False)
        sys.stdout.flush()
    except BrokenPipeError:  # the reader of our output went away
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        return explain(error, arguments)
    return code if isinstance(code, int) else 0


def _with_default_check(arguments: Sequence[str]) -> list[str]:
    """`--check-each` alone means the interpreter: click has no options with an optional value."""
    result: list[str] = []
    for index, argument in enumerate(arguments):
        result.append(argument)
        following = arguments[index + 1] if index + 1 < len(arguments) else ""
        if argument == "--check-each" and following not in [e.value for e in Engine]:
            result.append(Engine.interpreter.value)
    return result


def main() -> NoReturn:
    """Run the command line of this process; told to end (SIGTERM), it cleans up behind itself."""
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    sys.exit(execute(sys.argv[1:]))
