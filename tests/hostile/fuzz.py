"""Byte mutants of valid models: imported and optimized in forked children, some at a time.

A child tells what became of each mutant before it takes the next, so the one that crashes or hangs
is known, and a fresh child goes on behind it.
"""

from __future__ import annotations

import faulthandler
import os
import resource
import select
import signal
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper

from tests.frontend.models import F32, I64, model, node
from tests.frontend.test_hostile import chain, nested
from tests.frontend.test_shapes import of_type
from tunesmith.runtime.processes import die_with_parent

__all__ = ["BAD", "Tally", "corpus", "fuzz", "mutant"]

BATCH = 200  # mutants of one child
DEADLINE = 60.0  # seconds for one mutant
ADDRESSES = 8 << 30  # bytes of addresses of a child
# What may become of a mutant, in a byte; the last four must not happen.
REFUSED, ACCEPTED, UNLIKE, BUG, CRASH, HANG = b"r", b"a", b"u", b"b", b"c", b"h"
BAD = {UNLIKE: "accepted, refused by the checker", BUG: "bugs", CRASH: "crashes", HANG: "hangs"}


@dataclass
class Tally:
    """How many mutants ended how, and the seeds of those that should not have."""

    counts: dict[bytes, int] = field(default_factory=dict)
    bad: list[tuple[int, bytes]] = field(default_factory=list)
    seconds: float = 0.0

    def count(self, seed: int, kind: bytes) -> None:
        """Enter one."""
        self.counts[kind] = self.counts.get(kind, 0) + 1
        if kind in BAD:
            self.bad.append((seed, kind))


def corpus() -> list[bytes]:
    """Valid models of many kinds of content."""
    random = np.random.default_rng(0)

    def floats(*shape: int) -> np.ndarray:
        return random.standard_normal(shape, dtype=np.float32)

    protos = [nested(3), chain(5)]
    layers = [
        node("MatMul", ["x", "w"], ["h"]), node("Add", ["h", "b"], ["s"]),
        node("LayerNormalization", ["s", "g", "b"], ["n"], epsilon=1e-5),
        node("Gelu", ["n"], ["e"], approximate="tanh"),
        node("Softmax", ["e"], ["y"], axis=-1),
    ]  # fmt: skip
    weights = {"w": floats(8, 8), "b": floats(8), "g": floats(8)}
    protos.append(
        of_type(model(layers, {"x": (F32, ["B", 8])}, ["y"], weights, opset=20), y=(F32, 2))
    )
    images = [
        node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1], strides=[2, 2]),
        node("MaxPool", ["c"], ["p"], kernel_shape=[2, 2]),
        node("GlobalAveragePool", ["p"], ["a"]), node("Flatten", ["a"], ["y"]),
    ]  # fmt: skip
    protos.append(
        of_type(
            model(images, {"x": (F32, ["B", 3, 16, 16])}, ["y"], {"w": floats(4, 3, 3, 3)}),
            y=(F32, 2),
        )
    )
    shapes = [
        node("Shape", ["x"], ["s"]), node("Gather", ["s", "zero"], ["n"], axis=0),
        node("Concat", ["n", "rest"], ["t"], axis=0), node("Reshape", ["x", "t"], ["r"]),
        node("Slice", ["r", "zero", "two", "one"], ["l"]), node("Transpose", ["l"], ["y"],
                                                               perm=[0, 2, 1]),
    ]  # fmt: skip
    numbers = {
        "zero": np.array([0]), "rest": np.array([2, -1]), "two": np.array([2]),
        "one": np.array([1]),
    }  # fmt: skip
    protos.append(of_type(model(shapes, {"x": (F32, ["B", 8])}, ["y"], numbers), y=(F32, 3)))
    tokens = [
        node("Gather", ["table", "ids"], ["e"]), node("QuantizeLinear", ["e", "f", "z"], ["q"]),
        node("DequantizeLinear", ["q", "f", "z"], ["d"]),
        node("TopK", ["d", "k"], ["y", "i"], axis=-1),
    ]  # fmt: skip
    quantized: dict[str, np.ndarray] = {
        "table": floats(16, 8), "k": np.array([3]),
        "f": np.array(0.1, np.float32), "z": np.array(128, np.uint8),
    }  # fmt: skip
    found = model(tokens, {"ids": (I64, ["B", "S"])}, {"y": F32, "i": I64}, quantized)
    protos.append(of_type(found, y=(F32, 3), i=(I64, 3)))
    imports = [helper.make_opsetid("", 17)]
    twice = helper.make_function(
        "own", "Twice", ["a"], ["b"], [helper.make_node("Add", ["a", "a"], ["b"])], imports
    )
    call = helper.make_node("Twice", ["x"], ["y"], domain="own")
    local = of_type(model([call], {"x": (F32, [4])}, ["y"], own=1), y=(F32, 1))
    local.functions.append(twice)
    protos.append(local)
    step = helper.make_graph(
        [node("Identity", ["c"], ["co"]), node("Add", ["a", "a"], ["ao"])], "step",
        [helper.make_tensor_value_info("i", I64, []),
         helper.make_tensor_value_info("c", TensorProto.BOOL, []),
         helper.make_tensor_value_info("a", F32, [4])],
        [helper.make_tensor_value_info("co", TensorProto.BOOL, []),
         helper.make_tensor_value_info("ao", F32, [4])],
    )  # fmt: skip
    loop = node("Loop", ["n", "t", "x"], ["y"], body=step)
    counted = {"n": np.array(3), "t": np.array(True)}
    protos.append(of_type(model([loop], {"x": (F32, [4])}, ["y"], counted), y=(F32, 1)))
    return [proto.SerializeToString() for proto in protos]


