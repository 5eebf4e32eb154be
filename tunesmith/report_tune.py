"""What tuning brought: a table of kernels before and after, lines, JSON, and the curve."""

from __future__ import annotations

from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

from tunesmith.ir.diagnostics import CompilerError
from tunesmith.report import seconds
from tunesmith.runtime.manifest import Json

if TYPE_CHECKING:
    from tunesmith.autotune.tune import State, Tuner
    from tunesmith.tuning import Tuned

__all__ = ["HEAD", "as_json", "draw", "line", "require_plots", "rows", "summary"]

HEAD = ("kernel", "share", "trials", "before", "after", "speedup", "knobs that changed")


def line(tuner: Tuner) -> str:
    """How far a tuner is."""
    before = sum(s.task.seconds for s in tuner.states)
    now = sum(s.task.seconds * s.ratio for s in tuner.states)
    left = "" if tuner.left == float("inf") else f", {max(0.0, tuner.left):.0f} s left"
    return (f"{tuner.measured} trials, kernels {before / now:.3f}x as quick as by analysis, "
            f"{tuner.expected / now:.2%} more expected{left}")  # fmt: skip


def rows(tuned: Tuned) -> list[tuple[str, ...]]:
    """A row for each kernel: times of one call beside each other, as they were raced."""
    return [_row(tuned, state) for state in tuned.tuner.states]


def _row(tuned: Tuned, state: State) -> tuple[str, ...]:
    task, record = state.task, tuned.used.get(state.task.name)
    share = f"{task.seconds / tuned.plan.seconds:.1%}"
    trials = str(len(state.search.observed))
    if record is None:
        each = seconds(task.seconds / task.calls)
        why = "lost inside the model" if task.name in tuned.dropped else "as by analysis"
        return task.name, share, trials, each, each, "", why
    changed = {k: v for k, v in record.knobs.items() if task.space.default[k] != v}
    return (
        task.name, share, trials, seconds(median(record.baseline)),
        seconds(median(record.seconds)), f"{record.speedup:.3f}x",
        " ".join(f"{k}={task.space.default[k]}→{v}" for k, v in changed.items()),
    )  # fmt: skip


def summary(tuned: Tuned, path: Path, took: float) -> list[str]:
    """The lines under the table."""
    before, after = tuned.whole
    checked = sum(record.checked for record in tuned.used.values())
    lines = [f"{tuned.tuner.measured} trials; {checked} of {len(tuned.used)} records used were "
             "compared with the untuned kernel"]  # fmt: skip
    if tuned.used:
        lines.append(f"the model takes {seconds(after)}, untuned {seconds(before)}: "
                     f"{before / after:.3f}x, measured in turns")  # fmt: skip
    else:
        lines.append(f"nothing was quicker than the knobs by analysis: {seconds(before)}; "
                     "the artifact is the untuned one")  # fmt: skip
    return [*lines, f"written {path} in {took:.0f} s"]


def as_json(tuned: Tuned, path: Path, took: float) -> dict[str, Json]:
    """All figures."""
    kernels: list[Json] = []
    for state in tuned.tuner.states:
        record = tuned.used.get(state.task.name)
        kernels.append({
            "kernel": state.task.name, "template": state.task.workload.template,
            "workload": state.task.workload.sha256, "calls": state.task.calls,
            "seconds_in_model": state.task.seconds, "trials": len(state.search.observed),
            "speedup": record.speedup if record is not None else None,
            "knobs": {**(record.knobs if record is not None else state.task.space.default)},
            "checked": record.checked if record is not None else None,
            "dropped": state.task.name in tuned.dropped,
        })  # fmt: skip
    return {
        "artifact": str(path), "seconds_of_tuning": took,
        "seconds_to_first_trial": tuned.ready, "seconds_to_first_result": tuned.first,
        "trials": tuned.tuner.measured,
        "sizes": {**tuned.plan.sizes}, "untuned": tuned.whole[0], "tuned": tuned.whole[1],
        "kernels": kernels, "curve": [[*point] for point in tuned.tuner.curve],
    }  # fmt: skip


def require_plots() -> None:
    """Raise `CompilerError` if charts cannot be drawn, before the work that they are for."""
    from importlib.util import find_spec

    if find_spec("matplotlib") is None:
        raise CompilerError("`--plot` needs matplotlib", hint="pip install 'tunesmith[plots]'")


def draw(tuned: Tuned, path: Path) -> None:
    """The curve of the search: how quick the kernels would be by the best knobs so far."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(8, 4.5), layout="constrained")
    times = [0.0, *(t for t, _ in tuned.tuner.curve)]
    gains = [1.0, *(g for _, g in tuned.tuner.curve)]
    axes.step(times, gains, where="post")
    axes.set_xlabel("seconds")
    axes.set_ylabel("kernels, times as quick as by analysis")
    axes.set_title(f"tuning {tuned.artifact.manifest.name}, {tuned.tuner.measured} trials")
    axes.grid(alpha=0.3)
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
