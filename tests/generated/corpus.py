"""Generated models as cases: what PyTorch gave is expected, until others vote against it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
import onnx

from tests.conformance.suite import Case, DataSet

__all__ = ["KEPT", "choose", "keep", "operators", "read", "seeds"]

KEPT = Path(__file__).with_name("models")  # those that tests run
LARGEST = 12_000  # bytes of a model and its arrays, to be kept
# nnsmith's own: its models hold chains of reductions, and integers made of floats.
RTOL, ATOL = 1e-2, 1e-3


def seeds(folder: Path) -> list[int]:
    """The seeds of the models in a folder, in order."""
    return sorted(int(path.stem) for path in folder.glob("*.onnx"))


def read(folder: Path, chosen: Iterable[int] | None = None) -> list[Case]:
    """The models of a folder, all of them if none are chosen."""
    return [
        Case(str(seed), onnx.load(folder / f"{seed}.onnx"), _data(folder / f"{seed}.npz"),
             RTOL, ATOL)
        for seed in (seeds(folder) if chosen is None else chosen)
    ]  # fmt: skip


def _data(path: Path) -> Callable[[], Sequence[DataSet]]:
    def load() -> Sequence[DataSet]:
        model = onnx.load(path.with_suffix(".onnx"))
        with np.load(path, allow_pickle=False) as arrays:
            given = [arrays[f"in:{value.name}"] for value in model.graph.input]
            wanted = [arrays[f"out:{value.name}"] for value in model.graph.output]
        return [([*given], [*wanted])]

    return load


def operators(case: Case) -> set[tuple[str, int]]:
    """What a case tries: each operator by the element type of the first result we know of it."""
    inferred = onnx.shape_inference.infer_shapes(case.model)
    values = [*inferred.graph.value_info, *inferred.graph.output]
    types = {value.name: value.type.tensor_type.elem_type for value in values}
    return {(node.op_type, types.get(node.output[0], 0)) for node in inferred.graph.node}


def choose(folder: Path, count: int) -> list[int]:
    """Small models, each the one that tries the most that those before it do not.

    Ties go to the lower seed.
    """
    small = [case for case in read(folder) if _size(folder, case.name) <= LARGEST]
    tries = {int(case.name): operators(case) for case in small}
    chosen: list[int] = []
    covered: set[tuple[str, int]] = set()
    while tries and len(chosen) < count:
        best = max(tries, key=lambda seed: (len(tries[seed] - covered), -seed))
        covered |= tries.pop(best)
        chosen.append(best)
    return sorted(chosen)


def _size(folder: Path, name: str) -> int:
    return sum((folder / f"{name}{suffix}").stat().st_size for suffix in (".onnx", ".npz"))


def keep(folder: Path, count: int, into: Path = KEPT) -> list[int]:
    """Copy the chosen ones to where tests find them, in the place of those before."""
    chosen = choose(folder, count)
    shutil.rmtree(into, ignore_errors=True)
    into.mkdir()
    for seed in chosen:
        for suffix in (".onnx", ".npz"):
            shutil.copyfile(folder / f"{seed}{suffix}", into / f"{seed}{suffix}")
    return chosen
