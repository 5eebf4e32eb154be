"""Operators without a rule that ONNX defines by smaller ones."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from tunesmith.frontend import import_model
from tunesmith.ir.diagnostics import FrontendError, UnsupportedOp

from .models import Array, check, declare, one

RNG = np.random.default_rng(17)
LABELS = np.array([[0, 2, 1], [1, 1, 0]])


def f(*shape: int) -> Array:
    """Random floats."""
    return RNG.standard_normal(shape).astype(np.float32)


CASES: list[tuple[str, int, list[Array], Mapping[str, object]]] = [
    ("NegativeLogLikelihoodLoss", 17, [f(2, 3, 3), LABELS], {}),
    ("NegativeLogLikelihoodLoss", 17, [f(2, 3, 3), LABELS, f(3)], {"reduction": "sum"}),
    ("NegativeLogLikelihoodLoss", 17, [f(2, 3, 3), LABELS], {"ignore_index": 1}),
    ("SoftmaxCrossEntropyLoss", 17, [f(2, 3, 3), LABELS], {"reduction": "none"}),
    ("SoftmaxCrossEntropyLoss", 17, [f(2, 3, 3), LABELS, f(3)], {"outputs": 2}),
    ("CenterCropPad", 18, [f(5, 8), np.array([7, 4])], {"constants": [1]}),
    ("AffineGrid", 20, [f(2, 2, 3), np.array([2, 1, 5, 4])], {"constants": [1]}),
    ("AffineGrid", 20, [f(1, 3, 4), np.array([1, 1, 2, 5, 4])],
     {"constants": [1], "align_corners": 1}),
    ("HannWindow", 17, [np.array(9)], {"constants": [0]}),
    ("HammingWindow", 17, [np.array(8)], {"constants": [0], "periodic": 0}),
    ("BlackmanWindow", 17, [np.array(1)], {"constants": [0]}),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case[0]))
def test_agrees_with_onnx_runtime(case: tuple[str, int, list[Array], Mapping[str, object]]) -> None:
    operator, opset, feeds, options = case
    proto, live = one(operator, feeds, opset=opset, **options)  # type: ignore[arg-type]
    check(proto, live, 2e-5)


def test_a_part_that_cannot_be_imported_is_named() -> None:
    proto, _ = one("Bernoulli", [f(4)], opset=15)
    with pytest.raises(FrontendError, match="RandomUniformLike"):
        import_model(declare(proto, [f(4)]))


def test_what_has_no_body_is_refused_with_the_others() -> None:
    proto, _ = one("RandomUniformLike", [f(4)], opset=15)
    with pytest.raises(UnsupportedOp, match="RandomUniformLike"):
        import_model(declare(proto, [f(4)]))
