"""One hostile model compiled by the command line, in a process that watches what it opens.

`python -m tests.hostile.child CASE.onnx OUT.tsm SECRET` prints one line of JSON: the exit status,
what the command said, seconds, the peak of memory, and every file that was opened but is neither
in the model's folder nor a part of the machine.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import resource
import sys
import sysconfig
import time
from pathlib import Path

__all__ = ["Watch"]

ROOT = Path(__file__).resolve().parents[2]


class Watch:
    """An audit hook: what was opened outside of `folder` and of the machine's own files."""

    def __init__(self, folder: Path, out: Path, secret: Path) -> None:
        self.secret = os.stat(secret)
        self.foreign: list[str] = []
        own: list[str | Path] = [
            sys.prefix, sys.base_prefix, sysconfig.get_paths()["stdlib"], ROOT, folder, out.parent,
            os.environ.get("TUNESMITH_CACHE", "") or ROOT, Path.home() / ".cache" / "tunesmith",
            "/proc", "/sys", "/dev", "/usr", "/lib", "/lib64", "/etc/ld.so.cache", "/etc/localtime",
            "/etc/os-release",
        ]  # fmt: skip
        own += [p for p in sys.path if p]
        self.own = {os.path.realpath(p) for p in own}

    def __call__(self, event: str, arguments: tuple[object, ...]) -> None:
        """Look at one event of the interpreter."""
        if event != "open" or not isinstance(arguments[0], str | bytes | os.PathLike):
            return
        path = os.path.realpath(os.fsdecode(arguments[0]))
        with contextlib.suppress(OSError):
            found = os.stat(path)
            if (found.st_dev, found.st_ino) == (self.secret.st_dev, self.secret.st_ino):
                self.foreign.append(path)  # by whatever name
                return
        parts = Path(path)
        inside = {str(parts), *map(str, parts.parents)} & self.own
        if not inside:
            self.foreign.append(path)


def main(model: str, out: str, secret: str) -> None:
    """Compile and report."""
    from tunesmith.cli import execute

    watch = Watch(Path(model).resolve().parent, Path(out).resolve(), Path(secret))
    sys.addaudithook(watch)
    said = io.StringIO()
    start = time.perf_counter()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = execute(["compile", model, "-o", out])
    seconds = time.perf_counter() - start
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    cpu = sum(one.ru_utime + one.ru_stime for one in used)
    scale = 1024 if sys.platform == "linux" else 1
    peak = max(one.ru_maxrss for one in used) * scale
    row = {"code": code, "said": said.getvalue(), "seconds": seconds, "cpu": cpu, "peak": peak}
    print(json.dumps(row | {"foreign": watch.foreign}))


if __name__ == "__main__":
    main(*sys.argv[1:])