def mutant(models: list[bytes], seed: int) -> bytes:
    """One of the models with a few bytes changed, put in, left out, or copied elsewhere."""
    random = np.random.default_rng(seed)
    data = bytearray(models[int(random.integers(len(models)))])
    for _ in range(int(random.integers(1, 5))):
        at = int(random.integers(len(data)))
        match int(random.integers(6)):
            case 0 | 1:
                data[at] = int(random.integers(256))
            case 2:
                data[at] ^= 1 << int(random.integers(8))
            case 3:
                data[at:at] = random.bytes(int(random.integers(1, 4)))
            case 4:
                del data[at : at + int(random.integers(1, 4))]
            case _:
                other, size = int(random.integers(len(data))), int(random.integers(1, 17))
                data[at : at + size] = data[other : other + size]
    return bytes(data)


def judge(data: bytes, path: Path) -> bytes:
    """What becomes of one mutant, in this process."""
    from tunesmith.driver import optimize
    from tunesmith.frontend import import_model
    from tunesmith.ir.diagnostics import CompilerError
    from tunesmith.ir.verifier import verify
    from tunesmith.passes.base import PassContext

    path.write_bytes(data)
    try:
        graph = import_model(path)
        verify(graph)
        optimize(graph, "O2", PassContext())
        verify(graph)
    except CompilerError:
        return REFUSED
    except Exception:
        return BUG
    try:
        onnx.checker.check_model(ModelProto.FromString(data), full_check=True)
    except Exception:  # of the checker and of protobuf, which share no base
        return UNLIKE
    return ACCEPTED


def fuzz(
    seeds: range,
    folder: Path,
    *,
    judged: Callable[[bytes, Path], bytes] = judge,
    deadline: float = DEADLINE,
) -> Tally:
    """Try the mutants of all seeds."""
    import tunesmith.driver  # noqa: F401  # loaded once: the children have it

    models = corpus()
    tally = Tally()
    start = time.monotonic()
    at = 0
    while at < len(seeds):
        batch = seeds[at : at + BATCH]
        for seed, kind in _batch(batch, models, folder, judged, deadline):
            tally.count(seed, kind)
            at += 1
    tally.seconds = time.monotonic() - start
    return tally


def _batch(
    seeds: range,
    models: list[bytes],
    folder: Path,
    judged: Callable[[bytes, Path], bytes],
    deadline: float,
) -> Iterator[tuple[int, bytes]]:
    """What became of some mutants, up to and with the first that ended the child."""
    read, write = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python 3.12 warns of a fork beside threads
        child = os.fork()
    if child == 0:
        try:
            os.close(read)
            _confine()
            for seed in seeds:
                os.write(write, judged(mutant(models, seed), folder / f"{os.getpid()}.onnx"))
        finally:
            os._exit(0)
    os.close(write)
    try:
        for seed in seeds:
            ready, _, _ = select.select([read], [], [], deadline)
            kind = os.read(read, 1) if ready else HANG
            yield seed, kind or CRASH
            if not ready or not kind:
                return
    finally:
        os.close(read)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


def _confine() -> None:
    die_with_parent()
    faulthandler.disable()  # a crash is a result, and its traceback is nobody's
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESSES, ADDRESSES))
    nowhere = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(nowhere, stream)


def rows(tally: Tally) -> Mapping[str, int]:
    """The counts by name."""
    names = {REFUSED: "refused", ACCEPTED: "accepted"} | BAD
    return {name: tally.counts.get(kind, 0) for kind, name in names.items()}
