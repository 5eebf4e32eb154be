"""`tunesmith doctor`: what this machine has, what it lacks, and what to do about it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import typer

from tunesmith.cli_console import note, out
from tunesmith.cli_values import write_json

__all__ = ["CHECKS", "PAIR", "Finding", "doctor_command", "probe", "version_line", "versions"]

PAIR = {"apache-tvm": "0.27.0.post1", "apache-tvm-ffi": "0.1.14.post1"}
_PACKAGES = ("tunesmith", *PAIR, "numpy", "onnx", "onnxruntime")
_PROBE_SECONDS = 180

PROBE = """graph @doctor(%x: f32[N<=8, 16]) {
  %y = relu(%x) : f32[N, 16]
  return %y
}
"""


@dataclass(frozen=True)
class Finding:
    """One line of the doctor's report."""

    name: str
    ok: bool
    text: str
    hint: str = ""


def versions() -> dict[str, str]:
    """The versions of the packages that matter; a missing one is `not installed`."""
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    if found["tunesmith"] == "not installed":  # a checkout
        import tunesmith

        found["tunesmith"] = str(tunesmith.__version__)
    return found


def version_line() -> str:
    """What `tunesmith --version` prints."""
    found = versions()
    ours = found.pop("tunesmith")
    others = ", ".join(f"{name} {version}" for name, version in found.items())
    return f"tunesmith {ours} ({others}, python {platform.python_version()})"


def _check_python() -> Finding:
    text = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    return Finding("python", sys.version_info >= (3, 11), text, "install Python 3.11 or newer")


def _check_pair() -> Finding:
    found = {name: versions()[name] for name in PAIR}
    wanted = " ".join(f"{name}=={version}" for name, version in PAIR.items())
    text = ", ".join(f"{name} {version}" for name, version in found.items())
    return Finding("tvm", found == PAIR, text, f"other pairs crash: `pip install {wanted}`")


def _check_onnx() -> Finding:
    found = {name: versions()[name] for name in ("numpy", "onnx", "onnxruntime")}
    text = ", ".join(f"{name} {version}" for name, version in found.items())
    good = "not installed" not in found.values()
    return Finding("packages", good, text, "install tunesmith with its dependencies")


def _check_cpu() -> Finding:
    from tunesmith.runtime.cpu import host_features

    features = host_features()
    known = [f for f in ("avx2", "fma", "avx512f", "avx512_vnni", "avx512vnni", "amx_tile", "neon",
                         "asimd", "asimddp", "sve") if f in features]  # fmt: skip
    text = f"{', '.join(known) or 'no vector extension that we know'} ({_cpu_name()})"
    return Finding("cpu", bool(known), text, "kernels run, but slowly: use a CPU with AVX2 or NEON")


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(errors="replace").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    return next((x.partition(":")[2].strip() for x in lines if x.startswith("model name")), "cpu")


def _check_threads() -> Finding:
    from tunesmith.runtime.cpu import physical_cores

    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    wanted = os.environ.get("TVM_NUM_THREADS")
    text = f"{usable} usable, {physical_cores()} cores"
    if wanted is None:
        return Finding("threads", True, text)
    valid = wanted.isascii() and wanted.isdigit() and int(wanted) > 0
    return Finding("threads", valid, f"{text}, TVM_NUM_THREADS={wanted}", "unset TVM_NUM_THREADS")


def _check_linker() -> Finding:
    names = filter(None, (os.environ.get("CC"), "cc", "gcc", "clang"))
    found = next((path for name in names if (path := shutil.which(name))), None)
    if found is None and importlib.util.find_spec("ziglang") is not None:
        found = f"ziglang {importlib.metadata.version('ziglang')}"
    hint = "install gcc or clang, or `pip install ziglang`"
    return Finding("linker", found is not None, found or "none found", hint)


def _check_probe() -> Finding:
    """Compile and run one operator in a child: a broken TVM crashes the process it is in."""
    command = [sys.executable, "-c", "from tunesmith.cli_doctor import probe; probe()"]
    root = str(Path(__file__).resolve().parent.parent)
    paths = [root, *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths)}
    hint = "run it yourself: `python -c 'from tunesmith.cli_doctor import probe; probe()'`"
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_PROBE_SECONDS, env=environment
        )
    except subprocess.TimeoutExpired:
        return Finding("compile", False, f"no result within {_PROBE_SECONDS} s", hint)
    if done.returncode == 0:
        return Finding("compile", True, done.stdout.strip())
    last = (done.stderr.strip().splitlines() or ["no message"])[-1]
    status = f"signal {-done.returncode}" if done.returncode < 0 else f"exit {done.returncode}"
    return Finding("compile", False, f"failed ({status}): {last[:300]}", hint)


def probe() -> None:
    """Compile and run one operator in this process, and check the answer."""
    import time

    import numpy as np

    from tunesmith.driver import compile_model
    from tunesmith.ir.parser import parse_graph
    from tunesmith.runtime import load

    start = time.perf_counter()
    artifact = compile_model(parse_graph(PROBE, "doctor.nir"))
    compiled = time.perf_counter()
    x = np.random.default_rng(0).standard_normal((3, 16), dtype=np.float32)
    (y,) = load(artifact).run({"x": x}).values()
    if not np.array_equal(y, np.maximum(x, 0)):
        raise SystemExit("the compiled operator gave a wrong answer")
    ran = time.perf_counter()
    print(f"one operator compiled in {compiled - start:.1f} s, ran in {ran - compiled:.1f} s")


def _check_samples() -> Finding:
    from tunesmith.samples import SAMPLES, locate

    missing = []
    for name in SAMPLES:
        try:
            locate(name)
        except (LookupError, ValueError):
            missing.append(name)
    listed = ", ".join(missing)
    text = "installed" if not missing else f"only the demo and the board need them: no {listed}"
    return Finding("samples", True, text)


CHECKS: tuple[Callable[[], Finding], ...] = (
    _check_python, _check_pair, _check_onnx, _check_cpu, _check_threads, _check_linker,
    _check_samples, _check_probe,
)  # fmt: skip


def doctor_command(json: Path | None) -> None:
    """Print a line for each check, and exit 1 if one found a problem."""
    findings = []
    show = note if str(json) == "-" else out
    for check in CHECKS:
        finding = check()
        findings.append(finding)
        show(f"{'ok' if finding.ok else 'problem':8}{finding.name:12}{finding.text}")
        if not finding.ok:
            show(f"{'':8}hint: {finding.hint}")
    healthy = all(finding.ok for finding in findings)
    if json is not None:
        write_json(json, {"ok": healthy, "checks": [asdict(f) for f in findings]})
    if not healthy:
        raise typer.Exit(1)
