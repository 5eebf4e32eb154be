"""The option that rewrites golden files."""

from __future__ import annotations

from contextlib import suppress

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare `--update-golden`, unless another folder has."""
    with suppress(ValueError):
        parser.addoption("--update-golden", action="store_true", help="rewrite golden files")
