"""Real models under O2: what is left is what a transformer is made of, and it means the same."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from tunesmith.frontend import import_model
from tunesmith.passes.base import PassContext
from tunesmith.passes.instruments import CheckEach, Verify
from tunesmith.passes.pipeline import Pipeline
from tunesmith.presets import PRESETS
from tunesmith.samples import SampleMissing, locate

LAYER = {"linear": 6, "attention": 1, "layer_norm": 2, "transpose": 4, "reshape": 4, "add": 2}


@pytest.mark.models
@pytest.mark.parametrize(("name", "layers"), [("minilm-l6-int8", 6), ("minilm-l3", 3)])
def test_layers_are_made_of_composites(name: str, layers: int) -> None:
    """Per layer six linear layers, one attention, two norms, two residuals; no pass drifts."""
    try:
        path = locate(name)
    except SampleMissing as missing:
        pytest.skip(str(missing))
    graph = import_model(path)
    feeds = {
        value.name: np.ones((2, 7), np.int64) * (10 if value.name == "input_ids" else 1)
        for value in graph.inputs
    }
    Pipeline.parse(PRESETS["O2"]).run(graph, PassContext(), [Verify(), CheckEach(feeds)])
    found = Counter(node.op.name for node in graph.nodes)
    for operator, count in LAYER.items():
        rest = found[operator] - layers * count
        assert 0 <= rest <= 3, f"{found[operator]} {operator} for {layers} layers"
    assert not {"erf", "softmax", "matmul", "isnan", "gather_nd", "iota"} & set(found)
