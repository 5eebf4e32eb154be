"""The engines that suites run over, one thread each: ours, ONNX Runtime, ONNX's own, TVM's."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Callable, Iterator, MutableMapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from onnx import ModelProto, TensorProto, helper

from tests.conformance.suite import Array, Value

if TYPE_CHECKING:
    from tunesmith.onnx_backend import Model

__all__ = ["ENGINES", "Engine", "Refused", "Run", "Stages", "deciding", "one_line"]

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


def deciding(run: Run) -> tuple[str, ...]:
    """The inputs whose elements an engine waited for before it compiled."""
    found: tuple[str, ...] = getattr(run, "deciding", ())
    return found


def fed(model: ModelProto) -> list[str]:
    """The inputs that a case gives values for: those without an initializer."""
    fixed = {tensor.name for tensor in model.graph.initializer}
    return [value.name for value in model.graph.input if value.name not in fixed]


@dataclass
class Tunesmith:
    """Our own: the driver as users call it, without its check beside ONNX Runtime."""

    preset: str = "O2"
    target: str = "host"
    ahead: bool = False  # compile without a look at any input

    @property
    def title(self) -> str:
        """The package and its version."""
        from tunesmith import __version__

        where = "" if self.target == "host" else f", {self.target}"
        where += ", all ahead of time" if self.ahead else ""
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
        """Compile for one thread of this machine, by ONNX's own backend interface.

        Where elements of inputs decide sizes, it is compiled when they are fed; not if `ahead`.
        """
        from tunesmith import onnx_backend
        from tunesmith.driver import compile_model

        options: dict[str, Any] = {"target": self.target, "preset": self.preset, "threads": 1}
        if not load:
            compile_model(model, **options)
            return lambda given: []
        with _refusals():
            prepared = onnx_backend.prepare(model, **options)
        if self.ahead and prepared.deciding:
            raise Refused(f"the values of {', '.join(prepared.deciding)} decide sizes")
        return _Ours(prepared, fed(model), stages)


@dataclass
class _Ours:
    """A prepared model as the suite calls it; `deciding` tells whose values it waited for."""

    model: Model
    names: Sequence[str]
    stages: Stages

    @property
    def deciding(self) -> tuple[str, ...]:
        return self.model.deciding

    def __call__(self, given: Sequence[Value]) -> list[Value]:
        feeds = _arrays(self.names, given)
        with _refusals():
            executable = self.model.executable(feeds)
        told = executable.manifest.report["seconds"]  # of the last one, if several were compiled
        assert isinstance(told, dict)
        self.stages.update({name: float(str(value)) for name, value in told.items()})
        return [*executable.run(feeds).values()]


def _arrays(names: Sequence[str], given: Sequence[Value]) -> dict[str, Array]:
    feeds: dict[str, Array] = {}
    for name, value in zip(names, given, strict=False):
        assert isinstance(value, np.ndarray), "only tensors are imported"
        feeds[name] = value
    return feeds


@dataclass
class Interpreter:
    """Our importer, and the graph as it comes from there, by NumPy."""

    @property
    def title(self) -> str:
        """The package and its version."""
        from tunesmith import __version__

        return f"tunesmith {__version__}, its interpreter"

    def warm(self) -> None:
        """Load the importer."""
        import tunesmith.frontend.onnx_import

        del tunesmith

    def prepare(self, model: ModelProto, stages: Stages) -> Run:
        """Import."""
        from tunesmith.frontend import import_model
        from tunesmith.ir.interpreter import evaluate

        with _refusals():
            graph = import_model(model)
        names = fed(model)
        return lambda given: [*evaluate(graph, _arrays(names, given))]


@contextmanager
def _refusals() -> Iterator[None]:
    """Compiling: what is raised by name, before anything runs, is a refusal."""
    from tunesmith.ir.diagnostics import FrontendError, UnsupportedOp, UnsupportedTarget

    try:
        yield
    except UnsupportedOp as error:
        raise Refused(_missing(error.message)) from error
    except (FrontendError, UnsupportedTarget) as error:
        operator = re.search(r"\((\w+)\)$|^operator `(\w+)`$", error.where or "")
        where = next(filter(None, operator.groups()), "") if operator else ""
        text = f"`{where}`: {error.message}" if where else error.message
        raise Refused(" ".join(text.split())[:300]) from error


def _missing(message: str) -> str:
    """The operators in the table of an `UnsupportedOp`."""
    rows = [line.split() for line in message.splitlines()[2:]]
    found = [f"`{row[0]}`" if row[1] == "ai.onnx" else f"`{row[1]}.{row[0]}`" for row in rows]
    return "no import rule: " + ", ".join(found)


@dataclass
class OnnxRuntime:
    """ONNX Runtime on the CPU; by default it refuses opsets that are not released yet."""

    unreleased: bool = False
    optimized: bool = True

    @property
    def title(self) -> str:
        """The package and its version."""
        also = ", unreleased opsets allowed" if self.unreleased else ""
        also += "" if self.optimized else ", optimizations off"
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
        if not self.optimized:
            options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        try:
            session = onnxruntime.InferenceSession(
                model.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # its exceptions share no base but this one
            raise Refused(one_line(error)) from error
        names = fed(model)
        return lambda given: session.run(None, dict(zip(names, given, strict=False)))


@dataclass
class Reference:
    """The reference implementation inside the package `onnx`."""

    @property
    def title(self) -> str:
        """The package and its version."""
        return f"onnx {metadata.version('onnx')}, its reference"

    def warm(self) -> None:
        """Load its operators."""
        import onnx.reference

        del onnx

    def prepare(self, model: ModelProto, stages: Stages) -> Run:
        """Look up the operators."""
        from onnx.reference import ReferenceEvaluator

        try:
            evaluator = ReferenceEvaluator(model)
        except Exception as error:  # of any kind
            raise Refused(one_line(error)) from error
        names = fed(model)
        return lambda given: evaluator.run(None, dict(zip(names, given, strict=False)))


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
    "tunesmith-ahead": lambda: Tunesmith(ahead=True),
    "tunesmith-O0": lambda: Tunesmith("O0"),
    "tunesmith-O3": lambda: Tunesmith("O3"),
    "interpreter": Interpreter,
    "tunesmith-v2": lambda: Tunesmith(target="x86-64-v2"),
    "tunesmith-v3": lambda: Tunesmith(target="x86-64-v3"),
    "onnxruntime": OnnxRuntime,
    "onnxruntime-unreleased": lambda: OnnxRuntime(unreleased=True),
    "onnxruntime-plain": lambda: OnnxRuntime(optimized=False),
    "reference": Reference,
    "tvm": TvmImporter,
}
