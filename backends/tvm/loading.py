"""`import tvm`, without what a compiler of CPU kernels does not use: half a second, not five."""

from __future__ import annotations

import functools
import gc
import importlib.machinery
import importlib.util
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import ModuleType

__all__ = ["import_tvm"]

# Not needed, and a None blocks an import. `tvm_ffi` would import torch: four seconds, 200 MB. The
# library behind `disco` is not loaded, so its import fails anyway, after a third of a second.
_HIDDEN = ("torch", "tvm.runtime.disco")

# Imported when first used, which in most processes is never: 140 modules, 0.2 of 0.6 s.
_LATER = frozenset(
    {
        "tvm.relax.backend.adreno",
        "tvm.relax.backend.gpu_generic",
        "tvm.relax.frontend",
        "tvm.relax.training",
        "tvm.s_tir.dlight",
        "tvm.s_tir.meta_schedule",
    }
)

_AUTOLOAD = "TVM_DEVICE_BACKEND_AUTOLOAD"  # of all GPU backends: `tvm.backend.load(name)` loads one


def import_tvm() -> None:
    """Import TVM, if nobody has."""
    os.environ.setdefault("TVM_BIND_THREADS", "0")
    if "tvm" in sys.modules:
        return
    autoload = os.environ.get(_AUTOLOAD)
    os.environ[_AUTOLOAD] = "0"
    hidden = [name for name in _HIDDEN if name not in sys.modules]
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment]
    sys.meta_path.insert(0, _Later)
    try:
        with _quick_registry():
            import tvm  # noqa: F401
    finally:
        sys.meta_path.remove(_Later)
        for name in hidden:
            del sys.modules[name]
        os.environ.pop(_AUTOLOAD)
        if autoload is not None:
            os.environ[_AUTOLOAD] = autoload


class _Later:
    """Finds the modules of `_LATER`, and has them loaded when an attribute is first read."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """As `importlib.abc.MetaPathFinder` has it."""
        if name not in _LATER:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path, target)
        if spec is not None and spec.loader is not None:
            spec.loader = importlib.util.LazyLoader(spec.loader)
        return spec


@contextmanager
def _quick_registry() -> Iterator[None]:
    """List the functions of the libraries once, not once for each of TVM's fifty modules.

    Nothing that is made meanwhile is garbage, so it is not searched for any.
    """
    from tvm_ffi import registry

    listed, collected = registry.list_global_func_names, gc.isenabled()
    registry.list_global_func_names = functools.cache(listed)
    gc.disable()
    try:
        yield
    finally:
        registry.list_global_func_names = listed
        if collected:
            gc.enable()
