"""The files, what each is compiled for, and inputs as they are met in use, of several sizes.

A stream is a run of calls that feed some results back as inputs, as a voice model wants it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks import zoo
from benchmarks.spine_facts import ROOT
from tunesmith.samples import SAMPLES, locate

__all__ = ["SUBJECTS", "Stream", "Subject"]

Array = NDArray[np.generic]
Arrays = dict[str, Array]

TOLERANCE = 1e-4  # of every element, absolute
VOCABULARY = 30522
RATE, FRAME, CONTEXT = 16000, 512, 64  # of the voice model; of 8 kHz, half of each
FRAMES = 12


@dataclass(frozen=True)
class Stream:
    """Calls behind each other: what each is fed, and which results are inputs of the next."""

    label: str
    calls: list[Arrays]
    back: Mapping[str, str] = field(default_factory=dict)  # input of the next call: result


@dataclass(frozen=True)
class Subject:
    """A file as it is compiled, and the streams to try."""

    name: str
    file: str  # of `samples.py`, or of the zoo
    streams: Callable[[], list[Stream]]
    options: Mapping[str, Any] = field(default_factory=dict)
    small: bool = False  # part of `make test`

    @property
    def package(self) -> str:
        """Where the file comes from."""
        return SAMPLES[self.file].package if self.file in SAMPLES else "exported from weights"

    def path(self) -> Path:
        """The file, checked, or exported now.

        Raises:
            LookupError: its package is not installed.
        """
        if self.file in SAMPLES:
            return locate(self.file)
        if reason := zoo.unavailable():
            raise LookupError(reason)
        return zoo.path(zoo.TABLE[self.file])


def _sentences(names: tuple[str, ...]) -> Callable[[], list[Stream]]:
    """Tokens with padding behind each but the first text, from one token to many."""

    def streams() -> list[Stream]:
        found = []
        for seed, (batch, length) in enumerate(((1, 1), (1, 16), (2, 33), (3, 77), (1, 128))):
            random = np.random.default_rng(seed)
            lengths = random.integers(max(1, length // 2), length, (batch, 1), endpoint=True)
            lengths[0] = length
            mask = (np.arange(length)[None, :] < lengths).astype(np.int64)
            feeds: Arrays = {
                "input_ids": random.integers(1, VOCABULARY, (batch, length)) * mask,
                "attention_mask": mask,
                "token_type_ids": np.zeros_like(mask),
            }
            found.append(Stream(f"{batch}x{length}", [{name: feeds[name] for name in names}]))
        return found

    return streams


def _picture(random: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Light paper with dark strokes and noise, as text in a photo: f32 from -1 to 1."""
    batch, _, height, width = shape
    paper = 0.6 + 0.2 * np.sin(np.linspace(0, 3, width))[None, :] * np.ones((height, 1))
    found = np.repeat(np.repeat(paper[None, None], batch, 0), 3, 1)
    for image in found:
        for _ in range(max(2, height * width // 600)):
            top, left = random.integers(0, height), random.integers(0, width)
            tall, wide = (int(n) for n in random.integers(1, 12, 2))
            image[:, top : top + tall, left : left + max(1, wide // 3)] = -0.8
    noise = random.standard_normal(found.shape) * 0.05
    return np.clip(found + noise, -1, 1).astype(np.float32)


def _pictures(*shapes: tuple[int, ...]) -> Callable[[], list[Stream]]:
    def streams() -> list[Stream]:
        return [
            Stream("x".join(map(str, shape)), [{"x": _picture(np.random.default_rng(n), shape)}])
            for n, shape in enumerate(shapes)
        ]

    return streams


def _file_bytes() -> list[Stream]:
    """The first and the last bytes of files of this repository, as the model was trained on."""
    files = ["README.md", "Makefile", "pyproject.toml", "ir/graph.py", "docs/spine.json",
             "docs/tuning-metaschedule.png", "LICENSE"]  # fmt: skip
    rows = []
    for file in files:
        data = (ROOT / file).read_bytes()
        ends = data[:4096].lstrip()[:1024], data[-4096:].rstrip()[-1024:]
        first, last = (list(end) for end in ends)
        row = first + [256] * (1024 - len(first)) + [256] * (1024 - len(last)) + last
        rows.append(row)
    table = np.asarray(rows, np.int32)
    cuts = (slice(0, 1), slice(1, 3), slice(0, 7))
    return [Stream(f"{len(table[cut])}x2048", [{"bytes": table[cut]}]) for cut in cuts]


def _voice(rate: int, batch: int, frames: int, seed: int) -> NDArray[np.float32]:
    """Vowels: harmonics of a gliding pitch under two formants, with pauses and breath."""
    random = np.random.default_rng(seed)
    step = FRAME * rate // RATE
    time = np.arange(frames * step) / rate
    rows = []
    for _ in range(batch):
        pitch = 120 + 60 * random.random() + 20 * np.sin(2 * np.pi * 3 * time)
        phase = 2 * np.pi * np.cumsum(pitch) / rate
        sound = np.zeros_like(time)
        for k in range(1, 20):
            heard = k * pitch
            loud = np.exp(-(((heard - 700) / 300) ** 2)) + 0.6 * np.exp(
                -(((heard - 1200) / 300) ** 2)
            )
            sound += np.where(heard < rate / 2, loud, 0) * np.sin(k * phase)
        syllables = (np.sin(2 * np.pi * 4 * time + random.random()) > -0.3).astype(float)
        rows.append(0.1 * sound * syllables + 0.005 * random.standard_normal(time.shape))
    return np.asarray(rows, np.float32)


def _windows(rate: int, batch: int, frames: int, seed: int) -> list[NDArray[np.float32]]:
    """Frames of sound, each behind the end of the one before it: `[batch, 576]` at 16 kHz."""
    step, context = FRAME * rate // RATE, CONTEXT * rate // RATE
    sound = np.pad(_voice(rate, batch, frames, seed), ((0, 0), (context, 0)))
    return [sound[:, i * step : (i + 1) * step + context] for i in range(frames)]


def _streamed(rate: int, batches: tuple[int, ...], has_rate: bool = True,
              other: tuple[int, ...] = ()) -> Callable[[], list[Stream]]:  # fmt: skip
    """Frames with the state fed back; then single frames of `other` lengths."""

    def call(sound: NDArray[np.float32]) -> Arrays:
        feeds: Arrays = {"input": sound, "state": np.zeros((2, len(sound), 128), np.float32)}
        return feeds | ({"sr": np.asarray(rate, np.int64)} if has_rate else {})

    def streams() -> list[Stream]:
        found = []
        for seed, batch in enumerate(batches):
            calls = [call(sound) for sound in _windows(rate, batch, FRAMES, seed)]
            found.append(Stream(f"{FRAMES} of {batch}x{calls[0]['input'].shape[1]}", calls,
                                {"state": "stateN"}))  # fmt: skip
        for length in other:
            sound = _voice(rate, 2, 4, length)[:, :length]
            found.append(Stream(f"2x{length}", [call(sound), call(sound * 2)], {"state": "stateN"}))
        return found

    return streams


def _sequences(*lengths: int) -> Callable[[], list[Stream]]:
    """Whole recordings at once, and what follows on from their state."""

    def streams() -> list[Stream]:
        found = []
        for length in lengths:
            calls: list[Arrays] = []
            for seed in (0, 1):
                frames = np.concatenate(_windows(RATE, 1, length, seed))
                zero = np.zeros((1, 1, 128), np.float32)
                calls.append({"input": frames, "h": zero, "c": zero.copy()})
            found.append(Stream(f"2 of {length}x576", calls, {"h": "hn", "c": "cn"}))
        return found

    return streams


_TEXT = ("input_ids", "attention_mask", "token_type_ids")
_AT_16 = {"values": {"sr": 16000}}
_LENGTHS = (192, 703)  # all that the window behind the spectrogram leaves one column of

SUBJECTS: tuple[Subject, ...] = (
    Subject("minilm-l6, 8-bit weights", "minilm-l6-int8", _sentences(_TEXT)),
    Subject("minilm-l3", "minilm-l3", _sentences(_TEXT[:2])),
    Subject("minilm-l6", "minilm-l6/dynamo18-sdpa", _sentences(_TEXT)),
    Subject("ocr-detector", "ocr-detector",
            _pictures((1, 3, 32, 32), (2, 3, 64, 96), (1, 3, 160, 320), (1, 3, 352, 224))),
    Subject("ocr-recogniser", "ocr-recogniser",
            _pictures((1, 3, 48, 33), (2, 3, 48, 64), (3, 3, 48, 97), (1, 3, 48, 320))),
    Subject("ocr-classifier", "ocr-classifier",
            _pictures((1, 3, 48, 192), (2, 3, 48, 192), (5, 3, 48, 192)),
            {"dims": {"x_2": 48, "x_3": 192}}),
    Subject("magika", "magika", _file_bytes, small=True),
    Subject("silero-vad, 16 kHz", "silero-vad", _streamed(16000, (1, 3), other=(192, 703)),
            _AT_16 | {"dims": {"input_1": _LENGTHS}}, small=True),
    Subject("silero-vad, 8 kHz", "silero-vad", _streamed(8000, (1, 3), other=(96, 351)),
            {"values": {"sr": 8000}, "dims": {"input_1": (96, 351)}}),
    Subject("silero-vad, opset 15", "silero-vad-op15", _streamed(16000, (1, 3), other=(192, 703)),
            _AT_16 | {"dims": {"sequence": _LENGTHS}}),
    Subject("silero-vad, other weights", "silero-vad-half",
            _streamed(16000, (1, 3), False, (192, 703)), {"dims": {"sequence": _LENGTHS}}),
    Subject("silero-vad, one `If`, 16 kHz", "silero-vad-ifless", _streamed(16000, (1, 3)), _AT_16),
    Subject("silero-vad, one `If`, 8 kHz", "silero-vad-ifless", _streamed(8000, (1, 3)),
            {"values": {"sr": 8000}}),
    Subject("silero-vad, for OpenVINO", "silero-vad-openvino", _streamed(16000, (1,), False)),
    *(
        Subject(
            f"silero-vad, {steps} frame{'s' if steps > 1 else ''} at once",
            "silero-vad-sequence",
            _sequences(steps),
            {"dims": {"sequence_length": steps}},
        )
        for steps in (1, 7, 20)
    ),
)  # fmt: skip
