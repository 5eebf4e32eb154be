"""Hostile models, each compiled in a process of its own, and a verdict on what it did."""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from .cases import CANARY, Case, lay_out

__all__ = ["Outcome", "run_case"]

ROOT = Path(__file__).resolve().parents[2]
MOST_MEMORY = 1 << 30  # bytes, resident
MOST_ADDRESSES = 16 << 30  # bytes: what is beyond is a MemoryError, not a dead machine


@dataclass(frozen=True)
class Outcome:
    """What became of a case; `wrong` says what should not have."""

    case: Case
    verdict: str
    message: str
    seconds: float
    cpu: float  # seconds of the processor, of children too: other work does not count
    peak: int
    wrong: tuple[str, ...]


def run_case(case: Case, limit: float = 900.0) -> Outcome:
    """Compile a case, and hold what happened against what should."""
    with tempfile.TemporaryDirectory(prefix="hostile-") as name:
        folder = Path(name).resolve()
        path = lay_out(case, folder)
        out = folder / "out" / "m.tsm"
        out.parent.mkdir()
        before = _listing(folder)
        environment = os.environ | {
            "PYTHONPATH": str(ROOT), "NO_COLOR": "1", "TUNESMITH_CRASH_DIR": str(out.parent),
            "TMPDIR": str(out.parent),
        }  # fmt: skip
        if case.deadline:
            environment["TUNESMITH_LIMITS"] = f"compile_seconds={case.deadline}"
        command = [sys.executable, "-m", "tests.hostile.child"]
        try:
            done = subprocess.run(
                [*command, str(path), str(out), str(folder / "secret.bin")],
                cwd=ROOT, env=environment, capture_output=True, text=True, timeout=limit,
                preexec_fn=_confine,
            )  # fmt: skip
        except subprocess.TimeoutExpired:
            return Outcome(case, "hang", "", limit, 0.0, 0, (f"it did not end in {limit:g} s",))
        if done.returncode != 0 or not done.stdout.strip():
            told = f"the process ended with {done.returncode}: {done.stderr[-300:]}"
            return Outcome(case, "crash", "", 0.0, 0.0, 0, (told,))
        row = json.loads(done.stdout.splitlines()[-1])
        wrong = list(_wrong(case, row, out))
        after = {p for p in _listing(folder) if not p.startswith("out")}
        if after != {p for p in before if not p.startswith("out")}:
            wrong.append(f"files appeared or went: {sorted(after ^ before)}")
        if CANARY.decode() in done.stdout or any(
            CANARY in p.read_bytes() for p in out.parent.iterdir() if p.is_file()
        ):
            wrong.append("the canary was read")
        verdict = {0: "compiled", 1: "refused", 4: "stopped"}.get(row["code"], "failed")
        line = next((s for s in row["said"].splitlines() if "error: " in s), "")
        message = line.replace(str(folder), "…").replace("error: ", "", 1)
        return Outcome(
            case, verdict, message, row["seconds"], row["cpu"], row["peak"], tuple(wrong)
        )


def _wrong(case: Case, row: dict[str, object], out: Path) -> list[str]:
    code, said, seconds, peak = row["code"], str(row["said"]), row["cpu"], row["peak"]
    assert isinstance(seconds, float) and isinstance(peak, int)
    expected = 4 if case.deadline else 1 if case.says else 0
    found = []
    if code != expected:
        found.append(f"exit status {code} instead of {expected}: {said[-200:]}")
    if case.says and re.search(case.says, said) is None:
        found.append(f"it does not say `{case.says}`: {said[-200:]}")
    if "Traceback" in said:
        found.append("it shows a traceback")
    if out.exists() != (expected == 0):
        found.append("an artifact was written" if out.exists() else "no artifact was written")
    if seconds > case.seconds:
        found.append(f"{seconds:.1f} s of the processor, more than {case.seconds:g}")
    if expected != 0 and peak > MOST_MEMORY:
        found.append(f"{peak >> 20} MiB, more than {MOST_MEMORY >> 20}")
    if row["foreign"]:
        found.append(f"it opened {row['foreign']}")
    return found


def _confine() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MOST_ADDRESSES, MOST_ADDRESSES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def _listing(folder: Path) -> set[str]:
    return {str(p.relative_to(folder)) for p in folder.rglob("*")}
