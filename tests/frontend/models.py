"""Small ONNX models for tests, and the comparison with ONNX Runtime."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from tunesmith.frontend import import_model
from tunesmith.ir.graph import Graph
from tunesmith.ir.interpreter import evaluate

Array = NDArray[np.generic]
Shape = Sequence[int | str | None]

F32, I64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL


def model(
    nodes: Sequence[NodeProto],
    inputs: Mapping[str, tuple[int, Shape | None]],
    outputs: Mapping[str, int] | Sequence[str],
    weights: Mapping[str, Array] | None = None,
    opset: int = 17,
    **domains: int,
) -> ModelProto:
    """A model; outputs have an element type and no declared shape."""
    types = outputs if isinstance(outputs, Mapping) else dict.fromkeys(outputs, F32)
    graph = helper.make_graph(
        list(nodes),
        "test",
        [helper.make_tensor_value_info(n, t, s) for n, (t, s) in inputs.items()],
        [helper.make_tensor_value_info(n, t, None) for n, t in types.items()],
        [numpy_helper.from_array(np.asarray(a), n) for n, a in (weights or {}).items()],
    )
    imports = [helper.make_opsetid("", opset)]
    imports += [helper.make_opsetid(n.replace("_", "."), v) for n, v in domains.items()]
    return helper.make_model(graph, opset_imports=imports, ir_version=10)


def node(operator: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: object,
         ) -> NodeProto:  # fmt: skip
    """A node."""
    return helper.make_node(operator, inputs, outputs, **attributes)


def one(
    operator: str,
    feeds: Sequence[Array | None],
    *,
    opset: int = 17,
    constants: Sequence[int] = (),
    outputs: int = 1,
    domain: str = "",
    symbolic: bool = False,
    **attributes: object,
) -> tuple[ModelProto, dict[str, Array]]:
    """A model of one operator; the operands in `constants` are initializers."""
    names = ["" if x is None else f"x{i}" for i, x in enumerate(feeds)]
    results = [f"y{i}" for i in range(outputs)]
    weights = {f"x{i}": x for i, x in enumerate(feeds) if x is not None and i in constants}
    live = {f"x{i}": x for i, x in enumerate(feeds) if x is not None and i not in constants}
    inputs = {
        name: (
            helper.np_dtype_to_tensor_dtype(x.dtype),
            [f"{name}_{i}" if symbolic and s != 1 else s for i, s in enumerate(x.shape)],
        )
        for name, x in live.items()
    }
    graph = helper.make_graph(
        [helper.make_node(operator, names, results, name="n", domain=domain, **attributes)],
        "test",
        [helper.make_tensor_value_info(n, t, s) for n, (t, s) in inputs.items()],
        [helper.make_empty_tensor_value_info(name) for name in results],
        [numpy_helper.from_array(np.asarray(x), n) for n, x in weights.items()],
    )
    imports = [helper.make_opsetid("", opset)]
    if domain:
        imports.append(helper.make_opsetid(domain, 1))
    return helper.make_model(graph, opset_imports=imports, ir_version=10), live


def runtime(proto: ModelProto, feeds: Mapping[str, Array]) -> list[Array]:
    """What ONNX Runtime computes."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    found: list[Array] = session.run(None, dict(feeds))
    return found


def declare(proto: ModelProto, results: Sequence[Array]) -> ModelProto:
    """Give outputs without a type that of their results, with sizes left open."""
    for value, result in zip(proto.graph.output, results, strict=True):
        if not value.type.tensor_type.HasField("shape"):
            element = helper.np_dtype_to_tensor_dtype(result.dtype)
            open_sizes = [None] * result.ndim
            value.CopyFrom(helper.make_tensor_value_info(value.name, element, open_sizes))
    return proto


def check(
    proto: ModelProto, feeds: Mapping[str, Array], tolerance: float = 1e-5, **options: object
) -> Graph:
    """Import a model and hold its outputs against those of ONNX Runtime."""
    wanted = runtime(proto, feeds)
    graph = import_model(declare(proto, wanted), **options)  # type: ignore[arg-type]  # a table
    compare(evaluate(graph, dict(feeds)), wanted, tolerance)
    return graph


def compare(found: Sequence[Array], wanted: Sequence[Array], tolerance: float) -> None:
    """Hold outputs against each other: shapes, types and elements."""
    assert len(found) == len(wanted)
    for got, want in zip(found, wanted, strict=True):
        assert got.shape == want.shape
        assert got.dtype == want.dtype
        np.testing.assert_allclose(
            got.astype(np.float64), want.astype(np.float64), rtol=tolerance, atol=tolerance
        )


def counts(graph: Graph) -> Counter[str]:
    """How often each operator occurs."""
    return Counter(n.op.name for n in graph.nodes)
