"""The rows of the board: which model, at which size, and how its inputs are made. A line for each.

`model` is an entry of the zoo, a pinned sample, or the path of an ONNX file. `inputs` names one of
the makers of `benchmarks.board.inputs`:

* `tokens`: ids, mask and segments as a tokenizer gives them; `size` is batch and sequence.
* `pixels`: standard normal images of the model's own size; `size` is the batch.
* `declared`: random arrays by the names and dtypes that the file declares (ids in range, masks of
  ones and zeros, counting positions). `axes` gives the size of each axis that the file names, so
  that keys and values of the past, sound and images all need no code of their own; where the file
  names none, `shapes` gives the shape of each input.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Literal, cast

__all__ = ["FAMILIES", "ROWS", "SMOKE", "BoardRow", "Family", "choose"]

Family = Literal["transformer", "convolution", "decode", "decode, bf16"]
FAMILIES: tuple[Family, ...] = ("transformer", "convolution", "decode", "decode, bf16")


@dataclass(frozen=True)
class BoardRow:
    """One model at one size."""

    name: str
    family: Family
    model: str
    inputs: str
    size: tuple[int, ...] = ()
    optimizer: str = ""  # the model type of ONNX Runtime's transformer optimizer, if there is one
    precision: str = "f32"
    axes: Mapping[str, int] = field(default_factory=dict)
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    # The axes that the dynamic artifact leaves open; `tokens` and `pixels` know them already.
    bounds: Mapping[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def label(self) -> str:
        """The size as a person reads it."""
        if self.size:
            return "x".join(map(str, self.size))
        if self.axes:
            return ", ".join(f"{name} {size}" for name, size in self.axes.items())
        return ", ".join("x".join(map(str, shape)) for shape in self.shapes.values())

    def as_json(self) -> dict[str, object]:
        """The row as JSON."""
        return asdict(self)

    @staticmethod
    def from_json(row: Mapping[str, object]) -> BoardRow:
        """The row that `as_json` wrote."""
        shapes = cast("Mapping[str, list[int]]", row["shapes"])
        bounds = cast("Mapping[str, list[int]]", row["bounds"])
        return BoardRow(
            name=str(row["name"]), family=cast("Family", row["family"]), model=str(row["model"]),
            inputs=str(row["inputs"]), size=tuple(cast("list[int]", row["size"])),
            optimizer=str(row["optimizer"]), precision=str(row["precision"]),
            axes=dict(cast("Mapping[str, int]", row["axes"])),
            shapes={name: tuple(shape) for name, shape in shapes.items()},
            bounds={name: (low, high) for name, (low, high) in bounds.items()},
        )  # fmt: skip


def _text(
    name: str, model: str, batch: int, sequence: int, optimizer: str, precision: str = "f32"
) -> BoardRow:
    """A transformer that reads tokens."""
    size = (batch, sequence)
    return BoardRow(name, "transformer", model, "tokens", size, optimizer, precision)


def _step(name: str, model: str, optimizer: str, longest: int, **lengths: int) -> BoardRow:
    """One new token: the keys and values of what was before are inputs."""
    bounds = {"batch": BATCH} | dict.fromkeys(lengths, (1, longest))
    return BoardRow(
        name, "decode", model, "declared", optimizer=optimizer, axes={"batch": 1} | lengths,
        bounds=bounds,
    )  # fmt: skip


def _sample(
    name: str, family: Family, tensor: str, shape: tuple[int, ...], **bounds: tuple[int, int]
) -> BoardRow:
    """A pinned sample with one input."""
    model = name.split("/")[0]
    return BoardRow(name, family, model, "declared", shapes={tensor: shape}, bounds=bounds)


def _zoo(architecture: str, attention: str = "-sdpa") -> str:
    """The export that is timed: of PyTorch's default exporter, and with the fewest nodes."""
    return f"{architecture}/dynamo18{attention}"


