"""The engines that the suite runs over, one thread each: ours, ONNX Runtime, TVM's importer."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import dataclass, field
from importlib import metadata
from typing import Protocol

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

from tests.conformance.suite import Array, Value

__all__ = ["ENGINES", "Engine", "Refused", "one_line"]

Run = Callable[[Sequence[Value]], list[Value]]
Stages = MutableMapping[str, float]


class Refused(Exception):
    """The engine does not take the model, and says so before anything runs."""


class Engine(Protocol):
    """What turns a model into a function."""

    @property
    def title(self) -> str:
        """How the engine is called in the table, with its version."""
        ...

    def warm(self) -> None:
        """Load in the parent all that every child needs; must not start threads."""
        ...

    def prepare(self, model: ModelProto, stages: Stages) -> Run:
        """Compile; `stages` takes the seconds of each stage. `Refused` if it does not."""
        ...


def one_line(error: BaseException) -> str:
    """The message of an error, without its line ends and in a length that a table takes."""
    return " ".join(str(error).split())[:300]


def fed(model: ModelProto) -> list[str]:
    """The inputs that a case gives values for: those without an initializer."""
    fixed = {tensor.name for tensor in model.graph.initializer}
    return [value.name for value in model.graph.input if value.name not in fixed]


@dataclass
class Tunesmith:
    """Our own: the driver as users call it, without its check beside ONNX Runtime."""

    preset: str = "O2"
    target: str = "host"

    @property
    def title(self) -> str:
        """The package and its version."""
        from tunesmith import __version__

        where = "" if self.target == "host" else f", {self.target}"
        return f"tunesmith {__version__}, {self.preset}{where}"

    def warm(self) -> None:
        """Compile one node: imports, LLVM's start and digests of sources are then done."""
        model = helper.make_model(
            helper.make_graph(
                [helper.make_node("Relu", ["x"], ["y"])], "warm",
                [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])],
                [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])],
            ),
            opset_imports=[helper.make_opsetid("", 20)], ir_version=10,
        )  # fmt: skip
        import tunesmith.runtime

        del tunesmith
        chosen = os.environ.get("TUNESMITH_CACHE")
        os.environ["TUNESMITH_CACHE"] = "off"  # a kept kernel would leave LLVM for every child
        try:
            self.prepare(model, {}, load=False)
        finally:
            del os.environ["TUNESMITH_CACHE"]
            if chosen is not None:
                os.environ["TUNESMITH_CACHE"] = chosen

    def prepare(self, model: ModelProto, stages: Stages, *, load: bool = True) -> Run:
        """Compile for one thread of this machine."""
        from tunesmith import runtime
        from tunesmith.driver import compile_model
        from tunesmith.ir.diagnostics import FrontendError, UnsupportedOp, UnsupportedTarget

        try:
            artifact = compile_model(model, target=self.target, preset=self.preset, threads=1)
        except UnsupportedOp as error:
            raise Refused(_missing(error.message)) from error
        except (FrontendError, UnsupportedTarget) as error:
            operator = re.search(r"\((\w+)\)$|^operator `(\w+)`$", error.where or "")
            where = next(filter(None, operator.groups()), "") if operator else ""
            text = f"`{where}`: {error.message}" if where else error.message
            raise Refused(" ".join(text.split())[:300]) from error
        told = artifact.manifest.report["seconds"]
        assert isinstance(told, dict)
        stages.update({name: float(str(value)) for name, value in told.items()})
        if not load:
            return lambda given: []
        start = time.perf_counter()
        executable = runtime.load(artifact, threads=1)
        stages["load"] = time.perf_counter() - start
        names = fed(model)

        def run(given: Sequence[Value]) -> list[Value]:
            feeds: dict[str, Array] = {}
            for name, value in zip(names, given, strict=False):
                assert isinstance(value, np.ndarray), "only tensors are imported"
                feeds[name] = value
            return [*executable.run(feeds).values()]

        return run


