"""A small transformer block in ONNX, made here: what every layer of the product has to bear."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

WIDTH, HEADS, WORDS = 48, 3, 50


def block(seed: int = 0) -> onnx.ModelProto:
    """Embedding, attention with a padding mask, residuals, layer norms and a GELU layer."""
    random = np.random.default_rng(seed)
    weights: list[TensorProto] = []
    nodes: list[onnx.NodeProto] = []

    def weight(name: str, *shape: int, scale: float = 0.1) -> str:
        array = (random.standard_normal(shape) * scale).astype(np.float32)
        weights.append(numpy_helper.from_array(array, name))
        return name

    def constant(name: str, value: object, dtype: type = np.int64) -> str:
        weights.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def node(op: str, *inputs: str, out: str, **attributes: object) -> str:
        nodes.append(helper.make_node(op, inputs, [out], name=f"/{out}", **attributes))
        return out

    def linear(x: str, name: str, inner: int, cols: int) -> str:
        y = node("MatMul", x, weight(f"{name}.w", inner, cols), out=f"{name}.y")
        return node("Add", y, weight(f"{name}.b", cols), out=name)

    def norm(x: str, name: str) -> str:
        return node(
            "LayerNormalization", x, weight(f"{name}.w", WIDTH, scale=1.0),
            weight(f"{name}.b", WIDTH), out=name, epsilon=1e-5,
        )  # fmt: skip

    def heads(x: str, name: str, perm: list[int]) -> str:
        y = node("Reshape", x, "split", out=f"{name}.r")
        return node("Transpose", y, out=name, perm=perm)

    constant("split", [0, 0, HEADS, WIDTH // HEADS])
    constant("join", [0, 0, WIDTH])
    x = node("Gather", weight("words", WORDS, WIDTH), "ids", out="x")
    q = heads(linear(x, "q", WIDTH, WIDTH), "qh", [0, 2, 1, 3])
    k = heads(linear(x, "k", WIDTH, WIDTH), "kh", [0, 2, 3, 1])
    v = heads(linear(x, "v", WIDTH, WIDTH), "vh", [0, 2, 1, 3])
    scores = node("MatMul", q, k, out="scores")
    scaled = node("Mul", scores, constant("scale", 0.25, np.float32), out="scaled")
    wide = node("Unsqueeze", "mask", constant("axes", [1, 2]), out="wide")
    real = node("Cast", wide, out="real", to=TensorProto.FLOAT)
    off = node("Sub", constant("one", 1.0, np.float32), real, out="off")
    bias = node("Mul", off, constant("low", -3.4e38, np.float32), out="bias")
    weights_ = node("Softmax", node("Add", scaled, bias, out="masked"), out="p", axis=-1)
    mixed = node("Transpose", node("MatMul", weights_, v, out="pv"), out="t", perm=[0, 2, 1, 3])
    flat = node("Reshape", mixed, "join", out="flat")
    first = norm(node("Add", linear(flat, "o", WIDTH, WIDTH), x, out="r1"), "n1")
    inner = linear(first, "up", WIDTH, 4 * WIDTH)
    half = node("Div", inner, constant("root", 2**0.5, np.float32), out="half")
    unit = constant("unit", 1.0, np.float32)
    gate = node("Add", node("Erf", half, out="erf"), unit, out="gate")
    act = node("Mul", node("Mul", inner, gate, out="g"), constant("h", 0.5, np.float32), out="act")
    down = linear(act, "down", 4 * WIDTH, WIDTH)
    norm(node("Add", down, first, out="r2"), "hidden")
    shape = ["batch", "sequence"]
    graph = helper.make_graph(
        nodes, "block",
        [helper.make_tensor_value_info(n, TensorProto.INT64, shape) for n in ("ids", "mask")],
        [helper.make_tensor_value_info("hidden", TensorProto.FLOAT, [*shape, WIDTH])],
        weights,
    )  # fmt: skip
    return helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", 17)])


def feeds(batch: int, length: int, seed: int = 0) -> dict[str, Any]:
    """Ids, and a mask that is padded from the second row on."""
    random = np.random.default_rng(seed)
    mask = np.ones((batch, length), np.int64)
    mask[1:, length // 2 + 1 :] = 0
    return {"ids": random.integers(0, WORDS, (batch, length)), "mask": mask}
