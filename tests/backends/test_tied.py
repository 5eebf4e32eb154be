"""An embedding that is also the last weight is stored once."""

from __future__ import annotations

import numpy as np
import pytest

from tunesmith.backends.tvm import relax
from tunesmith.driver import compile_model
from tunesmith.ir.builder import Builder
from tunesmith.ir.dims import Sym, dim
from tunesmith.ir.graph import Graph
from tunesmith.ir.interpreter import evaluate
from tunesmith.ir.opset import gather, linear
from tunesmith.ir.types import DType, TensorType
from tunesmith.runtime import load

pytestmark = pytest.mark.tvm
ROWS, WIDTH = 83, 24


def _graph(same: bool) -> Graph:
    table = np.random.default_rng(0).standard_normal((ROWS, WIDTH)).astype(np.float32)
    head = table.T.copy()
    if not same:
        head[3, 5] += 1.0
    builder = Builder(Graph("tied"))
    ids = builder.input("ids", TensorType(DType.i64, (dim(Sym("S", 1, 64)),)))
    x = gather(builder.constant(table), ids)
    return builder.finish([linear(x, builder.constant(head))], ["logits"])


@pytest.mark.parametrize("same", [True, False])
def test_the_table_is_read_from_the_packed_weight(
    same: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relax, "_TIED_BYTES", 0)
    ids = np.array([0, 1, 47, 48, ROWS - 1, 5, -1], np.int64)
    (expected,) = evaluate(_graph(same), {"ids": ids})
    artifact = compile_model(_graph(same), threads=1)
    assert len(artifact.weights) == (1 if same else 2)
    (found,) = load(artifact, threads=1).run({"ids": ids}).values()
    error = found.astype(np.float64) - expected.astype(np.float64)
    assert float(np.abs(error).max()) < 1e-5
