"""What a backend is: it lowers a graph for a target, and builds what it lowered."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from tunesmith.ir.dims import Dim
from tunesmith.ir.graph import Graph
from tunesmith.ir.target import Target
from tunesmith.runtime.manifest import Json

__all__ = ["Backend", "Library", "Lowered", "TuningRecords"]


class TuningRecords(Protocol):
    """What was found by measuring: knobs for kernels, instead of those that analysis gives."""

    def knobs(
        self, template: str, text: str, features: Mapping[str, int]
    ) -> Mapping[str, int] | None:
        """Knobs for a kernel of a template (`gemm/1`), whose content `text` is; `None` if unknown.

        `features` are numbers of its work, for whoever looks for what is near.
        """
        ...


@dataclass
class Lowered:
    """A graph in the words of a backend, with the weights in the layouts that its kernels read.

    `weights` are in the order in which the entry point takes them, and may be packed only when
    they are asked for, or in a thread: `settle` waits until that has ended, and raises what it
    raised; `settle(cancel=True)` gives it up.

    `module` calls kernels by name; `functions` write them, and a name holds a hash of the content,
    so that equal kernels of all models share one object file. `sizes` is what the variables of
    `module` stand for.
    """

    graph: Graph
    target: Target
    module: object
    functions: Mapping[str, Callable[[], object]]
    weights: Mapping[str, NDArray[np.generic]]
    weight_bytes: int
    kernels: list[dict[str, Json]] = field(default_factory=list)
    sizes: Mapping[str, Dim] = field(default_factory=dict)
    tunable: Mapping[str, object] = field(default_factory=dict)
    settle: Callable[..., None] = lambda cancel=False: None


@dataclass(frozen=True)
class Library:
    """Compiled code, as the bytes of a shared library.

    `arena` is how many bytes a run needs besides the weights, in the symbols of the graph: empty if
    that is not known.
    """

    code: bytes
    entry: str = "main"
    arena: str = ""


class Backend(Protocol):
    """Lowers and builds."""

    name: str

    def lower(self, graph: Graph, target: Target, records: TuningRecords | None = None) -> Lowered:
        """Choose kernels and layouts; `BackendError` names what cannot be done and where."""
        ...

    def build(
        self,
        lowered: Lowered,
        progress: Callable[[int, int], None] | None = None,
        before_fork: Callable[[], None] = lambda: None,
    ) -> Library:
        """Generate and link the code; `BuildError` with the words of the tool that failed.

        `before_fork` is called before processes are forked, to end other threads of the caller's;
        `lowered` is settled when this returns.
        """
        ...
