"""The board as a picture: every engine's latency over ours, each in a run with it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.board.records import RowRecord
from benchmarks.board.runs import entry_of
from benchmarks.board.verdicts import best_peer, ratio_of, reference_of, statistics_of
from benchmarks.peers import DYNAMIC, PEERS, STATIC

__all__ = ["draw", "missing"]

MOST = 8.0  # slower engines stand at the edge, with their ratio beside them
# Okabe and Ito (2008): told apart by people with any kind of color vision; shapes differ as well.
STYLES = {
    "tunesmith": ("#d55e00", "D"), "tunesmith-static": ("#d55e00", "o"),
    "tunesmith-tuned": ("#d55e00", "*"),
    "onnxruntime": ("#0072b2", "s"), "onnxruntime-static": ("#0072b2", "v"),
    "onnxruntime-optimized": ("#0072b2", "^"), "openvino": ("#009e73", "P"),
    "torch": ("#cc79a7", "X"), "iree": ("#e69f00", "<"), "tvm": ("#555555", "d"),
}  # fmt: skip


def missing() -> str:
    """Why no picture can be drawn, or nothing."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        return "matplotlib is not installed: no chart"
    return ""


def draw(rows: Mapping[str, RowRecord], facts: Mapping[str, str], path: Path) -> bool:
    """Write the PNG: a panel for each number of threads; False if there is nothing to show."""
    shown = [r for r in rows.values() if best_peer(r) and _ratio(r, reference_of(r)) is not None]
    counts = sorted({record["threads"] for record in shown})
    if not shown:
        return False
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot

    most = max(sum(r["threads"] == count for r in shown) for count in counts)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of old interpreters and missing fonts
        figure, axes = pyplot.subplots(
            1, len(counts), figsize=(2.5 + 6.2 * len(counts), 2.6 + 0.42 * most), squeeze=False,
            sharex=True, layout="constrained",
        )  # fmt: skip
        for place, count in zip(axes[0], counts, strict=True):
            _panel(place, [r for r in shown if r["threads"] == count], count)
        used = [n for n in PEERS if any(_ratio(record, n) for record in shown)]
        marks = [
            pyplot.Line2D([], [], color=STYLES[n][0], marker=STYLES[n][1], linestyle="",
                          markersize=8, fillstyle=_fill(n), label=PEERS[n].title)
            for n in used
        ]  # fmt: skip
        figure.legend(handles=marks, loc="outside lower center", ncols=3 if len(counts) == 1 else 5,
                      frameon=False)  # fmt: skip
        dates = sorted({record["date"] for record in shown})
        figure.suptitle(f"Latency over that of {PEERS[STATIC].title}: right of 1 is slower\n"
                        f"{facts.get('cpu', '')}; {dates[-1]}", fontsize=11)  # fmt: skip
        figure.savefig(path, dpi=130)
        pyplot.close(figure)
    return True


def _panel(place: Any, records: Sequence[RowRecord], threads: int) -> None:
    place.set_title(f"{threads} thread{'s' if threads > 1 else ''}", fontsize=11)
    place.axvline(1.0, color="black", linewidth=1)
    for height, record in enumerate(records):
        place.axhline(height, color="#dddddd", linewidth=0.8, zorder=0)
        for name in PEERS:
            ratio, (color, marker) = _ratio(record, name), STYLES[name]
            if ratio is None:
                continue
            ours = PEERS[name].ours
            place.plot(min(ratio, MOST), height, color=color, marker=marker, fillstyle=_fill(name),
                       markersize=10 if ours else 7, alpha=1.0 if ours else 0.85,
                       zorder=3 if ours else 2, clip_on=False)  # fmt: skip
            if ratio > MOST:
                place.annotate(f"x {ratio:.0f}", (MOST, height), (-8, 3), fontsize=7, ha="right",
                               textcoords="offset points", color=color)  # fmt: skip
    place.set_xscale("log")
    place.set_xlim(0.4, MOST)
    ticks = [0.5, 0.7, 1.0, 1.5, 2.0, 3.0, 5.0, MOST]
    place.set_xticks(ticks, [f"{t:g}" for t in ticks])
    place.minorticks_off()
    place.set_xlabel("latency / latency of ours in the same rounds (log scale)")
    labels = [f"{r['row']}\n{_ours(r)}" for r in records]
    place.set_yticks(range(len(records)), labels, fontsize=8)
    place.set_ylim(len(records) - 0.5, -0.5)
    for side in ("top", "right"):
        place.spines[side].set_visible(False)


def _ours(record: RowRecord) -> str:
    """What 1 is."""
    ours = reference_of(record)
    entry = record["engines"].get(ours) or entry_of(record, ours)
    found = statistics_of(entry) if entry is not None else None
    return f"{found.median_ms:.3g} ms" if found is not None else ""


def _fill(name: str) -> str:
    return "none" if name == DYNAMIC else "full"


def _ratio(record: RowRecord, name: str) -> float | None:
    return ratio_of(record, name, reference_of(record))
