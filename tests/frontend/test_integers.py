"""Products and convolutions of integers are exact, in whichever type they are computed."""

from __future__ import annotations

import numpy as np
import pytest

from .models import Array, check, counts, one

RNG = np.random.default_rng(59)


def ints(dtype: type, *shape: int) -> Array:
    """Random integers of the whole range of a type."""
    limits = np.iinfo(dtype)
    return RNG.integers(limits.min, limits.max, shape, endpoint=True).astype(dtype)


@pytest.mark.parametrize("right", [np.int8, np.uint8])
@pytest.mark.parametrize("rows", [1, 17, 700, 2500])
def test_products_by_a_known_matrix(right: type, rows: int) -> None:
    b = ints(right, rows, 5)
    zeros: list[list[Array | None]] = [
        [], [ints(np.uint8)], [ints(np.uint8), ints(right)], [ints(np.uint8, 1), ints(right, 5)],
    ]  # fmt: skip
    for some in zeros:
        feeds = [ints(np.uint8, 2, 3, rows), b, *some]
        proto, live = one("MatMulInteger", feeds, constants=[1, 2, 3])
        graph = check(proto, live, 0)
        assert counts(graph)["linear"] >= 1


def test_the_greatest_sums() -> None:
    a = np.full((2, 4000), 255, np.uint8)
    for b in (np.full((4000, 3), -128, np.int8), np.full((4000, 3), 127, np.int8)):
        check(*one("MatMulInteger", [a, b], constants=[1]), 0)


def test_too_many_parts() -> None:
    feeds = [np.full((1, 9000), 255, np.uint8), np.full((9000, 1), -128, np.int8)]
    proto, live = one("MatMulInteger", feeds, constants=[1])
    assert not counts(check(proto, live, 0))["linear"]


@pytest.mark.parametrize("channels", [1, 3, 200])
def test_convolutions(channels: int) -> None:
    x, weight = ints(np.uint8, 1, channels, 5, 6), ints(np.uint8, 4, channels, 3, 3)
    zeros: list[list[Array]] = [[], [ints(np.uint8)], [ints(np.uint8), ints(np.uint8)]]
    for some in zeros:
        check(*one("ConvInteger", [x, weight, *some], constants=[1, 2, 3], pads=[1, 1, 1, 1]), 0)


def test_a_live_weight() -> None:
    feeds = [ints(np.uint8, 2, 9), ints(np.int8, 9, 4), ints(np.uint8), ints(np.int8)]
    check(*one("MatMulInteger", feeds), 0)
