"""`make crash-tests`: all of what `crash.py` has, and its figures into `docs/tuning-store.md`."""

from __future__ import annotations

import argparse
import os
import platform
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections import Counter
from importlib.metadata import version
from pathlib import Path

from tunesmith.autotune.database import open_database

from .crash import (
    ROOT,
    Corruptions,
    Full,
    Kills,
    corrupt,
    expected,
    fill_disks,
    fill_small_disk,
    kill_writers,
)
from .making import DEVICE, VERSIONS, workload

BEGIN, END = "<!-- figures: begin -->", "<!-- figures: end -->"


def main() -> int:
    """Run it, write the figures; 1 if anything was lost, wrong or not explained."""
    parser = argparse.ArgumentParser(prog="python -m tests.autotune", description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--corruptions", type=int, default=100)
    parser.add_argument("--largest", type=int, default=80, help="of the file limits, in KiB")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tunesmith-crash-") as name:
        folder = Path(name)
        kills = _kill(folder, chosen.kills, chosen.seed)
        full = fill_disks(folder, range(0, chosen.largest * 1024 + 1, 1024), more=15)
        print(full, flush=True)
        small = _on_a_small_disk(folder)
        print(small, flush=True)
        damaged = corrupt(folder, chosen.corruptions, seed=chosen.seed)
        print(damaged, flush=True)
        speed = _speed(folder)
    text = "\n".join([*_head(), *_rows(kills, full, small, damaged), "", *speed])
    path = ROOT / "docs" / "tuning-store.md"
    before, _, rest = path.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    path.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")
    print(text)
    disks = [full, *filter(None, [small])]
    bad = kills.lost + kills.wrong + kills.holes + len(kills.told) + len(kills.failures)
    bad += sum(disk.lost + disk.wrong + len(disk.unexplained) for disk in disks)
    bad += damaged.crashes + damaged.wrong + damaged.silent
    return 1 if bad else 0


def _kill(folder: Path, kills: int, seed: int) -> Kills:
    """In rounds with a store each: a writer that begins anew reads all that is there."""
    total = Kills()
    while total.kills < kills:
        place = folder / f"kills-{total.kills}"
        place.mkdir()
        part = kill_writers(place, min(10, kills - total.kills), seed=seed + total.kills)
        print(part, flush=True)
        total.add(part)
        if part.failures:
            break
    return total


def _on_a_small_disk(folder: Path) -> Full | None:
    """On a file system of 1 MiB in memory; None if we may not make one."""
    place = folder / "small"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    if subprocess.run(mount, capture_output=True).returncode:
        return None
    try:
        return fill_small_disk(place)
    finally:
        subprocess.run(["umount", str(place)], check=True)


def _speed(folder: Path) -> list[str]:
    """What a record costs, and what opening a large store costs."""
    path = folder / "large.db"
    count = 10_000
    with open_database(path) as database:
        began = time.perf_counter()
        for number in range(200):
            database.add(expected(0, number))
        add = (time.perf_counter() - began) / 200
        database.take(expected(1, number) for number in range(count))
    began = time.perf_counter()
    with open_database(path) as database:
        opened = time.perf_counter() - began
        began = time.perf_counter()
        database.best(workload(rows=1), DEVICE, VERSIONS)
        best = time.perf_counter() - began
    size = path.stat().st_size / 1e6
    return [
        f"With a load average of {os.getloadavg()[1]:.1f}, one record takes {add * 1e3:.1f} ms "
        f"until it is durable. A store of {count + 200:,} records ({size:.0f} MB) is opened and "
        f"checked in {opened:.2f} s; the best of {count // 5:,} trials of one workload is found in "
        f"{best:.2f} s.",
    ]


def _head() -> list[str]:
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, cwd=ROOT
    ).stdout.strip()
    return [
        f"Measured on {time.strftime('%Y-%m-%d', time.gmtime())} at commit {commit}, by "
        f"`make crash-tests`: Python {platform.python_version()}, SQLite "
        f"{sqlite3.sqlite_version}, SQLAlchemy {version('sqlalchemy')}, {os.cpu_count()} cores, "
        f"{platform.system()} {platform.release().partition('-')[0]}.",
        "",
        "| what was done | how often | what must not be | what was seen |",
        "|---|---|---|---|",
    ]


def _rows(kills: Kills, full: Full, small: Full | None, damaged: Corruptions) -> list[str]:
    rows = [
        f"| `kill -9` of one of 3 writers | {kills.kills} kills, {kills.acknowledged:,} "
        f"acknowledged records, {kills.seconds:.0f} s | lost {kills.lost}, under another workload "
        f"or changed {kills.wrong}, writers with a hole {kills.holes} | {kills.stored:,} stored |",
        _full_row("file size limit, stepped by 1 KiB", full),
    ]
    if small is not None:
        rows.append(_full_row("file system of 1 MiB, by record and by import", small))
    outcomes = ", ".join(f"{name} {count}" for name, count in sorted(damaged.outcomes.items()))
    kinds = ", ".join(f"{name} {count}" for name, count in sorted(damaged.kinds.items()))
    rows.append(
        f"| corruption: {kinds} | {damaged.count} stores of {damaged.of // max(1, damaged.count)} "
        f"records | crashes {damaged.crashes}, wrong records {damaged.wrong}, records gone "
        f"without a word {damaged.silent} | {outcomes}; {damaged.kept:,} of {damaged.of:,} "
        "records kept |"
    )
    return rows


def _full_row(name: str, full: Full) -> str:
    errors: Counter[str] = full.errors
    words = ", ".join(f"“{text}” {count}" for text, count in errors.most_common())
    return (
        f"| {name} | {full.steps} stores | acknowledged and lost {full.lost}, wrong "
        f"{full.wrong}, not explained {len(full.unexplained)} | had room {full.passed}, refused "
        f"{full.refused}: {words} |"
    )


if __name__ == "__main__":
    sys.exit(main())
