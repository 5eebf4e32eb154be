"""Architectures at their real size, exported to ONNX and kept in a cache on disk.

`python -m benchmarks.zoo list` shows the table, `build` fills the cache. Weights are random, but
for `minilm-l6`: speed, memory, import and fusion may be claimed on these models, accuracy and the
loss of quantization or pruning never.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import onnxruntime
import platformdirs
from numpy.typing import NDArray

from benchmarks.zoo_board import BOARD_ARCHITECTURES
from benchmarks.zoo_configs import ARCHITECTURES, Architecture, Route
from benchmarks.zoo_exporters import export_dim, quiet
from benchmarks.zoo_forms import Arrays as Arrays
from benchmarks.zoo_forms import call_module, dynamic_axes, make_arrays, onnx_axes
from benchmarks.zoo_weights import SEED, make_model
from tunesmith.samples import SampleMissing

if TYPE_CHECKING:
    import torch

RECIPE = 1  # part of every path: raise it when the same entry would give another file
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
        return self.spec.small_blocks if self.small else self.spec.blocks

    @property
    def inputs(self) -> tuple[str, ...]:
        """The names of the inputs, in order."""
        return tuple(self.spec.axes_of(self.spec.inputs, self.small))

    @property
    def outputs(self) -> tuple[str, ...]:
        """The names of the outputs, in order."""
        return tuple(self.spec.axes_of(self.spec.outputs, self.small))

    @property
    def file(self) -> Path:
        """Where the cache keeps the model, built or not."""
        return cache_directory() / f"v{RECIPE}" / f"{self.name}.onnx"

    def build(self) -> Path:
        """Export the model, check it against the module, and put it into the cache."""
        return _build(self)


_SPECS = {spec.name: spec for spec in (*ARCHITECTURES, *BOARD_ARCHITECTURES)}


def _entry(spec: Architecture, route: Route, small: bool) -> ZooEntry:
    """One row of the table. All routes keep the batch dynamic, and all lengths."""
    dynamic = dynamic_axes(spec, small)
    return ZooEntry(spec.name, route.name, route.opset, route.attention, small, dynamic)


def _table(specs: Sequence[Architecture]) -> dict[str, ZooEntry]:
    """All sizes and routes of some architectures, by name."""
    entries = [
        _entry(spec, route, small)
        for small in (True, False)
        for spec in specs
        if not (small and spec.weights)
        for route in spec.routes
    ]
    return {entry.name: entry for entry in entries}


ENTRIES = _table(ARCHITECTURES)  # one pass over whole sequences or images, through all routes
BOARD_ENTRIES = _table(BOARD_ARCHITECTURES)
TABLE = ENTRIES | BOARD_ENTRIES


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
    """Random inputs as a user would send them: the rows after the first are padded.

    A third dynamic axis is a little longer than `seq`, so that no axis is taken for another.
    """
    sizes = {axis: seq + 3 * i for i, axis in enumerate(entry.dynamic[1:])}
    return make_arrays(entry.spec, entry.small, {entry.dynamic[0]: batch} | sizes, seed)


def module(entry: ZooEntry) -> torch.nn.Module:
    """The PyTorch module of an entry, its weights seeded: positional arguments to tensors."""
    if reason := unavailable():
        raise ZooUnavailable(f"{entry.name} is not in {entry.file.parent}, and {reason}")
    import torch

    spec, names = entry.spec, entry.inputs
    try:
        model = make_model(spec, entry.small, entry.attention)
    except SampleMissing as missing:
        raise ZooUnavailable(f"{entry.name} is not in {entry.file.parent}: {missing}") from None
    # onnxscript 0.7.2 fuses to RotaryEmbedding without a look at the batch of cos and sin: it is 1
    # when transformers makes the positions, and the standard wants the batch of the operand.
    explicit_positions = entry.route == "dynamo23" and spec.config == "LlamaConfig"

    class Positional(torch.nn.Module):  # type: ignore[misc]  # PyTorch is exempt: its base is Any
        """The model with positional arguments, and tensors as results."""

        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, *args: torch.Tensor) -> tuple[torch.Tensor, ...]:
            tensors = dict(zip(names, args, strict=True))
            return call_module(spec, self.model, tensors, explicit_positions)

    return Positional().eval()


def _build(entry: ZooEntry) -> Path:
    """Export to a folder beside the target, check, and only then move the file into place."""
    target = entry.file
    with quiet():
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
    axes = onnx_axes(spec, spec.inputs, entry.small)
    if entry.route == "torchscript":
        axes |= onnx_axes(spec, spec.outputs, entry.small)
        options: dict[str, object] = {"dynamo": False, "dynamic_axes": axes}
    else:
        dims = {name: torch.export.Dim(name) for name in entry.dynamic}
        shapes = tuple(
            {i: export_dim(axis, dims) for i, axis in dynamic.items()} for dynamic in axes.values()
        )
        options = {"dynamo": True, "dynamic_shapes": {"args": shapes}, "verbose": False}
    with torch.no_grad():
        torch.onnx.export(
            source,
            arguments,
            str(target),
            opset_version=entry.opset,
            input_names=list(entry.inputs),
            output_names=list(entry.outputs),
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
        found = session.run(list(entry.outputs), arrays)
        for name, want, have in zip(entry.outputs, expected, found, strict=True):
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
        for name, entry in TABLE.items()
        if (entry.small or not options.small)
        and (not options.names or name.startswith(tuple(options.names)))
    ]
    if not chosen:
        parser.error(f"no entry is called {' or '.join(options.names)}")
    for entry in chosen:
        if options.command == "list":
            state = "built" if entry.file.is_file() else "-"
            print(f"{entry.name:46} {entry.blocks:2} blocks  {','.join(entry.dynamic):17}  {state}")
            continue
        print(entry.build() if options.force else path(entry), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
