"""Rewrites change nothing by themselves, and nothing after compiling."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from tests.conformance.suite import Array
from tests.end_to_end.models import block, feeds
from tests.generated.__main__ import compare_rewritten
from tests.generated.corpus import KEPT, read, seeds
from tests.generated.editing import Editing
from tests.generated.rewrites import NODES, VALUES, apply, rewritten
from tests.generated.vote import Answer, differs

PLACES = 4  # models that a rewrite is tried on


def network() -> ModelProto:
    """Convolutions, norms, pooling and a layer, for images of one size."""
    random = np.random.default_rng(5)

    def weight(name: str, *shape: int) -> TensorProto:
        array = random.standard_normal(shape) / np.sqrt(max(math.prod(shape[1:]), 1))
        return numpy_helper.from_array(array.astype(np.float32), name)

    weights = [
        weight("k1", 8, 3, 3, 3), weight("b1", 8), weight("k2", 8, 1, 3, 3), weight("b2", 8),
        weight("k3", 12, 8, 1, 1), weight("w", 7, 12), weight("b", 7),
        *(weight(f"n{i}", 8) for i in range(3)),
        numpy_helper.from_array(np.full(8, 0.5, np.float32), "n3"),
    ]  # fmt: skip
    nodes = [
        helper.make_node("Conv", ["x", "k1", "b1"], ["c1"], pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node("BatchNormalization", ["c1", "n0", "n1", "n2", "n3"], ["m1"]),
        helper.make_node("Relu", ["m1"], ["r1"]),
        helper.make_node("Conv", ["r1", "k2", "b2"], ["c2"], pads=[1, 1, 1, 1], group=8),
        helper.make_node("Sigmoid", ["c2"], ["s2"]),
        helper.make_node("Mul", ["c2", "s2"], ["g2"]),
        helper.make_node("Add", ["g2", "r1"], ["a2"]),
        helper.make_node("MaxPool", ["a2"], ["p2"], kernel_shape=[2, 2], strides=[2, 2]),
        helper.make_node("Conv", ["p2", "k3"], ["c3"]),
        helper.make_node("LeakyRelu", ["c3"], ["l3"]),
        helper.make_node("GlobalAveragePool", ["l3"], ["p3"]),
        helper.make_node("Flatten", ["p3"], ["f3"]),
        helper.make_node("Gemm", ["f3", "w", "b"], ["z"], transB=1, alpha=0.5, beta=2.0),
        helper.make_node("Softmax", ["z"], ["y"], axis=1),
    ]
    graph = helper.make_graph(
        nodes, "network", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2, 3, 18, 22])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [2, 7])], weights,
    )  # fmt: skip
    return helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", 14)])


def images() -> dict[str, Array]:
    """One input of the network."""
    return {"x": np.random.default_rng(6).standard_normal((2, 3, 18, 22)).astype(np.float32)}


ZOO: dict[str, tuple[Callable[[], ModelProto], Callable[[], dict[str, Array]]]] = {
    "block": (block, lambda: feeds(2, 7)),
    "network": (network, images),
}


@pytest.fixture(scope="module")
def models() -> list[tuple[ModelProto, dict[str, Array]]]:
    """The zoo, then what was generated; with inputs."""
    found = [(make(), given()) for make, given in ZOO.values()]
    for case in read(KEPT, seeds(KEPT)):
        ((given, _),) = case.data_sets()
        names = [value.name for value in case.model.graph.input]
        found.append((case.model, {n: np.asarray(a) for n, a in zip(names, given, strict=True)}))
    return found


@pytest.mark.parametrize("name", [*VALUES, *NODES])
def test_a_rewrite_changes_nothing(
    name: str, models: list[tuple[ModelProto, dict[str, Array]]]
) -> None:
    """By ONNX's reference; every bit, if it is the rewrite of a value."""
    tried = 0
    for number, (model, given) in enumerate(models):
        edit = Editing(model, np.random.default_rng(number))
        if not apply(edit, name):
            continue
        onnx.checker.check_model(edit.model, full_check=True)
        try:
            with np.errstate(all="ignore"):
                before = ReferenceEvaluator(model).run(None, given)
        except (RuntimeError, TypeError, ValueError, NotImplementedError):
            continue  # the reference does not take the model as it was
        with np.errstate(all="ignore"):
            after = ReferenceEvaluator(edit.model).run(None, given)
        if name in VALUES:
            for x, y in zip(after, before, strict=True):
                np.testing.assert_array_equal(x, y, strict=True)
        else:
            assert not differs(after, before, 1e-4, 1e-5)
        tried += 1
        if tried == PLACES:
            break
    assert tried, "it applies nowhere"


@pytest.mark.tvm
@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("name", ZOO)
def test_what_is_equal_compiles_to_what_is_equal(name: str, seed: int) -> None:
    """Ten rewrites at a time, at O3; sizes of the transformer are symbols."""
    import tunesmith

    make, given = ZOO[name]
    model, inputs = make(), given()
    other, done = rewritten(model, seed, count=10)
    assert len(done) == 10
    run = [
        tunesmith.load(tunesmith.compile_model(m, preset="O3"), threads=1) for m in (model, other)
    ]
    before, after = (list(executable.run(inputs).values()) for executable in run)
    assert not differs(after, before, 1e-4, 1e-4), done


def test_rewrites_are_seeded() -> None:
    first, names = rewritten(network(), 3, count=5)
    again, same = rewritten(network(), 3, count=5)
    other, _ = rewritten(network(), 4, count=5)
    assert names == same and first == again != other


def test_what_came_out_otherwise_is_told() -> None:
    """... and what was refused on one side is not compared."""
    cases = read(KEPT, seeds(KEPT)[:3])
    one, two, three = (case.name for case in cases)
    before = {n: Answer("ran", [np.array([1], np.float32)]) for n in (one, two, three)}
    after = before | {two: Answer("ran", [np.array([2], np.float32)]), three: Answer("unsupported")}
    assert compare_rewritten(cases, after, before) == {
        one: "", two: "output 0: 1 of 1 elements differ by more"
    }  # fmt: skip
