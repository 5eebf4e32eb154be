"""What the figures of the spine depend on: the machine, the versions, the commit; and start-up."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import tunesmith
from benchmarks.spine_rows import Facts

__all__ = ["ROOT", "commit", "gather", "measure_starts", "now"]

ROOT = Path(__file__).parents[1]
PACKAGES = ("apache-tvm", "apache-tvm-ffi", "onnxruntime", "onnx", "numpy", "torch",
            "transformers")  # fmt: skip
FEATURES = ("avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "amx_tile", "asimd", "sve")
GOVERNOR = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
START_RUNS = 9


def now() -> str:
    """The date and time, to the minute."""
    return datetime.now().astimezone().strftime("%Y-%m-%d %H:%M %Z")


def commit() -> str:
    """The commit of the checkout, with a `+` if files differ from it."""
    head = _git("rev-parse", "--short", "HEAD")
    return f"{head}{'+' if _git('status', '--porcelain', '--untracked-files=no') else ''}" or "?"


def _git(*arguments: str) -> str:
    try:
        done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
    except OSError:
        return ""
    return done.stdout.strip()


def gather() -> Facts:
    """The machine and the versions."""
    info = _cpu()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    cores = len(os.sched_getaffinity(0))
    facts = {
        "cpu": f"{info.get('model name', platform.machine())}, {cores} cores",
        "features": " ".join(f for f in FEATURES if f in info.get("flags", "").split()),
        "memory": f"{memory:.0f} GB",
        "system": platform.platform(),
        "governor": GOVERNOR.read_text().strip() if GOVERNOR.is_file() else "unknown",
        "python": platform.python_version(),
        "tunesmith": str(tunesmith.__version__),
    }
    for package in PACKAGES:
        try:
            facts[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return facts


def _cpu() -> dict[str, str]:
    """The first processor of `/proc/cpuinfo`."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return {}
    pairs = (line.partition(":") for line in text.split("\n\n", 1)[0].splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def measure_starts(runs: int = START_RUNS) -> dict[str, list[float]]:
    """Seconds of fresh processes, interpreter included; the first of each is not counted."""
    script = Path(sys.executable).with_name("tunesmith")
    front = [str(script)] if script.is_file() else [sys.executable, "-m", "tunesmith"]
    commands = {
        "python": [sys.executable, "-c", "pass"],
        "import tunesmith": [sys.executable, "-c", "import tunesmith"],
        "tunesmith --help": [*front, "--help"],
    }
    found: dict[str, list[float]] = {name: [] for name in commands}
    for _ in range(runs + 1):
        for name, command in commands.items():
            start = time.perf_counter()
            subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
            found[name].append(round(time.perf_counter() - start, 4))
    return {name: seconds[1:] for name, seconds in found.items()}
