"""Shape arithmetic vanishes at import: exporters' idioms, and facts that a model implies."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper

from tunesmith.frontend import import_model
from tunesmith.ir.diagnostics import FrontendError
from tunesmith.ir.dims import Dim
from tunesmith.ir.interpreter import evaluate

from .models import F32, I64, Array, check, counts, model, node

X = np.arange(2 * 3 * 8, dtype=np.float32).reshape(2, 3, 8)


def of_type(proto: ModelProto, **types: tuple[int, int]) -> ModelProto:
    """Declare the outputs: element type and rank."""
    for value in proto.graph.output:
        element, rank = types[value.name]
        value.CopyFrom(helper.make_tensor_value_info(value.name, element, [None] * rank))
    return proto


def size_of(value: str, axis: int, out: str) -> list[NodeProto]:
    """`Shape → Gather → Unsqueeze`, as TorchScript writes one size."""
    return [
        node("Shape", [value], [f"{out}.s"]),
        node("Gather", [f"{out}.s", f"c{axis}"], [f"{out}.g"], axis=0),
        node("Unsqueeze", [f"{out}.g", "zero1"], [out]),
    ]


CONSTANTS: dict[str, Array] = {
    "c0": np.array(0), "c1": np.array(1), "c2": np.array(2), "zero1": np.array([0]),
    "open": np.array([-1]), "four": np.array([4]), "one": np.array(1), "two": np.array(2),
    "half": np.array(2.0, np.float32), "far": np.array([2**63 - 1]),
}  # fmt: skip


def shaped(nodes: list[NodeProto], rank: int, element: int = F32, **weights: Array) -> ModelProto:
    """A model of `x: f32[B, S, 8]` with the output `y`."""
    used = {name for n in nodes for name in n.input}
    known = {k: v for k, v in {**CONSTANTS, **weights}.items() if k in used}
    proto = model(nodes, {"x": (F32, ["B", "S", 8])}, {"y": element}, known)
    return of_type(proto, y=(element, rank))


def sizes(text: str) -> str:
    """A type without its element type."""
    return text[text.index("[") :]


def test_reshape_of_torchscript() -> None:
    proto = shaped(
        [*size_of("x", 0, "b"), *size_of("x", 1, "s"),
         node("Concat", ["b", "s", "open", "four"], ["shape"], axis=0),
         node("Reshape", ["x", "shape"], ["y"])], 4,
    )  # fmt: skip
    graph = check(proto, {"x": X})
    assert counts(graph) == {"reshape": 1}
    assert str(graph.outputs[0].type) == "f32[B, S, 2, 4]"


def test_expand_of_torchscript() -> None:
    """`Where(Equal(shape, ConstantOfShape(1) * -1), ConstantOfShape(1), shape)`."""
    proto = shaped(
        [*size_of("x", 0, "b"), *size_of("x", 1, "s"),
         node("Concat", ["b", "s", "eight"], ["raw"], axis=0),
         node("Reshape", ["raw", "open"], ["shape"]),
         node("Shape", ["shape"], ["rank"]),
         node("ConstantOfShape", ["rank"], ["ones"], value=helper.make_tensor(
             "v", TensorProto.INT64, [1], [1])),
         node("Mul", ["ones", "minus"], ["negative"]),
         node("Equal", ["shape", "negative"], ["keep"]),
         node("Where", ["keep", "ones", "shape"], ["target"]),
         node("Expand", ["row", "target"], ["y"])], 3,
        minus=np.array(-1), eight=np.array([8]), row=np.ones((1, 1, 8), np.float32),
    )  # fmt: skip
    graph = check(proto, {"x": X})
    assert counts(graph) == {"constant": 1, "expand": 1}
    assert str(graph.outputs[0].type) == "f32[B, S, 8]"


def test_sizes_in_rows() -> None:
    """Sizes repeated in rows, by `Expand` or `Tile`, and one of them taken again."""
    for repeat in ("Expand", "Tile"):
        proto = shaped(
            [node("Shape", ["x"], ["all"]), node("Unsqueeze", ["all", "zero1"], ["row"]),
             node(repeat, ["row", "by"], ["rows"]), node("Split", ["rows"], ["a", "b"], axis=0),
             node("Squeeze", ["b", "zero1"], ["shape"]),
             node("Reshape", ["x", "open"], ["flat"]), node("Reshape", ["flat", "shape"], ["y"])],
            3, by=np.array([2, 1]),
        )  # fmt: skip
        graph = check(proto, {"x": X})
        assert str(graph.outputs[0].type) == "f32[B, S, 8]"
        assert set(counts(graph)) <= {"reshape"}


@pytest.mark.parametrize(("a", "b"), [(5.082, 5.59), (60000.0, 0.125), (60000.0, 40000.0)])
@pytest.mark.parametrize("operator", ["Add", "Mul", "Sub", "Div"])
def test_halves_that_are_known(operator: str, a: float, b: float) -> None:
    """A quotient that stands for one has parts that no half can hold."""
    half = TensorProto.FLOAT16
    known = {"a": np.array(a, np.float16), "b": np.array(b, np.float16)}
    proto = model(
        [node(operator, ["a", "b"], ["c"]), node("Identity", ["c"], ["d"]),
         node("Where", ["x", "c", "d"], ["y"])],
        {"x": (TensorProto.BOOL, [2])}, {"y": half}, known,
    )  # fmt: skip
    graph = import_model(of_type(proto, y=(half, 1)))
    with np.errstate(over="ignore"):
        exact = {"Add": np.add, "Mul": np.multiply, "Sub": np.subtract, "Div": np.divide}
        wanted = exact[operator](known["a"], known["b"])
    (found,) = evaluate(graph, {"x": np.array([True, False])})
    np.testing.assert_array_equal(found, np.full(2, wanted), strict=True)


def test_a_part_of_a_size_in_half_precision() -> None:
    """A third of a size that no half holds, of a third that one does."""
    half = TensorProto.FLOAT16
    proto = model(
        [node("Shape", ["x"], ["s"]), node("Cast", ["s"], ["h"], to=TensorProto.FLOAT),
         node("Div", ["h", "three"], ["t"]), node("Cast", ["t"], ["y"], to=half)],
        {"x": (F32, ["N"])}, {"y": half}, {"three": np.array(3, np.float32)},
    )  # fmt: skip
    graph = import_model(of_type(proto, y=(half, 1)))
    (found,) = evaluate(graph, {"x": np.zeros(100_001, np.float32)})
    np.testing.assert_array_equal(found, np.array([100_001 / 3], np.float16), strict=True)


def test_padded_sizes() -> None:
    """Sizes behind ones: `Pad` is how a shape gets axes in front, or a rest that is open."""
    proto = shaped(
        [node("Shape", ["x"], ["all"]), node("Pad", ["all", "front", "one"], ["four_of_them"]),
         node("Reshape", ["x", "four_of_them"], ["z"]),
         node("Pad", ["all", "behind"], ["with_zero"]), node("Slice", ["with_zero", "c0_", "c2_"],
                                                          ["two_of_them"]),
         node("Concat", ["two_of_them", "open"], ["three"], axis=0),
         node("Reshape", ["z", "three"], ["y"])],
        3, front=np.array([1, 0]), behind=np.array([0, 2]), c0_=np.array([0]), c2_=np.array([2]),
    )  # fmt: skip
    graph = check(proto, {"x": X})
    assert str(graph.outputs[0].type) == "f32[B, S, 8]"
    assert set(counts(graph)) <= {"reshape"}


@pytest.mark.parametrize("repeat", ["Expand", "Tile"])
def test_repeated_weights_stay_data(repeat: str) -> None:
    """Floats are no sizes: they are not looked into element by element."""
    proto = shaped(
        [node(repeat, ["w", "by"], ["rows"]), node("Add", ["x", "rows"], ["y"])], 3,
        w=np.arange(8, dtype=np.float32)[None], by=np.array([1, 1]),
    )  # fmt: skip
    graph = check(proto, {"x": X})
    assert "add" in counts(graph)


def test_halves_of_the_last_axis() -> None:
    """Rotary embedding: `Slice` at `Shape[-1] / 2`, cast twice."""
    proto = shaped(
        [node("Shape", ["x"], ["s"]), node("Gather", ["s", "c2"], ["w"]),
         node("Div", ["w", "two"], ["h"]), node("Cast", ["h"], ["h1"], to=7),
         node("Cast", ["h1"], ["h2"], to=7), node("Unsqueeze", ["h2", "zero1"], ["h3"]),
         node("Slice", ["x", "h3", "far", "axis"], ["y"])], 3, axis=np.array([2]),
    )  # fmt: skip
    graph = check(proto, {"x": X})
    assert counts(graph) == {"slice": 1}
    assert str(graph.outputs[0].type) == "f32[B, S, 4]"


def test_sizes_in_floating_point() -> None:
    """`Floor(Cast(size) / 2)` by way of floats."""
    proto = shaped(
        [node("Shape", ["x"], ["s"]), node("Gather", ["s", "c1"], ["n"]),
         node("Cast", ["n"], ["f"], to=1), node("Div", ["f", "half"], ["d"]),
         node("Floor", ["d"], ["e"]), node("Cast", ["e"], ["i"], to=7),
         node("Unsqueeze", ["i", "zero1"], ["stop"]),
         node("Slice", ["x", "zero1", "stop", "axis"], ["y"])], 3, axis=np.array([1]),
    )  # fmt: skip
    graph = check(proto, {"x": X})
    assert counts(graph) == {"slice": 1}
    assert str(graph.outputs[0].type) == "f32[B, (S)//2, 8]"


def test_range_is_an_iota() -> None:
    proto = shaped(
        [node("Shape", ["x"], ["s"], start=1, end=2), node("Squeeze", ["s"], ["n"]),
         node("Range", ["c0", "n", "c1"], ["y"])], 1, I64,
    )  # fmt: skip
    graph = check(proto, {"x": X})
    assert counts(graph) == {"iota": 1}
    assert str(graph.outputs[0].type) == "i64[S]"


def test_old_range_of_torch() -> None:
    """`NonZero(ConstantOfShape([S], 1))`."""
    proto = shaped(
        [node("Shape", ["x"], ["s"], start=1, end=2),
         node("ConstantOfShape", ["s"], ["ones"], value=helper.make_tensor(
             "v", TensorProto.INT64, [1], [1])),
         node("NonZero", ["ones"], ["z"]), node("Transpose", ["z"], ["t"]),
         node("Squeeze", ["t", "axis"], ["y"])], 1, I64, axis=np.array([1]),
    )  # fmt: skip
    assert counts(check(proto, {"x": X}))["iota"] == 1


def test_a_size_as_data() -> None:
    proto = shaped(
        [node("Shape", ["x"], ["s"]), node("Cast", ["s"], ["f"], to=1),
         node("Gather", ["f", "c1"], ["n"]), node("Div", ["x", "n"], ["y"])], 3,
    )  # fmt: skip
    graph = check(proto, {"x": X})
    assert counts(graph) == {"dim_value": 1, "div": 1}


def test_shape_as_output() -> None:
    proto = shaped([node("Shape", ["x"], ["y"])], 1, I64)
    check(proto, {"x": X})


def test_product_of_sizes_divides() -> None:
    """`[B, S, 8] → [-1, 8] → [B, S, 2, 4]`, as GPT-2's Conv1D does."""
    proto = shaped(
        [node("Reshape", ["x", "flat"], ["f"]), node("Mul", ["f", "half"], ["g"]),
         *size_of("x", 0, "b"), *size_of("x", 1, "s"),
         node("Concat", ["b", "s", "open", "four"], ["shape"], axis=0),
         node("Reshape", ["g", "shape"], ["y"])], 4, flat=np.array([-1, 8]),
    )  # fmt: skip
    graph = check(proto, {"x": X})
    assert str(graph.outputs[0].type) == "f32[B, S, 2, 4]"


