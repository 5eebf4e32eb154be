"""Each import rule against ONNX Runtime, on models of one operator."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, shape_inference

from tunesmith.frontend import import_model
from tunesmith.ir.interpreter import evaluate
from tunesmith.oracle import max_ulp

from .models import Array, check, model, node, one

RNG = np.random.default_rng(7)


def f(*shape: int) -> NDArray[np.float32]:
    """Random floats."""
    return RNG.standard_normal(shape).astype(np.float32)


def p(*shape: int) -> NDArray[np.float32]:
    """Random positive floats."""
    return np.asarray(RNG.random(shape) + 0.5, np.float32)


def i(*items: int) -> Array:
    """An int64 vector."""
    return np.array(items, np.int64)


def n(value: float, dtype: type = np.int64) -> Array:
    """A scalar."""
    return np.asarray(value, dtype)


def ints(low: int, high: int, *shape: int, dtype: type = np.int64) -> NDArray[np.int64]:
    """Random integers."""
    return RNG.integers(low, high, shape).astype(dtype)


def flags(*shape: int) -> Array:
    """Random bools."""
    return RNG.random(shape) > 0.5


X = f(2, 3, 4)
ODD = np.array([np.nan, np.inf, -np.inf, 1.5, -2.5, 0.5, -0.0], np.float32)

Case = tuple[str, str, Sequence[Array | None], Mapping[str, object]]
NONE: Mapping[str, object] = {}
CASES: list[Case] = [
    *[
        (op, op, [X], NONE)
        for op in (
            "Abs", "Asinh", "Ceil", "Cos", "Cosh", "Elu", "Erf", "Exp", "Floor", "HardSigmoid",
            "HardSwish", "Identity", "LeakyRelu", "Neg", "Reciprocal", "Relu", "Round",
            "Selu", "Sigmoid", "Sign", "Sin", "Sinh", "Softplus", "Softsign", "Tan", "Tanh", "Size",
            "Shape", "ThresholdedRelu", "Celu", "Shrink",
        )
    ],
    *[(op, op, [p(2, 3)], NONE) for op in ("Log", "Sqrt")],
    ("Mish", "Mish", [X], {"opset": 18}),
    ("Acosh", "Acosh", [p(5) + np.float32(1)], NONE),
    ("Atanh", "Atanh", [f(5).clip(-0.9, 0.9)], NONE),
    *[(f"{op}-odd", op, [ODD], NONE) for op in ("IsNaN", "IsInf", "Relu", "Sign", "Round", "Erf")],
    ("IsInf-high", "IsInf", [ODD], {"detect_negative": 0}),
    ("IsInf-low", "IsInf", [ODD], {"detect_positive": 0}),
    *[(op, op, [f(2, 3, 4), p(3, 1)], NONE) for op in ("Add", "Sub", "Mul", "Div", "PRelu")],
    *[(f"{op}-int", op, [ints(-9, 9, 6), ints(1, 5, 6)], NONE) for op in ("Add", "Mul", "Div")],
    *[
        (op, op, [ints(0, 3, 2, 4), ints(0, 3, 4)], NONE)
        for op in ("Equal", "Less", "Greater", "LessOrEqual", "GreaterOrEqual")
    ],
    *[(op, op, [flags(2, 3), flags(3)], NONE) for op in ("And", "Or", "Xor")],
    ("Not", "Not", [flags(4)], NONE),
    *[
        (op, op, [ints(0, 99, 5), ints(0, 99, 5)], {"opset": 18})
        for op in ("BitwiseAnd", "BitwiseOr", "BitwiseXor")
    ],
    ("BitwiseNot", "BitwiseNot", [ints(0, 99, 5)], {"opset": 18}),
    ("BitShift", "BitShift", [ints(0, 99, 5, dtype=np.uint8), ints(0, 4, 5, dtype=np.uint8)],
     {"direction": "LEFT"}),
    ("Mod", "Mod", [ints(-9, 9, 8), ints(1, 5, 8)], NONE),
    ("Mod-negative", "Mod", [ints(-9, 9, 8), -ints(1, 5, 8)], NONE),
    ("Mod-c", "Mod", [ints(-9, 9, 8), ints(1, 5, 8)], {"fmod": 1}),
    ("Mod-float", "Mod", [f(8) * 5, f(8)], {"fmod": 1}),
    ("Pow", "Pow", [p(3), f(3)], NONE),
    ("Pow-int", "Pow", [f(3), n(3)], NONE),
    ("Pow-wide", "Pow", [ints(1, 4, 3), n(2.0, np.float32)], NONE),
    *[(op, op, [f(2, 3), f(3), f(2, 1)], NONE) for op in ("Max", "Min", "Sum", "Mean")],
    ("Where", "Where", [flags(2, 1), f(2, 3), f(3)], NONE),
    ("Cast", "Cast", [f(5) * 9], {"to": 7}),
    ("Cast-bool", "Cast", [ints(-1, 2, 5)], {"to": 9}),
    ("Cast-half", "Cast", [f(5)], {"to": 10}),
    ("CastLike", "CastLike", [f(5), i(1)], NONE),
    ("Clip", "Clip", [f(9), n(-0.5, np.float32), n(0.5, np.float32)], {"constants": [1, 2]}),
    ("Clip-low", "Clip", [f(9), n(-0.5, np.float32)], {"constants": [1]}),
    ("Clip-high", "Clip", [f(9), None, n(0.5, np.float32)], {"constants": [2]}),
    ("Clip-live", "Clip", [f(9), n(-0.5, np.float32), n(0.5, np.float32)], NONE),
    ("Clip-int", "Clip", [ints(-9, 9, 9), n(-2), n(3)], {"constants": [1, 2]}),
    ("Clip-6", "Clip", [f(9)], {"opset": 7, "min": -0.5, "max": 0.25}),
    ("Gelu", "Gelu", [X], {"opset": 20}),
    ("Gelu-tanh", "Gelu", [X], {"opset": 20, "approximate": "tanh"}),
    ("Swish", "Swish", [X], {"opset": 24, "alpha": 1.5}),
    *[(op, op, [X], {"axis": 1}) for op in ("Softmax", "LogSoftmax", "Hardmax")],
    *[(f"{op}-9", op, [X], {"opset": 9}) for op in ("Softmax", "LogSoftmax", "Hardmax")],
    # Reductions.
    *[
        (f"{op}-{keep}", op, [p(2, 3, 4)], {"axes": [1, -1], "keepdims": keep})
        for op in ("ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2",
                   "ReduceLogSum", "ReduceLogSumExp", "ReduceSumSquare")
        for keep in (0, 1)
    ],
    *[
        (f"{op}-18", op, [p(2, 3, 4), i(1)], {"opset": 18, "constants": [1], "keepdims": 0})
        for op in ("ReduceMax", "ReduceMean", "ReduceSum", "ReduceL2", "ReduceLogSumExp")
    ],
    ("ReduceSum-all", "ReduceSum", [X], NONE),
    ("ReduceSum-none", "ReduceSum", [X], {"noop_with_empty_axes": 1}),
    ("ReduceSum-attr", "ReduceSum", [X], {"opset": 11, "axes": [0]}),
    ("ReduceMax-bool", "ReduceMax", [flags(2, 3), i(1)], {"opset": 20, "constants": [1]}),
    ("ReduceMin-bool", "ReduceMin", [flags(2, 3), i(1)], {"opset": 20, "constants": [1]}),
    ("ArgMax", "ArgMax", [ints(0, 3, 3, 5)], {"axis": 1}),
    ("ArgMax-last", "ArgMax", [ints(0, 3, 3, 5)], {"axis": -1, "select_last_index": 1}),
    ("ArgMin", "ArgMin", [X], {"axis": 0, "keepdims": 0}),
    ("CumSum", "CumSum", [X, n(1)], {"constants": [1]}),
    ("CumSum-back", "CumSum", [X, n(2)], {"constants": [1], "exclusive": 1, "reverse": 1}),
    ("TopK", "TopK", [f(3, 9), i(4)], {"constants": [1], "outputs": 2}),
    ("TopK-least", "TopK", [f(9, 3), i(4)],
     {"constants": [1], "outputs": 2, "axis": 0, "largest": 0}),
    ("GlobalAveragePool", "GlobalAveragePool", [f(1, 2, 3, 4)], NONE),
    ("GlobalMaxPool", "GlobalMaxPool", [f(1, 2, 3, 4)], NONE),
    ("LpNormalization", "LpNormalization", [X], {"axis": 1}),
    # Movement.
    ("Reshape", "Reshape", [X, i(0, -1)], {"constants": [1]}),
    ("Reshape-zero", "Reshape", [f(0, 3), i(3, 0)], {"constants": [1], "allowzero": 1}),
    ("Flatten", "Flatten", [X], {"axis": 2}),
    ("Flatten-back", "Flatten", [X], {"axis": -1}),
    ("Flatten-rank", "Flatten", [X], {"axis": 3}),
    ("Squeeze", "Squeeze", [f(1, 3, 1), i(-1)], {"constants": [1]}),
    ("Squeeze-all", "Squeeze", [f(1, 3, 1)], NONE),
    ("Squeeze-11", "Squeeze", [f(1, 3, 1)], {"opset": 11, "axes": [-1]}),
    ("Unsqueeze-11", "Unsqueeze", [X], {"opset": 11, "axes": [0, 4]}),
    ("TopK-9", "TopK", [f(3, 9)], {"opset": 9, "outputs": 2, "k": 4}),
    ("Pad-9", "Pad", [f(2, 3)], {"opset": 9, "pads": [1, 0, 0, 2], "value": 2.0}),
    ("Dropout-9", "Dropout", [X], {"opset": 9, "ratio": 0.5}),
    ("Upper-9", "Softmax", [f(3, 4)], {"opset": 9, "axis": 0}),
    ("Unsqueeze", "Unsqueeze", [X, i(0, -1)], {"constants": [1]}),
    ("Transpose", "Transpose", [X], {"perm": [2, 0, 1]}),
    ("Transpose-back", "Transpose", [X], NONE),
    ("Concat", "Concat", [f(2, 3), f(2, 1), f(2, 0)], {"axis": -1}),
    ("Expand", "Expand", [f(3, 1), i(2, 1, 4)], {"constants": [1]}),
    ("Expand-narrow", "Expand", [f(3, 4), i(1)], {"constants": [1]}),
    ("Tile", "Tile", [f(2, 1, 3), i(2, 3, 1)], {"constants": [1]}),
    ("Split", "Split", [f(7, 2), i(2, 5)], {"constants": [1], "outputs": 2}),
    ("Split-even", "Split", [f(6, 2)], {"outputs": 3}),
    ("Split-18", "Split", [f(7, 2)], {"opset": 18, "outputs": 3, "num_outputs": 3}),
    ("Split-11", "Split", [f(2, 6)], {"opset": 11, "outputs": 2, "axis": 1, "split": [2, 4]}),
    ("DepthToSpace", "DepthToSpace", [f(1, 8, 2, 3)], {"blocksize": 2}),
    ("DepthToSpace-crd", "DepthToSpace", [f(1, 8, 2, 3)], {"blocksize": 2, "mode": "CRD"}),
    ("SpaceToDepth", "SpaceToDepth", [f(1, 2, 4, 6)], {"blocksize": 2}),
    ("Dropout", "Dropout", [X], NONE),
    ("Gather", "Gather", [X, np.array([[0, -1]])], {"axis": 1}),
    ("Gather-scalar", "Gather", [X, n(-2)], {"axis": 2, "constants": [1]}),
    ("GatherElements", "GatherElements", [f(3, 4), ints(-3, 3, 2, 4)], NONE),
    ("GatherND", "GatherND", [X, ints(0, 2, 5, 2)], NONE),
    ("GatherND-batch", "GatherND", [X, ints(0, 3, 2, 1)], {"batch_dims": 1}),
    ("ScatterND", "ScatterND", [f(4, 3), np.array([[2], [0]]), f(2, 3)], NONE),
    ("ScatterElements", "ScatterElements", [f(3, 4), np.array([[1, -1, 0, 2]]), f(1, 4)], NONE),
    ("ScatterElements-add", "ScatterElements", [f(3, 4), np.array([[1, 1, 0, 2]]), f(1, 4)],
     {"opset": 18, "reduction": "add"}),
    ("Pad", "Pad", [f(2, 3), i(1, 0, 0, 2), n(7.0, np.float32)], {"constants": [1, 2]}),
    ("Pad-crop", "Pad", [f(4, 5), i(-1, 0, 0, -2)], {"constants": [1]}),
    ("Pad-axes", "Pad", [f(2, 3), i(1, 2), None, i(-1)], {"opset": 18, "constants": [1, 3]}),
    *[
        (f"Pad-{mode}", "Pad", [f(3, 4), i(2, 1, 1, 3)], {"constants": [1], "mode": mode})
        for mode in ("edge", "reflect")
    ],
    ("Pad-wrap", "Pad", [f(3, 4), i(2, 1, 1, 3)],
     {"opset": 19, "constants": [1], "mode": "wrap"}),
    *[
        (f"Slice-{name}", "Slice", [f(5, 7), *map(np.array, parts)], {"constants": [1, 2, 3, 4]})
        for name, parts in {
            "plain": ([1, 2], [4, 6], [0, 1], [1, 2]),
            "far": ([-3], [2**63 - 1], [1], [1]),
            "outside": ([-99], [99], [0], [3]),
            "reverse": ([-1], [-(2**63)], [-1], [-1]),
            "reverse-2": ([2**63 - 1], [0], [1], [-2]),
            "empty": ([4], [2], [0], [1]),
        }.items()
    ],
    ("Slice-9", "Slice", [f(5, 7)], {"opset": 9, "starts": [1, -2], "ends": [9, -1]}),
    ("OneHot", "OneHot", [i(0, 2, -1), n(4), f(2)], {"constants": [1]}),
    ("OneHot-axis", "OneHot", [i(0, 2), n(3), f(2)], {"constants": [1], "axis": 0}),
    ("Trilu", "Trilu", [f(2, 4, 5)], NONE),
    ("Trilu-low", "Trilu", [f(4, 5), n(-1)], {"constants": [1], "upper": 0}),
    ("EyeLike", "EyeLike", [f(3, 4)], {"k": 1}),
    ("Range", "Range", [n(2), n(11), n(3)], {"constants": [0, 1, 2]}),
    ("Range-back", "Range", [n(5.0, np.float32), n(0.0, np.float32), n(-1.5, np.float32)],
     {"constants": [0, 1, 2]}),
    ("ConstantOfShape", "ConstantOfShape", [i(2, 3)], {"constants": [0]}),
    # Products.
    *[
        (f"MatMul-{a.ndim}{b.ndim}", "MatMul", [a, b], NONE)
        for a, b in ((f(4), f(4)), (f(4), f(4, 3)), (f(2, 4), f(4)), (f(5, 2, 4), f(4, 3)),
                     (f(5, 2, 4), f(5, 4, 3)), (f(4), f(5, 4, 3)))
    ],
    ("Gemm", "Gemm", [f(2, 4), f(4, 3), f(3)], NONE),
    ("Gemm-all", "Gemm", [f(4, 2), f(3, 4), f(2, 1)],
     {"transA": 1, "transB": 1, "alpha": 0.5, "beta": 2.0}),
    ("MatMulInteger", "MatMulInteger",
     [ints(0, 255, 2, 4, dtype=np.uint8), ints(-9, 9, 4, 3, dtype=np.int8), n(7, np.uint8)], NONE),
    *[
        (f"Einsum-{k}", "Einsum", parts, {"equation": equation})
        for k, (equation, parts) in enumerate([
            ("bij,bjk->bik", [f(2, 3, 4), f(2, 4, 5)]),
            ("bthd,bshd->bhts", [f(2, 3, 4, 5), f(2, 6, 4, 5)]),
            ("ij->ji", [f(2, 3)]),
            ("...ij,...jk", [f(2, 3, 4), f(2, 4, 5)]),
            ("i,j->ij", [f(3), f(4)]),
            ("ij,ij->", [f(3, 4), f(3, 4)]),
            ("ab,bc,cd->ad", [f(2, 3), f(3, 4), f(4, 5)]),
        ])
    ],
    # Layers.
    ("Conv", "Conv", [f(1, 2, 7, 8), f(4, 2, 3, 3), f(4)],
     {"pads": [1, 0, 1, 2], "strides": [2, 1]}),
    ("Conv-group", "Conv", [f(1, 4, 9), f(4, 2, 3)], {"group": 2, "dilations": [2]}),
    *[
        (f"Conv-{pad}", "Conv", [f(1, 2, 7, 8), f(4, 2, 3, 2)],
         {"auto_pad": pad, "strides": [2, 2]})
        for pad in ("SAME_UPPER", "SAME_LOWER", "VALID")
    ],
    ("MaxPool", "MaxPool", [f(1, 2, 7, 8)], {"kernel_shape": [3, 2], "strides": [2, 2]}),
    ("MaxPool-ceil", "MaxPool", [f(1, 2, 7, 8)],
     {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}),
    ("AveragePool", "AveragePool", [f(1, 2, 7, 8)],
     {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "strides": [2, 1]}),
    ("AveragePool-pad", "AveragePool", [f(1, 2, 7, 8)],
     {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1}),
    ("BatchNormalization", "BatchNormalization", [f(2, 3, 4), p(3), f(3), f(3), p(3)], NONE),
    ("MeanVarianceNormalization", "MeanVarianceNormalization", [f(2, 3, 4, 2)], NONE),
    ("InstanceNormalization", "InstanceNormalization", [f(2, 3, 9), p(3), f(3)], NONE),
    ("GroupNormalization", "GroupNormalization", [f(2, 4, 9), p(4), f(4)],
     {"opset": 21, "num_groups": 2}),
    ("LayerNormalization", "LayerNormalization", [X, p(4), f(4)], {"epsilon": 1e-12}),
    ("LayerNormalization-all", "LayerNormalization", [X, p(3, 4)], {"axis": 1, "outputs": 3}),
    ("RMSNormalization", "RMSNormalization", [X, p(4)], {"opset": 23}),
    # Integers for floats.
    ("DequantizeLinear", "DequantizeLinear", [ints(-99, 99, 4, dtype=np.int8), p()], NONE),
    ("DequantizeLinear-axis", "DequantizeLinear",
     [ints(0, 99, 2, 3, dtype=np.uint8), p(3), ints(0, 99, 3, dtype=np.uint8)], NONE),
    ("QuantizeLinear", "QuantizeLinear", [f(9) * 99, p(), n(3, np.int8)], NONE),
    ("DynamicQuantizeLinear", "DynamicQuantizeLinear", [f(9)], {"outputs": 3}),
    # ONNX Runtime's own.
    *[
        (f"ms-{op}", op, [X, f(4)], {"domain": "com.microsoft"})
        for op in ("BiasGelu", "FastGelu")
    ],
    ("ms-Gelu", "Gelu", [X], {"domain": "com.microsoft"}),
    ("ms-QuickGelu", "QuickGelu", [X], {"domain": "com.microsoft"}),
    ("ms-FusedMatMul", "FusedMatMul", [f(4, 2), f(4, 3)],
     {"domain": "com.microsoft", "transA": 1, "alpha": 0.5}),
    ("ms-SkipLayerNormalization", "SkipLayerNormalization", [X, f(2, 3, 4), p(4), f(4), f(4)],
     {"domain": "com.microsoft"}),
    ("ms-SkipSimplifiedLayerNormalization", "SkipSimplifiedLayerNormalization",
     [X, f(2, 3, 4), p(4)], {"domain": "com.microsoft"}),
    ("ms-RotaryEmbedding", "RotaryEmbedding",
     [f(2, 3, 8), np.array([[0, 1, 2], [4, 2, 1]]), f(9, 2), f(9, 2)],
     {"domain": "com.microsoft", "num_heads": 2}),
    ("ms-MultiHeadAttention", "MultiHeadAttention",
     [f(2, 3, 8), f(2, 5, 8), f(2, 5, 8), f(24)], {"domain": "com.microsoft", "num_heads": 2}),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case[0]))
def test_agrees_with_onnx_runtime(case: Case) -> None:
    _, operator, feeds, options = case
    proto, live = one(operator, feeds, **options)  # type: ignore[arg-type]  # a table of options
    with np.errstate(all="ignore"):
        check(proto, live, 2e-5)


SYMBOLIC = [
    case for case in CASES
    if case[0] in {
        "Add", "Relu", "Softmax", "Softmax-9", "MatMul-52", "MatMul-53", "Transpose", "Flatten",
        "ReduceSum-all", "LayerNormalization", "Gather", "Trilu", "Conv", "Unsqueeze", "Where",
    }
]  # fmt: skip


@pytest.mark.parametrize("case", SYMBOLIC, ids=lambda case: str(case[0]))
def test_symbolic_sizes_agree_as_well(case: Case) -> None:
    _, operator, feeds, options = case
    proto, live = one(operator, feeds, symbolic=operator != "Conv", **options)  # type: ignore[arg-type]
    graph = check(proto, live, 2e-5)
    assert operator == "Conv" or not graph.inputs[0].type.is_static


def test_narrow_floats() -> None:
    x = f(2, 8).astype(np.float16)
    weight = p(8).astype(np.float16)
    proto, live = one("LayerNormalization", [x, weight], constants=[1])
    check(proto, live, 2e-3)


# What is written with other operators, and where in half precision it is hard.
HALF = TensorProto.FLOAT16
HALVES: dict[str, tuple[Callable[[NDArray[np.float64]], NDArray[np.float64]], float, float]] = {
    "Acos": (np.arccos, -1, 1), "Acosh": (np.arccosh, 1, 60000), "Asin": (np.arcsin, -1, 1),
    "Asinh": (np.arcsinh, -60000, 60000), "Atan": (np.arctan, -100, 100),
    "Atanh": (np.arctanh, -0.99, 0.99), "Cosh": (np.cosh, -11, 11), "Sinh": (np.sinh, -11, 11),
    "Tan": (np.tan, -7, 7), "Softsign": (lambda x: x / (1 + np.abs(x)), -60000, 60000),
    "Softplus": (lambda x: np.logaddexp(0, x), -20, 20),
    "Mish": (lambda x: x * np.tanh(np.logaddexp(0, x)), -20, 20),
}  # fmt: skip


@pytest.mark.parametrize("operator", HALVES)
def test_halves_are_rounded_once(operator: str) -> None:
    """To the half nearest to the exact answer, but for ties: no step overflows or rounds."""
    function, low, high = HALVES[operator]
    x = np.linspace(low, high, 2000).astype(np.float16)
    proto = model([node(operator, ["x"], ["y"])], {"x": (HALF, [x.size])}, {"y": HALF}, opset=22)
    (y,) = evaluate(import_model(shape_inference.infer_shapes(proto)), {"x": x})
    exact = np.asarray(function(x.astype(np.float64)))
    with np.errstate(over="ignore"):
        assert max_ulp(y, exact.astype(np.float16)) <= 1
    assert np.count_nonzero(y != exact.astype(np.float16)) <= 0.01 * x.size
