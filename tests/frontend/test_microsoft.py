"""Operators of ONNX Runtime's own domain against ONNX Runtime, at sizes about every boundary."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from onnx import numpy_helper

from tunesmith.driver import compile_model
from tunesmith.frontend import import_model
from tunesmith.ir.diagnostics import FrontendError
from tunesmith.runtime import load

from .models import Array, check, compare, declare, one, runtime

RNG = np.random.default_rng(11)
DOMAIN = "com.microsoft"


def f(*shape: int) -> Any:
    """Random floats."""
    return RNG.standard_normal(shape).astype(np.float32)


def u8(*shape: int, low: int = 0, high: int = 256) -> Any:
    """Random bytes."""
    return RNG.integers(low, high, shape).astype(np.uint8)


def i32(*values: int) -> Array:
    """Integers."""
    return np.array(values, np.int32)


def agree(
    operator: str, feeds: list[Array | None], tolerance: float = 1e-4, **options: Any
) -> None:
    """The interpreter and the compiled model give what ONNX Runtime gives."""
    proto, live = one(operator, feeds, domain=DOMAIN, opset=21, **options)
    check(proto, live, tolerance)
    wanted = runtime(proto, live)
    found = load(compile_model(declare(proto, wanted), threads=1)).run(live)
    compare([*found.values()], wanted, tolerance)


BITS = [
    (rows, inner, cols, block, bits)
    for rows, inner, cols, block in (
        (1, 16, 1, 16), (2, 32, 17, 32), (3, 33, 5, 32), (1, 31, 16, 16), (5, 130, 33, 64),
        (17, 97, 7, 32),
    )
    for bits in (4, 8)
]  # fmt: skip


@pytest.mark.tvm
@pytest.mark.parametrize(("rows", "inner", "cols", "block", "bits"), BITS)
@pytest.mark.parametrize("zeros", ["none", "packed", "float"])
def test_weights_in_blocks(
    rows: int, inner: int, cols: int, block: int, bits: int, zeros: str
) -> None:
    blocks = -(-inner // block)
    packed = u8(cols, blocks, block * bits // 8)
    zero: dict[str, Array | None] = {
        "none": None, "packed": u8(cols, -(-blocks * bits // 8)), "float": f(cols, blocks) + 8,
    }  # fmt: skip
    if zeros == "float" and bits == 8:
        pytest.skip("ONNX Runtime takes float zero points with four bits only")
    feeds = [f(rows, inner), packed, f(cols * blocks) * 0.01, zero[zeros]]
    agree("MatMulNBits", feeds, constants=[1, 2, 3], K=inner, N=cols, block_size=block, bits=bits)


@pytest.mark.tvm
def test_weights_in_blocks_with_a_bias() -> None:
    feeds = [f(2, 3, 48), u8(10, 3, 8), f(10, 3), None, None, f(10)]
    agree("MatMulNBits", feeds, constants=[1, 2, 5], K=48, N=10, block_size=16, bits=4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"K": 32, "bits": 3}, "3 bits"),
        ({"K": 16, "bits": 4}, "columns that `K` says"),
        ({"K": 32, "bits": 4, "weight_prepacked": 1}, "packed for one device"),
    ],
)
def test_blocks_that_do_not_fit(options: dict[str, Any], message: str) -> None:
    feeds = [f(1, 32), u8(4, 2, 8), f(4, 2)]
    proto, _ = one("MatMulNBits", feeds, domain=DOMAIN, opset=21, constants=[1, 2], N=4,
                   block_size=16, **options)  # fmt: skip
    proto = declare(proto, [f(1, 4)])
    with pytest.raises(FrontendError, match=message):
        import_model(proto)


@pytest.mark.tvm
@pytest.mark.parametrize("signed", [True, False])
@pytest.mark.parametrize(
    ("rows", "width", "block"), [(1, 16, 16), (5, 32, 16), (7, 33, 32), (3, 31, 16)]
)
@pytest.mark.parametrize("shape", [(1,), (2, 3), ()])
def test_rows_of_a_table_in_blocks(
    signed: bool, rows: int, width: int, block: int, shape: tuple[int, ...]
) -> None:
    dtype = ml_dtypes.int4 if signed else ml_dtypes.uint4
    low, high = (-8, 8) if signed else (0, 16)
    blocks = -(-width // block)
    table = RNG.integers(low, high, (rows, width)).astype(np.int8).astype(dtype)
    zero = RNG.integers(low, high, (rows, blocks)).astype(np.int8).astype(dtype)
    scales, places = f(rows, blocks), RNG.integers(0, rows, shape)
    for zeros in ([], [zero]):
        feeds = [np.zeros(0), places, scales, *[np.zeros(0) for _ in zeros]]
        proto, live = one("GatherBlockQuantized", feeds, domain=DOMAIN, opset=21,
                          constants=[0, 2, 3], block_size=block)  # fmt: skip
        for tensor in proto.graph.initializer:
            if tensor.name in ("x0", "x3"):
                held = table if tensor.name == "x0" else zero
                tensor.CopyFrom(numpy_helper.from_array(held, tensor.name))
        check(proto, live, 1e-6)


def test_a_table_of_bytes_in_blocks() -> None:
    table, places = u8(6, 16), np.array([5, 0, 3])
    for zeros in ([], [u8(6, 1)]):
        feeds = [table, places, f(6, 2), *zeros]
        proto, live = one("GatherBlockQuantized", feeds, domain=DOMAIN, opset=21,
                          constants=[0, 2, 3], block_size=16, bits=4)  # fmt: skip
        check(proto, live, 1e-6)


@pytest.mark.tvm
@pytest.mark.parametrize("rows", [1, 7, 17])
@pytest.mark.parametrize(("inner", "cols"), [(1, 1), (4, 17), (33, 5), (64, 16)])
def test_products_of_rows_made_integers(rows: int, inner: int, cols: int) -> None:
    a, b = f(rows, inner), u8(inner, cols).astype(np.int8)
    for rest in ([], [np.int8(3)], [np.int8(3), f(cols)]):
        feeds = [a, b, np.float32(0.02), *map(np.asarray, rest)]
        agree("DynamicQuantizeMatMul", feeds, constants=[1, 2, 3, 4], tolerance=1e-3)
    feeds = [u8(rows, inner), u8(inner, cols), np.float32(0.1), f(cols) * 0.1, np.uint8(7),
             u8(cols), f(cols)]  # fmt: skip
    feeds = [np.asarray(x) for x in feeds]
    agree("MatMulIntegerToFloat", feeds, constants=[1, 3, 5, 6], tolerance=1e-3)


@pytest.mark.tvm
@pytest.mark.parametrize(("batch", "length", "width"), [(1, 1, 4), (2, 7, 16), (3, 17, 33)])
def test_embeddings(batch: int, length: int, width: int) -> None:
    ids = RNG.integers(0, 11, (batch, length)).astype(np.int32)
    parts = RNG.integers(0, 2, (batch, length)).astype(np.int32)
    mask = (RNG.random((batch, length)) > 0.3).astype(np.int32)
    tables: list[Array | None] = [f(11, width), f(20, width), f(2, width), f(width), f(width)]
    agree("EmbedLayerNormalization", [ids, parts, *tables, mask], constants=range(2, 7), outputs=2)
    places = RNG.integers(0, 20, (batch, length)).astype(np.int32)
    tables[2] = None
    agree("EmbedLayerNormalization", [ids, None, *tables, None, places], constants=range(2, 7),
          outputs=3)  # fmt: skip


FORMS: dict[str, tuple[int, dict[str, Any]]] = {
    "plain": (0, {}), "causal": (0, {"unidirectional": 1}), "scale": (0, {"scale": 0.3}),
    "mask": (1, {}), "lengths": (2, {}), "mask-causal": (1, {"unidirectional": 1}),
    "past": (3, {"outputs": 2, "unidirectional": 1}), "bias": (4, {}),
}  # fmt: skip


@pytest.mark.tvm
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("batch", "length"), [(1, 1), (2, 7), (3, 17)])
def test_attention_that_splits(form: str, batch: int, length: int) -> None:
    kind, options = FORMS[form]
    feeds: list[Array | None] = [f(batch, length, 12), f(12, 48) * 0.3, f(48)]
    keep = np.arange(length) < RNG.integers(1, length + 1, (batch, 1))
    if kind == 1:
        feeds.append(keep.astype(np.int32))
    elif kind == 2:
        feeds.append(keep.sum(1).astype(np.int32))
    elif kind == 3:
        feeds += [None, f(2, batch, 2, 5, 8)]
    elif kind == 4:
        feeds += [None, None, f(batch, 2, length, length)]
    agree("Attention", feeds, constants=[1, 2], num_heads=2, **options)


@pytest.mark.tvm
def test_attention_with_values_of_another_width() -> None:
    feeds = [f(2, 5, 12), f(12, 8 + 8 + 6), f(22)]
    agree("Attention", feeds, constants=[1, 2], num_heads=2, qkv_hidden_sizes=[8, 8, 6])


@pytest.mark.tvm
@pytest.mark.parametrize("form", ["plain", "mask", "lengths", "causal", "columns"])
def test_attention_of_integers(form: str) -> None:
    batch, length = 2, 7
    scale = f(48) ** 2 * 0.01 + 0.001 if form == "columns" else np.asarray(0.01, np.float32)
    mask: Array | None = None
    if form == "mask":
        mask = np.array([[1] * 7, [1] * 4 + [0] * 3], np.int32)
    if form == "lengths":
        mask = i32(7, 4)
    feeds = [u8(batch, length, 12), u8(12, 48).astype(np.int8), f(48), np.asarray(0.02, np.float32),
             scale, mask, np.asarray(128, np.uint8), np.asarray(0, np.int8)]  # fmt: skip
    agree("QAttention", feeds, constants=[1, 2, 3, 4, 6, 7], tolerance=1e-3, num_heads=2,
          unidirectional=int(form == "causal"))  # fmt: skip


@pytest.mark.parametrize(
    ("mask", "options", "message"),
    [
        (np.ones((2, 5, 5), np.int32), {}, "a mask"),
        (None, {"do_rotary": 1}, "rotation inside"),
        (None, {"qkv_hidden_sizes": [12, 12, 1]}, "queries, keys and values"),
    ],
)
def test_attention_that_is_refused(
    mask: Array | None, options: dict[str, Any], message: str
) -> None:
    feeds = [f(2, 5, 12), f(12, 48), f(48), mask]
    proto, _ = one("Attention", feeds, domain=DOMAIN, opset=21, num_heads=2, **options)
    with pytest.raises(FrontendError, match=message):
        import_model(declare(proto, [f(2, 5, 16)]))


@pytest.mark.parametrize("length", [1, 2, 7, 16, 17])
@pytest.mark.parametrize("width", [1, 4, 15, 16, 17, 31])
def test_what_surrounds_attention(length: int, width: int) -> None:
    """Activations and norms at sizes about a vector's."""
    x, row = f(2, length, width), f(width)
    small: dict[str, Any] = {"domain": DOMAIN, "opset": 17}
    for operator, feeds in {
        "BiasGelu": [x, row], "FastGelu": [x, row], "QuickGelu": [x], "Gelu": [x],
        "SkipLayerNormalization": [x, f(2, length, width), row, f(width), f(width)],
        "SkipSimplifiedLayerNormalization": [x, f(2, length, width), row, f(width)],
    }.items():  # fmt: skip
        # a row of one element is its mean, but for rounding, and what is left is nothing
        near = 1e-5 if width > 1 or "Layer" not in operator else 2e-3
        check(*one(operator, feeds, **small), near)
    check(*one("SimplifiedLayerNormalization", [x, row], opset=17), 1e-5)
    check(*one("FusedMatMul", [x, f(2, width, 5)], alpha=0.5, **small), 1e-4)
    check(*one("FusedMatMul", [x, f(2, 5, width)], transB=1, **small), 1e-4)
    check(*one("MultiHeadAttention", [f(2, length, 8), f(2, width, 8), f(2, width, 8)],
               num_heads=2, **small), 1e-4)  # fmt: skip


@pytest.mark.parametrize("operator", ["BiasGelu", "FastGelu", "QuickGelu", "Gelu"])
@pytest.mark.parametrize("shape", [(0, 4), (2, 0, 4)])
def test_nothing_at_all(operator: str, shape: tuple[int, ...]) -> None:
    feeds: list[Array | None] = (
        [f(*shape), f(4)] if operator in ("BiasGelu", "FastGelu") else [f(*shape)]
    )
    check(*one(operator, feeds, domain=DOMAIN, opset=17))
