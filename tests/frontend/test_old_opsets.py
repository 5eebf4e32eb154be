"""Operators before opset 7, which ONNX Runtime does not run: against NumPy."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import ModelProto

from tunesmith.frontend import import_model
from tunesmith.ir.diagnostics import FrontendError
from tunesmith.ir.interpreter import evaluate

from .models import F32, Array, compare, declare, model, node, one

Floats = NDArray[np.float32]
RNG = np.random.default_rng(3)
NONE: Mapping[str, object] = {}


def f(*shape: int) -> Floats:
    """Random floats."""
    return RNG.standard_normal(shape).astype(np.float32)


def old(
    operator: str, feeds: Sequence[Array], attributes: Mapping[str, object], known: bool = False
) -> tuple[ModelProto, dict[str, Array]]:
    """A model of one operator in opset 6."""
    constants = range(len(feeds)) if known else ()
    return one(operator, feeds, opset=6, constants=constants, **attributes)  # type: ignore[arg-type]  # a table


X, ROW, PLANE, CHANNEL, MIDDLE, ONE = f(2, 3, 4), f(4), f(3, 4), f(3), f(2), f(1)
COMPUTE: dict[str, Callable[[Floats, Floats], Floats]] = {
    "Add": lambda x, y: x + y,
    "Sub": lambda x, y: x - y,
    "Mul": lambda x, y: x * y,
    "Div": lambda x, y: x / y,
    "PRelu": lambda x, y: np.where(x < 0, x * y, x),
}


@pytest.mark.parametrize(
    ("operator", "y", "attributes", "stretched"),
    [
        ("Add", X, NONE, X),
        ("Sub", ROW, {"broadcast": 1}, ROW),
        ("Mul", PLANE, {"broadcast": 1}, PLANE),
        ("Add", CHANNEL, {"broadcast": 1, "axis": 1}, CHANNEL.reshape(3, 1)),
        ("Div", MIDDLE, {"broadcast": 1, "axis": 0}, MIDDLE.reshape(2, 1, 1)),
        ("Add", ONE, {"broadcast": 1}, ONE),
        ("PRelu", CHANNEL, NONE, CHANNEL.reshape(3, 1)),
        ("PRelu", ONE, NONE, ONE),
    ],
)
def test_a_second_operand_is_stretched_along_an_axis(
    operator: str, y: Floats, attributes: Mapping[str, object], stretched: Floats
) -> None:
    proto, feeds = old(operator, [X, y], attributes)
    wanted = [COMPUTE[operator](X, stretched)]
    compare(evaluate(import_model(declare(proto, wanted)), feeds), wanted, 1e-6)


@pytest.mark.parametrize("known", [True, False])
def test_known_operands_are_stretched_as_well(known: bool) -> None:
    """Sizes are folded while importing, and not by the rule of later opsets."""
    square, pair = np.array([[1, 2], [3, 4]]), np.array([10, 20])
    proto, feeds = old("Add", [square, pair], {"broadcast": 1, "axis": 0}, known)
    wanted = [np.array([[11, 12], [23, 24]])]
    compare(evaluate(import_model(declare(proto, wanted)), feeds), wanted, 0)


@pytest.mark.parametrize(
    ("operator", "feeds", "attributes", "words"),
    [
        ("Add", [X, ROW], NONE, "without `broadcast`"),
        ("Add", [X, ROW], {"broadcast": 1, "axis": 3}, "at axis 3"),
        ("Dropout", [X], NONE, "training mode"),
        ("BatchNormalization", [X, *[CHANNEL] * 4], NONE, "training mode"),
        ("BatchNormalization", [X, *[CHANNEL] * 4], {"is_test": 1, "spatial": 0}, "`spatial`"),
    ],
)
def test_what_is_refused(
    operator: str, feeds: list[Array], attributes: Mapping[str, object], words: str
) -> None:
    proto, _ = old(operator, feeds, attributes)
    with pytest.raises(FrontendError, match=words):
        import_model(declare(proto, [X]))


def test_dropout_and_normalization_in_test_mode() -> None:
    nodes = [
        node("Dropout", ["x"], ["d"], is_test=1),
        node("BatchNormalization", ["d", "s", "b", "m", "v"], ["y"], is_test=1),
    ]
    s, b, m, v = f(3), f(3), f(3), np.abs(f(3)) + 1
    proto = model(nodes, {"x": (F32, [2, 3, 4])}, ["y"], {"s": s, "b": b, "m": m, "v": v}, opset=6)
    s, b, m, v = (array.reshape(3, 1) for array in (s, b, m, v))
    wanted: list[Array] = [(X - m) / np.sqrt(v + 1e-5) * s + b]
    compare(evaluate(import_model(declare(proto, wanted)), {"x": X}), wanted, 1e-5)
