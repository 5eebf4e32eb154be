"""Golden tests of passes: `.nir` files with a pipeline, the graph before and the graph after.

`// RUN pipeline` heads a file; cases are split by `// -----`; `// =>` stands before what is
expected, a graph or the word `unchanged`. `--update-golden` rewrites what is expected.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tunesmith.ir.interpreter import evaluate
from tunesmith.ir.text import parse_graph, print_graph
from tunesmith.ir.verifier import verify
from tunesmith.passes.base import PassContext
from tunesmith.passes.instruments import Verify
from tunesmith.passes.pipeline import Pipeline

from .feeds import assert_close, random_feeds

FILES = sorted(Path(__file__).parent.glob("*.nir"))
SPLIT, ARROW, RUN = "\n// -----\n", "\n// =>\n", "// RUN "


def _run(text: str, pipeline: str) -> tuple[str, list[bool]]:
    """The graph after the pipeline, checked against the graph before on random inputs."""
    graph, before = parse_graph(text), parse_graph(text)
    verify(graph)
    changed = Pipeline.parse(pipeline).run(graph, PassContext(), [Verify()])
    feeds = random_feeds(before)
    assert_close(
        evaluate(before, feeds), evaluate(graph, feeds), rtol=2e-3 if "f16" in text else 1e-5
    )
    return print_graph(graph), changed


@pytest.mark.parametrize("path", FILES, ids=[path.stem for path in FILES])
def test_golden(path: Path, request: pytest.FixtureRequest) -> None:
    """Each case of a file gives what is written after it."""
    head, _, body = path.read_text().partition("\n")
    assert head.startswith(RUN)
    pipeline = head.removeprefix(RUN)
    update = bool(request.config.getoption("--update-golden", default=False))
    written = []
    for case in body.rstrip("\n").split(SPLIT):
        before, arrow, expected = f"{case}\n".partition(ARROW)
        after, changed = _run(before, pipeline)
        if expected.strip() == "unchanged":
            assert not any(changed), (
                f"{path.name}: this case must not change\n{before}\n=>\n{after}"
            )
            assert after == print_graph(parse_graph(before))
        elif not update:
            assert arrow and after == expected.strip(), f"{path.name}\n{before}\n=>\n{after}"
            assert any(changed), f"a pass that changes a graph says so\n{before}"
        kept = "unchanged" if expected.strip() == "unchanged" else after
        written.append(f"{before.rstrip()}{ARROW}{kept}")
    if update:
        path.write_text(f"{head}\n{SPLIT.join(written)}\n")
