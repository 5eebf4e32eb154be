"""The environment, typed: every variable that `tunesmith` itself reads stands here."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["Settings"]


@dataclass(frozen=True)
class Settings:
    """What the environment asks for."""

    traceback: bool = field(default=False, metadata={"variable": "TUNESMITH_TRACEBACK"})
    no_color: bool = field(default=False, metadata={"variable": "NO_COLOR"})
    crash_folder: str = field(default=".", metadata={"variable": "TUNESMITH_CRASH_DIR"})

    @staticmethod
    def read(environment: Mapping[str, str] | None = None) -> Settings:
        """Read the environment of this process, or the one given.

        >>> Settings.read({"NO_COLOR": "1"})
        Settings(traceback=False, no_color=True, crash_folder='.')
        """
        values = os.environ if environment is None else environment
        return Settings(
            traceback=bool(values.get("TUNESMITH_TRACEBACK")),
            no_color=bool(values.get("NO_COLOR")),
            crash_folder=values.get("TUNESMITH_CRASH_DIR") or ".",
        )
