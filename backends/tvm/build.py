"""Relax module → shared library."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import tvm
from tvm.relax import transform

from tunesmith.ir.diagnostics import BuildError
from tunesmith.ir.target import Target

from ..base import Library, Lowered
from .memory import planned_bytes
from .objects import compile_objects

__all__ = ["build_library", "find_linker", "link", "tvm_target"]


def tvm_target(target: Target) -> tvm.target.Target:
    """The target in TVM's words: a dictionary, never a string of flags."""
    description: dict[str, object] = {
        "kind": "llvm",
        "mtriple": target.triple,
        "mcpu": target.cpu,
        "num-cores": target.machine.cores,
        "opt-level": 3,
    }
    if target.machine.isa == "avx512":
        # LLVM avoids 512-bit registers on some of these CPUs unless it is told
        description["mattr"] = ["-prefer-256-bit"]
        description["vector-width"] = 512
    return tvm.target.Target(description)


def _planning() -> tvm.transform.Pass:
    """The part of TVM's pipeline up to where storage is planned.

    Our kernels need no legalization and no fusion.
    """
    return tvm.transform.Sequential(
        [
            transform.ToNonDataflow(),
            transform.RemovePurityChecking(),
            transform.CallTIRRewrite(),
            transform.StaticPlanBlockMemory(),
        ]
    )


def _lowering() -> tvm.transform.Pass:
    """What comes after it."""
    return tvm.transform.Sequential(
        [
            transform.LowerAllocTensor(),
            transform.KillAfterLastUse(),
            transform.LowerRuntimeBuiltin(),
            transform.ComputePrimValue(),
            transform.VMShapeLower(),
            transform.AttachGlobalSymbol(),
        ]
    )


def build_library(
    lowered: Lowered,
    progress: Callable[[int, int], None] | None = None,
    before_fork: Callable[[], None] = lambda: None,
) -> Library:
    """Compile the kernels that are not in the cache, then link them behind `main`.

    All weights that are packed beside it are packed when it returns, and before it forks.

    Raises:
        BuildError: the code generator or the linker failed; the message holds its words.
    """
    target = tvm_target(lowered.target)
    workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1

    def alone() -> None:
        lowered.settle()
        before_fork()

    objects = compile_objects(lowered.functions, target, workers, progress, alone)
    try:
        planned = _planning()(lowered.module)
        executable = tvm.relax.build(planned, target, relax_pipeline=_lowering())
    except Exception as error:
        raise BuildError(f"the code generator failed: {error}") from error
    with tempfile.TemporaryDirectory(prefix="tunesmith-") as folder:
        files = []
        for name, code in objects.items():
            files.append(str(Path(folder) / f"{name}.o"))
            Path(files[-1]).write_bytes(code)
        path = Path(folder) / "kernels.so"
        executable.export_library(str(path), fcompile=link, addons=files)
        arena = planned_bytes(planned, lowered.sizes)
        lowered.settle()
        return Library(path.read_bytes(), arena="" if arena is None else str(arena))


def find_linker() -> list[str]:
    """The command that links shared libraries: the system's compiler, else the `ziglang` package.

    Raises:
        BuildError: neither is there.
    """
    for name in (os.environ.get("CC", ""), "cc", "gcc", "clang"):
        if name and shutil.which(name):
            return [name]
    probe = subprocess.run(
        [sys.executable, "-m", "ziglang", "version"], capture_output=True, check=False
    )
    if probe.returncode == 0:
        return [sys.executable, "-m", "ziglang", "cc"]
    raise BuildError(
        "there is no C linker", hint="pip install ziglang, or install gcc or clang on the system"
    )


def link(output: str, objects: Sequence[str], options: object = None, **_: object) -> None:
    """Link a shared library of object files; `BuildError` holds the words of the linker."""
    command = [*find_linker(), "-shared", "-fPIC", "-o", output, *objects]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BuildError(f"`{' '.join(command[:4])} …` failed: {done.stderr.strip()[-2000:]}")


link.object_format = "o"  # type: ignore[attr-defined]  # how TVM asks for object files
link.output_format = "so"  # type: ignore[attr-defined]