def test_if_takes_the_branch_that_sizes_decide() -> None:
    def branch(name: str, operator: str) -> object:
        return helper.make_graph(
            [node(operator, ["x"], [name])], name, [],
            [helper.make_tensor_value_info(name, F32, [None, None, None])],
        )  # fmt: skip

    proto = shaped(
        [node("Shape", ["x"], ["s"], start=2, end=3), node("Squeeze", ["s"], ["w"]),
         node("Equal", ["w", "eight"], ["c"]),
         node("If", ["c"], ["y"], then_branch=branch("t", "Relu"), else_branch=branch("e", "Abs"))],
        3, eight=np.array(8),
    )  # fmt: skip
    assert counts(check(proto, {"x": X - 9})) == {"relu": 1}


# Facts that a model implies.


def joined(a: list[int | str], b: list[int | str], operator: str = "Add") -> ModelProto:
    """Two inputs and an operator that joins them."""
    proto = model([node(operator, ["a", "b"], ["y"], name="join")],
                  {"a": (F32, a), "b": (F32, b)}, ["y"])  # fmt: skip
    return of_type(proto, y=(F32, max(len(a), len(b))))


def test_two_names_of_one_size() -> None:
    graph = import_model(joined(["batch", 4], ["batch_1", 4]))
    assert [str(v.type) for v in graph.inputs] == ["f32[batch, 4]", "f32[batch, 4]"]


