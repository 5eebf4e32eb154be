"""Apache TVM, behind one door: the pinned pair is checked, and torch is kept from being loaded."""

from __future__ import annotations

import functools
import gc
import importlib.metadata
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tunesmith.ir.diagnostics import BackendError

PINNED = {"apache-tvm": "0.27.0.post1", "apache-tvm-ffi": "0.1.14.post1"}


def check_pair() -> None:
    """Refuse any other pair of wheels: newer ffi builds crash the process (`docs/architecture.md`).

    Raises:
        BackendError: a wheel is missing or has another version.
    """
    for package, wanted in PINNED.items():
        try:
            found = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found = "none"
        if found != wanted:
            raise BackendError(
                f"needs {package} {wanted}, found {found}",
                hint="pip install " + " ".join(f"{p}=={v}" for p, v in PINNED.items()),
            )


# Not needed, and a None blocks an import. `tvm_ffi` would import torch: four seconds, 200 MB. The
# library behind `disco` is not loaded, so its import fails anyway, after a third of a second.
_HIDDEN = ("torch", "tvm.runtime.disco")


_AUTOLOAD = "TVM_DEVICE_BACKEND_AUTOLOAD"  # of all GPU backends: `tvm.backend.load(name)` loads one


def _load() -> None:
    check_pair()
    os.environ.setdefault("TVM_BIND_THREADS", "0")
    if "tvm" in sys.modules:
        return
    autoload = os.environ.get(_AUTOLOAD)
    os.environ[_AUTOLOAD] = "0"
    hidden = [name for name in _HIDDEN if name not in sys.modules]
    for name in hidden:
        sys.modules[name] = None  # type: ignore[assignment]
    try:
        with _quick_registry():
            import tvm  # noqa: F401
    finally:
        for name in hidden:
            del sys.modules[name]
        os.environ.pop(_AUTOLOAD)
        if autoload is not None:
            os.environ[_AUTOLOAD] = autoload


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


_load()
