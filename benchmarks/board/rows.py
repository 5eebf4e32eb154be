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
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from typing import Literal, cast

__all__ = ["FAMILIES", "ROWS", "SMOKE", "BoardRow", "Family", "choose"]

Family = Literal["transformer", "convolution", "decode"]
FAMILIES: tuple[Family, ...] = ("transformer", "convolution", "decode")


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
            return "×".join(map(str, self.size))
        if self.axes:
            return ", ".join(f"{name} {size}" for name, size in self.axes.items())
        return ", ".join("×".join(map(str, shape)) for shape in self.shapes.values())

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


_INT8 = "f32, int8 weights"

# The dynamo exporter's graphs: PyTorch's default, and the fewest nodes for every engine.
ROWS: tuple[BoardRow, ...] = (
    BoardRow("minilm-l3/16", "transformer", "minilm-l3", "tokens", (1, 16), "bert"),
    BoardRow("minilm-l3/128", "transformer", "minilm-l3", "tokens", (1, 128), "bert"),
    BoardRow("minilm-l6-int8/16", "transformer", "minilm-l6-int8", "tokens", (1, 16), "bert", _INT8),
    BoardRow("minilm-l6-int8/128", "transformer", "minilm-l6-int8", "tokens", (1, 128), "bert", _INT8),
    BoardRow("distilbert/128", "transformer", "distilbert/dynamo18-sdpa", "tokens", (1, 128), "bert"),
    BoardRow("bert-base/128", "transformer", "bert-base/dynamo18-sdpa", "tokens", (1, 128), "bert"),
    BoardRow("bert-base/384", "transformer", "bert-base/dynamo18-sdpa", "tokens", (1, 384), "bert"),
    BoardRow("bert-base/8x128", "transformer", "bert-base/dynamo18-sdpa", "tokens", (8, 128), "bert"),
    BoardRow("vit-b16", "transformer", "vit-b16/dynamo18-sdpa", "pixels", (1,), "vit"),
    BoardRow("gpt2/prefill-128", "transformer", "gpt2/dynamo18-sdpa", "tokens", (1, 128), "gpt2"),
    BoardRow("smollm2/prefill-128", "transformer", "smollm2-135m/dynamo18-sdpa", "tokens", (1, 128), "qwen3"),
)  # fmt: skip

# The same, small enough for a test.
SMOKE: tuple[BoardRow, ...] = (
    BoardRow("bert-small/16", "transformer", "bert-base/dynamo18-sdpa/small", "tokens", (1, 16), "bert"),
)  # fmt: skip


def choose(patterns: Sequence[str], rows: Sequence[BoardRow] = ROWS) -> list[BoardRow]:
    """The rows whose name a pattern matches, those of one model side by side.

    >>> [row.name for row in choose(["bert-base/*"])]
    ['bert-base/128', 'bert-base/384', 'bert-base/8x128']
    """
    chosen = [row for row in rows if any(fnmatchcase(row.name, p) for p in patterns)]
    models = list(dict.fromkeys(row.model for row in chosen))
    return sorted(chosen, key=lambda row: models.index(row.model))
