"""Measure one row: build, load and check every engine, then time them in interleaved rounds."""

from __future__ import annotations

import contextlib
import json
import math
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from benchmarks.board.child import Child, ChildError, busy_seconds, environment
from benchmarks.board.inputs import FACTS, INPUTS, REFERENCE, Facts
from benchmarks.board.records import EngineRecord, Quiet, RowRecord
from benchmarks.board.rows import BoardRow
from benchmarks.peers import PEERS
from benchmarks.peers_contract import SLOW_SECONDS, SLOW_TIMES, Job, Peer
from benchmarks.spine_facts import ROOT
from tunesmith.oracle import compare

__all__ = ["Options", "Workplace", "cores_for", "measure", "prepare"]

SETTLE_SECONDS = 0.15  # workers of ONNX Runtime were seen to spin for 65 to 100 ms after a run
MOST_RUNS = 5000  # in a block
FAR = 4.0  # times longer than the rest: no first run is that for what it maps and sets up alone
LONG = 1.0  # seconds: longer runs need no run before the timed ones, and one in a block is enough


@dataclass(frozen=True)
class Options:
    """How to measure."""

    engines: tuple[str, ...] = tuple(PEERS)
    rounds: int = 9
    seconds: float = 3.0  # of timed runs, for each engine
    least_runs: int = 18
    seed: int = 0
    build_limit: float = 900.0
    load_limit: float = 900.0  # some engines compile while they load
    run_limit: float = 60.0  # one run that takes longer is not waited for, except the first
    slow: float = SLOW_SECONDS  # with SLOW_TIMES; who is slower runs once
    cold: bool = True  # compile with an empty cache


@dataclass
class Workplace:
    """A folder for one model, where builds outlive the row that made them."""

    folder: Path
    builds: dict[Path, EngineRecord] = field(default_factory=dict)


@dataclass
class _Live:
    """An engine that takes part in the rounds."""

    child: Child
    record: EngineRecord
    each: float  # seconds of a run
    count: int = 0  # runs in a block


def measure(
    row: BoardRow,
    threads: int,
    options: Options,
    place: Workplace,
    record: RowRecord,
    progress: Callable[[str], None],
) -> None:
    """Fill the record of a row; what fails is recorded, and does not stop the rest."""
    folder = place.folder / f"{row.name.replace('/', '-')}-{threads}"
    folder.mkdir(parents=True)
    facts = prepare(row, folder)
    if facts["error"]:
        record["error"] = facts["error"]
        return
    job = Job(
        model=Path(facts["model"]), subject=row.model, inputs=folder / INPUTS,
        outputs=tuple(facts["outputs"]), optimizer=row.optimizer, threads=threads, folder=folder,
        bounds={name: (low, high) for name, (low, high) in facts["bounds"].items()},
        cores=tuple(record["cores"]),
    )  # fmt: skip
    live: dict[str, _Live] = {}
    with contextlib.ExitStack() as stack:
        for name in options.engines:
            progress(name)
            peer = PEERS[name]
            entry = EngineRecord(version=peer.version, state="missing", why=peer.missing)
            record["engines"][name] = entry
            if entry["why"]:
                continue
            try:
                home = _build(peer, job, row, options, place, entry)
                child = stack.enter_context(_child(peer, home, place, options))
                quickest = min((e.each for e in live.values()), default=math.inf)
                slow = max(options.slow, SLOW_TIMES * quickest)
                each = _get_ready(child, home, folder / REFERENCE, options, entry, slow)
            except ChildError as error:
                entry["state"], entry["why"] = error.kind, str(error)
                continue
            if entry["state"] == "timed":
                live[name] = _Live(child, entry, each, _count(each, options))
            else:
                child.stop()
        progress("rounds")
        record["quiet"] = _rounds(live, options, record["seed"])
        for engine in live.values():
            if engine.record["state"] != "timed":
                continue
            engine.record["peak_mb"] = engine.child.ask("memory", 10)["peak_mb"]


def prepare(row: BoardRow, folder: Path) -> Facts:
    """Let a process of its own make the inputs and the reference."""
    request = json.dumps({"row": row.as_json(), "folder": str(folder)})
    command = [sys.executable, "-m", "benchmarks.board.inputs", request]
    cores = len(os.sched_getaffinity(0))
    done = subprocess.run(
        command, cwd=ROOT, env=environment(cores, {}), capture_output=True, text=True
    )
    try:
        facts: Facts = json.loads((folder / FACTS).read_text(encoding="utf-8"))
    except FileNotFoundError:
        why = f"the inputs could not be made: {done.stderr[-300:]}"
        facts = Facts(model="", outputs=[], bounds={}, error=why)
    return facts


def _child(peer: Peer, job: Job, place: Workplace, options: Options, *, pin: bool = True) -> Child:
    path = job.folder / f"job-{job.threads}-{job.inputs.parent.name}.json"
    path.write_text(json.dumps(job.as_json()), encoding="utf-8")
    crashes, cache = place.folder / "crashes", job.folder / "cache"
    crashes.mkdir(exist_ok=True)
    extra = {"TUNESMITH_CRASH_DIR": str(crashes), **peer.environment}
    extra |= {"TUNESMITH_CACHE": str(cache)} if options.cold else {}
    settings = environment(job.threads, extra)
    return Child(peer.name, path, job.folder / "log.txt", job.cores if pin else (), settings)


