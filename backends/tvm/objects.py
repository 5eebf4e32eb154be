"""Kernels as object files: compiled once for a target, kept for every later model.

The key of an object is everything that its code depends on: what the kernel computes, the target,
TVM's version and the text of this package. A kept file ends in the digest of what is before it, so
a damaged one is a miss. Workers are forked: they have TVM in memory and start at once.
"""

from __future__ import annotations

import hashlib
import os
import signal
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path

import platformdirs
import tvm
from tvm import tirx

from tunesmith.ir import dims
from tunesmith.ir.diagnostics import BuildError
from tunesmith.runtime.processes import die_with_parent

from . import PINNED

__all__ = ["cache_folder", "compile_objects", "emit_object"]

_DIGEST = 32
# Our buffers have the size that they need; proving so took minutes for kernels of unknown sizes.
_SKIPPED = ["s_tir.CompactBufferAllocation"]
# Who calls a kernel is `main`, whose inputs are checked, not each argument again: a seventh of the
# time of the compiler, a quarter of its code.
_CONFIG = {"tirx.disable_assert": True}
_KEEP_BYTES = 512 << 20  # beyond this the objects that were not used for longest are removed
Writer = Callable[[], tirx.PrimFunc]


def cache_folder() -> Path | None:
    """Where objects are kept: `TUNESMITH_CACHE`, or the user's cache; `off` keeps nothing."""
    chosen = os.environ.get("TUNESMITH_CACHE", "")
    if chosen == "off":
        return None
    return Path(chosen or platformdirs.user_cache_dir("tunesmith")) / "kernels"


def compile_objects(
    writers: Mapping[str, Writer],
    target: tvm.target.Target,
    workers: int,
    progress: Callable[[int, int], None] | None = None,
    before_fork: Callable[[], None] = lambda: None,
) -> dict[str, bytes]:
    """The object file of each kernel by its name, from the cache or freshly compiled.

    Args:
        writers: functions that write the TIR of a kernel; the name holds the hash of its content.
        target: what to compile for.
        workers: processes that compile at the same time.
        progress: called with how many are done and how many there are.
        before_fork: called before processes are forked; no other thread runs when it returns.

    Raises:
        BuildError: a kernel could not be compiled; the message names it.
    """
    folder = cache_folder()
    salt = hashlib.sha256(f"{_sources()} {PINNED} {target}".encode()).hexdigest()
    objects: dict[str, bytes] = {}
    places: dict[str, Path] = {}
    for name in writers:
        if folder is not None:
            key = hashlib.sha256(f"{salt} {name}".encode()).hexdigest()
            places[name] = folder / key[:2] / f"{key}.o"
            found = _read(places[name])
            if found is not None:
                objects[name] = found
    missing = [name for name in writers if name not in objects]

    def keep(name: str, code: bytes) -> None:
        objects[name] = code
        if name in places:
            _write(places[name], code)

    if min(workers, len(missing)) > 1:
        before_fork()
    _compile(missing, writers, target, workers, progress, keep)
    if folder is not None and missing:
        _prune(folder)
    return objects


def _compile(
    names: list[str],
    writers: Mapping[str, Writer],
    target: tvm.target.Target,
    workers: int,
    progress: Callable[[int, int], None] | None,
    keep: Callable[[str, bytes], None],
) -> None:
    """Forked workers take one kernel after the other, and write their objects into a folder.

    What is done is kept, also if one fails or the user interrupts.
    """
    count = min(workers, len(names))
    with tempfile.TemporaryDirectory(prefix="tunesmith-kernels-") as text:
        folder = Path(text)
        children: list[int] = []
        try:
            if count < 2:
                for number, name in enumerate(names):
                    emit_object(name, writers[name], target, folder)
                    if progress is not None:
                        progress(number + 1, len(names))
            else:
                for _ in range(count):
                    children.append(_fork(names, writers, target, folder))
                told = (lambda done: progress(done, len(names))) if progress is not None else None
                _wait(children, folder, told)
        finally:
            for child in children:  # those that `_wait` has not seen end
                with suppress(ProcessLookupError, ChildProcessError):  # it has ended already
                    os.kill(child, signal.SIGKILL)
                    os.waitpid(child, 0)
            for name in names:
                path = folder / f"{name}.o"
                if path.exists():
                    keep(name, path.read_bytes())


