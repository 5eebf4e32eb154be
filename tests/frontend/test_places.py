"""Operators that say where elements come from, determinants and running products."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from tunesmith.frontend import import_model
from tunesmith.ir.diagnostics import FrontendError, InputError
from tunesmith.ir.interpreter import evaluate

from .models import check, compare, declare, one, runtime

RNG = np.random.default_rng(47)


def f(*shape: int) -> NDArray[np.float32]:
    """Random floats."""
    return RNG.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize(("batch", "time"), [(1, 0), (0, 1)])
def test_reverse_sequence(batch: int, time: int) -> None:
    lengths = np.array([1, 4, 3, 2])
    proto, live = one("ReverseSequence", [f(4, 4, 3), lengths], batch_axis=batch, time_axis=time)
    check(proto, live)


@pytest.mark.parametrize("mode", ["linear", "circular"])
@pytest.mark.parametrize("rows", [1, 2, 5])
def test_tensor_scatter(mode: str, rows: int) -> None:
    start = np.array([0, 5 - rows if mode == "linear" else 4])
    past, update = f(2, 3, 5, 4), f(2, 3, rows, 4)
    proto, live = one("TensorScatter", [past, update, start], opset=24, mode=mode)
    wanted = past.copy()
    for b in range(2):
        for i in range(rows):
            wanted[b, :, (start[b] + i) % 5] = update[b, :, i]
    compare(evaluate(import_model(declare(proto, [wanted])), live), [wanted], 0)


def test_compress() -> None:
    flags = np.array([True, False, True])
    check(*one("Compress", [f(2, 3), flags], constants=[1], axis=1))
    check(*one("Compress", [f(2, 3), flags], constants=[1]))


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_determinants(size: int) -> None:
    check(*one("Det", [f(2, 3, size, size)]), 1e-4)
    check(*one("Det", [f(size, size)]), 1e-4)


def test_large_determinants_are_refused() -> None:
    proto, _ = one("Det", [f(5, 5)])
    with pytest.raises(FrontendError, match="1 to 4 rows"):
        import_model(declare(proto, [np.zeros((), np.float32)]))


@pytest.mark.parametrize("size", [0, 1, 2, 7, 16])
@pytest.mark.parametrize(("exclusive", "reverse"), [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_running_products(size: int, exclusive: int, reverse: int) -> None:
    x = f(2, size)
    proto, live = one("CumProd", [x, np.asarray(1)], opset=26, constants=[1], exclusive=exclusive,
                      reverse=reverse)  # fmt: skip
    turned = x[:, ::-1] if reverse else x
    if exclusive and size:
        turned = np.concatenate([np.ones((2, 1), np.float32), turned[:, :-1]], 1)
    found = np.cumprod(turned, 1)
    wanted = np.ascontiguousarray(found[:, ::-1] if reverse else found)
    compare(evaluate(import_model(declare(proto, [wanted])), live), [wanted], 1e-5)


@pytest.mark.parametrize("mode", ["edge", "reflect", "wrap"])
@pytest.mark.parametrize("pads", [[0, 0, 0, 3], [0, 2, 0, 0], [0, 1, 0, 2], [0, 3, 0, 3]])
def test_padding_of_open_sizes(mode: str, pads: list[int]) -> None:
    proto, live = one(
        "Pad", [f(2, 7), np.array(pads)], opset=19, constants=[1], mode=mode, symbolic=True
    )
    graph = check(proto, live)
    for size in (4, 5, 17):
        x = f(3, size)
        compare(evaluate(graph, {"x0": x}), runtime(proto, {"x0": x}), 0)


def test_an_open_size_is_long_enough_to_be_mirrored() -> None:
    proto, live = one(
        "Pad", [f(2, 7), np.array([0, 3, 0, 0])], constants=[1], mode="reflect", symbolic=True
    )
    graph = check(proto, live)
    with pytest.raises(InputError):
        evaluate(graph, {"x0": f(2, 3)})


@pytest.mark.parametrize("equation", ["ii->i", "...ii->...i", "iij,j->i", "ii->", "iii->i"])
def test_diagonals(equation: str) -> None:
    shapes = {"ii": (3, 3), "...ii": (2, 3, 3), "iij": (3, 3, 4), "j": (4,), "iii": (3, 3, 3)}
    feeds = [f(*shapes[term]) for term in equation.partition("->")[0].split(",")]
    proto, live = one("Einsum", feeds, equation=equation)
    wanted = np.asarray(np.einsum(equation, *feeds), np.float32)
    compare(evaluate(import_model(declare(proto, [wanted])), live), [wanted], 1e-5)
