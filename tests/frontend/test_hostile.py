"""Models that are broken, or made to hurt: each is refused with what, where and a way out."""

from __future__ import annotations

import resource
import time
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper

from tunesmith.frontend import import_model
from tunesmith.frontend.limits import LIMITS
from tunesmith.ir.diagnostics import FrontendError, UnsupportedOp

from .models import BOOL, F32, I64, model, node
from .test_shapes import of_type


def chain(length: int, operator: str = "Relu") -> ModelProto:
    """A chain of one operator."""
    names = ["x", *(f"v{i}" for i in range(length - 1)), "y"]
    nodes = [node(operator, [a], [b]) for a, b in pairwise(names)]
    return of_type(model(nodes, {"x": (F32, [4])}, ["y"]), y=(F32, 1))


def with_weight(tensor: TensorProto) -> ModelProto:
    """`y = x + w`."""
    proto = of_type(model([node("Add", ["x", "w"], ["y"])], {"x": (F32, [4])}, ["y"]), y=(F32, 1))
    proto.graph.initializer.append(tensor)
    return proto


def weight(dims: list[int], data: bytes, element: int = F32) -> TensorProto:
    """An initializer `w`."""
    tensor = TensorProto(name="w", data_type=element, raw_data=data)
    tensor.dims.extend(dims)
    return tensor


def nested(depth: int) -> ModelProto:
    """`If` inside `If`."""
    graph = helper.make_graph(
        [node("Relu", ["x"], ["o0"])], "g0", [], [helper.make_tensor_value_info("o0", F32, [4])]
    )
    for i in range(1, depth):
        out = f"o{i}"
        inner = node("If", ["c"], [out], then_branch=graph, else_branch=graph)
        # Both branches the same would double the size: keep one of them small.
        small = helper.make_graph(
            [node("Abs", ["x"], [f"s{i}"])], f"s{i}", [],
            [helper.make_tensor_value_info(f"s{i}", F32, [4])],
        )  # fmt: skip
        inner = node("If", ["c"], [out], then_branch=graph, else_branch=small)
        graph = helper.make_graph(
            [inner], f"g{i}", [], [helper.make_tensor_value_info(out, F32, [4])]
        )
    top = node("If", ["c"], ["y"], then_branch=graph, else_branch=graph)
    proto = model([top], {"x": (F32, [4])}, ["y"], {"c": np.array(True)})
    del proto.graph.node[0].attribute[0]
    small = helper.make_graph(
        [node("Abs", ["x"], ["s"])], "s", [], [helper.make_tensor_value_info("s", F32, [4])]
    )
    proto.graph.node[0].attribute.append(helper.make_attribute("else_branch", small))
    return of_type(proto, y=(F32, 1))


def broken(name: str) -> ModelProto:
    """The broken models, by name."""
    x = {"x": (F32, [4])}
    match name:
        case "cycle":
            nodes = [node("Add", ["x", "b"], ["a"], name="first"), node("Relu", ["a"], ["b"])]
            return of_type(model(nodes, x, ["b"]), b=(F32, 1))
        case "undefined":
            nodes = [node("Add", ["x", "q"], ["y"], name="sum")]
            return of_type(model(nodes, x, ["y"]), y=(F32, 1))
        case "inner-cycle":
            y = helper.make_tensor_value_info("t", F32, [4])
            inner = helper.make_graph([node("Relu", ["a"], ["t"])], "inner", [], [y])
            first = node("If", ["c"], ["b"], name="first", then_branch=inner, else_branch=inner)
            proto = model([first, node("Abs", ["b"], ["a"])], x, ["a"], {"c": np.array(True)})
            return of_type(proto, a=(F32, 1))
        case "duplicate":
            nodes = [node("Relu", ["x"], ["y"], name="n1"), node("Abs", ["x"], ["y"], name="n2")]
            return of_type(model(nodes, x, ["y"]), y=(F32, 1))
        case "output":
            return of_type(model([node("Relu", ["x"], ["y"])], x, ["z"]), z=(F32, 1))
        case "negative":
            return with_weight(weight([-4], b""))
        case "negative-input":
            nodes = [node("Relu", ["x"], ["y"])]
            return of_type(model(nodes, {"x": (F32, [-4])}, ["y"]), y=(F32, 1))
        case "empty-huge":
            return with_weight(weight([1 << 40], b""))
        case "short":
            return with_weight(weight([1024], bytes(16)))
        case "overflow":
            return with_weight(weight([1 << 32, 1 << 32], b""))
        case "rank":
            return with_weight(weight([1] * 17, bytes(4)))
        case "opset":
            return of_type(model([node("Relu", ["x"], ["y"])], x, ["y"], opset=29), y=(F32, 1))
        case "divide":
            nodes = [node("Div", ["a", "b"], ["c"], name="quotient"),
                     node("Reshape", ["x", "c"], ["y"])]  # fmt: skip
            consts = {"a": np.array([4]), "b": np.array([0])}
            return of_type(model(nodes, x, ["y"], consts), y=(F32, 1))
        case "gather":
            nodes = [node("Gather", ["x", "i"], ["y"], name="pick")]
            return of_type(model(nodes, x, ["y"], {"i": np.array([9])}), y=(F32, 1))
        case "stride":
            nodes = [node("Conv", ["x", "w"], ["y"], name="c", strides=[0])]
            inputs = {"x": (F32, [1, 1, 8]), "w": (F32, [1, 1, 3])}
            return of_type(model(nodes, inputs, ["y"]), y=(F32, 3))
        case "pad":
            nodes = [node("Pad", ["x", "p"], ["y"], name="wide")]
            return of_type(model(nodes, x, ["y"], {"p": np.array([0, 1 << 40])}), y=(F32, 1))
        case "name":
            long = "v" * 1025
            nodes = [node("Relu", ["x"], [long]), node("Abs", [long], ["y"])]
            return of_type(model(nodes, x, ["y"]), y=(F32, 1))
        case "deep":
            return nested(32)
        case "many":
            return chain(LIMITS.nodes + 1)
        case "constant-type":
            return with_weight(weight([4], bytes(4), TensorProto.FLOAT8E4M3FN))
        case "data-shape":
            nodes = [node("Reshape", ["x", "s"], ["y"], name="by data")]
            return of_type(model(nodes, {**x, "s": (I64, [1])}, ["y"]), y=(F32, 1))
        case "dtype":
            return of_type(model([node("Shape", ["x"], ["y"])], x, {"y": F32}), y=(F32, 1))
    raise AssertionError(name)