def test_two_names_where_one_is_one() -> None:
    graph = import_model(joined(["batch", 4], ["other", 4]), dims={"other": 1})
    assert [str(v.type) for v in graph.inputs] == ["f32[batch, 4]", "f32[1, 4]"]


def test_a_sum_of_names() -> None:
    graph = import_model(joined(["past", "new"], ["past", "new"]))
    assert str(graph.outputs[0].type) == "f32[past, new]"
    nodes = [node("Concat", ["a", "b"], ["k"], axis=0), node("Add", ["k", "m"], ["y"])]
    proto = model(nodes, {"a": (F32, ["P"]), "b": (F32, ["T"]), "m": (F32, ["total"])}, ["y"])
    graph = import_model(of_type(proto, y=(F32, 1)))
    assert str(graph.inputs[2].type) == "f32[P + T]"


def test_a_declared_sum() -> None:
    graph = import_model(joined(["past + new"], ["past + new"]))
    assert str(graph.inputs[0].type) == "f32[new + past]"


def test_inner_sizes_of_a_product() -> None:
    graph = import_model(joined(["M", "K"], ["L", 5], "MatMul"))
    assert str(graph.inputs[1].type) == "f32[K, 5]"


def test_a_slice_bounds_a_symbol() -> None:
    proto = shaped(
        [node("Shape", ["x"], ["s"], start=1, end=2),
         node("Slice", ["table", "zero1", "s", "axis"], ["p"]), node("Add", ["x", "p"], ["y"])],
        3, table=np.ones((1, 5, 8), np.float32), axis=np.array([1]),
    )  # fmt: skip
    graph = check(proto, {"x": X})
    assert {s.name: (s.low, s.high) for s in graph.symbols().values()} == {
        "B": (1, 0), "S": (1, 5),
    }  # fmt: skip
    with pytest.raises(FrontendError, match=r"`S` is bounded by 1..9"):
        import_model(proto, dims={"S": (1, 9)})
    assert import_model(proto, dims={"S": (1, 4)}).symbols()["S"].high == 4


