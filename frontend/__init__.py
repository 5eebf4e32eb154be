"""Files and frameworks → graph."""

from __future__ import annotations

import typing
from collections.abc import Mapping, Sequence
from pathlib import Path

from tunesmith.ir.diagnostics import FrontendError
from tunesmith.ir.graph import Graph

if typing.TYPE_CHECKING:
    import onnx
    from numpy.typing import ArrayLike

__all__ = ["import_model"]


def import_model(
    source: str | Path | onnx.ModelProto | Graph,
    *,
    shapes: Mapping[str, Sequence[int]] | None = None,
    dims: Mapping[str, tuple[int, int] | int] | None = None,
    values: Mapping[str, ArrayLike] | None = None,
) -> Graph:
    """Read a model: an `.onnx` file or object, or a graph in `.nir` text.

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
        if path.suffix in (".pt2", ".pt", ".pth"):
            raise FrontendError(
                f"`{path.name}` is a PyTorch file", hint="export it with torch.onnx.export"
            )
    from .onnx_import import import_onnx

    return import_onnx(source, shapes=shapes or {}, dims=dims or {}, values=values or {})


def _read_text(path: Path, fixes: bool) -> Graph:
    if fixes:
        raise FrontendError("`shapes`, `dims` and `values` do not apply to text: it says all")
    from tunesmith.ir.store import load_graph

    return load_graph(path)
