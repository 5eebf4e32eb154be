"""Random-weight architectures at their real size, exported to ONNX and kept in a cache on disk.

`python -m benchmarks.zoo list` shows the table, `build` fills the cache. Speed, memory, import and
fusion may be claimed on these models; accuracy and the loss of quantization or pruning never.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.util
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnxruntime
import platformdirs
from numpy.typing import NDArray

from benchmarks.zoo_configs import ARCHITECTURES, ROUTES, SMALL_BLOCKS, Architecture, Route

if TYPE_CHECKING:
    import torch

Arrays = dict[str, NDArray[np.generic]]

RECIPE = 1  # part of every path: raise it when the same entry would give another file
SEED = 2024
TOLERANCE = 1e-4
EXTERNAL_BYTES = 1_500_000_000  # weights beyond this go to a second file: protobuf ends at 2 GiB


class ZooUnavailable(LookupError):
    """The model is not in the cache, and PyTorch or transformers is missing to build it."""


class ZooMismatch(RuntimeError):
    """An exported file computes something else than the module it was exported from."""


@dataclass(frozen=True)
class ZooEntry:
    """One architecture at one size through one exporter route."""

    architecture: str
    route: str
    opset: int
    attention: str
    small: bool
    dynamic: tuple[str, ...]

    @property
    def name(self) -> str:
        """The name of the entry, such as `bert-base/torchscript17-sdpa` or `.../small`."""
        label = Route(self.route, self.opset, self.attention).label
        return f"{self.architecture}/{label}" + ("/small" if self.small else "")

    @property
    def spec(self) -> Architecture:
        """The architecture as data."""
        return _SPECS[self.architecture]

    @property
    def blocks(self) -> int:
        """How many attention blocks the model has."""
        return SMALL_BLOCKS if self.small else self.spec.blocks

    @property
    def file(self) -> Path:
        """Where the cache keeps the model, built or not."""
        return cache_directory() / f"v{RECIPE}" / f"{self.name}.onnx"

    def build(self) -> Path:
        """Export the model, check it against the module, and put it into the cache."""
        return _build(self)


_SPECS = {spec.name: spec for spec in ARCHITECTURES}


def _entry(spec: Architecture, route: Route, small: bool) -> ZooEntry:
    """One row of the table. All routes keep the batch dynamic, and the sequence where one is."""
    dynamic = ("batch",) if spec.inputs == ("pixel_values",) else ("batch", "sequence")
    return ZooEntry(spec.name, route.name, route.opset, route.attention, small, dynamic)


ENTRIES: dict[str, ZooEntry] = {
    entry.name: entry
    for entry in (
        _entry(spec, route, small)
        for small in (True, False)
        for spec in ARCHITECTURES
        for route in ROUTES
    )
}


def cache_directory() -> Path:
    """Where the zoo lives: `$TUNESMITH_ZOO`, or the user's cache."""
    chosen = os.environ.get("TUNESMITH_ZOO")
    return Path(chosen) if chosen else Path(platformdirs.user_cache_dir("tunesmith")) / "zoo"


def unavailable() -> str | None:
    """Why no model can be built here, or None."""
    needed = ("torch", "transformers", "onnxscript")
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    return f"the zoo extra is not installed: no {', '.join(missing)}" if missing else None


def path(entry: ZooEntry) -> Path:
    """The entry's ONNX file, built if the cache lacks it."""
    return entry.file if entry.file.is_file() else entry.build()


