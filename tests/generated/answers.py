"""What an engine gives for each case, by the forked children of the conformance suite."""

from __future__ import annotations

import gc
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from tests.conformance.child import DEADLINE, run_cases
from tests.conformance.engines import Engine, Refused, one_line
from tests.conformance.records import Row
from tests.conformance.suite import Case, as_value
from tests.generated.vote import Answer

__all__ = ["answers"]


def answers(
    cases: Sequence[Case], engine: Engine, *, jobs: int = 1, deadline: float = DEADLINE
) -> Iterator[tuple[str, Answer]]:
    """Each case in a child of its own, by name; a child leaves its outputs in a file."""
    with tempfile.TemporaryDirectory(prefix="generated-") as name:
        folder = Path(name)

        def body(case: Case, engine: Engine) -> Row:
            return _run(case, engine, folder / f"{case.name}.npz")

        gc.collect()
        gc.freeze()  # children then touch no page of what the parent holds
        for row in run_cases(cases, engine, jobs=jobs, deadline=deadline, body=body):
            path = folder / f"{row.name}.npz"
            if row.column != "ran":
                yield row.name, Answer(row.column, (), row.reason)
                continue
            with np.load(path, allow_pickle=False) as arrays:
                outputs = [arrays[f"arr_{number}"] for number in range(len(arrays.files))]
            path.unlink()
            yield row.name, Answer("ran", outputs)


def _run(case: Case, engine: Engine, path: Path) -> Row:
    """Compile, run, and keep what comes out."""
    ((given, _),) = case.data_sets()
    try:
        outputs = [as_value(item) for item in engine.prepare(case.model, {})(given)]
    except Refused as error:
        return Row(case.name, "unsupported", str(error))
    except Exception as error:  # whatever an engine raises is its answer
        return Row(case.name, "error", f"{type(error).__name__}: {one_line(error)}")
    arrays = [item for item in outputs if isinstance(item, np.ndarray)]
    assert len(arrays) == len(outputs), "generated models have only tensors"
    np.savez(path, *arrays)
    return Row(case.name, "ran")
