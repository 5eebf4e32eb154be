"""The bounds of the importer: those of the whole compiler."""

from __future__ import annotations

from tunesmith.ir.limits import LIMITS, Limits

__all__ = ["LIMITS", "Limits"]
