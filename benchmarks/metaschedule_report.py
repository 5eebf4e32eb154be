"""The comparison with stock MetaSchedule as a file of figures, a table and curves."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from benchmarks.spine_facts import ROOT
from benchmarks.spine_rows import write_text

__all__ = ["BEGIN", "END", "FIGURES", "Row", "table", "write"]

Row = dict[str, Any]
FIGURES, CURVES, TEXT = (
    ROOT / "docs" / name
    for name in ("tuning-metaschedule.json", "tuning-metaschedule.png", "tuning.md")
)
BEGIN, END = "<!-- metaschedule: begin -->", "<!-- metaschedule: end -->"


def write(facts: Mapping[str, Any]) -> None:
    """Replace figures, curves, and the part of the text between the marks."""
    write_text(FIGURES, json.dumps(facts, indent=1) + "\n")
    draw(facts)
    text = TEXT.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    _, mark, after = rest.partition(END)
    if not mark:
        raise SystemExit(f"{TEXT}: no `{BEGIN}` … `{END}` to write between")
    write_text(TEXT, f"{before}{BEGIN}\n{table(facts)}\n{END}{after}")


def table(facts: Mapping[str, Any]) -> str:
    """The text: what was measured where, a row for each operator, and the mean."""
    loads = [load for row in facts["rows"] for load in row["load"]]
    lines = [
        f"Measured on {facts['date']} at commit {facts['commit']} by `python -m "
        f"benchmarks.metaschedule --budget {facts['budget']:g}s --batch {facts['batch']}`: "
        f"{facts['machine']['cpu']}, one thread, "
        f"load average {min(loads):.1f} to {max(loads):.1f}; cost model of stock MetaSchedule: "
        f"{facts['cost model']}.",
        "",
        "| operator, f32 | stock, ms | ours untuned, ms | ours tuned, ms | stock / ours "
        "| seconds of each | trials, stock and ours | error, stock and ours |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in facts["rows"]:
        trials, errors = row["trials"], row["errors"]
        lines.append(
            f"| {row['name']} | {row['stock'] * 1e3:.3g} | {row['default'] * 1e3:.3g} "
            f"| {row['ours'] * 1e3:.3g} | **{row['stock'] / row['ours']:.2f}** "
            f"| {row['seconds']:.0f} "
            f"| {trials['stock']} ({row['failed']} failed), {trials['ours']} "
            f"| {errors['stock']:.1e}, {errors['ours']:.1e} |"
        )
    lines += [
        "",
        f"Geometric mean: **{facts['mean']:.2f}**. Errors are the greatest ones beside float64, as "
        "a share of the greatest element.",
        "",
        "![best kernel over time](tuning-metaschedule.png)",
    ]
    return "\n".join(lines)


def draw(facts: Mapping[str, Any]) -> None:
    """The best kernel over time: one panel for each operator, logarithmic milliseconds."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    rows = facts["rows"]
    figure, panels = pyplot.subplots(
        1, len(rows), figsize=(3.2 * len(rows), 3.6), layout="constrained", squeeze=False
    )
    for row, axes in zip(rows, panels[0], strict=True):
        for side, colour in (("stock", "tab:gray"), ("ours", "tab:blue")):
            points = row["curves"][side] or [[0.0, row[side]]]
            times = [*(t for t, _ in points), max(row["seconds"], points[-1][0])]
            best = [*(s * 1e3 for _, s in points), points[-1][1] * 1e3]
            label = "stock MetaSchedule" if side == "stock" else "ours"
            axes.step(times, best, where="post", color=colour, marker=".", label=label)
        axes.set_title(row["name"], fontsize=10)
        axes.set_xlabel("seconds of tuning")
        axes.set_yscale("log")
        axes.grid(alpha=0.3, which="both")
    panels[0][0].set_ylabel("best kernel so far, ms")
    panels[0][0].legend(fontsize=8)
    figure.savefig(CURVES, dpi=110)
    pyplot.close(figure)
