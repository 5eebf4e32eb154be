"""What the spine is measured on: the zoo as far as all routes go, and pinned sentence models."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np

from benchmarks import zoo
from tunesmith.samples import locate

__all__ = ["SPEED_ROUTES", "Size", "Subject", "find_subject", "subjects"]

Size = tuple[int, ...]  # batch and sequence, or the batch of images

BATCH = (1, 8)
SEQUENCE = 512  # the longest sequence that BERT and DistilBERT have positions for
SMALL_SEQUENCE = 128
TEXT_SIZES: tuple[Size, ...] = ((1, 1), (1, 16), (1, 128), (2, 33), (3, 77))
IMAGE_SIZES: tuple[Size, ...] = ((1,), (2,))
SPEED_ROUTES = ("torchscript17-sdpa", "dynamo18-sdpa")
VOCABULARY = 30522  # of both sentence models


@dataclass(frozen=True)
class Subject:
    """One ONNX file, and what is expected of it."""

    name: str
    blocks: int  # attention blocks
    axes: tuple[str, ...]  # the names that the file gives to its dynamic axes, in order
    inputs: tuple[str, ...]
    longest: int = SEQUENCE

    @property
    def entry(self) -> zoo.ZooEntry | None:
        """The entry of the zoo, unless it is a sample."""
        return zoo.TABLE.get(self.name)

    @property
    def dims(self) -> dict[str, tuple[int, int]]:
        """The bounds that it is compiled for."""
        return dict(zip(self.axes, (BATCH, (1, self.longest)), strict=False))

    @property
    def sizes(self) -> tuple[Size, ...]:
        """At which sizes it is compared with ONNX Runtime."""
        return TEXT_SIZES if len(self.axes) > 1 else IMAGE_SIZES

    @property
    def timed(self) -> Size:
        """At which size it is timed."""
        return (1, 128) if len(self.axes) > 1 else (1,)

    @property
    def is_timed_route(self) -> bool:
        """Whether it is timed unless all are."""
        return self.entry is None or any(route in self.name for route in SPEED_ROUTES)

    @property
    def is_built(self) -> bool:
        """Whether the file is there; an entry of the zoo can be built, a sample is installed."""
        return self.entry is None or self.entry.file.is_file()

    def path(self) -> Path:
        """The ONNX file."""
        return locate(self.name) if self.entry is None else zoo.path(self.entry)

    def feeds(self, size: Size, seed: int = 0) -> zoo.Arrays:
        """Inputs of one size; rows after the first are padded at the end."""
        if self.entry is not None:
            return zoo.inputs(self.entry, size[0], size[-1], seed)
        random = np.random.default_rng(seed)
        batch, sequence = size
        lengths = random.integers(max(1, sequence // 2), sequence, (batch, 1), endpoint=True)
        lengths[0] = sequence
        mask = (np.arange(sequence)[None, :] < lengths).astype(np.int64)
        arrays: zoo.Arrays = {
            "input_ids": random.integers(1, VOCABULARY, (batch, sequence)) * mask,
            "attention_mask": mask,
            "token_type_ids": np.zeros_like(mask),
        }
        return {name: arrays[name] for name in self.inputs}


SAMPLES = (
    Subject("minilm-l3", 3, ("batch_size", "sequence_length"), ("input_ids", "attention_mask")),
    Subject(
        "minilm-l6-int8",
        6,
        ("batch", "sequence"),
        ("input_ids", "attention_mask", "token_type_ids"),
    ),
)


def _all() -> Iterator[Subject]:
    yield from SAMPLES
    yield from map(_of_the_zoo, zoo.ENTRIES.values())


def _of_the_zoo(entry: zoo.ZooEntry) -> Subject:
    longest = SMALL_SEQUENCE if entry.small else SEQUENCE
    return Subject(entry.name, entry.blocks, entry.dynamic, entry.inputs, longest)


def subjects(patterns: Sequence[str] = ("*",), *, small: bool = False) -> list[Subject]:
    """The samples and the zoo at one of its two sizes, as far as a pattern matches.

    >>> [s.name for s in subjects(["gpt2/dynamo18*"], small=True)]
    ['gpt2/dynamo18-eager/small', 'gpt2/dynamo18-sdpa/small']
    >>> len(subjects())
    37
    """
    return [
        subject
        for subject in _all()
        if (subject.entry is None or subject.entry.small == small)
        and any(fnmatchcase(subject.name.removesuffix("/small"), p) for p in patterns)
    ]


def find_subject(name: str) -> Subject:
    """The subject of that name, which may be one that only the board measures."""
    if name in zoo.BOARD_ENTRIES:
        return _of_the_zoo(zoo.BOARD_ENTRIES[name])
    return next(subject for subject in _all() if subject.name == name)
