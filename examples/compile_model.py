"""Compile an ONNX model in Python, save and run it: `python examples/compile_model.py m.onnx`."""
# ruff: noqa: INP001  # a script, not a module of a package

from __future__ import annotations

import sys
from pathlib import Path

import tunesmith
from tunesmith.random_inputs import make_inputs, sizes_to_bench


def main(source: Path) -> None:
    """Compile `source` to a file beside it, and print what it gives for random inputs."""
    artifact = tunesmith.compile_model(source, target="host", preset="O2", progress=print)
    path = artifact.save(source.with_suffix(".tsm"))
    print(f"written {path}, fused {artifact.manifest.report['fused']}")

    model = tunesmith.load(path)
    inputs = make_inputs(model.inputs, sizes_to_bench(model.manifest.symbols))
    for name, array in model.run(inputs).items():
        print(name, array.dtype, array.shape)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
