"""What the board asks of an engine: to build, to load, to run, and to show its outputs."""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

import tunesmith

__all__ = [
    "SLOW_SECONDS",
    "SLOW_TIMES",
    "Arrays",
    "Job",
    "Loaded",
    "Peer",
    "Unsupported",
    "fixed_model",
    "folded_model",
    "named",
    "size_of",
]

Arrays = Mapping[str, NDArray[np.generic]]

# An engine of which one run takes longer than both, so many times the quickest engine's and so many
# seconds, is not given rounds.
SLOW_TIMES, SLOW_SECONDS = 20.0, 2.0


class Unsupported(Exception):
    """An engine cannot take part in a row, and this is why."""


@functools.cache
def _stored(path: Path) -> Arrays:
    with np.load(path) as stored:
        return {name: stored[name] for name in stored.files}


@dataclass(frozen=True)
class Job:
    """One model at one size with one number of threads: all that an engine is told."""

    model: Path
    subject: str  # what the row calls the model: a zoo entry has a PyTorch module too
    inputs: Path  # an .npz file
    outputs: tuple[str, ...]
    bounds: Mapping[str, tuple[int, int]]  # of the axes that a dynamic artifact leaves open
    optimizer: str  # the model type of ONNX Runtime's transformer optimizer, or nothing
    threads: int
    folder: Path  # where a build goes, of its own for each engine
    cores: tuple[int, ...] = ()

    def feeds(self) -> Arrays:
        """The inputs, which are read once."""
        return {name: array.copy() for name, array in _stored(self.inputs).items()}

    def as_json(self) -> dict[str, object]:
        """The job as JSON."""
        paths = {name: str(getattr(self, name)) for name in ("model", "inputs", "folder")}
        return self.__dict__ | paths | {"bounds": dict(self.bounds)}

    @staticmethod
    def from_json(row: Mapping[str, object]) -> Job:
        """The job that `as_json` wrote."""
        bounds = cast("Mapping[str, list[int]]", row["bounds"])
        return Job(
            model=Path(str(row["model"])), subject=str(row["subject"]),
            inputs=Path(str(row["inputs"])), folder=Path(str(row["folder"])),
            outputs=tuple(cast("list[str]", row["outputs"])),
            bounds={name: (low, high) for name, (low, high) in bounds.items()},
            optimizer=str(row["optimizer"]), threads=cast("int", row["threads"]),
            cores=tuple(cast("list[int]", row["cores"])),
        )  # fmt: skip


@dataclass(frozen=True)
class Loaded:
    """A model that an engine is ready to run."""

    run: Callable[[], Any]
    outputs: Callable[[Any], Arrays]  # what a run returned, before the next run
    file_bytes: int = 0
    compile_s: float | None = None  # of an engine that compiles while it loads
    engaged: Mapping[str, str] = field(default_factory=dict)  # what the engine says it does


@dataclass(frozen=True)
class Peer:
    """One engine of the board."""

    name: str
    title: str
    packages: tuple[str, ...]  # distributions; of others the first one's version is shown
    start: Callable[[], None]  # imports what `load` needs
    load: Callable[[Job], Loaded]
    build: Callable[[Job], None] | None = None
    build_depends: tuple[str, ...] = ("shapes", "threads")  # what a build is good for alone
    ours: bool = False
    environment: Mapping[str, str] = field(default_factory=dict)

    @property
    def version(self) -> str:
        """The installed version, or nothing."""
        if self.ours:
            return str(tunesmith.__version__)
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            return importlib.metadata.version(self.packages[0])
        return ""

    @property
    def missing(self) -> str:
        """Why the engine cannot run here, or nothing."""
        absent = []
        for package in self.packages:
            try:
                importlib.metadata.version(package)
            except importlib.metadata.PackageNotFoundError:
                absent.append(package)
        return f"not installed: {', '.join(absent)}" if absent else ""


def named(job: Job, results: Mapping[str, NDArray[np.generic]] | object) -> Arrays:
    """Results that come in order, by the names of the model's outputs."""
    arrays = [np.asarray(result) for result in cast("list[object]", results)]
    return dict(zip(job.outputs, arrays, strict=True))


def size_of(*paths: Path) -> int:
    """The bytes of files, with the weights that a model keeps beside itself."""
    data = [path.with_name(f"{path.name}.data") for path in paths]
    return sum(path.stat().st_size for path in (*paths, *data) if path.is_file())


def fixed_model(job: Job) -> Path:
    """The ONNX file with its inputs fixed to the job's sizes, in the job's folder."""
    import onnx

    path = job.folder / "fixed.onnx"
    model = onnx.load(job.model)
    feeds = job.feeds()
    for value in model.graph.input:
        if value.name in feeds:
            dims = value.type.tensor_type.shape.dim
            for dim, size in zip(dims, feeds[value.name].shape, strict=True):
                dim.dim_value = size
    del model.graph.value_info[:]  # they name the symbols that are gone now
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    onnx.save(onnx.shape_inference.infer_shapes(model), path)
    return path


def folded_model(job: Job) -> Path:
    """The file at fixed shapes after ONNX Runtime's basic clean-up, in the job's folder.

    Neither IREE's importer nor TVM's takes all exports as they are: computed shapes trip them up.
    """
    import onnxruntime

    path = job.folder / "folded.onnx"
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(path)
    options.log_severity_level = 3
    source = fixed_model(job)
    onnxruntime.InferenceSession(str(source), options, providers=["CPUExecutionProvider"])
    source.unlink()
    return path