def _fork(
    names: list[str], writers: Mapping[str, Writer], target: tvm.target.Target, folder: Path
) -> int:
    child = os.fork()
    if child:
        return child
    status = 1
    die_with_parent()
    try:  # an interrupt reaches the whole process group; the parent answers for it
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        for name in names:
            if _is_mine(folder / f"{name}.taken"):
                emit_object(name, writers[name], target, folder)
        status = 0
    except BaseException as error:
        (folder / f"error-{os.getpid()}").write_text(str(error))
    finally:
        os._exit(status)


def _is_mine(claim: Path) -> bool:
    """Whether no other worker was here before: kernels take up to ten times as long as others."""
    try:
        claim.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def _wait(children: list[int], folder: Path, told: Callable[[int], None] | None) -> None:
    """Wait for all workers; who has ended leaves the list. `BuildError` if one failed."""
    seen = -1
    while children:
        for child in list(children):
            ended, status = os.waitpid(child, os.WNOHANG)
            if not ended:
                continue
            children.remove(child)
            if status:
                note = folder / f"error-{child}"
                words = note.read_text() if note.exists() else f"it ended: status {status}"
                raise BuildError(f"the code generator failed: {words}")
        done = sum(not path.name.endswith(".part.o") for path in folder.glob("*.o"))
        if told is not None and done != seen:
            told(done)
        seen = done
        if children:
            time.sleep(0.02)


def emit_object(name: str, write: Writer, target: tvm.target.Target, folder: Path) -> None:
    """Write the object file of one kernel, `name.o`, into a folder; `BuildError` names it."""
    function = write().with_attr("global_symbol", name)
    try:
        with tvm.transform.PassContext(config=_CONFIG, disabled_pass=_SKIPPED):
            built = tvm.compile(tvm.IRModule({name: function}), target=target)
    except Exception as error:
        raise BuildError(f"kernel `{name}`: {error}") from error
    path = folder / f"{name}.part.o"
    built.mod.write_to_file(str(path))
    path.rename(folder / f"{name}.o")


def _read(path: Path) -> bytes | None:
    try:
        data = path.read_bytes()
    except OSError:
        return None
    code, digest = data[:-_DIGEST], data[-_DIGEST:]
    if hashlib.sha256(code).digest() != digest:
        return None
    with suppress(OSError):  # another process may have removed it, or the cache is read-only
        os.utime(path)
    return code


def _write(path: Path, code: bytes) -> None:
    """Keep an object; a cache that cannot be written is not an error."""
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=".")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(code + hashlib.sha256(code).digest())
            os.replace(name, path)
        except OSError:
            Path(name).unlink(missing_ok=True)


def _prune(folder: Path) -> None:
    files = []
    for path in folder.glob("*/*.o"):
        with suppress(OSError):  # another process may be removing it
            files.append((path, path.stat()))
    total = sum(s.st_size for _, s in files)
    for path, status in sorted(files, key=lambda item: item[1].st_mtime):
        if total <= _KEEP_BYTES:
            return
        with suppress(OSError):
            path.unlink(missing_ok=True)
        total -= status.st_size


@cache
def _sources() -> str:
    """A digest of all text that code follows from: templates here, decompositions in `ir`."""
    state = hashlib.sha256()
    for package in (Path(__file__).parent, Path(dims.__file__).parent):
        for path in sorted(package.rglob("*.py")):
            state.update(path.read_bytes())
    return state.hexdigest()
