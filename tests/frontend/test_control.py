"""Branches that depend on data, and loops that are unrolled, against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from tunesmith.frontend import import_model
from tunesmith.ir.diagnostics import FrontendError
from tunesmith.ir.interpreter import evaluate

from .models import BOOL, F32, I64, Array, check, compare, declare, model, node, runtime

RNG = np.random.default_rng(37)


def f(*shape: int) -> Array:
    """Random floats."""
    return RNG.standard_normal(shape).astype(np.float32)


def body(nodes: list[NodeProto], inputs: dict[str, int], outputs: list[str]) -> GraphProto:
    """A graph inside a node; its floats have no shapes."""
    shapes = {F32: None, I64: (), BOOL: ()}
    return helper.make_graph(
        nodes, "body",
        [helper.make_tensor_value_info(name, kind, shapes[kind]) for name, kind in inputs.items()],
        [helper.make_empty_tensor_value_info(name) for name in outputs],
        [numpy_helper.from_array(np.float32(0.5), "half")],
    )  # fmt: skip


def branches() -> ModelProto:
    """Twice the input or half of it, by a flag; the branches read from outside."""
    one = body([node("Add", ["x", "x"], ["a"])], {}, ["a"])
    two = body([node("Mul", ["x", "half"], ["b"])], {}, ["b"])
    return model(
        [node("If", ["flag"], ["y"], then_branch=one, else_branch=two)],
        {"flag": (BOOL, []), "x": (F32, ["N", 3])}, {"y": F32},
    )  # fmt: skip


def test_a_branch_by_data() -> None:
    graph = check(branches(), {"flag": np.asarray(True), "x": f(2, 3)})
    for flag in (True, False):
        feeds = {"flag": np.asarray(flag), "x": f(5, 3)}
        compare(evaluate(graph, feeds), runtime(branches(), feeds), 1e-6)


def test_branches_of_two_types_are_refused() -> None:
    one = body([node("Add", ["x", "x"], ["a"])], {}, ["a"])
    two = body([node("Flatten", ["x"], ["b"], axis=0)], {}, ["b"])
    proto = model(
        [node("If", ["flag"], ["y"], then_branch=one, else_branch=two)],
        {"flag": (BOOL, []), "x": (F32, [2, 3])}, {"y": F32},
    )  # fmt: skip
    with pytest.raises(FrontendError, match="its branches give"):
        import_model(declare(proto, [f(2, 3)]))


def test_a_branch_teaches_nothing() -> None:
    """What exporters write for a squeeze: where the size is open, it is not taken for 1."""
    one = body([node("Squeeze", ["x"], ["a"], axes=[0])], {}, ["a"])
    two = body([node("Identity", ["x"], ["b"])], {}, ["b"])
    proto = model(
        [node("Shape", ["x"], ["s"]), node("Gather", ["s", "zero"], ["n"]),
         node("Equal", ["n", "one"], ["flag"]),
         node("If", ["flag"], ["y"], then_branch=one, else_branch=two)],
        {"x": (F32, ["N", 3])}, {"y": F32}, {"zero": np.asarray(0), "one": np.asarray(1)}, opset=11,
    )  # fmt: skip
    with pytest.raises(FrontendError, match="works for some sizes only"):
        import_model(declare(proto, [f(2, 3)]))
    assert import_model(proto, dims={"N": 4}).outputs[0].type.shape == (4, 3)


def loop(condition: str, rounds: int) -> ModelProto:
    """A running product, and all that it was."""
    nodes = [
        node("Mul", ["state", "x"], ["next"]),
        node("Identity", ["next"], ["row"]),
        node("Less", ["i", "three"], ["early"]),
        node("Identity", ["going"], ["same"]),
        node("ReduceMax", ["next"], ["most"], keepdims=0),
        node("Less", ["most", "ten"], ["by_data"]),
    ]
    inner = body(nodes, {"i": I64, "going": BOOL, "state": F32}, [condition, "next", "row"])
    return model(
        [node("Loop", ["rounds", "yes", "x"], ["y", "rows"], body=inner)],
        {"x": (F32, ["N", 3])}, {"y": F32, "rows": F32},
        {"rounds": np.asarray(rounds), "yes": np.asarray(True), "three": np.asarray(3),
         "ten": np.asarray(10, np.float32)},
    )  # fmt: skip


@pytest.mark.parametrize(("condition", "rounds"), [("same", 1), ("same", 7), ("early", 99)])
def test_loops(condition: str, rounds: int) -> None:
    check(loop(condition, rounds), {"x": f(2, 3)}, 1e-4)


@pytest.mark.parametrize(
    ("condition", "rounds", "why"),
    [("by_data", 3, "depends on data"), ("same", 0, "without a round"),
     ("same", 5000, "too many to unroll")],
)  # fmt: skip
def test_loops_that_are_refused(condition: str, rounds: int, why: str) -> None:
    with pytest.raises(FrontendError, match=why):
        import_model(declare(loop(condition, rounds), [f(2, 3), f(3, 2, 3)]))


def test_loops_inside_loops_end() -> None:
    """A thousand rounds of a thousand that only count leave no node, and are refused as well."""
    shapes = {"i": I64, "going": BOOL, "n": I64}
    inner = body([node("Add", ["n", "one"], ["m"]), node("Identity", ["going"], ["same"])],
                 shapes, ["same", "m"])  # fmt: skip
    outer = body([node("Loop", ["many", "going_", "n_"], ["k"], body=inner),
                  node("Identity", ["going_"], ["same_"])],
                 {"i_": I64, "going_": BOOL, "n_": I64}, ["same_", "k"])  # fmt: skip
    proto = model(
        [node("Loop", ["many", "yes", "one"], ["c"], body=outer),
         node("Cast", ["c"], ["d"], to=F32), node("Mul", ["x", "d"], ["y"])],
        {"x": (F32, [3])}, {"y": F32},
        {"many": np.asarray(1000), "yes": np.asarray(True), "one": np.asarray(1)},
    )  # fmt: skip
    with pytest.raises(FrontendError, match="more than 50000 nodes"):
        import_model(declare(proto, [f(3)]))


@pytest.mark.parametrize("turned", [0, 1])
@pytest.mark.parametrize("axis", [0, 1, -1])
def test_scans(turned: int, axis: int) -> None:
    nodes = [node("Add", ["sum", "row"], ["next"]), node("Mul", ["next", "half"], ["out"])]
    inner = body(nodes, {"sum": F32, "row": F32}, ["next", "out"])
    proto = model(
        [node("Scan", ["start", "x"], ["y", "rows"], body=inner, num_scan_inputs=1,
              scan_input_axes=[axis], scan_input_directions=[turned],
              scan_output_axes=[axis], scan_output_directions=[1 - turned])],
        {"start": (TensorProto.FLOAT, [4]), "x": (F32, [4, 4])}, {"y": F32, "rows": F32},
    )  # fmt: skip
    check(proto, {"start": f(4), "x": f(4, 4)})
