"""Sequences that are taken apart again inside the model, against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto

from tunesmith.frontend import import_model
from tunesmith.ir.diagnostics import FrontendError
from tunesmith.ir.interpreter import evaluate

from .models import F32, check, declare, model, node

RNG = np.random.default_rng(53)


def f(*shape: int) -> NDArray[np.float32]:
    """Random floats."""
    return RNG.standard_normal(shape).astype(np.float32)


def chain(*nodes: NodeProto, **weights: int) -> ModelProto:
    """Nodes between `x` and `y`, with some scalars."""
    arrays = {name: np.asarray(value, np.int64) for name, value in weights.items()}
    return model(list(nodes), {"x": (F32, [7, 3])}, {"y": F32}, arrays)


SPLIT = node("SplitToSequence", ["x", "two"], ["s"], axis=0)
CASES = {
    "parts": chain(SPLIT, node("ConcatFromSequence", ["s"], ["y"], axis=0), two=2),
    "at": chain(SPLIT, node("SequenceAt", ["s", "i"], ["y"]), two=2, i=-1),
    "rows": chain(
        node("SplitToSequence", ["x"], ["s"], axis=1, keepdims=0),
        node("ConcatFromSequence", ["s"], ["y"], axis=0, new_axis=1),
    ),
    "construct": chain(
        node("Neg", ["x"], ["z"]), node("SequenceConstruct", ["x", "z"], ["s"]),
        node("ConcatFromSequence", ["s"], ["y"], axis=-1),
    ),
    "length": chain(
        SPLIT, node("SequenceLength", ["s"], ["n"]), node("Cast", ["n"], ["m"], to=F32),
        node("Mul", ["x", "m"], ["y"]), two=3,
    ),
    **{
        f"insert{place}": chain(
            node("SequenceEmpty", [], ["e"]), node("Neg", ["x"], ["z"]), node("Abs", ["x"], ["a"]),
            node("SequenceInsert", ["e", "x"], ["s1"]), node("SequenceInsert", ["s1", "z"], ["s2"]),
            node("SequenceInsert", ["s2", "a", "i"], ["s3"]),
            node("ConcatFromSequence", ["s3"], ["y"], axis=0), i=place,
        )
        for place in (-2, -1, 0, 1, 2)
    },
    "erase": chain(
        SPLIT, node("SequenceErase", ["s", "i"], ["t"]), node("SequenceErase", ["t"], ["u"]),
        node("ConcatFromSequence", ["u"], ["y"], axis=0), two=2, i=1,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", list(CASES))
def test_agrees_with_onnx_runtime(name: str) -> None:
    check(CASES[name], {"x": f(7, 3)})


def test_a_place_past_the_end() -> None:
    proto = chain(SPLIT, node("SequenceAt", ["s", "i"], ["y"]), two=2, i=4)
    with pytest.raises(FrontendError, match="place 4 is not one of 4"):
        import_model(declare(proto, [f(2, 3)]))


def test_values_that_are_optional_and_there() -> None:
    proto = chain(
        node("Optional", ["x"], ["o"]), node("OptionalHasElement", ["o"], ["h"]),
        node("OptionalGetElement", ["o"], ["v"]), node("Cast", ["h"], ["c"], to=F32),
        node("Add", ["v", "c"], ["y"]),
    )  # fmt: skip
    proto.opset_import[0].version = 18
    x = f(7, 3)
    (y,) = evaluate(import_model(declare(proto, [x])), {"x": x})
    np.testing.assert_array_equal(y, x + 1)


def test_an_optional_value_that_is_not_there() -> None:
    proto = chain(node("OptionalHasElement", [], ["h"]), node("Cast", ["h"], ["c"], to=F32),
                  node("Add", ["x", "c"], ["y"]))  # fmt: skip
    proto.opset_import[0].version = 18
    x = f(7, 3)
    (y,) = evaluate(import_model(declare(proto, [x])), {"x": x})
    np.testing.assert_array_equal(y, x)