_INT8 = "f32, int8 weights"
_BF16 = "f32, weights that bf16 has"  # as they are published; every engine is given f32
BATCH = (1, 8)

ROWS: tuple[BoardRow, ...] = (
    _text("minilm-l3/16", "minilm-l3", 1, 16, "bert"),
    _text("minilm-l3/128", "minilm-l3", 1, 128, "bert"),
    _text("minilm-l6/16", _zoo("minilm-l6"), 1, 16, "bert"),
    _text("minilm-l6/128", _zoo("minilm-l6"), 1, 128, "bert"),
    _text("minilm-l6-int8/16", "minilm-l6-int8", 1, 16, "bert", _INT8),
    _text("minilm-l6-int8/128", "minilm-l6-int8", 1, 128, "bert", _INT8),
    _text("distilbert/128", _zoo("distilbert"), 1, 128, "bert"),
    _text("bert-base/128", _zoo("bert-base"), 1, 128, "bert"),
    _text("bert-base/384", _zoo("bert-base"), 1, 384, "bert"),
    _text("bert-base/8x128", _zoo("bert-base"), 8, 128, "bert"),
    BoardRow("vit-b16", "transformer", _zoo("vit-b16"), "pixels", (1,), "vit"),
    _text("gpt2/prefill-128", _zoo("gpt2"), 1, 128, "gpt2"),
    _text("smollm2/prefill-128", _zoo("smollm2-135m"), 1, 128, "qwen3"),
    _text("t5-small/encoder-128", _zoo("t5-small-encoder"), 1, 128, "t5"),
    BoardRow(
        "whisper-tiny/encoder", "transformer", _zoo("whisper-tiny-encoder"), "declared",
        optimizer="bart", axes={"batch": 1}, bounds={"batch": BATCH},
    ),
    _sample("magika", "transformer", "bytes", (1, 2048), unk__214=BATCH),
    _step("gpt2/decode-128", _zoo("gpt2-decode"), "gpt2", 1023, past=128),
    _step("smollm2/decode-256", _zoo("smollm2-135m-decode"), "qwen3", 2047, past=256),
    # A family of its own: bounds for f32 are not met by reading half of its bytes.
    replace(
        _step("smollm2-bf16/decode-256", _zoo("smollm2-135m-decode-bf16"), "qwen3", 2047, past=256),
        family="decode, bf16", precision=_BF16,
    ),
    _step("t5-small/decode-32", _zoo("t5-small-decode"), "t5", 511, source=128, past=32),
    BoardRow("resnet50", "convolution", _zoo("resnet50", ""), "pixels", (1,)),
    BoardRow("mobilenet-v2", "convolution", _zoo("mobilenet-v2", ""), "pixels", (1,)),
    _sample(
        "ocr-detector/640", "convolution", "x", (1, 3, 640, 640),
        DynamicDimension_0=BATCH, DynamicDimension_1=(32, 960), DynamicDimension_2=(32, 960),
    ),
    _sample(
        "ocr-recogniser/48x320", "convolution", "x", (1, 3, 48, 320),
        DynamicDimension_0=BATCH, DynamicDimension_1=(32, 640),
    ),
)  # fmt: skip

# Small enough for a test.
SMOKE: tuple[BoardRow, ...] = (
    _text("bert-small/16", f"{_zoo('bert-base')}/small", 1, 16, "bert"),
)  # fmt: skip


def choose(patterns: Sequence[str], rows: Sequence[BoardRow] = ROWS) -> list[BoardRow]:
    """The rows whose name a pattern matches, those of one model side by side.

    >>> [row.name for row in choose(["bert-base/*"])]
    ['bert-base/128', 'bert-base/384', 'bert-base/8x128']
    """
    chosen = [row for row in rows if any(fnmatchcase(row.name, p) for p in patterns)]
    models = list(dict.fromkeys(row.model for row in chosen))
    return sorted(chosen, key=lambda row: models.index(row.model))
