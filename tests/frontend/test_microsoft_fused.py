"""What ONNX Runtime's optimizer writes, against ONNX Runtime."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from onnx import helper

from tunesmith.driver import compile_model
from tunesmith.frontend import import_model
from tunesmith.ir.diagnostics import FrontendError
from tunesmith.ir.interpreter import evaluate
from tunesmith.runtime import load

from .models import Array, compare, declare, one, runtime

RNG = np.random.default_rng(31)
SHAPES = [(1, 1), (2, 7), (3, 16), (5, 17), (0, 4)]


def f(*shape: int) -> Any:
    """Random floats."""
    return RNG.standard_normal(shape).astype(np.float32)


def codes(*shape: int, dtype: type = np.uint8) -> Any:
    """Random integers of a byte."""
    low = -128 if dtype is np.int8 else 0
    return RNG.integers(low, low + 256, shape).astype(dtype)


def scale(value: float) -> Array:
    """One scale."""
    return np.asarray(value, np.float32)


def hold(operator: str, feeds: Sequence[Array | None], *, units: int = 0, compiled: bool = True,
         **options: Any) -> None:  # fmt: skip
    """The interpreter and the compiled model agree with ONNX Runtime, integers up to `units`."""
    meaning, share = options.pop("meaning", None), options.pop("share", 50)
    proto, live = one(operator, list(feeds), domain="com.microsoft", opset=17, **options)
    if meaning is not None:  # an attribute whose name is taken here
        proto.graph.node[0].attribute.append(helper.make_attribute("opset", meaning))
    wanted = runtime(proto, live)
    found = [evaluate(import_model(declare(proto, wanted)), live)]
    if compiled:
        found.append([*load(compile_model(proto, threads=1), threads=1).run(live).values()])
    for results in found:
        for got, want in zip(results, wanted, strict=True):
            if want.dtype.kind == "f":
                compare([got], [want], 1e-4)
                continue
            assert (got.dtype, got.shape) == (want.dtype, want.shape)
            far = np.abs(got.astype(np.int64) - want.astype(np.int64))
            assert far.max(initial=0) <= units
            assert (far > 0).sum() <= max(1, far.size // share)  # ties that were rounded otherwise


ACTIVATIONS: dict[str, list[float]] = {
    "": [], "Relu": [], "Tanh": [], "Sigmoid": [], "LeakyRelu": [0.3], "Clip": [-0.4, 0.5],
    "HardSigmoid": [0.3, 0.4],
}  # fmt: skip


@pytest.mark.tvm
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_convolutions_with_an_activation(name: str) -> None:
    options: dict[str, Any] = {"activation": name} if name else {}
    if ACTIVATIONS[name]:
        options["activation_params"] = ACTIVATIONS[name]
    hold("FusedConv", [f(2, 3, 7, 9), f(5, 3, 3, 3), f(5)], pads=[1, 1, 1, 1], **options)
    if name == "Relu":  # and with what skips it
        hold("FusedConv", [f(1, 4, 5, 5), f(4, 1, 3, 3), f(4), f(1, 4, 5, 5)], group=4,
             pads=[1, 1, 1, 1], **options)  # fmt: skip


@pytest.mark.tvm
@pytest.mark.parametrize("name", [n for n in ACTIVATIONS if n and n != "Clip"])
def test_products_with_an_activation(name: str) -> None:
    given: dict[str, Any] = dict(
        zip(("activation_alpha", "activation_beta"), ACTIVATIONS[name], strict=False)
    )
    hold("FusedGemm", [f(7, 5), f(5, 17), f(17)], activation=name, **given)
    hold("FusedGemm", [f(5, 7), f(3, 5)], activation=name, transA=1, transB=1, alpha=0.5, **given)


@pytest.mark.parametrize(
    ("operator", "options", "message"),
    [
        ("FusedConv", {"activation": "Gelu"}, "is not one of"),
        ("FusedConv", {"activation": "Clip", "activation_params": [1.0]}, "needs 2 parameters"),
    ],
)
def test_activations_that_are_refused(operator: str, options: dict[str, Any], message: str) -> None:
    proto, _ = one(operator, [f(1, 1, 4, 4), f(1, 1, 3, 3)], domain="com.microsoft", **options)
    with pytest.raises(FrontendError, match=message):
        import_model(declare(proto, [f(1, 1, 2, 2)]))


@pytest.mark.tvm
@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
def test_two_operands_of_integers(dtype: type) -> None:
    zero: Array = np.asarray(3, dtype)
    for operator, out in (("QLinearAdd", 0.05), ("QLinearMul", 0.4)):
        for shape in SHAPES:
            for other in (shape, shape[1:]):
                hold(operator, [codes(*shape, dtype=dtype), scale(0.03), zero,
                                codes(*other, dtype=dtype), scale(0.02), np.asarray(99, dtype),
                                scale(out), zero], constants=[1, 2, 4, 5, 6, 7], units=1,
                     compiled=shape == (5, 17))  # fmt: skip


@pytest.mark.tvm
@pytest.mark.parametrize("dtype", [np.uint8, np.int8])
@pytest.mark.parametrize(
    ("operator", "out", "options"),
    [
        ("QLinearSigmoid", 1 / 256, {}), ("QLinearLeakyRelu", 0.03, {"alpha": 0.2}),
        # sums of a table of rounded powers there; at 1/256 a whole 1 wraps around to 0
        ("QLinearSoftmax", 1 / 100, {"axis": -1, "meaning": 13, "share": 4}),
    ],
)  # fmt: skip
def test_one_operand_of_integers(
    operator: str, out: float, options: dict[str, Any], dtype: type
) -> None:
    zero: Array = np.asarray(0 if dtype is np.uint8 else -128, dtype)
    for shape in SHAPES[:4]:
        hold(operator, [codes(*shape, dtype=dtype), scale(0.03), np.asarray(7, dtype), scale(out),
                        zero], constants=[1, 2, 3, 4], units=1, compiled=shape == (5, 17),
             **options)  # fmt: skip


@pytest.mark.tvm
def test_means_of_integers() -> None:
    x = codes(2, 3, 9, 11)
    rest = [scale(0.03), np.uint8(7), scale(0.0217), np.uint8(100)]  # 0.02 makes many ties
    feeds = [x, *map(np.asarray, rest)]
    hold("QLinearGlobalAveragePool", feeds, constants=[1, 2, 3, 4], units=1)
    for options in ({}, {"pads": [1, 1, 1, 1]}, {"strides": [2, 3], "count_include_pad": 1}):
        hold("QLinearAveragePool", feeds, constants=[1, 2, 3, 4], units=1, kernel_shape=[3, 3],
             **options)  # fmt: skip


@pytest.mark.tvm
def test_joining_and_choosing_integers() -> None:
    zero: Array = np.asarray(9, np.uint8)
    feeds = [scale(0.05), zero]
    for width, size in ((3, 0.05), (1, 0.02), (17, 0.1)):
        feeds += [codes(2, width), scale(size), np.asarray(width, np.uint8)]
    hold("QLinearConcat", feeds, axis=1, units=1, constants=[0, 1, 3, 4, 6, 7, 9, 10])
    flags = RNG.random((3, 7)) < 0.5
    hold("QLinearWhere", [flags, codes(3, 7), scale(0.03), zero, codes(3, 7), scale(0.02), zero,
                          scale(0.03), zero], units=1, constants=[2, 3, 5, 6, 7, 8])  # fmt: skip


@pytest.mark.tvm
@pytest.mark.parametrize("columns", [False, True])
def test_products_of_integers(columns: bool) -> None:
    for rows, inner, cols in ((1, 1, 1), (7, 16, 17), (5, 33, 3)):
        wide = np.full(cols, 0.01, np.float32) * RNG.random(cols).astype(np.float32) + 0.001
        b_scale = wide if columns else scale(0.01)
        b_zero: Array = np.zeros(cols, np.int8) if columns else np.asarray(0, np.int8)
        added: Array = RNG.integers(-500, 500, cols).astype(np.int32)
        feeds = [codes(rows, inner), scale(0.02), np.asarray(100, np.uint8),
                 codes(inner, cols, dtype=np.int8), b_scale, b_zero, added]  # fmt: skip
        hold("QGemm", feeds, constants=[1, 2, 3, 4, 5, 6], compiled=inner == 33)
        hold("QGemm", [*feeds, scale(0.05), np.asarray(120, np.uint8)], units=1,
             constants=[1, 2, 3, 4, 5, 6, 7, 8], compiled=inner == 33)  # fmt: skip


@pytest.mark.tvm
@pytest.mark.parametrize("dtype", [np.uint8, np.int8, np.uint16, np.int16])
def test_to_integers_and_back(dtype: type) -> None:
    zero: Array = np.asarray(5, dtype)
    hold("QuantizeLinear", [f(3, 17) * 3, scale(0.03), zero], constants=[1, 2])
    hold("DequantizeLinear", [RNG.integers(0, 100, (3, 17)).astype(dtype), scale(0.03), zero],
         constants=[1, 2])  # fmt: skip
