"""The cases of ONNX's backend suite, held against the frozen list in `cases.txt`.

Node cases are Python code that runs when its module is imported: only the modules of the wanted
cases are, for some take seconds. All other cases are files inside the `onnx` package.
"""

from __future__ import annotations

import importlib
import json
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from math import prod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from onnx import (
    ModelProto,
    OptionalProto,
    SequenceProto,
    TensorProto,
    TypeProto,
    load,
    numpy_helper,
)

__all__ = [
    "TOLERANCES", "Array", "Case", "DataSet", "Listed", "Tolerance", "Value", "as_value", "collect",
    "listed", "measure_core", "names",
]  # fmt: skip

Array = NDArray[np.generic]
Value = Array | list["Value"] | None  # a tensor, a sequence, or an optional that is absent
DataSet = tuple[list[Value], list[Value]]

LIST = Path(__file__).with_name("cases.txt")
NETWORK = "network"
KINDS = ("simple", "pytorch-operator", "pytorch-converted")
NODE = "onnx.backend.test.case.node"
CORE_OPSET = 23
CORE_TYPES = frozenset(
    {
        TensorProto.FLOAT16, TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.INT8,
        TensorProto.UINT8, TensorProto.INT32, TensorProto.INT64, TensorProto.BOOL,
    }
)  # fmt: skip


@dataclass(frozen=True)
class Tolerance:
    """How near an element must be, if not as near as the suite says, and why."""

    rtol: float
    atol: float
    reason: str


# Only a case whose expected values the exact answer misses may be here, and every engine is held
# to the same: `test_conformance.py` computes these answers in f64, and refuses what needs no entry.
TOLERANCES = {
    name: Tolerance(
        1e-3, 1e-6, "the values of ten elements are rounding noise of 1.9e-7 where zero is exact"
    )
    for name in ("test_dft_inverse", "test_dft_inverse_opset19")
}


@dataclass(frozen=True)
class Listed:
    """A line of `cases.txt`: a case, where it comes from, and which smaller sets it is in."""

    name: str
    source: str  # `node/<module>`, or the kind of a case on disk
    core: bool  # one of the 1,329 that every engine is measured by
    quick: bool  # one of the 300 that run in `make test`


@dataclass(frozen=True)
class Case:
    """A model, and what it must give for some inputs."""

    name: str
    model: ModelProto
    data_sets: Callable[[], Sequence[DataSet]]
    rtol: float
    atol: float


@cache
def listed() -> tuple[Listed, ...]:
    """The frozen list."""
    rows = (line.split() for line in LIST.read_text(encoding="utf-8").splitlines())
    return tuple(
        Listed(row[0], row[1], "core" in row[2:], "quick" in row[2:])
        for row in rows
        if row and row[0] != "#"
    )


def names(*, core: bool = False, quick: bool = False) -> tuple[str, ...]:
    """The names of the listed cases but networks; `core` and `quick` leave out the others."""
    return tuple(
        case.name
        for case in listed()
        if (case.core or not core) and (case.quick or not quick) and case.source != NETWORK
    )


def networks() -> tuple[str, ...]:
    """The names of the networks in the package, which are counted by themselves."""
    return tuple(case.name for case in listed() if case.source == NETWORK)


def collect(wanted: Iterable[str] | None = None) -> dict[str, Case]:
    """The cases by name, in the order of the list; all that there are if none are named.

    A case that the installed `onnx` does not have is left out: whoever counts will notice.
    """
    if wanted is None:
        found = {**_node_cases(None), **_disk_cases(None), **_networks(None)}
    else:
        chosen = set(wanted)
        rows = [case for case in listed() if case.name in chosen]
        modules = {row.source.partition("/")[2] for row in rows if row.source.startswith("node/")}
        found = {**_node_cases(modules), **_disk_cases(chosen), **_networks(chosen)}
        found = {name: case for name, case in found.items() if name in chosen}
    for name in found.keys() & TOLERANCES.keys():
        held = TOLERANCES[name]
        found[name] = replace(found[name], rtol=held.rtol, atol=held.atol)
    place = {case.name: number for number, case in enumerate(listed())}
    return dict(sorted(found.items(), key=lambda item: place.get(item[0], len(place))))