REFUSED = {
    "cycle": r"`first` \(Add\).*`b`.*a cycle",
    "undefined": r"`sum` \(Add\).*`q`, which is not defined",
    "inner-cycle": r"`t` \(Relu\) in `first`.*`a`, which is not defined",
    "duplicate": r"`n2` \(Abs\).*two values are named `y`",
    "output": "the output `z` is not defined",
    "negative": "`w`.*negative size",
    "negative-input": "`x`.*negative size",
    "empty-huge": "`w`.*holds 0",
    "short": "`w`.*4096 bytes, and holds 16",
    "overflow": "`w`.*out of range",
    "rank": "`w`.*17 axes",
    "opset": "opset 29",
    "divide": r"`quotient` \(Div\).*divided by zero",
    "gather": r"`pick` \(Gather\).*index 9 is not one of 4",
    "stride": "stride",
    "pad": r"`wide` \(Pad\)",
    "name": "too long",
    "deep": "subgraphs lie 33 deep",
    "many": "more than 50000 nodes",
    "constant-type": "float8e4m3fn",
    "data-shape": r"`by data` \(Reshape\).*depends on data",
    "dtype": "the ONNX checker refuses|declared as f32",
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name: str) -> None:
    start = time.monotonic()
    with pytest.raises(FrontendError, match=REFUSED[name]) as caught:
        import_model(broken(name))
    assert "Traceback" not in str(caught.value)
    assert time.monotonic() - start < 20


def bomb(size: int) -> ModelProto:
    """`ConstantOfShape` in a few bytes."""
    proto = model([node("ConstantOfShape", ["s"], ["b"]), node("Add", ["b", "x"], ["y"])],
                  {"x": (F32, [1])}, ["y"], {"s": np.array([size])})  # fmt: skip
    return of_type(proto, y=(F32, 1))


