"""Nodes that are not in order: models that other runtimes sort as they load them."""

from __future__ import annotations

import random

import numpy as np
import pytest
from onnx import ModelProto, NodeProto, helper

from tunesmith.frontend import import_model
from tunesmith.frontend.onnx_order import in_order
from tunesmith.ir.interpreter import evaluate

from .models import BOOL, F32, I64, check, declare, model, node

X = np.random.default_rng(0).standard_normal(4).astype(np.float32)


def names(proto: ModelProto) -> list[str]:
    return [each.output[0] for each in proto.graph.node]


def built(nodes: list[NodeProto], output: str = "y") -> ModelProto:
    return declare(model(nodes, {"x": (F32, [4])}, [output], {"c": np.array(True)}), [X])


def test_a_cast_that_was_appended() -> None:
    """As ONNX Runtime's converter to half precision leaves it."""
    proto = built(
        [node("Relu", ["a"], ["b"]), node("Neg", ["b"], ["y"]), node("Abs", ["x"], ["a"])]
    )
    before = proto.SerializeToString()
    assert names(in_order(proto)) == ["a", "b", "y"]
    check(proto, {"x": X})
    assert proto.SerializeToString() == before  # it is the caller's


def test_what_is_sorted_stays_itself() -> None:
    proto = built(
        [node("Abs", ["x"], ["a"]), node("Neg", ["x"], ["z"]), node("Relu", ["a"], ["y"])]
    )
    assert in_order(proto) is proto


def test_nodes_keep_their_order_where_they_can() -> None:
    proto = built([
        node("Neg", ["x"], ["p"]), node("Add", ["p", "r"], ["y"]), node("Abs", ["x"], ["q"]),
        node("Relu", ["q"], ["r"]), node("Exp", ["x"], ["s"]),
    ])  # fmt: skip
    assert names(in_order(proto)) == ["p", "q", "r", "y", "s"]


def test_what_graphs_inside_read_comes_before_them() -> None:
    """Also where the inner nodes are not in order either."""

    def branch(*nodes: NodeProto) -> object:
        return helper.make_graph(nodes, "b", [], [helper.make_tensor_value_info("t", F32, [4])])

    crossed = branch(node("Neg", ["u"], ["t"]), node("Relu", ["a"], ["u"]))
    plain = helper.make_graph(
        [node("Exp", ["a"], ["v"])], "p", [], [helper.make_tensor_value_info("v", F32, [4])]
    )
    choice = node("If", ["c"], ["y"], then_branch=crossed, else_branch=plain)
    proto = built([choice, node("Abs", ["x"], ["a"])])
    assert names(in_order(proto)) == ["a", "y"]
    (found,) = evaluate(import_model(proto), {"x": X})
    np.testing.assert_array_equal(found, -np.abs(X))


def test_names_of_graphs_inside_are_their_own() -> None:
    """What a branch makes may be called as something that comes later, and is no reason to sort."""

    def branch(operator: str) -> object:
        value = helper.make_tensor_value_info("t", F32, [4])
        return helper.make_graph([node(operator, ["x"], ["t"])], "b", [], [value])

    choice = node("If", ["c"], ["u"], then_branch=branch("Neg"), else_branch=branch("Exp"))
    later = [node("Abs", ["x"], ["t"]), node("Add", ["u", "t"], ["y"])]
    proto = built([choice, *later])
    assert in_order(proto) is proto
    check(proto, {"x": X})
    assert names(in_order(built([later[1], choice, later[0]]))) == ["u", "t", "y"]


def test_inputs_of_graphs_inside_are_their_own() -> None:
    """The body of a loop calls its input as a value that depends on the loop: no cycle."""
    value = helper.make_tensor_value_info
    body = helper.make_graph(
        [node("Identity", ["keep"], ["again"]), node("Neg", ["a"], ["next"])], "body",
        [value("n", I64, []), value("keep", BOOL, []), value("a", F32, [4])],
        [value("again", BOOL, []), value("next", F32, [4])],
    )  # fmt: skip
    loop = node("Loop", ["three", "c", "b"], ["l"], body=body)
    nodes = [node("Relu", ["a"], ["y"]), node("Exp", ["l"], ["a"]), loop, node("Abs", ["x"], ["b"])]
    weights = {"c": np.array(True), "three": np.array(3)}
    proto = declare(model(nodes, {"x": (F32, [4])}, ["y"], weights), [X])
    assert names(in_order(proto)) == ["b", "l", "a", "y"]
    check(proto, {"x": X})


def test_functions_are_sorted_too() -> None:
    body = [node("Neg", ["m"], ["o"]), node("Abs", ["i"], ["m"])]
    opset = helper.make_opsetid("", 17)
    function = helper.make_function("own", "F", ["i"], ["o"], body, [opset])
    proto = declare(
        model([node("F", ["x"], ["y"], domain="own")], {"x": (F32, [4])}, ["y"], own=1), [X]
    )
    proto.functions.append(function)
    (found,) = evaluate(import_model(proto), {"x": X})
    np.testing.assert_array_equal(found, -np.abs(X))


@pytest.mark.parametrize("seed", range(20))
def test_any_order_computes_the_same(seed: int) -> None:
    chance = random.Random(seed)
    nodes, known = [], ["x"]
    for number in range(30):
        operands = [chance.choice(known), chance.choice(known)]
        operator = chance.choice(["Add", "Sub", "Max", "Min"])
        nodes.append(node(operator, operands, [f"v{number}"]))
        known.append(f"v{number}")
    (wanted,) = evaluate(import_model(built(nodes, known[-1])), {"x": X})
    chance.shuffle(nodes)
    proto = built(nodes, known[-1])
    order = names(in_order(proto))
    places = {name: place for place, name in enumerate(["x", *order])}
    for each in in_order(proto).graph.node:
        assert all(places[name] < places[each.output[0]] for name in each.input)
    (found,) = evaluate(import_model(proto), {"x": X})
    np.testing.assert_array_equal(found, wanted)
