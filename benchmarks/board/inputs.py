"""The model of a row, its inputs, and what ONNX Runtime makes of them: the reference.

`python -m benchmarks.board.inputs REQUEST` does it in a process of its own, so that the board's
process loads no engine; `inputs.npz`, `reference.npz` and `facts.json` are what it leaves.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypedDict, cast

import numpy as np

from benchmarks.board.rows import BoardRow
from benchmarks.peers_contract import Arrays
from benchmarks.spine_rows import write_text

__all__ = ["FACTS", "INPUTS", "MAKERS", "REFERENCE", "Facts", "prepare"]

INPUTS, REFERENCE, FACTS = "inputs.npz", "reference.npz", "facts.json"


class Facts(TypedDict):
    """What a row's process found out."""

    model: str
    outputs: list[str]
    bounds: dict[str, list[int]]
    error: str


def _model(row: BoardRow) -> Path:
    """The ONNX file, built if it is an entry of the zoo that the cache lacks."""
    from benchmarks import zoo
    from tunesmith.samples import SAMPLES, locate

    if row.model in zoo.TABLE:
        return zoo.path(zoo.TABLE[row.model])
    return locate(row.model) if row.model in SAMPLES else Path(row.model)


def _subject(row: BoardRow) -> Arrays:
    """Inputs that the spine knows how to make."""
    from benchmarks.spine_subjects import find_subject

    return find_subject(row.model).feeds(row.size)


def _declared(row: BoardRow) -> Arrays:
    """Random inputs by what the file declares."""
    import onnx

    from tunesmith.random_inputs import make_inputs
    from tunesmith.runtime.manifest import TensorSpec

    model = onnx.load(_model(row), load_external_data=False)
    constants = {tensor.name for tensor in model.graph.initializer}
    specs = []
    for value in model.graph.input:
        if value.name in constants:
            continue
        tensor = value.type.tensor_type
        declared = [dim.dim_param or int(dim.dim_value) for dim in tensor.shape.dim]
        dtype = str(onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type))
        specs.append(TensorSpec(value.name, dtype, tuple(row.shapes.get(value.name, declared))))
    return make_inputs(specs, row.axes)


MAKERS: dict[str, Callable[[BoardRow], Arrays]] = {
    "tokens": _subject,
    "pixels": _subject,
    "declared": _declared,
}


def _bounds(row: BoardRow) -> dict[str, list[int]]:
    from benchmarks.spine_subjects import find_subject

    known = row.bounds or ({} if row.inputs == "declared" else find_subject(row.model).dims)
    return {name: list(bound) for name, bound in known.items()}


def prepare(row: BoardRow, folder: Path) -> Facts:
    """Write the inputs and the reference of a row into a folder."""
    from tunesmith.oracle import OnnxSession

    model = _model(row)
    feeds = MAKERS[row.inputs](row)
    session = OnnxSession(model)
    reference = session.run({name: feeds[name] for name in session.input_names if name in feeds})
    for name, array in reference.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ValueError(f"ONNX Runtime's own output `{name}` is not finite")
    save = cast("Callable[..., None]", np.savez)  # its names are free, but the stub has others
    save(folder / INPUTS, **feeds)
    save(folder / REFERENCE, **reference)
    return Facts(model=str(model), outputs=list(reference), bounds=_bounds(row), error="")


def main(arguments: list[str]) -> int:
    """Prepare the row of a request; an error is a fact as well."""
    request = json.loads(arguments[0])
    folder = Path(request["folder"])
    try:
        facts = prepare(BoardRow.from_json(request["row"]), folder)
    except Exception as error:  # of any kind: the table tells what it was
        why = f"{type(error).__name__}: {error}"
        facts = Facts(model="", outputs=[], bounds={}, error=why)
    write_text(folder / FACTS, json.dumps(facts))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