@dataclass
class Fixed:
    """Ours, with the values of operands that decide sizes known when it compiles.

    The suite feeds axes, sizes and places as inputs; models hold them as constants. Where we
    refuse for that reason, all inputs after the first become constants, or all if need be.
    """

    inner: Tunesmith = field(default_factory=Tunesmith)

    @property
    def title(self) -> str:
        """The package and its version."""
        return f"{self.inner.title}, operands that decide sizes fixed"

    def warm(self) -> None:
        """As the engine inside."""
        self.inner.warm()

    def prepare(self, model: ModelProto, stages: Stages) -> Run:
        """Compile now if that is possible, else with the values of the first run."""
        try:
            return self.inner.prepare(model, stages)
        except Refused as error:
            if "depends on data" not in str(error):
                raise

        def run(given: Sequence[Value]) -> list[Value]:
            for first in (1, 0):
                held = _with_constants(model, given, first)
                try:
                    return self.inner.prepare(held, stages)(given[:first])
                except Refused as error:
                    if not first or "depends on data" not in str(error):
                        raise
            raise AssertionError("the last attempt returns or raises")

        return run


def _with_constants(model: ModelProto, given: Sequence[Value], first: int) -> ModelProto:
    """The model with its inputs from `first` on as initializers."""
    held = ModelProto()
    held.CopyFrom(model)
    names = fed(model)[first:]
    for name, value in zip(names, given[first:], strict=False):
        assert isinstance(value, np.ndarray), "only tensors are imported"
        held.graph.initializer.append(numpy_helper.from_array(value, name))
    kept = [value for value in held.graph.input if value.name not in names]
    del held.graph.input[:]
    held.graph.input.extend(kept)
    return held


def _missing(message: str) -> str:
    """The operators in the table of an `UnsupportedOp`."""
    rows = [line.split() for line in message.splitlines()[2:]]
    found = [f"`{row[0]}`" if row[1] == "ai.onnx" else f"`{row[1]}.{row[0]}`" for row in rows]
    return "no import rule: " + ", ".join(found)


@dataclass
class OnnxRuntime:
    """ONNX Runtime on the CPU; by default it refuses opsets that are not released yet."""

    unreleased: bool = False

    @property
    def title(self) -> str:
        """The package and its version."""
        also = ", unreleased opsets allowed" if self.unreleased else ""
        return f"ONNX Runtime {metadata.version('onnxruntime')}{also}"

    def warm(self) -> None:
        """Load the library; a session would start threads."""
        os.environ["ALLOW_RELEASED_ONNX_OPSET_ONLY"] = "0" if self.unreleased else "1"
        import onnxruntime

        onnxruntime.set_default_logger_severity(4)

    def prepare(self, model: ModelProto, stages: Stages) -> Run:
        """Make a session."""
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        try:
            session = onnxruntime.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # its exceptions share no base but this one
            raise Refused(one_line(error)) from error
        names = fed(model)
        return lambda given: session.run(None, dict(zip(names, given, strict=False)))


@dataclass
class TvmImporter:
    """TVM as it comes: its ONNX importer and its default pipeline."""

    target: dict[str, object] = field(default_factory=lambda: {"kind": "llvm", "num-cores": 1})

    @property
    def title(self) -> str:
        """The package and its version."""
        return f"TVM {metadata.version('apache-tvm')}, its own importer"

    def warm(self) -> None:
        """Load the library, without torch, which `tvm_ffi` would load if it could."""
        os.environ.setdefault("TVM_NUM_THREADS", "1")
        sys.modules.setdefault("torch", None)  # type: ignore[arg-type]  # makes imports fail
        import tvm.relax.frontend.onnx

        del tvm

    def prepare(self, model: ModelProto, stages: Stages) -> Run:
        """Import and build."""
        import tvm
        from tvm import relax
        from tvm.relax.frontend.onnx import from_onnx

        try:
            module = from_onnx(model, keep_params_in_input=False)
            built = tvm.compile(module, target=tvm.target.Target(self.target))
        except Exception as error:  # of any kind
            raise Refused(one_line(error)) from error
        machine = relax.VirtualMachine(built, tvm.cpu())

        def run(given: Sequence[Value]) -> list[Value]:
            tensors = [tvm.runtime.tensor(np.asarray(value)) for value in given]
            found = machine["main"](*tensors)
            several = not hasattr(found, "numpy")
            return [item.numpy() for item in found] if several else [found.numpy()]

        return run


ENGINES: dict[str, Callable[[], Engine]] = {
    "tunesmith": Tunesmith,
    "tunesmith-fixed": Fixed,
    "tunesmith-O0": lambda: Tunesmith("O0"),
    "tunesmith-v2": lambda: Tunesmith(target="x86-64-v2"),
    "tunesmith-v3": lambda: Tunesmith(target="x86-64-v3"),
    "onnxruntime": OnnxRuntime,
    "onnxruntime-unreleased": lambda: OnnxRuntime(unreleased=True),
    "tvm": TvmImporter,
}
