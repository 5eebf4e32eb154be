"""ONNX's backend interface (`onnx.backend.base`): `prepare`, `run_model`, `supports_device`.

```
import tunesmith.onnx_backend as backend

outputs = backend.prepare(model).run([x, axes])  # or backend.run_model(model, [x, axes])
```

A model is compiled when it is prepared, if its inputs' types are enough for it. Where elements of
inputs decide sizes (axes, shapes, numbers of elements), it is compiled when these are seen, once
for each of their values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tunesmith.ir.diagnostics import InputError, UndecidedError
from tunesmith.runtime import Executable

if TYPE_CHECKING:
    from onnx import ModelProto

__all__ = ["Model", "is_compatible", "prepare", "run_model", "supports_device"]

Array = NDArray[np.generic]
Guard = tuple[tuple[str, str, tuple[int, ...], bytes], ...]  # name, dtype, shape and bytes of each
Undecided = tuple[str, ...]


class Model:
    """A prepared model: an executable for each value of the inputs that decide sizes.

    Which inputs decide is what the importer asks for, never guessed: without values, then with
    those of the inputs it named, until it asks for none. Each step is kept by the values it was
    made for, so what was compiled for some values only ever runs on these.
    """

    def __init__(self, model: ModelProto, *, threads: int | None = None, preset: str = "O2",
                 target: str = "host") -> None:  # fmt: skip
        self._model = model
        self._options: dict[str, Any] = {"threads": threads, "preset": preset, "target": target}
        stored = {t.name for t in model.graph.initializer}
        stored |= {t.values.name for t in model.graph.sparse_initializer}
        self.input_names = [v.name for v in model.graph.input if v.name not in stored]
        self._steps: dict[Guard, Executable | Undecided] = {}
        self._step({})

    @property
    def deciding(self) -> Undecided:
        """The inputs that were asked for so far: none, if the model was compiled as it is."""
        steps = [step for step in self._steps.values() if not isinstance(step, Executable)]
        return tuple(dict.fromkeys(name for step in steps for name in step))

    @property
    def executables(self) -> list[Executable]:
        """What was compiled so far."""
        return [step for step in self._steps.values() if isinstance(step, Executable)]

    def run(
        self, inputs: Sequence[Array] | Mapping[str, Array] | Array, **_: object
    ) -> tuple[Array, ...]:
        """The outputs in order, of inputs in the order of the model, or by name.

        Raises:
            InputError: the inputs do not fit.
            CompilerError: the model cannot be compiled for the values of these inputs.
        """
        feeds = self._feeds(inputs)
        return tuple(self.executable(feeds).run(feeds).values())

    def executable(self, feeds: Mapping[str, Array]) -> Executable:
        """The executable for these inputs, compiled if it is the first of its values."""
        values: dict[str, Array] = {}
        while not isinstance(step := self._step(values), Executable):
            for name in step:
                if name not in feeds:
                    raise InputError(f"input `{name}` is missing", where=self._model.graph.name)
                values[name] = np.asarray(feeds[name])
        return step

    def _step(self, values: Mapping[str, Array]) -> Executable | Undecided:
        """Compile with some values, or tell which inputs are asked for besides."""
        from tunesmith.driver import compile_model
        from tunesmith.runtime import load

        guard = tuple((n, str(a.dtype), a.shape, a.tobytes()) for n, a in sorted(values.items()))
        if guard not in self._steps:
            try:
                artifact = compile_model(self._model, values=values or None, **self._options)
            except UndecidedError as error:
                self._steps[guard] = error.inputs
            else:
                self._steps[guard] = load(artifact, threads=self._options["threads"])
        return self._steps[guard]

    def _feeds(self, inputs: Sequence[Array] | Mapping[str, Array] | Array) -> dict[str, Array]:
        if isinstance(inputs, Mapping):
            return dict(inputs)
        if isinstance(inputs, np.ndarray):  # the interface lets a single one stand for a list
            inputs = [inputs]
        if len(inputs) != len(self.input_names):
            raise InputError(
                f"{len(inputs)} inputs are given, not {len(self.input_names)}",
                where=self._model.graph.name, hint=f"they are {', '.join(self.input_names)}",
            )  # fmt: skip
        return {n: np.asarray(a) for n, a in zip(self.input_names, inputs, strict=True)}


def prepare(model: ModelProto, device: str = "CPU", **options: Any) -> Model:
    """Compile a model for this machine, or as far as that goes without values of inputs.

    Args:
        model: the model.
        device: `CPU`.
        options: `threads`, `preset` and `target`, as `tunesmith.compile_model` takes them.

    Raises:
        CompilerError: the model cannot be compiled, whatever its inputs hold.
    """
    if not supports_device(device):
        raise InputError(f"there is no device `{device}`", hint="the only one is `CPU`")
    return Model(model, **options)


def run_model(
    model: ModelProto, inputs: Sequence[Array] | Mapping[str, Array] | Array,
    device: str = "CPU", **options: Any,
) -> tuple[Array, ...]:  # fmt: skip
    """`prepare(model).run(inputs)`."""
    return prepare(model, device, **options).run(inputs)


def supports_device(device: str) -> bool:
    """Whether a model can be prepared for a device, such as `CPU` or `CPU:0`."""
    return device.partition(":")[0] == "CPU"


def is_compatible(model: ModelProto, device: str = "CPU", **_: object) -> bool:
    """Whether each operator of a model can be imported, without compiling it."""
    from tunesmith.frontend import import_model
    from tunesmith.ir.diagnostics import FrontendError

    if not supports_device(device):
        return False
    try:
        import_model(model)
    except UndecidedError:
        return True
    except FrontendError:
        return False
    return True
