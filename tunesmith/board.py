"""What a board answers in a session: what it is, how quick kernels are, how quick artifacts are.

A session is a process of TVM's RPC server. It runs no kernel itself: candidates run in a process
of `autotune/bench.py` and its runner, artifacts in a child.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tunesmith.autotune.bench import Bench, content_name
from tunesmith.autotune.device import device_of, versions_text
from tunesmith.backends.targets import find_target
from tunesmith.ir.diagnostics import CompilerError, TuneError
from tunesmith.places import profile_paths

__all__ = ["BoardSession"]


class BoardSession:
    """Answers of one session; what it is sent lies in `folder`, under the digest of its content."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.benches: dict[tuple[int, float], Bench] = {}
        self.answers: dict[str, Callable[[Mapping[str, Any], bytes], dict[str, Any]]] = {
            "facts": self._facts, "keep": self._keep, "measure": self._measure,
            "profile": self._profile,
        }  # fmt: skip

    def ask(self, header: str, data: bytes) -> str:
        """A line of JSON for a line of JSON; `error` in it says why there is no answer."""
        try:
            request = json.loads(header)
            return json.dumps(self.answers[request["do"]](request, data))
        except CompilerError as error:
            return json.dumps({"error": error.message, "hint": error.hint})
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            return json.dumps({"error": f"{type(error).__name__}: {error}"})

    def _facts(self, request: Mapping[str, Any], _: bytes) -> dict[str, Any]:
        target = find_target("host", request["threads"])
        return {
            "target": asdict(target), "versions": versions_text(), "device": device_of(target).text,
        }  # fmt: skip

    def _keep(self, request: Mapping[str, Any], data: bytes) -> dict[str, Any]:
        """A part of some content; the last one says whether all of it is there."""
        path, part = self._place(request["name"]), self._place(request["name"], ".part")
        with part.open("ab" if request["start"] else "wb") as file:
            if file.tell() != request["start"]:
                raise ValueError("a part of the content is missing")
            file.write(data)
        if request["last"]:
            if content_name(part.read_bytes()) != request["name"]:
                raise ValueError("the content is not what its name says")
            part.replace(path)
        return {}

    def _measure(self, request: Mapping[str, Any], _: bytes) -> dict[str, Any]:
        threads, deadline = request["limits"]
        limits = int(threads), float(deadline)
        if limits not in self.benches:
            self.benches[limits] = Bench(*limits)
        bench = self.benches[limits]
        sides = request["base"], request["variant"]
        try:
            for name in (n for side in sides for n in (side["library"], *side["weights"].values())):
                if name not in bench.kept:
                    bench.keep(self._place(name).read_bytes())
            return bench.measure(request["kernel"], *sides, float(request["seconds"]))
        except TuneError as error:
            self.benches.pop(limits).close()
            return {"lost": error.message}

    def _profile(self, request: Mapping[str, Any], _: bytes) -> dict[str, Any]:
        paths = [self._place(name) for name in request["files"]]
        return {"turns": profile_paths(paths, request["sizes"], int(request["turns"]))}

    def _place(self, name: str, suffix: str = "") -> Path:
        if len(name) != 64 or not name.isalnum():
            raise ValueError(f"`{name}` is no digest")
        return self.folder / f"{name}{suffix}"
