"""Models that are broken, or made to hurt, each in a folder of its own with a canary outside."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
from onnx import ModelProto, TensorProto, helper

from tests.frontend.models import F32, I64, model, node
from tests.frontend.test_hostile import broken, chain, nested, weight, with_weight
from tests.frontend.test_shapes import of_type

__all__ = ["CANARY", "CASES", "Case", "lay_out"]

CANARY = b"the-canary-of-the-hostile-models"
Build = Callable[[], ModelProto | bytes]


@dataclass(frozen=True)
class Case:
    """A model, and what becomes of it: refused with a text that `says`, or compiled."""

    name: str
    build: Build
    says: str = ""  # empty: it is compiled
    seconds: float = 5.0
    deadline: int = 0  # seconds that compiling may take before it has to stop by itself


def lay_out(case: Case, folder: Path) -> Path:
    """Write a case: `folder/model/m.onnx`, and beside it what it must not reach."""
    inside = folder / "model"
    (inside / "sub").mkdir(parents=True)
    (inside / "data.bin").write_bytes(bytes(16))
    (folder / "secret.bin").write_bytes(CANARY)
    (inside / "link.bin").symlink_to(folder / "secret.bin")
    (inside / "linked").symlink_to(folder)
    os.link(folder / "secret.bin", inside / "hard.bin")
    os.mkfifo(inside / "pipe.bin")
    built = case.build()
    proto = built if isinstance(built, ModelProto) else ModelProto()
    for tensor in _external(proto):
        for entry in tensor.external_data:
            if entry.value.startswith("ABSOLUTE/"):
                entry.value = str(folder / entry.value.removeprefix("ABSOLUTE/"))
    path = inside / "m.onnx"
    path.write_bytes(built if isinstance(built, bytes) else proto.SerializeToString())
    assert stat.S_ISREG(path.stat().st_mode)
    return path


def _external(proto: ModelProto) -> list[TensorProto]:
    found = list(proto.graph.initializer)
    found += [sparse.values for sparse in proto.graph.sparse_initializer]
    return [t for t in found if t.data_location == TensorProto.EXTERNAL]


def _outside(**entries: str) -> TensorProto:
    """A weight of four floats in another file."""
    tensor = TensorProto(name="w", data_type=F32, data_location=TensorProto.EXTERNAL)
    tensor.dims.append(4)
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)
    return tensor


def _weight_at(**entries: str) -> Build:
    return lambda: with_weight(_outside(**entries))


def _in_attribute() -> ModelProto:
    proto = of_type(model([node("Add", ["x", "w"], ["y"])], {"x": (F32, [4])}, ["y"]), y=(F32, 1))
    constant = helper.make_node("Constant", [], ["w"], value=_outside(location="../secret.bin"))
    proto.graph.node.insert(0, constant)
    return proto


def _sparse() -> ModelProto:
    proto = with_weight(weight([4], bytes(16)))
    del proto.graph.initializer[:]
    indices = TensorProto(name="i", data_type=I64, dims=[4])
    indices.int64_data.extend(range(4))
    values = _outside(location="../secret.bin")
    proto.graph.sparse_initializer.append(
        helper.make_sparse_tensor(helper.make_tensor("w", F32, [4], [0.0] * 4), indices, [4])
    )
    proto.graph.sparse_initializer[0].values.CopyFrom(values)
    return proto


def _bomb(size: int, then: str) -> Build:
    """A constant of `size` floats out of a few bytes, that is reduced, or added to an input."""

    def build() -> ModelProto:
        nodes = [node("ConstantOfShape", ["s"], ["b"])]
        if then == "ReduceSum":
            nodes += [node("ReduceSum", ["b"], ["r"], keepdims=1), node("Add", ["r", "x"], ["y"])]
        else:
            nodes += [node(then, ["b", "x"], ["y"])]
        proto = model(nodes, {"x": (F32, [1])}, ["y"], {"s": np.array([size])})
        return of_type(proto, y=(F32, 1))

    return build


def _doubling() -> ModelProto:
    names = ["x", *(f"v{i}" for i in range(63)), "y"]
    nodes = [node("Add", [a, a], [b]) for a, b in pairwise(names)]
    return of_type(model(nodes, {"x": (F32, [4])}, ["y"]), y=(F32, 1))


def _gathers() -> ModelProto:
    """Rows of rows of rows: kernels must not write each place into the next."""
    names = ["x", *(f"v{i}" for i in range(999)), "y"]
    nodes = [node("Gather", [a, "k"], [b], axis=0) for a, b in pairwise(names)]
    proto = model(nodes, {"x": (F32, [4, 4])}, ["y"], {"k": np.array([3, 2, 1, 0])})
    return of_type(proto, y=(F32, 2))


def _growing_constants() -> ModelProto:
    """A constant that doubles thirty times: four gigabytes of ones in a kilobyte."""
    nodes = [node("Concat", [f"c{i}", f"c{i}"], [f"c{i + 1}"], axis=0) for i in range(30)]
    nodes += [node("ReduceMax", ["c30"], ["m"], keepdims=1), node("Add", ["m", "x"], ["y"])]
    proto = model(nodes, {"x": (F32, [1])}, ["y"], {"c0": np.ones(1, np.float32)}, opset=17)
    return of_type(proto, y=(F32, 1))


def _nested_bytes(depth: int) -> bytes:
    """`If` inside `If`, written by hand: protobuf itself refuses to hold so many."""

    def message(number: int, *parts: bytes) -> bytes:
        body = b"".join(parts)
        length = bytearray()
        size = len(body)
        while size > 127:
            length.append(size & 127 | 128)
            size >>= 7
        return bytes([number << 3 | 2, *length, size]) + body

    proto = nested(1)
    info = proto.graph.output[0].SerializeToString()
    graph = message(2, b"g") + message(12, info)
    for _ in range(depth):
        branches = [
            message(5, message(1, name), message(6, graph), b"\xa0\x01\x05")  # of type GRAPH
            for name in (b"then_branch",)
        ]
        body = message(1, b"c"), message(2, b"y"), message(4, b"If"), *branches
        graph = message(1, *body) + message(2, b"g") + message(12, info)
    inputs = b"".join(message(11, value.SerializeToString()) for value in proto.graph.input)
    stored = b"".join(message(5, value.SerializeToString()) for value in proto.graph.initializer)
    return b"\x08\x0a" + message(8, message(1), b"\x10\x11") + message(7, graph + inputs + stored)


def _operator(name: str, domain: str) -> Build:
    def build() -> ModelProto:
        call = helper.make_node(name, ["x", "x"], ["y"], name="foreign", domain=domain)
        return of_type(model([call], {"x": (F32, [4])}, ["y"], my_domain=1), y=(F32, 1))

    return build


def _loop() -> ModelProto:
    """A loop of 2^62 rounds."""
    names = {"i": I64, "c": TensorProto.BOOL, "a": F32}
    body = helper.make_graph(
        [node("Identity", ["c"], ["co"]), node("Add", ["a", "a"], ["ao"])], "body",
        [helper.make_tensor_value_info(n, t, [] if n != "a" else [4]) for n, t in names.items()],
        [helper.make_tensor_value_info("co", TensorProto.BOOL, []),
         helper.make_tensor_value_info("ao", F32, [4])],
    )  # fmt: skip
    weights = {"n": np.array(1 << 62), "t": np.array(True)}
    top = node("Loop", ["n", "t", "x"], ["y"], name="spin", body=body)
    return of_type(model([top], {"x": (F32, [4])}, ["y"], weights), y=(F32, 1))


CASES = (
    Case("external data at `../`", _weight_at(location="../secret.bin"), "external data is at"),
    Case("external data at an absolute path", _weight_at(location="ABSOLUTE/secret.bin"),
         "external data is at"),
    Case("external data in a Constant", _in_attribute, "may have its elements in another file|"
         "the ONNX checker"),
    Case("external data of length 2^50", _weight_at(location="data.bin", length=str(1 << 50)),
         "declares"),
    Case("external data through a symlink", _weight_at(location="link.bin"), "not a plain file"),
    Case("external data through a linked folder", _weight_at(location="linked/secret.bin"),
         "not a plain file"),
    Case("external data through a hardlink", _weight_at(location="hard.bin"),
         "not a file of its own"),
    Case("external data from a pipe", _weight_at(location="pipe.bin"), "not a plain file"),
    Case("external data with an unknown key", _weight_at(location="data.bin", mode="w"),
         "unknown key"),
    Case("external data in a sparse tensor", _sparse, "sparse tensors"),
    Case("a weight of 2^40 elements with none", lambda: broken("empty-huge"), "holds 0"),
    Case("a weight with 4 of 1,024 elements", lambda: broken("short"), "holds 16"),
    Case("a weight of 2^32 x 2^32", lambda: broken("overflow"), "out of range"),
    Case("a weight of negative size", lambda: broken("negative"), "negative size"),
    Case("a weight of 17 axes", lambda: broken("rank"), "17 axes"),
    Case("two values of one name", lambda: broken("duplicate"), "two values are named `y`"),
    Case("a cycle", lambda: broken("cycle"), "a cycle"),
    Case("an undefined input", lambda: broken("undefined"), "`q`, which is not defined"),
    Case("an operator that nobody knows", _operator("PyOp", "my.domain"), "PyOp"),
    Case("a foreign operator called Add", _operator("Add", "my.domain"),
         "is not the standard `Add`"),
    Case("ConstantOfShape of 2^30 elements", _bomb(1 << 30, "ReduceSum"), "bytes"),
    Case("ConstantOfShape of 2^36 elements", _bomb(1 << 36, "ReduceSum"), "bytes"),
    Case("a constant that doubles 30 times", _growing_constants, "bytes"),
    Case("Pad by 2^40", lambda: broken("pad"), r"`wide` \(Pad\)"),
    Case("a division of constants by 0", lambda: broken("divide"), "divided by zero"),
    Case("a constant index out of range", lambda: broken("gather"), "index 9 is not one of 4"),
    Case("a convolution of stride 0", lambda: broken("stride"), "stride"),
    Case("a name of 1,025 bytes", lambda: broken("name"), "too long"),
    Case("a loop of 2^62 rounds", _loop, "rounds"),
    Case("subgraphs nested 60 deep", lambda: _nested_bytes(60), "deep|not an ONNX model"),
    Case("subgraphs nested 300 deep", lambda: _nested_bytes(300), "deep|not an ONNX model"),
    Case("50,001 nodes", lambda: chain(50_001), "more than 50000 nodes", seconds=30),
    Case("subgraphs nested 20 deep", lambda: nested(20), seconds=60),
    Case("x + x, 64 times", _doubling, seconds=60),
    Case("a chain of 1,000 operators", lambda: chain(1_000, "Sin"), seconds=60),
    Case("a chain of 10,000 operators", lambda: chain(10_000, "Sin"), seconds=300),
    Case("1,000 places in places", _gathers, seconds=60),
    Case("50,000 operators in ten seconds", lambda: chain(50_000, "Sin"), "took longer than 10 s",
         seconds=60, deadline=10),
)  # fmt: skip