def inputs(entry: ZooEntry, batch: int = 1, seq: int = 128, seed: int = 0) -> Arrays:
    """Random inputs as a user would send them: the rows after the first are padded at the end."""
    random = np.random.default_rng(seed)
    spec = entry.spec
    if spec.inputs == ("pixel_values",):
        size = spec.setting("image_size", entry.small)
        return {"pixel_values": random.standard_normal((batch, 3, size, size), dtype=np.float32)}
    lengths = random.integers(max(1, seq // 2), seq, size=(batch, 1), endpoint=True)
    lengths[0] = seq
    positions = np.arange(seq)[None, :]
    mask = (positions < lengths).astype(np.int64)
    vocabulary = spec.setting("vocab_size", entry.small)
    arrays: Arrays = {
        "input_ids": random.integers(1, vocabulary, size=(batch, seq)) * mask,
        "attention_mask": mask,
        "token_type_ids": (positions >= lengths // 2).astype(np.int64) * mask,
    }
    return {name: arrays[name] for name in spec.inputs}


def module(entry: ZooEntry) -> torch.nn.Module:
    """The PyTorch module of an entry, its weights seeded: positional arguments to tensors."""
    if reason := unavailable():
        raise ZooUnavailable(f"{entry.name} is not in {entry.file.parent}, and {reason}")
    import torch
    import transformers

    spec = entry.spec
    config = getattr(transformers, spec.config)(
        **spec.settings(entry.small), attn_implementation=entry.attention
    )
    model = getattr(transformers, spec.model)(config).eval()
    _perturb(model, small=entry.small)
    # onnxscript 0.7.2 fuses to RotaryEmbedding without a look at the batch of cos and sin: it is 1
    # when transformers makes the positions, and the standard wants the batch of the operand.
    explicit_positions = entry.route == "dynamo23" and spec.config == "LlamaConfig"

    class Positional(torch.nn.Module):  # type: ignore[misc]  # PyTorch is exempt: its base is Any
        """The model with positional arguments, tensors as results and no cache."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *args: torch.Tensor) -> tuple[torch.Tensor, ...]:
            call = dict(zip(spec.inputs, args, strict=True)) | dict(spec.call)
            if explicit_positions:
                batch, sequence = args[0].shape
                call["position_ids"] = torch.arange(sequence).unsqueeze(0).expand(batch, -1)
            result = self.model(**call)
            return tuple(result[name] for name in spec.outputs)

    return Positional().eval()


def _perturb(model: torch.nn.Module, small: bool) -> None:
    """Draw every parameter anew, so that no two are equal and no bias or norm is neutral.

    Exporters merge equal constants, and a lost bias of zeros would go unseen.
    """
    import torch

    generator = torch.Generator().manual_seed(SEED)
    deviation = 0.12 if small else 0.02  # narrow layers need more for as large a signal
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1 and bool((parameter == 1).all()):
                parameter.normal_(1.0, 0.1, generator=generator)
            else:
                parameter.normal_(0.0, deviation, generator=generator)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence what exporters say about themselves: deprecations, traces, missing torchvision."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "transformers")]
    loggers.append(logging.getLogger("torch.onnx._internal.exporter._registration"))
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def _build(entry: ZooEntry) -> Path:
    """Export to a folder beside the target, check, and only then move the file into place."""
    target = entry.file
    with _quiet():
        source = module(entry)
        target.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=".building-") as folder:
            exported = Path(folder) / target.name
            _export(entry, source, exported)
            _record(entry, source, exported)
            _check(entry, source, exported)
            # The weights first: the model's own file is what tells that the entry is complete.
            for file in sorted(Path(folder).glob(f"{target.name}*"), reverse=True):
                os.replace(file, target.parent / file.name)
    return target


def _export(entry: ZooEntry, source: torch.nn.Module, target: Path) -> None:
    """Run the exporter of the entry's route."""
    import torch

    spec = entry.spec
    arguments = _tensors(inputs(entry, batch=2, seq=10))
    if entry.route == "torchscript":
        names = (*spec.inputs, *(name for name in spec.outputs if name != "pooler_output"))
        axes = {name: dict(enumerate(entry.dynamic)) for name in names}
        if "logits" in spec.outputs and "sequence" not in entry.dynamic:
            axes["logits"] = {0: "batch"}
        axes |= {name: {0: "batch"} for name in spec.outputs if name == "pooler_output"}
        options: dict[str, object] = {"dynamo": False, "dynamic_axes": axes}
    else:
        sizes = {i: torch.export.Dim(name) for i, name in enumerate(entry.dynamic)}
        shapes = {"args": tuple(sizes for _ in spec.inputs)}
        options = {"dynamo": True, "dynamic_shapes": shapes, "verbose": False}
    with torch.no_grad():
        torch.onnx.export(
            source,
            arguments,
            str(target),
            opset_version=entry.opset,
            input_names=list(spec.inputs),
            output_names=list(spec.outputs),
            **options,
        )


def _record(entry: ZooEntry, source: torch.nn.Module, target: Path) -> None:
    """Write into the file how it came to be, and gather the weights into it unless too large."""
    import torch
    import transformers

    model = onnx.load(target)
    parameters = sum(parameter.numel() for parameter in source.parameters())
    facts = {
        "zoo": entry.name,
        "recipe": str(RECIPE),
        "seed": str(SEED),
        "parameters": str(parameters),
        "torch": str(torch.__version__),
        "transformers": str(transformers.__version__),
    }
    onnx.helper.set_model_props(model, facts)
    for leftover in target.parent.iterdir():
        leftover.unlink()
    if sum(len(tensor.raw_data) for tensor in model.graph.initializer) > EXTERNAL_BYTES:
        onnx.save_model(model, target, save_as_external_data=True, location=f"{target.name}.data")
    else:
        onnx.save_model(model, target)


def _check(entry: ZooEntry, source: torch.nn.Module, target: Path) -> None:
    """Compare the file in ONNX Runtime with the module at two shapes that were not traced."""
    import torch

    session = onnxruntime.InferenceSession(str(target), providers=["CPUExecutionProvider"])
    for batch, seq in ((1, 7), (3, 16)):
        arrays = inputs(entry, batch=batch, seq=seq, seed=batch)
        with torch.no_grad():
            expected = source(*_tensors(arrays))
        found = session.run(list(entry.spec.outputs), arrays)
        for name, want, have in zip(entry.spec.outputs, expected, found, strict=True):
            error = float(np.abs(want.numpy() - have).max())
            if not error <= TOLERANCE:  # a NaN is an error too
                raise ZooMismatch(f"{entry.name}: {name} is off by {error:.2e} at {batch}x{seq}")


def _tensors(arrays: Mapping[str, NDArray[np.generic]]) -> tuple[torch.Tensor, ...]:
    """The arrays as positional arguments of the module."""
    import torch

    return tuple(torch.from_numpy(array) for array in arrays.values())


def main(arguments: Sequence[str] | None = None) -> int:
    """List the table, or build entries and print their paths."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.zoo", description=__doc__)
    parser.add_argument("command", choices=("list", "build"))
    parser.add_argument("names", nargs="*", metavar="NAME", help="a name, or how one begins")
    parser.add_argument("--small", action="store_true", help="only the small variants")
    parser.add_argument("--force", action="store_true", help="build even what the cache has")
    options = parser.parse_args(arguments)
    chosen = [
        entry
        for name, entry in ENTRIES.items()
        if (entry.small or not options.small)
        and (not options.names or name.startswith(tuple(options.names)))
    ]
    if not chosen:
        parser.error(f"no entry is called {' or '.join(options.names)}")
    for entry in chosen:
        if options.command == "list":
            state = "built" if entry.file.is_file() else "-"
            print(f"{entry.name:40} {entry.blocks:2} blocks  {','.join(entry.dynamic):14}  {state}")
            continue
        print(entry.build() if options.force else path(entry), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
