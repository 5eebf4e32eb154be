"""Random inputs for a graph, small and reproducible, and what it gives for them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tunesmith.ir.dims import evaluate_dim
from tunesmith.ir.graph import Graph
from tunesmith.ir.types import DType

__all__ = ["assert_close", "random_feeds"]


def random_feeds(graph: Graph, seed: int = 0) -> dict[str, NDArray[np.generic]]:
    """One tensor for each input; symbols are 2, 3, 4, … in order, within their bounds."""
    rng = np.random.default_rng(seed)
    sizes = {
        name: max(symbol.low, min(place + 2, symbol.high or place + 2))
        for place, (name, symbol) in enumerate(graph.symbols().items())
    }
    feeds: dict[str, NDArray[np.generic]] = {}
    for value in graph.inputs:
        shape = tuple(evaluate_dim(size, sizes) for size in value.type.shape)
        dtype = value.type.dtype
        if dtype.is_float:
            feeds[value.name] = rng.standard_normal(shape).astype(dtype.numpy)
        elif dtype is DType.bool:
            feeds[value.name] = rng.random(shape) < 0.5
        else:
            feeds[value.name] = rng.integers(0, 2, shape).astype(dtype.numpy)
    return feeds


def assert_close(
    before: list[NDArray[np.generic]], after: list[NDArray[np.generic]], rtol: float = 1e-5
) -> None:
    """Integers and flags are exact, floats within `rtol` of the greatest, NaNs in their places."""
    for one, other in zip(before, after, strict=True):
        assert one.dtype == other.dtype and one.shape == other.shape
        if one.dtype.kind in "biu":
            np.testing.assert_array_equal(one, other)
            continue
        wide = one.astype(np.float64)
        finite = np.abs(wide[np.isfinite(wide)])
        scale = float(finite.max(initial=1.0))
        np.testing.assert_allclose(other.astype(np.float64), wide, rtol=rtol, atol=rtol * scale)