def test_a_slice_far_beyond_the_end_takes_the_rest() -> None:
    proto = shaped([node("Slice", ["x", "zero1", "huge", "axis"], ["y"])], 3,
                   huge=np.array([10**9]), axis=np.array([1]))  # fmt: skip
    graph = check(proto, {"x": X})
    assert graph.outputs[0].type == graph.inputs[0].type
    assert graph.symbols()["S"].high == 10**9


def test_a_window_bounds_a_symbol() -> None:
    proto = model([node("AveragePool", ["x"], ["y"], kernel_shape=[3, 5], pads=[0, 1, 0, 1])],
                  {"x": (F32, [1, 2, 3, "W"])}, ["y"])  # fmt: skip
    graph = import_model(of_type(proto, y=(F32, 4)))
    assert graph.symbols()["W"].low == 3


def pooled(*steps: int) -> ModelProto:
    """Windows of a step behind each other, over axis S, whose last result has one element."""
    nodes = [
        node("AveragePool", ["x" if not i else f"p{i - 1}"], [f"p{i}"], kernel_shape=[step],
             strides=[step])
        for i, step in enumerate(steps)
    ]  # fmt: skip
    nodes.append(node("Squeeze", [f"p{len(steps) - 1}", "two"], ["y"]))
    proto = model(nodes, {"x": (F32, ["B", 8, "S"])}, ["y"], {"two": np.array([2])})
    return of_type(proto, y=(F32, 2))


@pytest.mark.parametrize(
    ("steps", "low", "high"), [((4,), 4, 7), ((4, 2), 8, 15), ((5, 1, 3), 15, 29)]
)
def test_a_quotient_that_must_be_one_bounds_the_symbol_under_it(
    steps: tuple[int, ...], low: int, high: int
) -> None:
    feeds = {"x": np.arange(2 * 8 * high, dtype=np.float32).reshape(2, 8, high)}
    graph = check(pooled(*steps), feeds)
    symbol = graph.symbols()["S"]
    assert (symbol.low, symbol.high) == (low, high)
    check(pooled(*steps), {"x": feeds["x"][:, :, :low]})
    within = import_model(pooled(*steps), dims={"S": (low, high)})  # known from the bounds alone
    assert sizes(str(within.outputs[0].type)) == "[B, 8]"
    with pytest.raises(FrontendError, match=f"works for {low}..{high} only"):
        import_model(pooled(*steps), dims={"S": (low, high + 1)})


