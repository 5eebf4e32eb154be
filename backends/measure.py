"""The measured peaks of the computer at hand: what a kernel could reach at most, found once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import platformdirs

from tunesmith.ir.diagnostics import BackendError
from tunesmith.runtime.cpu import physical_cores
from tunesmith.runtime.tvm_module import package_versions

from .probe import cpu_model

__all__ = ["Peaks", "cache_file", "measured_peaks"]

NOISY = 0.25  # above this, something else used the cores while they were measured
_METHOD = 2  # of `tvm/peaks.py`: another number is another key of the cache
_LIMIT_SECONDS = 120

Rates = Mapping[str, float]


@dataclass(frozen=True)
class Peaks:
    """The most that `threads` threads reached; `l2_bytes` of one call fit into their caches."""

    threads: int
    gflops: float  # fp32, an addition and a multiplication each count
    memory_gbs: float  # reading a buffer much larger than the last cache
    l2_gbs: float  # reading one that fits into the second caches
    l2_bytes: int
    noise: float  # how much slower than the quickest the median call was

    @property
    def noisy(self) -> bool:
        """Whether other work disturbed the measurement: then the true peaks are higher."""
        return self.noise > NOISY

    def bandwidth(self, nbytes: int) -> float:
        """GB/s for a kernel that moves so many bytes: from the second caches if they fit there."""
        return self.l2_gbs if nbytes <= self.l2_bytes else self.memory_gbs


def measured_peaks(
    threads: int = 1,
    *,
    refresh: bool = False,
    measure: Callable[[int], Rates] | None = None,
) -> Peaks:
    """The peaks of this machine for a number of threads, from the cache if they are known.

    Args:
        threads: how many work at once, each on a core of its own if there are enough.
        refresh: measure even so; what was reached before still counts.
        measure: what to measure with; by default kernels of ours in a child process, 3 to 5 s.

    Raises:
        BackendError: the measurement failed.
    """
    path, key = cache_file(), _key()
    known = _read(path)
    of_machine = known.setdefault(key, {})
    old = _peaks(of_machine.get(str(threads)))
    if old is not None and not refresh:
        return old
    from .targets import find_target

    l2_bytes = find_target("host", threads).machine.l2_bytes * min(threads, physical_cores())
    rates = (measure or _in_child)(threads)
    new = Peaks(threads, rates["gflops"], rates["memory_gbs"], rates["l2_gbs"], l2_bytes,
                rates["noise"])  # fmt: skip
    if old is not None:
        new = Peaks(threads, max(old.gflops, new.gflops), max(old.memory_gbs, new.memory_gbs),
                    max(old.l2_gbs, new.l2_gbs), l2_bytes, min(old.noise, new.noise))  # fmt: skip
    of_machine[str(threads)] = asdict(new)
    with suppress(OSError):  # a cache that cannot be written costs time, nothing else
        _write(path, known)
    return new


def cache_file() -> Path:
    """Where the peaks are kept; the file can be removed at any time."""
    return Path(platformdirs.user_cache_dir("tunesmith")) / "machine.json"


def _key() -> str:
    versions = " ".join(f"{name} {version}" for name, version in package_versions().items())
    return f"{cpu_model()}, {physical_cores()} cores, {versions}, method {_METHOD}"


def _peaks(row: object) -> Peaks | None:
    """A row of the cache, if it is one."""
    if not isinstance(row, dict):
        return None
    with suppress(KeyError, TypeError, ValueError):
        peaks = Peaks(
            int(row["threads"]), float(row["gflops"]), float(row["memory_gbs"]),
            float(row["l2_gbs"]), int(row["l2_bytes"]), float(row["noise"]),
        )  # fmt: skip
        if min(peaks.gflops, peaks.memory_gbs, peaks.l2_gbs) > 0:
            return peaks
    return None


def _read(path: Path) -> dict[str, dict[str, object]]:
    """The cache; an empty one if there is none, or none that can be read."""
    try:
        value: object = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(value, dict):
        return {}
    return {str(key): row for key, row in value.items() if isinstance(row, dict)}


def _write(path: Path, value: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as file:
        json.dump(value, file, indent=1)
    os.replace(file.name, path)


def _in_child(threads: int) -> Rates:
    """Run `tvm/peaks.py` in a process that sees the modules that this one does."""
    path = os.pathsep.join(os.path.abspath(place) for place in sys.path)
    # bound to cores: on a busy machine the scheduler puts both of two short-lived workers on one
    bind = str(int(threads <= physical_cores()))
    environment = os.environ | {
        "PYTHONPATH": path, "TVM_NUM_THREADS": str(threads), "TVM_BIND_THREADS": bind,
    }  # fmt: skip
    command = [sys.executable, "-m", "tunesmith.backends.tvm.peaks", str(threads)]
    try:
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=_LIMIT_SECONDS,
            check=True,
        )  # fmt: skip
        rates: Rates = json.loads(done.stdout.splitlines()[-1])
        return {name: float(rates[name]) for name in ("gflops", "memory_gbs", "l2_gbs", "noise")}
    except subprocess.CalledProcessError as error:
        words = error.stderr.strip().splitlines()[-1:] or [f"status {error.returncode}"]
        raise BackendError(f"the machine could not be measured: {words[0]}") from error
    except subprocess.TimeoutExpired as error:
        raise BackendError(f"measuring the machine took over {_LIMIT_SECONDS} s") from error
    except (OSError, ValueError, IndexError, KeyError, TypeError) as error:
        raise BackendError(f"the machine could not be measured: {error}") from error
