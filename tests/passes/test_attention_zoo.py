"""Every attention block of every exported model becomes one `attention`, and means the same."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks import zoo
from tunesmith import samples
from tunesmith.frontend import import_model
from tunesmith.ir.graph import Graph
from tunesmith.ir.interpreter import evaluate
from tunesmith.passes.base import PassContext
from tunesmith.passes.pipeline import Pipeline

Array = NDArray[np.generic]
_TIDY = "repeat{canonicalize,fold-constants,eliminate-duplicates,eliminate-dead-code}"
PIPELINE = f"lift-dequantize,{_TIDY},fuse-softmax,fuse-rotary,fuse-attention,{_TIDY}"
SMALL = [name for name, entry in zoo.ENTRIES.items() if entry.small]

# Where no row can be masked entirely, or such rows are 0, the triangle leaves the mask.
CAUSAL = {
    f"{model}/{route}/small"
    for model in ("gpt2", "smollm2-135m")
    for route in ("torchscript17-sdpa", "dynamo23-sdpa")
}


def _fused(graph: Graph, pipeline: str = PIPELINE) -> PassContext:
    context = PassContext()
    Pipeline.parse(pipeline).run(graph, context)
    return context


def _operators(graph: Graph) -> Counter[str]:
    return Counter(node.op.name for node in graph.nodes)


def _same(before: Graph, after: Graph, feeds: dict[str, Array]) -> None:
    """Outputs agree within 1e-5, and none of them is NaN."""
    for want, have in zip(evaluate(before, feeds), evaluate(after, feeds), strict=True):
        assert np.isfinite(want).all()
        np.testing.assert_allclose(
            have.astype(np.float64), want.astype(np.float64), rtol=1e-5, atol=1e-5
        )


def _batches(entry: zoo.ZooEntry) -> list[dict[str, Array]]:
    """One full row; three rows that are padded: at the end, in front, and entirely."""
    full, padded = zoo.inputs(entry, 1, 7), zoo.inputs(entry, 3, 16, seed=3)
    if "attention_mask" in padded:
        mask = padded["attention_mask"]
        mask[1] = mask[1][::-1]
        mask[2] = 0
    return [full, padded]


@pytest.mark.zoo
@pytest.mark.parametrize("name", SMALL)
def test_zoo(name: str) -> None:
    """All blocks fuse, heads stay grouped, and the outputs stay, for padded rows too."""
    entry = zoo.ENTRIES[name]
    try:
        file = zoo.path(entry)
    except zoo.ZooUnavailable as missing:
        pytest.skip(str(missing))
    before, after = import_model(file), import_model(file)
    context = _fused(after)
    operators = _operators(after)
    assert operators["attention"] == entry.blocks
    assert operators["softmax"] == 0
    assert [n for n in context.notes if n.kind == "near-miss" and n.what == "attention"] == []
    found = [node for node in after.nodes if node.op.name == "attention"]
    assert {node.attributes["causal"] for node in found} == {name in CAUSAL}
    if entry.architecture == "smollm2-135m":
        assert operators["rotary"] == 2 * entry.blocks
        assert {node.present_operands[1].type.shape[1] for node in found} == {2}
    for feeds in _batches(entry):
        _same(before, after, feeds)


@pytest.mark.zoo
@pytest.mark.parametrize("name", [n for n in SMALL if n.startswith(("gpt2", "smollm2"))])
def test_rows_that_do_not_matter(name: str) -> None:
    """Without `keep-masked-rows` each decoder is causal; rows that see a key stay as they are."""
    entry = zoo.ENTRIES[name]
    try:
        file = zoo.path(entry)
    except zoo.ZooUnavailable as missing:
        pytest.skip(str(missing))
    before, after = import_model(file), import_model(file)
    _fused(after, PIPELINE.replace("attention", "attention{keep-masked-rows=false}"))
    found = [node for node in after.nodes if node.op.name == "attention"]
    assert [node.attributes["causal"] for node in found] == [True] * entry.blocks
    assert all(node.present_operands[3].type.shape[2] == 1 for node in found)
    _same(before, after, zoo.inputs(entry, 2, 9, seed=5))


@pytest.mark.models
@pytest.mark.parametrize(("name", "blocks"), [("minilm-l3", 3), ("minilm-l6-int8", 6)])
def test_samples(name: str, blocks: int) -> None:
    """Real models: all blocks, and weights that are stored as integers stay integers."""
    try:
        file = samples.locate(name)
    except samples.SampleMissing as missing:
        pytest.skip(str(missing))
    before, after = import_model(file), import_model(file)
    _fused(after)
    operators = _operators(after)
    assert operators["attention"] == blocks and operators["softmax"] == 0
    if name == "minilm-l6-int8":
        assert operators["dequantize"] == 38
        lifted = [n.present_operands[0] for n in after.nodes if n.op.name == "dequantize"]
        whole = [value.constant for value in lifted if value.constant is not None]
        assert len(whole) == 36  # of the other two, the tables, only rows are gathered
        assert max(weight.nbytes for weight in whole) == 1536 * 384
    random = np.random.default_rng(1)
    ids = random.integers(1000, 20000, (2, 12))
    mask = np.ones((2, 12), np.int64)
    mask[1, 7:] = 0
    feeds = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
    wanted = {value.name for value in before.inputs}
    _same(before, after, {key: value for key, value in feeds.items() if key in wanted})
