"""Load and run compiled models; needs NumPy and the small TVM runtime, and only once it loads."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .artifact import Artifact
    from .cache import Cache
    from .executable import Executable, load
    from .manifest import Manifest

__all__ = ["Artifact", "Cache", "Executable", "Manifest", "load"]

_HOME = {
    "Artifact": ".artifact",
    "Cache": ".cache",
    "Executable": ".executable",
    "Manifest": ".manifest",
    "load": ".executable",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOME[name], __name__), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
