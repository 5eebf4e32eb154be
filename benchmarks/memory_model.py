"""A decoder of the size of Llama's with random weights beside it, written piece by piece."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
from onnx import NodeProto, TensorProto, helper

__all__ = ["build_decoder"]

WIDTH, HEADS, FFN = 2048, 32, 8192  # as Llama 3.2 1B has them
LAYER_BYTES = 4 * (4 * WIDTH * WIDTH + 3 * WIDTH * FFN)
SHARDS = {"q": (WIDTH, WIDTH), "k": (WIDTH, WIDTH), "v": (WIDTH, WIDTH), "o": (WIDTH, WIDTH),
          "gate": (WIDTH, FFN), "up": (WIDTH, FFN), "down": (FFN, WIDTH)}  # fmt: skip
ALIGNMENT = 4096
_ROWS = 256  # of a matrix that are drawn at a time


def build_decoder(folder: Path, nbytes: int) -> tuple[Path, int]:
    """Write `model.onnx` and its weights; return the file and the bytes of its weights.

    As many layers as come to at least `nbytes`: root mean square norms, attention over all rows,
    and a gated layer, f32, from `x` `[batch, rows, 2048]` with both first sizes open to `y`.
    """
    layers = -(-nbytes // LAYER_BYTES)
    nodes: list[NodeProto] = []
    weights: list[TensorProto] = []
    total = 0

    def node(operator: str, *inputs: str, out: str, **attributes: object) -> str:
        nodes.append(helper.make_node(operator, inputs, [out], name=out, **attributes))
        return out

    small = [
        onnx.numpy_helper.from_array(np.asarray(value), name)
        for name, value in (
            ("split", np.array([0, 0, HEADS, WIDTH // HEADS])), ("join", np.array([0, 0, WIDTH])),
            ("scale", np.float32((WIDTH // HEADS) ** -0.5)), ("two", np.float32(2)),
            ("epsilon", np.float32(1e-5)), ("last", np.array([-1])),
        )
    ]  # fmt: skip

    def norm(x: str, name: str) -> str:
        mean = node("ReduceMean", node("Pow", x, "two", out=f"{name}.square"), "last",
                    out=f"{name}.mean", keepdims=1)  # fmt: skip
        root = node("Sqrt", node("Add", mean, "epsilon", out=f"{name}.safe"), out=f"{name}.root")
        return node("Div", x, root, out=name)

    with (folder / "weights.bin").open("wb") as file:
        x = "x"
        for layer in range(layers):
            at = f"l{layer}."
            for name, shape in SHARDS.items():
                start = file.seek(-(-file.tell() // ALIGNMENT) * ALIGNMENT)
                for part in _rows(layer, name, shape):
                    file.write(part)
                size = file.tell() - start
                total += size
                weights.append(_external(f"{at}{name}.w", shape, start, size))
            n = norm(x, f"{at}n1")
            q, k, v = (
                node("Transpose",
                     node("Reshape", node("MatMul", n, f"{at}{name}.w", out=f"{at}{name}"),
                          "split", out=f"{at}{name}.h"),
                     out=f"{at}{name}.t", perm=[0, 2, 3, 1] if name == "k" else [0, 2, 1, 3])
                for name in "qkv"
            )  # fmt: skip
            scores = node("Mul", node("MatMul", q, k, out=f"{at}qk"), "scale", out=f"{at}scores")
            mixed = node("MatMul", node("Softmax", scores, out=f"{at}p", axis=-1), v, out=f"{at}pv")
            flat = node("Reshape", node("Transpose", mixed, out=f"{at}turned", perm=[0, 2, 1, 3]),
                        "join", out=f"{at}flat")  # fmt: skip
            x = node("Add", x, node("MatMul", flat, f"{at}o.w", out=f"{at}o"), out=f"{at}r1")
            n = norm(x, f"{at}n2")
            gate = node("MatMul", n, f"{at}gate.w", out=f"{at}gate")
            act = node("Mul", gate, node("Sigmoid", gate, out=f"{at}sig"), out=f"{at}act")
            wide = node("Mul", act, node("MatMul", n, f"{at}up.w", out=f"{at}up"), out=f"{at}wide")
            x = node("Add", x, node("MatMul", wide, f"{at}down.w", out=f"{at}down"), out=f"{at}r2")
    node("Identity", x, out="y")
    open_shape = ["batch", "rows", WIDTH]
    graph = helper.make_graph(
        nodes, "decoder", [helper.make_tensor_value_info("x", TensorProto.FLOAT, open_shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, open_shape)], [*small, *weights],
    )  # fmt: skip
    model = helper.make_model(graph, ir_version=9, opset_imports=[helper.make_opsetid("", 18)])
    path = folder / "model.onnx"
    path.write_bytes(model.SerializeToString())
    return path, total


def _rows(layer: int, name: str, shape: tuple[int, int]) -> Iterator[bytes]:
    """Random rows of a matrix, some at a time, small enough that layers stay finite."""
    random = np.random.default_rng([layer, *name.encode()])
    inner, cols = shape
    for first in range(0, inner, _ROWS):
        some = random.standard_normal((min(_ROWS, inner - first), cols), dtype=np.float32)
        yield (some * np.float32(0.5 * inner**-0.5)).tobytes()


def _external(name: str, shape: tuple[int, ...], offset: int, length: int) -> TensorProto:
    tensor = TensorProto(name=name, dims=shape, data_type=TensorProto.FLOAT,
                         data_location=TensorProto.EXTERNAL)  # fmt: skip
    for key, value in (("location", "weights.bin"), ("offset", offset), ("length", length)):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, str(value)
    return tensor
