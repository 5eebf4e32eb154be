"""The option that rewrites golden files; and `benchmarks`, for tests on exported models."""

from __future__ import annotations

import sys
from contextlib import suppress
from pathlib import Path

import pytest

# At the end: an installed tunesmith keeps its precedence over the checkout's.
_ROOT = str(Path(__file__).parents[2])
if _ROOT not in sys.path:
    sys.path.append(_ROOT)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare `--update-golden`, unless another folder has."""
    with suppress(ValueError):
        parser.addoption("--update-golden", action="store_true", help="rewrite golden files")
