"""PyTorch → graph, by PyTorch's own exporter to ONNX; the only file that imports torch."""

from __future__ import annotations

import contextlib
import logging
import re
import tempfile
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tunesmith.ir.diagnostics import FrontendError, InputError
from tunesmith.ir.graph import Graph

from .onnx_inputs import Bounds
from .torch_archive import vetted_copy

if TYPE_CHECKING:
    import onnx
    import torch

__all__ = ["TorchSession", "export_module", "import_program", "load_program", "quiet"]

OPSET = 20  # the one that PyTorch's exporter is tested with most; later ones change little for us
SMALL = 1024  # bytes; smaller weights go through the model: import may have to know what they are
_SIZE = re.compile(r"(?:(\d+)\s*\*\s*)?([A-Za-z_]\w*)(?:\s*\+\s*(\d+))?")
OPEN = 1 << 40  # PyTorch writes huge numbers where it has no bound

Shapes = Mapping[str, Sequence[int]]


class Program(Protocol):
    """A `torch.export.ExportedProgram`, as far as it matters here."""

    graph_signature: Any
    range_constraints: Mapping[Any, Any]
    call_spec: Any

    def module(self) -> Any:
        """The program as a module that can be called."""


def export_module(
    module: torch.nn.Module,
    args: Sequence[object],
    kwargs: Mapping[str, object] | None,
    dynamic: object,
    dims: Bounds,
) -> Program:
    """Trace a module by `torch.export`; a text in `dynamic` is a size with the bounds of `dims`.

    `FrontendError` says what PyTorch says if it cannot be traced, or only for fixed sizes.
    """
    torch = _torch()
    sizes: dict[str, Any] = {}

    def size(text: str) -> object:
        found = _SIZE.fullmatch(text)
        if found is None:
            raise FrontendError(
                f"`{text}` is not a size", hint="write a name, `2*name`, or `name + 1`"
            )
        factor, name, more = found.groups()
        if name not in sizes:
            bound = dims.get(name, (1, 0))
            low, high = (1, 0) if isinstance(bound, int) else bound  # import fixes the size
            limits = {"min": low} | ({"max": high} if high else {})
            sizes[name] = torch.export.Dim(name, **limits)
        found_size = sizes[name]
        scaled = int(factor) * found_size if factor else found_size
        return scaled + int(more) if more else scaled

    def spelled(value: object) -> object:
        if isinstance(value, str):
            return size(value)
        if isinstance(value, Mapping):
            return {key: spelled(inner) for key, inner in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(spelled(inner) for inner in value)
        return value

    shapes = None if dynamic is None else spelled(dynamic)
    with quiet(), _laid_to("torch.export cannot trace the module"), torch.no_grad():
        program: Program = torch.export.export(
            module.eval(), tuple(args), dict(kwargs or {}), dynamic_shapes=shapes
        )
    return program


def load_program(path: Path) -> Program:
    """A program that `torch.export.save` wrote; what is not safe to load is refused."""
    torch = _torch()
    with tempfile.NamedTemporaryFile(suffix=".pt2", prefix="tunesmith-") as copy:
        vetted_copy(path, copy)  # type: ignore[arg-type]  # a file, in all that matters
        copy.flush()
        with quiet(), _laid_to("PyTorch cannot read the program", str(path)):
            program: Program = torch.export.load(copy.name)
    return program


def import_program(
    program: Program,
    *,
    shapes: Shapes,
    dims: Bounds,
    values: Mapping[str, ArrayLike],
    dynamic: object = None,
) -> Graph:
    """The graph of a program; its weights are views of PyTorch's memory, not copies.

    Sizes are called as in `dynamic`, or by the input and axis where they first stand: `ids_1`.
    They have the bounds that PyTorch proved, within which `dims` may narrow them.
    """
    from .onnx_import import import_onnx

    model, weights = _to_onnx(program)
    names = _size_names(model, dynamic)
    for value in (*model.graph.input, *model.graph.output, *model.graph.value_info):
        for axis in value.type.tensor_type.shape.dim:
            if axis.HasField("dim_param"):
                axis.dim_param = re.sub(
                    r"[A-Za-z_]\w*", lambda found: names.get(found[0], found[0]), axis.dim_param
                )
    bounds = _bounds(program, names)
    narrowed = _narrowed(bounds, dims)
    return import_onnx(model, shapes=shapes, dims=narrowed, values=values, held=weights)


class TorchSession:
    """A program run by PyTorch itself, as an oracle: named arrays in, named arrays out."""

    def __init__(
        self, program: Program, output_names: Sequence[str], *, threads: int | None = None
    ) -> None:
        torch = _torch()
        if threads:
            torch.set_num_threads(threads)
        with quiet(), _laid_to("PyTorch cannot prepare the program"):
            self._module = program.module()
        kinds = [(spec.kind.name, spec.arg) for spec in program.graph_signature.input_specs]
        self._arguments = [arg for kind, arg in kinds if kind == "USER_INPUT"]
        self._structure = program.call_spec.in_spec
        self.input_names = [str(a.name) for a in self._arguments if not hasattr(a, "value")]
        self.output_names = list(output_names)
        self.label = f"torch {torch.__version__}"

    def run(self, inputs: Mapping[str, NDArray[np.generic]]) -> dict[str, NDArray[np.generic]]:
        """Run the program once."""
        torch = _torch()
        missing = [name for name in self.input_names if name not in inputs]
        if missing:
            raise InputError(f"the input `{missing[0]}` is missing")
        flat = [
            a.value if hasattr(a, "value") else torch.from_numpy(np.array(inputs[a.name]))
            for a in self._arguments
        ]
        tree = torch.utils._pytree
        args, kwargs = tree.tree_unflatten(flat, self._structure)
        with torch.no_grad(), quiet(), _laid_to("PyTorch cannot run the program"):
            results = tree.tree_leaves(self._module(*args, **kwargs))
        tensors = [r for r in results if isinstance(r, torch.Tensor)]
        if len(tensors) != len(self.output_names):
            raise InputError(f"PyTorch gives {len(tensors)} tensors, not {len(self.output_names)}")
        arrays = [tensor.detach().numpy() for tensor in tensors]
        return dict(zip(self.output_names, arrays, strict=True))


class _TorchWeights:
    """Large weights, by name, as PyTorch holds them."""

    def __init__(self) -> None:
        self.arrays: dict[str, NDArray[np.uint8]] = {}

    @property
    def places(self) -> Mapping[str, tuple[int, int]]:
        """How many bytes each has; all begin at 0."""
        return {name: (0, array.nbytes) for name, array in self.arrays.items()}

    def read(self, name: str, alignment: int) -> NDArray[np.uint8]:
        """The bytes, in place."""
        return self.arrays[name]


def _to_onnx(program: Program) -> tuple[onnx.ModelProto, _TorchWeights]:
    """The program as PyTorch's exporter writes it, its large weights aside."""
    import onnx_ir

    torch = _torch()
    with quiet(), _laid_to("PyTorch cannot export the program"), torch.no_grad():
        exported = torch.onnx.export(
            program, dynamo=True, verbose=False, external_data=False, opset_version=OPSET
        )
    weights = _TorchWeights()
    for value in exported.model.graph.initializers.values():
        tensor = value.const_value
        if tensor.nbytes > SMALL and tensor.dtype.itemsize >= 1:
            array = np.ascontiguousarray(tensor.numpy())
            weights.arrays[value.name] = array.reshape(-1).view(np.uint8)
            value.const_value = onnx_ir.ExternalTensor(
                "held", 0, tensor.nbytes, tensor.dtype, shape=tensor.shape, name=value.name
            )
    model: onnx.ModelProto = onnx_ir.to_proto(exported.model)
    for stored in model.graph.initializer:
        if stored.name in weights.arrays:
            del stored.external_data[:]
            stored.ClearField("data_location")
    return model, weights


def _size_names(model: onnx.ModelProto, dynamic: object) -> dict[str, str]:
    """How to call PyTorch's symbols: as the caller does, or by an input and its axis."""
    wanted = list(_axes(dynamic))
    names: dict[str, str] = {}
    for place, value in enumerate(model.graph.input):
        by_place = wanted[place] if len(wanted) == len(model.graph.input) else {}
        if isinstance(dynamic, Mapping) and value.name in dynamic:
            (by_place,) = _axes(dynamic[value.name])
        for axis, size in enumerate(value.type.tensor_type.shape.dim):
            symbol = size.dim_param
            if symbol.isidentifier() and symbol not in names:
                names[symbol] = by_place.get(axis) or f"{value.name}_{axis}"
    return names


def _axes(dynamic: object) -> Iterator[dict[int, str]]:
    """For each input in order, what the caller calls its axes."""
    if isinstance(dynamic, Mapping) and all(isinstance(k, int) for k in dynamic) and dynamic:
        items = dynamic.items()
        yield {k: _name_of(v) for k, v in items if _name_of(v)}
    elif isinstance(dynamic, Mapping) and dynamic:
        for inner in dynamic.values():
            yield from _axes(inner)
    elif isinstance(dynamic, list | tuple) and dynamic:
        if any(isinstance(one, str) or hasattr(one, "__name__") for one in dynamic):
            yield {k: _name_of(v) for k, v in enumerate(dynamic) if _name_of(v)}
        else:
            for inner in dynamic:
                yield from _axes(inner)
    else:
        yield {}


def _name_of(value: object) -> str:
    """What a size is called, if it is a plain one."""
    name = value if isinstance(value, str) else getattr(value, "__name__", "")
    return name if name.isidentifier() else ""


def _bounds(program: Program, names: Mapping[str, str]) -> dict[str, tuple[int, int]]:
    """The bounds that PyTorch proved, by the name of a size; 0 is an open end."""
    found = {}
    for symbol, bound in program.range_constraints.items():
        if str(symbol) in names:
            low, high = _number(bound.lower), _number(bound.upper)
            found[names[str(symbol)]] = (max(1, low), high if 0 < high < OPEN else 0)
    return found


def _number(value: Any) -> int:
    """A bound of SymPy as a number; 0 for one without end."""
    return int(value) if isinstance(value, int) or getattr(value, "is_Integer", False) else 0


def _narrowed(bounds: Mapping[str, tuple[int, int]], dims: Bounds) -> Bounds:
    """PyTorch's bounds, and those of the caller, which must lie within them."""
    merged: dict[str, tuple[int, int] | int] = {**bounds}
    for name, wanted in dims.items():
        low, high = (wanted, wanted) if isinstance(wanted, int) else wanted
        least, most = bounds.get(name, (0, 0))
        if most and not high:
            high, wanted = most, (low, most)
        if name in bounds and ((low < least and least > 1) or (most and high > most)):
            raise FrontendError(
                f"`{name}` cannot have the bounds {low}..{high or ''}: PyTorch exported the "
                f"program for {least}..{most or ''}",
                hint="export it with wider bounds: `torch.export.Dim(name, min=…, max=…)`",
            )
        merged[name] = wanted
    return merged


def _torch() -> Any:
    """PyTorch, or how to get it."""
    try:
        import onnxscript  # noqa: F401  # the exporter needs it, and says so late
        import torch
        import torch.onnx
    except ImportError as error:
        raise FrontendError(
            f"PyTorch programs need the package `{error.name or 'torch'}`",
            hint="pip install 'tunesmith[torch]'",
        ) from error
    return torch


@contextlib.contextmanager
def _laid_to(what: str, where: str | None = None) -> Iterator[None]:
    """Errors of PyTorch, which have no common base, as ours."""
    try:
        yield
    except FrontendError:
        raise
    except Exception as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        told = " ".join(lines)[:600] or type(error).__name__
        raise FrontendError(f"{what}: {told}", where=where) from error


@contextlib.contextmanager
def quiet(*more: str) -> Iterator[None]:
    """Without what exporters, and `more` loggers, say: deprecations, packages they can miss."""
    names = ("torch.onnx", "torch.export", "torch.onnx._internal.exporter._registration", *more)
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
