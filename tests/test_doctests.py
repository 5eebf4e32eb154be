"""The examples in docstrings run."""

from __future__ import annotations

import doctest
import importlib
from pathlib import Path

import pytest

from .test_layout import FOLDERS, ROOT, in_checkout, sources


def with_examples() -> list[str]:
    """The modules whose docstrings hold examples."""
    paths = [Path(p) for p in sources() if ">>> " in (ROOT / p).read_text(encoding="utf-8")]
    front = [p if p.parts[0] not in FOLDERS else Path("tunesmith") / p for p in paths]
    return [".".join(p.with_suffix("").parts).removesuffix(".__init__") for p in front]


@in_checkout
@pytest.mark.parametrize("name", with_examples())
def test_examples(name: str) -> None:
    result = doctest.testmod(importlib.import_module(name))
    assert result.attempted > 0
    assert result.failed == 0