def test_a_window_over_a_size_that_is_no_symbol_is_imported() -> None:
    kernel = np.ones((1, 1, 3, 3), np.float32)
    chain = [node("Conv", [f"x{i}", "w"], [f"x{i + 1}"], strides=[2, 2]) for i in range(3)]
    proto = model(chain, {"x0": (F32, [1, 1, "H", "W"])}, ["x3"], {"w": kernel})
    graph = import_model(of_type(proto, x3=(F32, 4)))
    assert {name: s.low for name, s in graph.symbols().items()} == {"H": 3, "W": 3}


def test_a_range_of_places_bounds_a_symbol() -> None:
    proto = shaped(
        [node("Shape", ["x"], ["s"], start=1, end=2), node("Squeeze", ["s"], ["n"]),
         node("Range", ["c0", "n", "c1"], ["r"]), node("Gather", ["table", "r"], ["g"]),
         node("Add", ["x", "g"], ["y"])], 3, table=np.ones((5, 8), np.float32),
    )  # fmt: skip
    assert check(proto, {"x": X}).symbols()["S"].high == 5


# What the caller fixes.


def test_shapes_fix_inputs() -> None:
    graph = import_model(joined(["B", "S"], ["B", "S"]), shapes={"a": [2, 3]})
    assert [str(v.type) for v in graph.inputs] == ["f32[2, 3]", "f32[2, 3]"]


def test_dims_bound_and_fix() -> None:
    graph = import_model(joined(["B", "S"], ["B", "S"]), dims={"B": (1, 8), "S": 4})
    assert str(graph.inputs[0].type) == "f32[B, 4]"
    assert graph.symbols()["B"].high == 8


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"shapes": {"z": [1, 2]}}, r"no input `z`(.|\n)*known inputs: `a`, `b`"),
        ({"dims": {"Q": 1}}, r"no size `Q`(.|\n)*known sizes: `B`, `S`"),
        ({"shapes": {"a": [1]}}, "2 axes"),
        ({"shapes": {"a": [1, 2], "b": [1, 3]}}, "is not"),
        ({"shapes": {"a": [-1, 2]}}, "negative"),
        ({"dims": {"B": (8, 2)}}, "bounds"),
    ],
)
def test_wrong_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(FrontendError, match=message):
        import_model(joined(["B", "S"], ["B", "S"]), **options)  # type: ignore[arg-type]  # wrong


def test_odd_and_missing_names() -> None:
    graph = import_model(joined(["seq-len", "2x"], ["seq-len", "2x"]))
    assert str(graph.inputs[0].type) == "f32[seq_len, d2x]"
    proto = model([node("Relu", ["x.1"], ["y"])], {"x.1": (F32, [None, 4])}, ["y"])
    graph = import_model(of_type(proto, y=(F32, 2)))
    assert graph.inputs[0].name == "x.1"
    assert str(graph.inputs[0].type) == "f32[x_1_0, 4]"
    sizes_found: tuple[Dim, ...] = graph.outputs[0].type.shape
    assert str(sizes_found[0]) == "x_1_0"


def test_sizes_that_old_exporters_leave_open() -> None:
    proto = model([node("Relu", ["x"], ["y"])], {"x": (F32, [-1, 3, "?", "?"])}, ["y"])
    graph = import_model(of_type(proto, y=(F32, 4)))
    assert str(graph.inputs[0].type) == "f32[x_0, 3, x_2, x_3]"


def test_initializers_that_are_inputs_are_not_inputs() -> None:
    proto = shaped([node("Mul", ["x", "half"], ["y"])], 3)
    proto.ir_version = 3
    proto.graph.input.append(helper.make_tensor_value_info("half", F32, []))
    graph = check(proto, {"x": X})
    assert [value.name for value in graph.inputs] == ["x"]


def test_static_code_has_no_symbols() -> None:
    proto = shaped(
        [*size_of("x", 0, "b"), *size_of("x", 1, "s"),
         node("Concat", ["b", "s", "open", "four"], ["shape"], axis=0),
         node("Reshape", ["x", "shape"], ["y"])], 4,
    )  # fmt: skip
    graph = check(proto, {"x": X}, shapes={"x": [2, 3, 8]})
    assert graph.outputs[0].type.is_static
