"""tunesmith as an engine of the board: an artifact for any size, and one for a single size."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

from benchmarks.peers_contract import Job, Loaded, Unsupported

__all__ = ["build_dynamic", "build_static", "build_tuned", "load", "start"]

ARTIFACT = "model.tsm"


def start() -> None:
    """Import the runtime and the library under it, which would import PyTorch too."""
    blocked = "torch" not in sys.modules
    if blocked:
        sys.modules["torch"] = None  # type: ignore[assignment]  # makes `import torch` fail
    try:
        import tvm_ffi
    finally:
        if blocked:
            del sys.modules["torch"]
    import tunesmith.runtime

    assert tvm_ffi and tunesmith.runtime


def build_dynamic(job: Job) -> None:
    """Compile for every size within the bounds."""
    _build(job, None, job.bounds)


def build_static(job: Job) -> None:
    """Compile for the shapes of the inputs alone."""
    _build(job, {name: array.shape for name, array in job.feeds().items()}, None)


def build_tuned(job: Job) -> None:
    """Compile for the shapes of the inputs by what `python -m benchmarks.tuning` found.

    Where it found nothing that is quicker, that is the untuned artifact.
    """
    from tunesmith.autotune.database import open_database
    from tunesmith.tuned_compile import compile_with_records

    shapes = {name: array.shape for name, array in job.feeds().items()}
    with open_database() as store:
        artifact = compile_with_records(job.model, store, shapes=shapes, threads=job.threads)
    tuned = artifact.manifest.report["tuned"]
    assert isinstance(tuned, dict)
    if not tuned["tried"] and not tuned["kernels"]:
        raise Unsupported("it was never tuned")
    artifact.save(job.folder / ARTIFACT)


def _build(
    job: Job,
    shapes: Mapping[str, Sequence[int]] | None,
    dims: Mapping[str, tuple[int, int]] | None,
) -> None:
    from tunesmith.driver import compile_model

    artifact = compile_model(job.model, shapes=shapes, dims=dims, threads=job.threads)
    artifact.save(job.folder / ARTIFACT)


def load(job: Job) -> Loaded:
    """Map the artifact; the inputs lie where no copy of them is needed."""
    from tunesmith.runtime import load as open_artifact
    from tunesmith.runtime.tvm_module import aligned_copy

    path = job.folder / ARTIFACT
    executable = open_artifact(path, threads=job.threads)
    arrays = {name: aligned_copy(array) for name, array in job.feeds().items()}
    return Loaded(
        run=lambda: executable.run(arrays),
        outputs=lambda results: results,
        file_bytes=path.stat().st_size,
        engaged={"threads": str(executable.threads), "cpu": executable.manifest.target.cpu},
    )
