"""Files and frameworks → graph."""

from __future__ import annotations

import typing
from collections.abc import Mapping, Sequence
from pathlib import Path

from tunesmith.ir.diagnostics import FrontendError
from tunesmith.ir.graph import Graph

if typing.TYPE_CHECKING:
    import onnx
    import torch
    from numpy.typing import ArrayLike

__all__ = ["Source", "import_model", "import_torch", "is_program", "open_program"]

Shapes = Mapping[str, Sequence[int]]
Dims = Mapping[str, tuple[int, int] | int]
Source: typing.TypeAlias = "str | Path | onnx.ModelProto | torch.export.ExportedProgram | Graph"


def import_model(
    source: Source,
    *,
    shapes: Shapes | None = None,
    dims: Dims | None = None,
    values: Mapping[str, ArrayLike] | None = None,
) -> Graph:
    """Read a model: an `.onnx` or `.pt2` file, an object of ONNX or PyTorch, or `.nir` text.

    `shapes` fixes the shape of an input, `dims` a named size (`batch=1`) or its bounds
    (`batch=(1, 8)`). `values` fixes the elements of an input: they are then known, and decide
    sizes as constants do; the input stays in the graph, without a use. A graph is handed back as
    it is.
    """
    if isinstance(source, Graph):
        if shapes or dims or values:
            raise FrontendError("`shapes`, `dims` and `values` apply to a file, not to a graph")
        return source
    if isinstance(source, str | Path):
        path = Path(source)
        if path.suffix == ".nir":
            return _read_text(path, bool(shapes or dims or values))
        if path.suffix in (".pt", ".pth"):
            raise FrontendError(
                f"`{path.name}` is a pickle of PyTorch, and nothing is unpickled",
                hint="save a program: `torch.export.save(torch.export.export(module, args), "
                "'model.pt2')`",
            )
        source = open_program(source)
    if is_program(source):
        from .torch_import import import_program

        return import_program(
            typing.cast("typing.Any", source),
            shapes=shapes or {},
            dims=dims or {},
            values=values or {},
        )
    from .onnx_import import import_onnx

    found = typing.cast("str | Path | onnx.ModelProto", source)
    return import_onnx(found, shapes=shapes or {}, dims=dims or {}, values=values or {})


def import_torch(
    module: torch.nn.Module,
    args: Sequence[object],
    kwargs: Mapping[str, object] | None = None,
    *,
    dynamic: object = None,
    dims: Dims | None = None,
) -> Graph:
    """Trace a PyTorch module by `torch.export`, and import it.

    Args:
        module: what to trace; it is put into evaluation mode.
        args, kwargs: example inputs: their shapes and dtypes count, not their elements.
        dynamic: which axes may have another size, by input: `{"ids": {0: "batch", 1: "length"}}`,
            also `"2*length"` or `"length + 1"`; or anything that `torch.export` takes as
            `dynamic_shapes`. All other axes are fixed.
        dims: bounds (`(1, 8)`) of these sizes, or their values.

    Raises:
        FrontendError: PyTorch is missing, it cannot trace the module or only for fixed sizes, or
            something in it has no counterpart here.
    """
    from .torch_import import export_module, import_program

    program = export_module(module, args, kwargs, dynamic, dims or {})
    return import_program(program, shapes={}, dims=dims or {}, values={}, dynamic=dynamic)


def open_program(source: Source) -> Source:
    """The program in a `.pt2` file; anything else is handed back as it is."""
    if isinstance(source, str | Path) and Path(source).suffix == ".pt2":
        from .torch_import import load_program

        return typing.cast("torch.export.ExportedProgram", load_program(Path(source)))
    return source


def is_program(source: object) -> bool:
    """Whether an object is a `torch.export.ExportedProgram`; PyTorch is not imported for it."""
    kind = type(source)
    return kind.__name__ == "ExportedProgram" and kind.__module__.startswith("torch.")


def _read_text(path: Path, fixes: bool) -> Graph:
    if fixes:
        raise FrontendError("`shapes`, `dims` and `values` do not apply to text: it says all")
    from tunesmith.ir.store import load_graph

    return load_graph(path)
