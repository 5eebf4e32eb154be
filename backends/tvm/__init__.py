"""Apache TVM, behind one door: the pinned pair is checked, and torch is kept from being loaded."""

from __future__ import annotations

import importlib.metadata

from tunesmith.ir.diagnostics import BackendError

from .loading import import_tvm

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


check_pair()
import_tvm()
