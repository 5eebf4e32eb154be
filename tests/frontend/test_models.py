"""Whole models: the zoo of exporters, and the pinned packages."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from benchmarks import zoo
from tunesmith.frontend import import_model
from tunesmith.ir.graph import Graph
from tunesmith.ir.interpreter import evaluate
from tunesmith.samples import SampleMissing, locate

from .models import Array, compare, counts

SMALL = [name for name, entry in zoo.ENTRIES.items() if entry.small]
SIZES = ((1, 7), (2, 16), (3, 1))


def feeds_of(graph: Graph, batch: int, length: int) -> dict[str, Array]:
    """Tokens, a mask that hides more with each row, or an image."""
    generator = np.random.default_rng(0)
    feeds: dict[str, Array] = {}
    for value in graph.inputs:
        if value.type.dtype.is_float:
            shape = (batch, *(int(str(size)) for size in value.type.shape[1:]))
            feeds[value.name] = generator.standard_normal(shape).astype(np.float32)
        elif value.name == "attention_mask":
            hidden = np.maximum(1, length - 2 * np.arange(batch))[:, None]
            feeds[value.name] = (np.arange(length)[None, :] < hidden).astype(np.int64)
        else:
            most = 2 if value.name == "token_type_ids" else 200
            feeds[value.name] = generator.integers(0, most, (batch, length))
    return feeds


def session(path: Path) -> onnxruntime.InferenceSession:
    """ONNX Runtime on one thread."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


@pytest.mark.zoo
@pytest.mark.parametrize("name", SMALL)
def test_zoo(name: str) -> None:
    if reason := zoo.unavailable():
        pytest.skip(reason)
    path = zoo.path(zoo.ENTRIES[name])
    graph = import_model(path)
    runtime = session(path)
    for batch, length in SIZES:
        feeds = feeds_of(graph, batch, length)
        compare(evaluate(graph, feeds), runtime.run(None, feeds), 1e-4)
    proto = onnx.load(path, load_external_data=False)
    assert graph.output_names == [v.name for v in proto.graph.output]
    assert [v.name for v in graph.inputs] == [v.name for v in proto.graph.input]
    found = counts(graph)
    assert found["dim_value"] <= 1, "sizes are attributes, not data"
    assert found["reshape"] <= sum(n.op_type != "Constant" for n in proto.graph.node) // 3
    assert all(n.location.operator for n in graph.nodes if n.op.name != "constant")


@pytest.mark.models
@pytest.mark.parametrize("name", ["minilm-l6-int8", "minilm-l3"])
def test_samples(name: str) -> None:
    try:
        path = locate(name)
    except SampleMissing as error:
        pytest.skip(str(error))
    graph = import_model(path)
    assert list(graph.symbols().values())[1].high == 512, "by the table of positions"
    feeds = feeds_of(graph, 2, 9)
    compare(evaluate(graph, feeds), session(path).run(None, feeds), 1e-4)
    assert counts(graph)["dim_value"] == 0


IMAGES = {
    "ocr-detector": ({}, [(1, 32, 32), (2, 64, 32)]),
    "ocr-recogniser": ({}, [(1, 48, 33), (2, 48, 64)]),
    "ocr-classifier": ({"x_2": 48, "x_3": 192}, [(1, 48, 192), (3, 48, 192)]),
}


@pytest.mark.models
@pytest.mark.parametrize("name", list(IMAGES))
def test_images(name: str) -> None:
    try:
        path = locate(name)
    except SampleMissing as error:
        pytest.skip(str(error))
    dims, sizes = IMAGES[name]
    graph = import_model(path, dims=dims)
    generator = np.random.default_rng(0)
    for batch, height, width in sizes:
        x = generator.uniform(-1, 1, (batch, 3, height, width)).astype(np.float32)
        compare(evaluate(graph, {"x": x}), session(path).run(None, {"x": x}), 1e-4)
    if name == "ocr-detector":
        assert "32*" in str(graph.inputs[0].type), "it halves images five times"
        assert not counts(graph)["gather"], "doubling moves elements, and computes no index"
