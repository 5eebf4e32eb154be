"""`tunesmith tune`: search for better knobs on this machine, and compile with them."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import typer

from tunesmith.cli_compile import require_file
from tunesmith.cli_console import Progress, note, out, print_table
from tunesmith.cli_place import Elsewhere
from tunesmith.cli_values import check_output, fixed_sizes, parse_dims, parse_shapes, write_json
from tunesmith.ir.diagnostics import CompilerError
from tunesmith.report_tune import line, require_plots
from tunesmith.searches import require_search

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

    from tunesmith.autotune.tune import Tuner
    from tunesmith.tuning import TunePlan

__all__ = ["parse_budget", "tune_command"]


_HEAD = ("kernel", "template", "share", "trials", "best", "to gain")
_EVERY = 15.0  # seconds between two lines, where the output is no terminal


def parse_budget(text: str) -> float:
    """Seconds of a budget.

    >>> parse_budget("10m"), parse_budget("1h30m"), parse_budget("45")
    (600.0, 5400.0, 45.0)
    """
    parts = re.fullmatch(r"(?:(\d+)h)?(?:(\d+)m)?(?:(\d+)s|(?<![hm])(\d+))?", text.strip())
    seconds = sum(int(n or 0) * u for n, u in zip(parts.groups(), (3600, 60, 1, 1), strict=True)) \
        if parts else 0  # fmt: skip
    if not seconds:
        raise typer.BadParameter(f"`{text}` is not a time: write `10m`, `90s` or `1h30m`")
    return float(seconds)


def tune_command(
    model: Path,
    output: Path | None,
    target: str,
    shapes: Sequence[str],
    dims: Sequence[str],
    at: Sequence[str],
    level: int,
    threads: int | None,
    budget: str,
    trials: int | None,
    db: str | None,
    tasks: Sequence[str],
    seed: int,
    search: str,
    dry_run: bool,
    verify: bool,
    plot: Path | None,
    json: Path | None,
    elsewhere: Elsewhere,
) -> None:
    """Tune `model`, save the artifact, and print what became of each kernel."""
    options: dict[str, Any] = {
        "target": target, "preset": f"O{level}", "threads": threads,
        "shapes": parse_shapes(shapes) or None, "dims": parse_dims(dims) or None,
    }  # fmt: skip
    seconds, sizes = parse_budget(budget), fixed_sizes(at, "--at")
    require_file(model)
    require_search(search)
    path = output or Path(f"{model.stem}.tsm")
    check_output(path, model)
    if target != "host":
        raise CompilerError("kernels are tuned on the machine that runs them", where=target,
                            hint="call `tunesmith tune` on that device")  # fmt: skip
    if plot is not None:
        require_plots()
    from tunesmith import report_tune, tuning
    from tunesmith.autotune.database import open_database

    start = time.perf_counter()
    with elsewhere.open() as place:
        if elsewhere:
            options["target"] = place.target(threads)
        if dry_run:
            with Progress(f"tune {model.name}") as progress:
                from tunesmith.driver import compile_model

                plan = tuning.plan_tuning(
                    lambda **more: compile_model(model, **options, **more), at=sizes, tasks=tasks,
                    place=place, progress=progress,
                )  # fmt: skip
            _print_plan(plan)
            return
        with open_database(db) as store, _Board(model.name) as board:
            tuned = tuning.tune_model(
                model, store, budget=seconds, trials=trials, seed=seed, search=search, at=sizes,
                tasks=tasks, verify=verify, progress=board, told=board.told, place=place,
                **options,
            )  # fmt: skip
            board("save")
            tuned.artifact.save(path)
    took = time.perf_counter() - start
    if str(json) != "-":
        print_table(report_tune.HEAD, report_tune.rows(tuned))
        for line in report_tune.summary(tuned, path, took):
            out(line)
    if plot is not None:
        report_tune.draw(tuned, plot)
        note(f"written {plot}")
    if json is not None:
        write_json(json, report_tune.as_json(tuned, path, took))


def _print_plan(plan: TunePlan) -> None:
    whole = sum(task.seconds for task in plan.tasks)
    rows = [
        (task.name, task.workload.template, f"{task.seconds / plan.seconds:.1%}", str(task.calls),
         " ".join(f"{k}={v}" for k, v in task.space.default.items()))
        for task in plan.tasks
    ]  # fmt: skip
    print_table(("kernel", "template", "share", "calls", "knobs by analysis"), rows)
    out(f"{len(rows)} kernels with knobs take {whole / plan.seconds:.0%} of "
        f"{plan.seconds * 1e3:.3g} ms")  # fmt: skip


class _Board(Progress):
    """The table of kernels while they are tuned: redrawn on a terminal, some lines in a pipe."""

    def __init__(self, name: str) -> None:
        super().__init__(f"tune {name}")
        self.live: Live | None = None
        self.last = 0.0

    def __call__(self, stage: str) -> None:
        self._still()
        super().__call__(stage)

    def told(self, tuner: Tuner) -> None:
        """Show how far the tuner is."""
        now = time.monotonic()
        if not sys.stderr.isatty():
            if now - self.last >= _EVERY:
                self.last = now
                note(f"{self.title}: {line(tuner)}")
            return
        if self.status is not None:
            self.status.stop()
            self.status = None
        if self.live is None:
            from rich.console import Console
            from rich.live import Live

            self.live = Live(console=Console(stderr=True), auto_refresh=False, transient=True)
            self.live.start()
        self.live.update(_table(tuner), refresh=True)

    def _still(self) -> None:
        if self.live is not None:
            self.live.stop()
            self.live = None

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._still()
        super().__exit__(kind, value, trace)


def _table(tuner: Tuner) -> Table:
    from rich.table import Table

    table = Table(*_HEAD, box=None, pad_edge=False, caption=line(tuner), caption_justify="left")
    for state in sorted(tuner.states, key=lambda s: -s.task.seconds):
        table.add_row(
            state.task.name, state.task.workload.template,
            f"{state.task.seconds / tuner.whole:.1%}", str(len(state.search.observed)),
            f"{1 / state.ratio:.3f}x", f"{state.gain / tuner.whole:.2%}",
        )  # fmt: skip
    return table
