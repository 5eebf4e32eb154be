"""Random models by nnsmith, in its own environment: `python generate.py FOLDER --models 1000`.

Seeds go up from 0 until there are so many models; a few seeds have none. `FOLDER/SEED.onnx` is a
valid model, `FOLDER/SEED.npz` has its inputs and what PyTorch gives for them, by the keys `in:NAME`
and `out:NAME`. nnsmith (Liu et al., 2023, "NNSmith: Generating Diverse and Valid Test Cases for
Deep Learning Compilers") solves for shapes and attributes with z3, and searches inputs that keep
all numbers finite.

This file imports nothing of the project: nnsmith needs versions of other packages that the project
does not. What nnsmith keeps for itself (a pickled oracle, its self-test) stays in the folder.
"""

from __future__ import annotations

import argparse
import ctypes
import functools
import os
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

NODES = 8  # operators of a model
ELEMENTS = 4096  # of one tensor
SOLVER = 10_000  # milliseconds for one model; a solution that takes longer is none
MOST_FAILURES = 20  # more than there are models: then something is wrong with nnsmith
FIXED_ADDRESSES = 0x0040000  # ADDR_NO_RANDOMIZE of Linux


class Clock:
    """A clock that counts how often it is read: a search then ends after steps, not seconds.

    nnsmith searches inputs for 20 ms. Whatever else the machine does would decide what it finds.
    """

    def __init__(self, step: float = 1e-3) -> None:
        self.step, self.now = step, 0.0

    def time(self) -> float:
        """Seconds, one step after the last."""
        self.now += self.step
        return self.now


def _nnsmith(folder: Path) -> Any:
    """nnsmith as far as it is needed here, made to work with PyTorch of today."""
    import numpy
    import torch
    import torch.onnx

    # The exporter by tracing, which nnsmith's models are written for; before nnsmith is imported.
    torch.onnx.export = functools.partial(torch.onnx.export, dynamo=False)
    torch.set_num_threads(1)
    import nnsmith.graph_gen
    import nnsmith.materialize.torch.input_gen as searching
    import nnsmith.materialize.torch.symbolnet as network
    import nnsmith.narrow_spec as narrow
    from nnsmith.abstract.extension import activate_ext
    from nnsmith.materialize import Model

    clock = Clock()
    searching.time = network.time = SimpleNamespace(time=clock.time)
    narrow.NNSMITH_CACHE_DIR = str(folder / "self-test")
    kind = Model.init("onnx", backend_target="cpu")
    kind.add_seed_setter()
    operators = narrow.auto_opset(kind, None)
    for operator in operators:  # these were sets
        operator.in_dtypes = sorted(operator.in_dtypes, key=str)
    activate_ext(opset=operators, factory=None)
    return SimpleNamespace(
        kind=kind, operators=operators, generate=nnsmith.graph_gen.model_gen, numpy=numpy
    )


def write(tool: Any, seed: int, folder: Path) -> None:
    """One model; raises what nnsmith raises."""
    drawn = tool.generate(
        opset=tool.operators, method="symbolic-cinit", seed=seed, max_nodes=NODES,
        max_elem_per_tensor=ELEMENTS, timeout_ms=SOLVER,
    )  # fmt: skip
    model = tool.kind.from_gir(drawn.make_concrete())
    model.refine_weights()
    oracle = model.make_oracle()
    arrays = {f"in:{name}": array for name, array in oracle.input.items()}
    arrays |= {f"out:{name}": array for name, array in oracle.output.items()}
    proto = model.native_model
    proto.graph.name = f"generated{seed}"
    for node in proto.graph.node:
        node.ClearField("doc_string")
    tool.numpy.savez_compressed(folder / f"{seed}.npz", **arrays)
    (folder / f"{seed}.onnx").write_bytes(proto.SerializeToString(deterministic=True))


def _settle() -> None:
    """Start this script again so that a seed always means the same model.

    nnsmith walks over sets: of text, ordered by a hash that Python salts, and of objects, ordered
    by their addresses, which Linux draws anew for each process.
    """
    if os.environ.get("PYTHONHASHSEED") == "0":
        return
    if sys.platform == "linux":
        ctypes.CDLL(None).personality(FIXED_ADDRESSES)
    os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | {"PYTHONHASHSEED": "0"})


def alone(work: Callable[[], None]) -> bool:
    """Do something in a forked child; whether it ended well.

    nnsmith and z3 keep state from one model to the next: a seed would mean another model after
    other seeds.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Python 3.12 warns of a fork beside threads
        process = os.fork()
    if process == 0:
        status = 1
        try:
            work()
            status = 0
        except Exception as error:  # of any kind: there is no model for this seed
            print(f"{type(error).__name__}: {str(error)[:200]}", file=sys.stderr, flush=True)
        finally:
            os._exit(status)
    return os.waitpid(process, 0)[1] == 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Write what is not there yet; seeds for which there is no model are told, and stay out."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--models", type=int, default=1000)
    chosen = parser.parse_args(arguments)
    _settle()
    chosen.folder.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    if not alone(lambda: _nnsmith(chosen.folder)):  # runs its self-test, the first time
        return 1
    tool = _nnsmith(chosen.folder)
    seed = found = failed = 0
    while found < chosen.models:
        if (chosen.folder / f"{seed}.onnx").is_file():
            found += 1
        elif alone(functools.partial(write, tool, seed, chosen.folder)):
            found += 1
        else:
            failed += 1
            print(f"{seed}: no model", file=sys.stderr)
            if failed > MOST_FAILURES + found:
                return 1
        seed += 1
    print(f"{found} models, {failed} seeds without, in {time.perf_counter() - start:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
