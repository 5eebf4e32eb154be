"""What a tuner measures, and what it remembers: workload, device, record.

Each of them has a canonical form (JSON with sorted keys), and a SHA-256 over it by which the store
finds it and by which a flipped byte is noticed.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import json
import math
import operator
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from tunesmith.ir.diagnostics import TuneError

__all__ = ["Device", "Record", "TrialTaken", "Verdict", "Workload", "best_of", "canonical"]

_INT64 = range(-(2**63), 2**63)


def canonical(value: object) -> str:
    """JSON in its one form: sorted keys, no spaces, no NaN.

    >>> canonical({"b": (1, 2.5), "a": "ü"})
    '{"a":"ü","b":[1,2.5]}'
    """
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    )


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


class TrialTaken(TuneError):
    """The number of a trial belongs to another one."""


class Verdict(enum.StrEnum):
    """How a trial ended."""

    ok = "ok"
    slower = "slower"
    wrong = "wrong"
    build_failed = "build_failed"
    crashed = "crashed"
    timeout = "timeout"


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What is computed: a template, and the canonical text of the kernel and its sizes.

    `features` are small numbers such as rows and columns by which the nearest workload is found;
    they are no part of the identity. Raises `TuneError` if a text cannot be stored.
    """

    template: str
    text: str
    features: Mapping[str, int] = dataclasses.field(compare=False)

    def __post_init__(self) -> None:
        _need_text("the workload", template=self.template, text=self.text)
        _need("\n" not in self.template, "the workload", "`template` has several lines")
        object.__setattr__(self, "features", _integers("the workload", "features", self.features))

    @property
    def sha256(self) -> str:
        """The hash of template and text, in hexadecimal."""
        return _sha256(f"{self.template}\n{self.text}")


@dataclass(frozen=True, kw_only=True)
class Device:
    """Where it was measured: canonical JSON of CPU, ISA, features, cores, caches and driver.

    Raises `TuneError` if the text is not a JSON object.
    """

    text: str

    def __post_init__(self) -> None:
        _need_text("the device", text=self.text)
        try:
            facts = json.loads(self.text)
        except ValueError as error:
            raise TuneError(f"the device's text is not JSON: {error}") from None
        _need(isinstance(facts, dict), "the device", "`text` is not a JSON object")

    @property
    def sha256(self) -> str:
        """The hash of the text, in hexadecimal."""
        return _sha256(self.text)

    @property
    def name(self) -> str:
        """What a person calls it: the `name`, or the CPU and its cores, or the hash.

        >>> Device(text='{"cores":2,"cpu":"cascadelake"}').name
        'cascadelake x2'
        """
        facts = json.loads(self.text)
        if facts.get("name"):
            return str(facts["name"])
        if facts.get("cpu"):
            return f"{facts['cpu']} x{facts['cores']}" if "cores" in facts else str(facts["cpu"])
        return self.sha256[:12]


@dataclass(frozen=True, kw_only=True)
class Record:
    """One trial: the knobs, how it ended, and the seconds of one call.

    `seconds` and `baseline` are of the candidate and of the kernel with the analytic knobs, timed
    interleaved. `checked` says that the output was compared with the untuned kernel's. `trial`
    counts from 0 within (workload, device, versions, seed). Raises `TuneError` if the fields
    contradict each other or cannot be stored.
    """

    workload: Workload
    device: Device
    versions: str
    knobs: Mapping[str, int] = dataclasses.field(hash=False)
    seed: int
    trial: int
    verdict: Verdict
    checked: bool
    seconds: tuple[float, ...]
    baseline: tuple[float, ...]
    reason: str = ""
    by: str = ""
    at: str = ""

    def __post_init__(self) -> None:
        what = "the record"
        _need_text(what, versions=self.versions, reason=self.reason, by=self.by, at=self.at)
        object.__setattr__(self, "knobs", _integers(what, "knobs", self.knobs))
        _need(self.verdict in tuple(Verdict), what, f"there is no verdict `{self.verdict}`")
        object.__setattr__(self, "verdict", Verdict(self.verdict))
        for name in ("seconds", "baseline"):
            times = tuple(float(t) for t in getattr(self, name))
            _need(all(map(_is_time, times)), what, f"`{name}` has a time that is not positive")
            object.__setattr__(self, name, times)
        _need(len(self.versions) <= 1000, what, "`versions` has more than 1,000 characters")
        for name in ("seed", "trial"):
            value = _integers(what, name, {name: getattr(self, name)})[name]
            object.__setattr__(self, name, value)
        _need(isinstance(self.checked, bool), what, "`checked` is neither true nor false")
        _need(self.trial >= 0, what, "`trial` is negative")
        timed = bool(self.seconds and self.baseline)
        _need(timed or self.verdict != Verdict.ok, what, "the verdict is ok, but nothing was timed")

    @property
    def speedup(self) -> float:
        """Median of `baseline` over median of `seconds`; 0 if nothing was timed."""
        if not self.seconds or not self.baseline:
            return 0.0
        return statistics.median(self.baseline) / statistics.median(self.seconds)

    @property
    def digest(self) -> str:
        """The hash over all that the record says, in hexadecimal.

        Workload and device stand in it by their hashes, the features not at all.
        """
        fields = [getattr(self, f.name) for f in dataclasses.fields(self)[2:]]
        return _sha256(canonical([self.workload.sha256, self.device.sha256, *fields]))


def _is_time(seconds: float) -> bool:
    return math.isfinite(seconds) and seconds > 0


def _need(fact: bool, what: str, message: str) -> None:
    if not fact:
        raise TuneError(f"{what} cannot be stored: {message}")


def _need_text(what: str, **texts: str) -> None:
    """No NUL and no lone surrogate: not every database can hold them."""
    for name, text in texts.items():
        _need(isinstance(text, str), what, f"`{name}` is no text")
        _need("\0" not in text, what, f"`{name}` has a NUL character")
        _need(text.isascii() or _is_unicode(text), what, f"`{name}` is not valid Unicode")


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _integers(what: str, name: str, values: Mapping[str, int]) -> dict[str, int]:
    """A copy of small numbers by name, in the order of the names."""
    _need_text(what, **{name: "".join(values)})
    try:
        result = {key: int(operator.index(values[key])) for key in sorted(values)}
    except TypeError as error:
        raise TuneError(f"{what} cannot be stored: `{name}`: {error}") from None
    _need(all(v in _INT64 for v in result.values()), what, f"`{name}` does not fit 64 bits")
    return result


def best_of(records: Iterable[Record]) -> Record | None:
    """The record to use: checked, ok, and of the greatest speedup above 1; or None."""
    usable = [r for r in records if r.checked and r.verdict == Verdict.ok and r.speedup > 1]
    return max(usable, key=lambda r: r.speedup, default=None)
