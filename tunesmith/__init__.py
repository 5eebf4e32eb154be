"""`tunesmith` compiles models: ONNX in, one verified, fast, deployable file out."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tunesmith.driver import compile_model
    from tunesmith.frontend import import_model, import_torch
    from tunesmith.ir.graph import Graph
    from tunesmith.ir.target import Target
    from tunesmith.runtime import Artifact, load

    __version__: str

__all__ = ["Artifact", "Graph", "Target", "compile_model", "import_model", "import_torch", "load"]

# Nothing is imported before it is asked for: `import tunesmith` costs no NumPy.
_HOME = {
    "Artifact": "tunesmith.runtime",
    "Graph": "tunesmith.ir.graph",
    "Target": "tunesmith.ir.target",
    "compile_model": "tunesmith.driver",
    "import_model": "tunesmith.frontend",
    "import_torch": "tunesmith.frontend",
    "load": "tunesmith.runtime",
}


def __getattr__(name: str) -> object:
    if name == "__version__":
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("tunesmith")
        except PackageNotFoundError:  # a checkout that is not installed
            return "0.1.0"
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