def test_constant_bomb_is_not_allocated() -> None:
    """Kept as `full`, half a gigabyte of nothing; a value past the limit is refused."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    most = LIMITS.value_bytes // 4
    graph = import_model(bomb(most))
    assert str(graph.outputs[0].type) == f"f32[{most}]"
    with pytest.raises(FrontendError, match=f"f32.{most + 1}. has {4 * most + 4} bytes"):
        import_model(bomb(most + 1))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000


def test_doubling_is_linear() -> None:
    names = ["x", *(f"v{i}" for i in range(63)), "y"]
    nodes = [node("Add", [a, a], [b]) for a, b in pairwise(names)]
    graph = import_model(of_type(model(nodes, {"x": (F32, [4])}, ["y"]), y=(F32, 1)))
    assert len(graph) == 64


@pytest.mark.parametrize("depth", [1, 20, 31])
def test_nesting_within_the_limit(depth: int) -> None:
    assert [n.op.name for n in import_model(nested(depth)).nodes] == ["relu"]


def test_what_only_the_checker_minds() -> None:
    """Found by byte mutants: both were mended before the checker saw them."""
    proto = chain(3)
    proto.ir_version = 2
    with pytest.raises(FrontendError, match="IR version < 3 cannot have opset_import"):
        import_model(proto)
    proto = chain(3)
    proto.graph.name = ""
    with pytest.raises(FrontendError, match="'name' of 'graph' is required"):
        import_model(proto)


def test_long_chain() -> None:
    assert len(import_model(chain(5_000))) == 5_000


def test_truncated_and_random_bytes(tmp_path: Path) -> None:
    data = chain(5).SerializeToString()
    path = tmp_path / "m.onnx"
    generator = np.random.default_rng(0)
    tries = [data[: len(data) * k // 7] for k in range(7)]
    tries += [generator.bytes(200) for _ in range(20)]
    for content in tries:
        path.write_bytes(content)
        with pytest.raises(FrontendError):
            import_model(path)
    with pytest.raises(FrontendError, match="cannot read"):
        import_model(tmp_path / "missing.onnx")


def test_byte_mutants_are_refused_or_imported(tmp_path: Path) -> None:
    data = bytearray(nested(3).SerializeToString())
    generator = np.random.default_rng(1)
    path = tmp_path / "m.onnx"
    refused = 0
    for _ in range(300):
        mutant = bytearray(data)
        for place in generator.integers(0, len(data), 3):
            mutant[place] = generator.integers(0, 256)
        path.write_bytes(mutant)
        try:
            import_model(path)
        except FrontendError:
            refused += 1
    assert refused > 100


def test_functions_that_call_themselves() -> None:
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    loop = helper.make_function(
        "own", "F", ["a"], ["b"], [helper.make_node("F", ["a"], ["b"], domain="own")], imports
    )
    proto = of_type(
        model([helper.make_node("F", ["x"], ["y"], domain="own")], {"x": (F32, [4])}, ["y"], own=1),
        y=(F32, 1),
    )
    proto.functions.append(loop)
    with pytest.raises(FrontendError, match="calls itself"):
        import_model(proto)


def test_functions_that_grow() -> None:
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    proto = of_type(
        model([helper.make_node("F40", ["x"], ["y"], domain="own")], {"x": (F32, [4])}, ["y"],
              own=1), y=(F32, 1),
    )  # fmt: skip
    for i in range(41):
        name = f"F{i - 1}" if i else "Relu"
        domain = "own" if i else ""
        nodes = [helper.make_node(name, ["a"], ["m"], domain=domain),
                 helper.make_node(name, ["m"], ["b"], domain=domain)]  # fmt: skip
        proto.functions.append(helper.make_function("own", f"F{i}", ["a"], ["b"], nodes, imports))
    with pytest.raises(FrontendError, match="nodes once its functions are inlined"):
        import_model(proto)


def test_functions_are_inlined() -> None:
    imports = [helper.make_opsetid("", 17)]
    twice = helper.make_function(
        "own", "Twice", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])], imports
    )
    call = helper.make_node("Twice", ["x"], ["y"], domain="own")
    proto = of_type(model([call], {"x": (F32, [4])}, ["y"], own=1), y=(F32, 1))
    proto.functions.append(twice)
    assert [n.op.name for n in import_model(proto).nodes] == ["add"]


LISTING = """\
error: 3 operators of the model cannot be imported
  operator     domain     opset  count  first node
  Multinomial  ai.onnx    17     1      u
  Add          my.domain  1      2      own sum
  PyOp         my.domain  1      1      c
hint: `my.domain.Add` is not the standard `Add`: the domain makes another operator"""


def test_unsupported_operators_are_listed_together() -> None:
    nodes = [
        helper.make_node("Add", ["x", "x"], ["a"], name="own sum", domain="my.domain"),
        helper.make_node("Add", ["a", "x"], ["b"], domain="my.domain"),
        helper.make_node("PyOp", ["b"], ["c"], domain="my.domain"),
        helper.make_node("Multinomial", ["c"], ["u"]),
        helper.make_node("Relu", ["u"], ["y"]),
    ]
    proto = of_type(model(nodes, {"x": (F32, [4])}, ["y"], my_domain=1), y=(F32, 1))
    with pytest.raises(UnsupportedOp) as caught:
        import_model(proto)
    found = "\n".join(line.rstrip() for line in str(caught.value).splitlines())
    assert found.removeprefix("error: ") == LISTING.removeprefix("error: ")


def test_a_condition_is_not_an_output_name() -> None:
    proto = model([node("Not", ["c"], ["y"])], {"c": (BOOL, [])}, {"y": BOOL})
    graph = import_model(of_type(proto, y=(BOOL, 0)))
    assert graph.output_names == ["y"]
