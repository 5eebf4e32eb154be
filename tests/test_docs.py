"""What the documents say holds: links lead somewhere, code parses, options exist."""

from __future__ import annotations

import ast
import re
import textwrap
from pathlib import Path

import pytest

from .cli.conftest import Cli, cli  # noqa: F401  # a fixture
from .test_layout import ROOT, in_checkout

DOCUMENTS = sorted([ROOT / "README.md", *(ROOT / "docs").glob("*.md")])


@in_checkout
@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.name)
def test_links_lead_somewhere(path: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", path.read_text(encoding="utf-8")):
        if not target.startswith("http"):
            assert (path.parent / target).exists(), f"{path.name} links to `{target}`"


@in_checkout
@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda p: p.name)
def test_python_parses(path: Path) -> None:
    blocks = re.findall(r"^( *)```python\n(.*?)^ *```", path.read_text(), re.M | re.S)
    for _, block in blocks:
        code = textwrap.dedent(block)
        if re.match(r'(# .*\n)?"', code):  # one row of a table
            code = f"TABLE = {{\n{code}\n}}"
        ast.parse(code, path.name)


@in_checkout
def test_options_of_the_readme_exist(cli: Cli) -> None:  # noqa: F811  # the fixture
    table = (ROOT / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)[^|]*` \| (.*) \|$", table, re.M)
    assert {"compile", "verify", "bench", "opt"} <= {name for name, _ in rows}
    for command, text in rows:
        if not command.islower():
            continue
        wanted = re.findall(r"--[a-z-]+", text)
        shown = cli(command, "--help").out if wanted else ""
        assert [w for w in wanted if w not in shown] == []


@in_checkout
def test_the_readme_shows_real_output() -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert "DEMO_OUTPUT" not in text
    assert "PASSED last_hidden_state" in text
