"""`tunesmith opt`: run passes on a model, watch each of them, and write what comes out."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tunesmith.cli_compile import require_file
from tunesmith.cli_console import note
from tunesmith.cli_values import check_output, parse_dims, parse_shapes, parse_values
from tunesmith.ir.diagnostics import CompilerError
from tunesmith.passes.instruments import CheckEach, Dump, Instrument, Print, Reproduce, Step, Time
from tunesmith.passes.instruments import Verify as VerifyEach
from tunesmith.random_inputs import small_inputs
from tunesmith.settings import Settings

if TYPE_CHECKING:
    from tunesmith.ir.graph import Graph
    from tunesmith.passes.base import PassContext
    from tunesmith.passes.pipeline import Pipeline

__all__ = ["Options", "opt_command", "run_in_onnxruntime"]

Array = NDArray[np.generic]


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the command line of `opt` asks for."""

    pipeline: str | None
    level: int
    target: str
    shapes: Sequence[str]
    dims: Sequence[str]
    values: Sequence[str]
    print_after_all: bool
    print_after_change: bool
    dump_dir: Path | None
    check_each: str | None
    time: bool
    stats: bool
    stop_after: int | None
    emit: str
    output: Path | None


class Stopped(BaseException):
    """The passes that were asked for have run; no error, so nothing that handles errors sees it."""


@dataclass
class Stop(Instrument):
    """Ends the pipeline after so many runs of passes, counted as `--dump-dir` numbers them."""

    limit: int
    names: list[str] = field(default_factory=list)

    def after(self, step: Step, graph: Graph, changed: bool) -> None:
        """Count."""
        self.names.append(step.pass_.name)
        if len(self.names) >= self.limit:
            raise Stopped


@dataclass
class StartClock(Instrument):
    """Starts a timer: stands last."""

    timer: Time

    def before(self, step: Step, graph: Graph) -> None:
        """Start."""
        self.timer.before(step, graph)


@dataclass
class EndClock(Instrument):
    """Stops a timer: stands first."""

    timer: Time

    def after(self, step: Step, graph: Graph, changed: bool) -> None:
        """Stop."""
        self.timer.after(step, graph, changed)


def opt_command(model: Path, options: Options) -> None:
    """Import, run the passes, and write the graph."""
    shapes, dims = parse_shapes(options.shapes), parse_dims(options.dims)
    values = parse_values(options.values)
    require_file(model)
    if options.output is not None:
        check_output(options.output, model)
    elif options.emit == "onnx" and sys.stdout.isatty():
        raise CompilerError(
            "an ONNX model is not for a terminal", hint="name a file: `-o out.onnx`"
        )
    from tunesmith.backends.targets import find_target
    from tunesmith.frontend import import_model
    from tunesmith.passes.base import PassContext

    pipeline = _pipeline(options)
    graph = import_model(model, shapes=shapes or None, dims=dims or None, values=values or None)
    context = PassContext(target=find_target(options.target))
    timer = Time()
    # The clock starts after the other instruments looked, and stops before they look again.
    instruments = [EndClock(timer), *_instruments(options, graph), StartClock(timer)]
    stop = None if options.stop_after is None else Stop(options.stop_after)
    if stop is not None:
        instruments.append(stop)
    before = len(graph)
    if options.stop_after != 0:
        with contextlib.suppress(Stopped):
            pipeline.run(graph, context, instruments)
    if stop is not None and stop.names:
        note(f"stopped after {len(stop.names)} passes, the last is `{stop.names[-1]}`")
    if options.time:
        note(str(timer))
    if options.stats:
        note(f"nodes {before} -> {len(graph)}")
        _print_stats(context)
    _emit(graph, options)


def _pipeline(options: Options) -> Pipeline:
    from tunesmith.passes.pipeline import Pipeline

    if options.pipeline is not None:
        return Pipeline.parse(options.pipeline)
    from tunesmith.presets import PRESETS

    return Pipeline.parse(PRESETS[f"O{options.level}"])


def _instruments(options: Options, graph: Graph) -> Iterator[Instrument]:
    yield VerifyEach()
    name = f"tunesmith-reproducer-{os.getpid()}.nir"
    yield Reproduce(Path(Settings.read().crash_folder) / name)
    if options.print_after_all or options.print_after_change:
        yield Print(sys.stderr, only_changes=not options.print_after_all)
    if options.dump_dir is not None:
        yield Dump(options.dump_dir)
    if options.check_each is not None:
        feeds = small_inputs(graph)
        if options.check_each == "onnxruntime":
            yield CheckEach(feeds, run_in_onnxruntime)
        else:
            yield CheckEach(feeds)


def run_in_onnxruntime(graph: Graph, feeds: Mapping[str, Array]) -> list[Array]:
    """The outputs of a graph in ONNX Runtime, in order."""
    from tunesmith.ir.onnx_export import save_onnx
    from tunesmith.oracle import OnnxSession

    with tempfile.TemporaryDirectory(prefix="tunesmith-") as folder:
        path = Path(folder) / "stage.onnx"
        save_onnx(graph, path)
        return list(OnnxSession(path).run(feeds).values())


def _print_stats(context: PassContext) -> None:
    counts = Counter((n.pass_name, n.what, n.kind) for n in context.notes)
    for (name, what, kind), count in counts.items():
        note(f"{name}: {count} x {what} ({kind})")
    for miss in context.notes:
        if miss.kind == "near-miss":
            note(f"{miss.pass_name}: near miss at {miss.where}: {miss.reason}")


def _emit(graph: Graph, options: Options) -> None:
    if options.emit == "text":
        if options.output is None:
            from tunesmith.ir.text import print_graph

            print(print_graph(graph))
        else:
            from tunesmith.ir.store import save_graph

            save_graph(graph, options.output)
        return
    from tunesmith.ir.onnx_export import export_onnx, save_onnx

    if options.output is None:
        sys.stdout.buffer.write(export_onnx(graph).SerializeToString())
        return
    parent = options.output.parent
    with tempfile.TemporaryDirectory(dir=parent, prefix=".tunesmith-") as folder:
        save_onnx(graph, Path(folder) / options.output.name)
        # The weights first: once the model is there, all of it is.
        for file in sorted(Path(folder).iterdir(), reverse=True):
            os.replace(file, parent / file.name)
