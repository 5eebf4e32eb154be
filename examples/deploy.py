"""Run a compiled model where no compiler is: needs NumPy and TVM's small runtime, nothing else.

`python examples/deploy.py m.tsm x=1x4` fills the input `x` with numbers from 0 to 1.
"""
# ruff: noqa: INP001  # a script, not a module of a package

from __future__ import annotations

import sys

import numpy as np

from tunesmith.runtime import load


def main(path: str, shapes: list[str]) -> None:
    """Load, run once, and print the outputs."""
    model = load(path, strict=True)  # hashes the weights as well
    pairs = (text.split("=") for text in shapes)
    sizes = {name: tuple(map(int, shape.split("x"))) for name, shape in pairs}
    inputs = {
        spec.name: np.linspace(0, 1, int(np.prod(sizes[spec.name])))
        .reshape(sizes[spec.name])
        .astype(spec.dtype)
        for spec in model.inputs
    }
    for name, array in model.run(inputs).items():
        print(name, array.shape, array.ravel()[:4])


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
