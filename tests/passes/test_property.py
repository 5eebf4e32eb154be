"""Whatever the graph: a pipeline keeps its meaning, its rules, and comes to rest."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings

from tunesmith.ir.graph import Graph
from tunesmith.ir.interpreter import evaluate
from tunesmith.ir.text import parse_graph, print_graph
from tunesmith.passes.base import PassContext
from tunesmith.passes.instruments import Verify
from tunesmith.passes.pipeline import Pipeline
from tunesmith.presets import PRESETS

from .feeds import assert_close, random_feeds
from .random_graphs import graphs

TIDY = "repeat{canonicalize,fold-constants,eliminate-duplicates,eliminate-dead-code}"
SLOW = [HealthCheck.too_slow, HealthCheck.data_too_large]


def _weights(graph: Graph) -> dict[str, np.ndarray[tuple[int, ...], np.dtype[np.generic]]]:
    constants = [value.constant for node in graph.nodes for value in node.results]
    return {c.digest: c.array for c in constants if c is not None}


PIPELINES = {
    "tidy": TIDY,
    "O0": PRESETS["O0"],
    "O2": PRESETS["O2"],
    "decompose-O2": f"decompose,{PRESETS['O2']}",
}


@pytest.mark.parametrize("pipeline", PIPELINES.values(), ids=PIPELINES)
@settings(max_examples=40, suppress_health_check=SLOW)
@given(graph=graphs())
def test_the_meaning_stays(pipeline: str, graph: Graph) -> None:
    """Outputs before and after agree; a second run changes nothing."""
    feeds = random_feeds(graph)
    before = evaluate(graph, feeds)
    Pipeline.parse(pipeline).run(graph, PassContext(), [Verify()])
    assert_close(before, evaluate(graph, feeds), rtol=2e-5)
    text = print_graph(graph)
    if pipeline == TIDY:
        assert Pipeline.parse(TIDY).run(graph, PassContext()) == [False]
    assert print_graph(graph) == text
    assert print_graph(parse_graph(text, weights=_weights(graph))) == text
