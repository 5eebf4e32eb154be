"""Graphs as files: the text, and in a folder `weights/` beside it each large constant by its hash.

Files of one folder share their constants, so a dump after every pass costs the weights once. They
are NumPy's own format: mapped when they are read, and readable without us.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from .diagnostics import FrontendError
from .graph import Graph
from .parser import parse_graph
from .text import INLINE_ELEMENTS, print_graph

__all__ = ["load_graph", "save_graph"]


class _Folder(Mapping[str, NDArray[np.generic]]):
    """The constants of a folder, each mapped when it is asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __getitem__(self, digest: str) -> NDArray[np.generic]:
        try:
            array: NDArray[np.generic] = np.load(
                self.folder / f"{digest}.npy", mmap_mode="r", allow_pickle=False
            )
        except FileNotFoundError as error:
            raise KeyError(digest) from error
        except (OSError, ValueError) as error:
            raise FrontendError(
                f"cannot read the constant `{digest[:12]}…`: {error}", where=str(self.folder)
            ) from error
        # NumPy keeps the bytes of types that it does not have, but not their name
        return array.view(ml_dtypes.bfloat16) if array.dtype.kind == "V" else array

    def __iter__(self) -> Iterator[str]:
        return (path.stem for path in self.folder.glob("*.npy"))

    def __len__(self) -> int:
        return sum(1 for _ in self)


def save_graph(graph: Graph, path: Path, *, head: str = "") -> None:
    """Write the text of a graph, after `head`, and its constants that are not there yet."""
    folder = path.parent / "weights"
    for node in graph.nodes:
        for value in node.results:
            constant = value.constant
            if constant is None or constant.array.size <= INLINE_ELEMENTS:
                continue
            file = folder / f"{constant.digest}.npy"
            if not file.exists():
                folder.mkdir(parents=True, exist_ok=True)
                handle, name = tempfile.mkstemp(dir=folder, prefix=".", suffix=".npy")
                with os.fdopen(handle, "wb") as out:
                    np.save(out, np.asarray(constant.array, order="C"), allow_pickle=False)
                os.replace(name, file)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    with os.fdopen(handle, "w", encoding="utf-8") as text:
        text.write(f"{head}{print_graph(graph)}\n")
    os.replace(name, path)


def load_graph(path: Path) -> Graph:
    """Read a graph that `save_graph` wrote, or any text whose constants are all inline.

    Raises:
        FrontendError: the file, or a constant, cannot be read.
        ParseError: the text is not a graph, or a constant is missing.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise FrontendError(f"cannot read `{path}`: {error}") from error
    return parse_graph(text, str(path), _Folder(path.parent / "weights"))