def _build(
    peer: Peer, job: Job, row: BoardRow, options: Options, place: Workplace, entry: EngineRecord
) -> Job:
    """Build in a process of its own, on all cores, unless an earlier row did; the job to load."""
    parts = [peer.name]
    parts += [row.name.replace("/", "-")] if "shapes" in peer.build_depends else []
    parts += [str(job.threads)] if "threads" in peer.build_depends else []
    home = replace(job, folder=place.folder / "_".join(parts))
    known = place.builds.get(home.folder)
    if known is None:
        home.folder.mkdir()
        known = place.builds[home.folder] = EngineRecord(version="", state="", why="")
        if peer.build is not None:
            try:
                known["build_s"] = _build_once(peer, home, options, place)
                if peer.ours and options.cold:
                    known["rebuild_s"] = _build_once(peer, home, options, place)
            except ChildError as error:
                known["state"], known["why"] = error.kind, str(error)
    if known["why"]:
        raise ChildError(known["state"], known["why"])
    entry["build_s"], entry["rebuild_s"] = known.get("build_s"), known.get("rebuild_s")
    return home


def _build_once(peer: Peer, home: Job, options: Options, place: Workplace) -> float:
    with _child(peer, home, place, options, pin=False) as child:
        seconds: float = child.ask("build", options.build_limit)["build_s"]
        return seconds


def _get_ready(
    child: Child, job: Job, reference: Path, options: Options, entry: EngineRecord, slow: float
) -> float:
    """Load, check and warm up an engine: the seconds of a run.

    Its state is `timed` if it is to take part in rounds; one run that takes longer than `slow` is
    all that is known of it.
    """
    loaded = child.ask("load", options.load_limit + options.run_limit)
    entry["import_ms"], entry["load_ms"] = loaded["import_ms"], loaded["load_ms"]
    entry["first_ms"], entry["before_mb"] = loaded["first_ms"], loaded["before_mb"]
    entry["file_mb"], entry["engaged"] = loaded["file_bytes"] / 1e6, loaded["engaged"]
    entry["build_s"] = loaded["build_s"] or entry.get("build_s")
    found = job.inputs.with_name(f"{child.engine}.npz")
    child.ask("outputs", options.run_limit, path=str(found))
    entry["max_abs"], wrong = _differences(found, reference)
    if wrong:
        entry["state"], entry["why"] = "wrong", wrong
        return 0.0
    samples = [loaded["first_ms"]]
    each: float = loaded["first_ms"] / 1e3
    if each <= FAR * slow:
        warm = child.ask("warm", options.run_limit * 4, slow_s=slow)
        each, samples = warm["each_s"], warm["samples_ms"]
    entry["state"], entry["why"], entry["samples_ms"] = "timed", "", []
    if each > slow:
        entry["state"] = "slow"
        entry["why"] = f"one run took {each:.0f} s, more than {SLOW_TIMES:g} times the quickest"
        entry["samples_ms"] = [samples]
        entry["peak_mb"] = child.ask("memory", 10)["peak_mb"]
    return each


def _count(each: float, options: Options) -> int:
    """How many runs a block has of an engine that takes `each` seconds."""
    wanted = max(options.least_runs if each < LONG else 1, options.seconds / max(each, 1e-6))
    return min(MOST_RUNS, max(1, -int(-wanted // options.rounds)))


def _differences(found: Path, reference: Path) -> tuple[float | None, str]:
    """The largest difference, and why the outputs are wrong if they are."""
    with np.load(found) as ours, np.load(reference) as theirs:
        reports = compare({n: ours[n] for n in ours.files}, {n: theirs[n] for n in theirs.files})
    worst = max((r.max_abs for r in reports), default=0.0)
    wrong = [f"{r.name}: {r.reason}" for r in reports if not r.passed]
    if wrong and np.isfinite(worst):
        wrong[0] += f", by at most {worst:.2g}"
    return (worst if np.isfinite(worst) else None), "; ".join(wrong)


def _rounds(live: Mapping[str, _Live], options: Options, seed: int) -> Quiet:
    """Give every engine a block in each round, in random order; watch that the others rest."""
    order, rng = list(live), random.Random(seed)
    idle = others = elapsed = 0.0
    for _ in range(options.rounds if live else 0):
        rng.shuffle(order)
        for name in order:
            time.sleep(SETTLE_SECONDS)  # the workers of the engine before go to sleep
            before, busy, start = _usage(live), busy_seconds(), time.perf_counter()
            own = time.process_time()
            _block(live[name], options)
            took = time.perf_counter() - start
            used = {n: after - before[n] for n, after in _usage(live).items()}
            spent = sum(used.values()) + time.process_time() - own
            elapsed += took
            idle += sum(used.values()) - used[name]
            others += busy_seconds() - busy - spent
    if not elapsed:
        return Quiet(idle=0.0, others=0.0)
    return Quiet(idle=round(idle / elapsed, 3), others=round(max(0.0, others / elapsed), 3))


def _usage(live: Mapping[str, _Live]) -> dict[str, float]:
    return {name: engine.child.cpu_seconds() for name, engine in live.items()}


def _block(engine: _Live, options: Options) -> None:
    """One block; an engine that dies in it loses its time, and takes part no more."""
    if engine.record["state"] != "timed":
        return
    try:
        answer = engine.child.ask("run", (engine.count + 1) * options.run_limit,
                                  count=engine.count, warm=engine.each < LONG)  # fmt: skip
    except ChildError as error:
        engine.record["state"], engine.record["why"] = error.kind, str(error)
        del engine.record["samples_ms"]
        return
    engine.record["samples_ms"].append([round(ms, 4) for ms in answer["samples_ms"]])


def cores_for(threads: int, allowed: Sequence[int]) -> list[int]:
    """Which cores to pin an engine to: the last ones, as the first one serves the interrupts."""
    return sorted(allowed)[-threads:]