def _node_cases(modules: Iterable[str] | None) -> dict[str, Case]:
    package = importlib.import_module(NODE)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of NumPy: the expected values hold infinities
        if modules is None:
            importlib.import_module("onnx.backend.test.case.utils").import_recursive(package)
        else:
            for module in sorted(modules):
                importlib.import_module(f"{NODE}.{module}")
    return {
        case.name: Case(case.name, case.model, _node_data(case.data_sets), case.rtol, case.atol)
        for case in package._NodeTestCases
    }


def _node_data(data_sets: Sequence[tuple[Sequence[object], Sequence[object]]]) -> Callable[
    [], Sequence[DataSet]
]:  # fmt: skip
    def read() -> Sequence[DataSet]:
        return [([*map(as_value, given)], [*map(as_value, wanted)]) for given, wanted in data_sets]

    return read


def as_value(item: object) -> Value:
    """A value as an array: some cases hold NumPy's scalars, and some ONNX's tensors."""
    if item is None:
        return None
    if isinstance(item, list | tuple):
        return [as_value(inner) for inner in item]
    if isinstance(item, TensorProto):
        item = numpy_helper.to_array(item)
    return np.asarray(item, order="C")  # `ascontiguousarray` would give a scalar an axis


def _networks(wanted: set[str] | None) -> dict[str, Case]:
    """Networks of the size of real ones, whose weights are one number each.

    As the suite's own runner has it, they read evenly spaced numbers from 0 to 1.
    """
    root = Path(importlib.import_module("onnx.backend.test").__path__[0]) / "data"
    found = {}
    for settings in sorted((root / "real").glob("*/data.json")):
        name, given = settings.parent.name, json.loads(settings.read_text())
        if wanted is not None and name not in wanted:
            continue
        path = root / "light" / Path(given["url"]).name
        data = partial(_network_data, path)
        found[name] = Case(name, load(path), data, given["rtol"], given["atol"])
    return found


def _network_data(path: Path) -> Sequence[DataSet]:
    model = load(path)
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in weights]
    shapes = [[d.dim_value or 1 for d in i.type.tensor_type.shape.dim] for i in inputs]
    given = [np.arange(prod(s), dtype=np.float64).reshape(s) / prod(s) for s in shapes]
    wanted = [*_files(path.parent, f"{path.stem}_output", [v.type for v in model.graph.output])]
    return [([array.astype(np.float32) for array in given], wanted)]


def _disk_cases(wanted: set[str] | None) -> dict[str, Case]:
    root = Path(importlib.import_module("onnx.backend.test").__path__[0]) / "data"
    found = {}
    for kind in KINDS:
        for folder in sorted((root / kind).iterdir()):
            if not (folder / "model.onnx").is_file():
                continue
            if wanted is not None and folder.name not in wanted:
                continue
            settings = folder / "data.json"
            given = json.loads(settings.read_text()) if settings.is_file() else {}
            model = load(folder / "model.onnx")
            found[folder.name] = Case(
                folder.name, model, _disk_data(folder, model),
                given.get("rtol", 1e-3), given.get("atol", 1e-7),
            )  # fmt: skip
    return found


def _disk_data(folder: Path, model: ModelProto) -> Callable[[], Sequence[DataSet]]:
    def read() -> Sequence[DataSet]:
        return [
            (
                list(_files(place, "input", [value.type for value in model.graph.input])),
                list(_files(place, "output", [value.type for value in model.graph.output])),
            )
            for place in sorted(folder.glob("test_data_set*"))
        ]

    return read


def _files(folder: Path, stem: str, types: Sequence[TypeProto]) -> Iterator[Value]:
    for number in range(len(list(folder.glob(f"{stem}_*.pb")))):
        data = (folder / f"{stem}_{number}.pb").read_bytes()
        if types[number].HasField("sequence_type"):
            yield as_value(numpy_helper.to_list(SequenceProto.FromString(data)))
        elif types[number].HasField("optional_type"):
            yield as_value(numpy_helper.to_optional(OptionalProto.FromString(data)))
        else:
            yield as_value(TensorProto.FromString(data))


def measure_core(model: ModelProto) -> bool:
    """Whether a case belongs to the core: how that part of the list was made, and is tested.

    Its inputs and outputs are plain tensors of eight element types, all operators are standard
    ones, and the opset is one that engines of today know. What is inside does not count.
    """
    plain = all(
        value.type.WhichOneof("value") == "tensor_type"
        and value.type.tensor_type.elem_type in CORE_TYPES
        for value in [*model.graph.input, *model.graph.output]
    )
    return plain and all(
        entry.domain in ("", "ai.onnx") and entry.version <= CORE_OPSET
        for entry in model.opset_import
    )
