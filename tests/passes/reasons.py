"""The refused cases of a golden file: a graph under a comment with the reason."""

from __future__ import annotations

from pathlib import Path

from tunesmith.ir.text import parse_graph
from tunesmith.passes.base import PassContext
from tunesmith.passes.pipeline import Pipeline

__all__ = ["found_reasons", "refused_cases"]

_MARK = "// refused: "


def refused_cases(file: str) -> dict[str, str]:
    """Each reason that a file names, and the graph under it."""
    text = (Path(__file__).parent / file).read_text().partition("\n")[2]
    cases = [case.partition("\n// =>\n")[0].strip() for case in text.split("\n// -----\n")]
    marked = [case.partition("\n") for case in cases if case.startswith(_MARK)]
    return {head.removeprefix(_MARK): graph for head, _, graph in marked}


def found_reasons(text: str, pipeline: str, what: str) -> list[str]:
    """The reasons of the near misses of one composite that a pipeline tells."""
    graph, context = parse_graph(text), PassContext()
    assert not any(Pipeline.parse(pipeline).run(graph, context))
    return [n.reason for n in context.notes if n.kind == "near-miss" and n.what == what]
