"""The searches of `tunesmith tune`, by name; each is imported when it is used."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from tunesmith.ir.diagnostics import TuneError

if TYPE_CHECKING:
    from tunesmith.autotune.tune import Searching

__all__ = ["SEARCHES", "find_search", "require_search"]

SEARCHES = ("gaussian", "metaschedule")


def require_search(name: str) -> None:
    """Raise `TuneError` if there is no such search, or it lacks a package: before any work."""
    if name not in SEARCHES:
        raise TuneError(f"there is no search `{name}`", hint=f"known: {', '.join(SEARCHES)}")
    if name == "metaschedule" and find_spec("xgboost") is None:
        raise TuneError("MetaSchedule's cost model needs xgboost",
                        hint="pip install 'tunesmith[metaschedule]'")  # fmt: skip


def find_search(name: str) -> Searching:
    """What makes searches of that name.

    Raises:
        TuneError: there is none, or it lacks a package.
    """
    require_search(name)
    if name == "metaschedule":
        from tunesmith.autotune.metaschedule_space import Evolution

        return Evolution
    from tunesmith.autotune.tune import gaussian

    return gaussian
