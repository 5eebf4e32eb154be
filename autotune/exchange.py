"""Records as a file of JSON lines: read by people, joined with `cat`, safe against a torn line.

A line is a workload, a device or a trial; a trial names the other two by hash, never by position,
and carries the digest of the whole record. Lines after a bad one are as good as before.
"""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.ir.diagnostics import TuneError

from .records import Device, Record, Verdict, Workload, canonical

__all__ = ["Bad", "lines_of", "read_lines", "write_whole"]

_FORMAT = 1
_PLAIN = tuple(f.name for f in dataclasses.fields(Record))[2:]  # all but workload and device


@dataclass(frozen=True)
class Bad:
    """A line that is no record, and why."""

    line: int
    reason: str


def lines_of(records: Iterable[Record]) -> Iterator[str]:
    """The lines of a file; workload and device stand before their first trial."""
    seen: set[tuple[str, str]] = set()
    for record in records:
        work, device = record.workload, record.device
        for kind, owner in (("workload", work), ("device", device)):
            if (kind, owner.sha256) in seen:
                continue
            seen.add((kind, owner.sha256))
            facts = dataclasses.asdict(owner)
            yield canonical({"kind": kind, "sha256": owner.sha256, **facts})
        facts = {name: getattr(record, name) for name in _PLAIN}
        yield canonical(
            {"kind": "trial", "format": _FORMAT, "workload": work.sha256,
             "device": device.sha256, **facts, "digest": record.digest}
        )  # fmt: skip


def read_lines(lines: Iterable[bytes]) -> Iterator[Record | Bad]:
    """The records of a file, and each line that is none; blank lines are passed over."""
    works: dict[str, Workload] = {}
    devices: dict[str, Device] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            facts = json.loads(line)
            kind = facts["kind"]
            if kind == "workload":
                work = Workload(**_fields(facts, Workload))
                _need(work.sha256 == facts["sha256"], "its hash is another")
                works[work.sha256] = work
            elif kind == "device":
                device = Device(**_fields(facts, Device))
                _need(device.sha256 == facts["sha256"], "its hash is another")
                devices[device.sha256] = device
            elif kind == "trial":
                yield _trial(facts, works, devices)
            else:
                raise ValueError(f"`{kind}` is no kind of line")
        except TuneError as error:
            yield Bad(number, error.message)
        except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
            yield Bad(number, f"{type(error).__name__}: {error}".splitlines()[0])


def _fields(facts: dict[str, Any], kind: type) -> dict[str, Any]:
    return {field.name: facts[field.name] for field in dataclasses.fields(kind)}


def _trial(facts: dict[str, Any], works: dict[str, Workload], devices: dict[str, Device]) -> Record:
    _need(facts["format"] == _FORMAT, f"format {facts['format']} is not known")
    _need(facts["workload"] in works, "no line above has its workload")
    _need(facts["device"] in devices, "no line above has its device")
    plain = {name: facts[name] for name in _PLAIN}
    plain |= {name: tuple(plain[name]) for name in ("seconds", "baseline")}
    plain["verdict"] = Verdict(plain["verdict"])
    record = Record(workload=works[facts["workload"]], device=devices[facts["device"]], **plain)
    _need(record.digest == facts["digest"], "its digest is another")
    return record


def _need(fact: bool, words: str) -> None:
    if not fact:
        raise ValueError(words)


def write_whole(path: Path, lines: Iterable[str]) -> int:
    """Write lines to a file that appears when it is complete, or never; how many.

    Raises `OSError` if it cannot be written.
    """
    count = 0
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".tmp")
    try:
        with open(descriptor, "w", encoding="utf-8", newline="\n") as file:
            for line in lines:
                file.write(f"{line}\n")
                count += 1
            file.flush()
            os.fsync(file.fileno())
        os.chmod(name, 0o666 & ~_umask())
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return count


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
