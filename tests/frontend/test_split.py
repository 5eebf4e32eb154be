"""Large weights stay in the model's file, and nothing is lost by that."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from tunesmith.frontend import import_model
from tunesmith.frontend.onnx_split import split
from tunesmith.ir.diagnostics import FrontendError
from tunesmith.ir.interpreter import evaluate

from .models import F32, Array, model, node
from .test_shapes import of_type

GENERATOR = np.random.default_rng(5)
WEIGHTS: dict[str, Array] = {
    "a": GENERATOR.standard_normal((64, 64)).astype(np.float32),
    "b": GENERATOR.standard_normal((64, 33)).astype(np.float16),
    "c": GENERATOR.standard_normal(33).astype(np.float32),
}


def chained() -> onnx.ModelProto:
    """`x @ a @ b + c`."""
    nodes = [
        node("MatMul", ["x", "a"], ["xa"]), node("Cast", ["b"], ["wide"], to=1),
        node("MatMul", ["xa", "wide"], ["y1"]), node("Add", ["y1", "c"], ["y"]),
    ]  # fmt: skip
    return of_type(model(nodes, {"x": (F32, ["B", 64])}, ["y"], WEIGHTS), y=(F32, 2))


def test_weights_are_found(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(chained(), path)
    found = split(path)
    assert found is not None
    assert set(found.places) == {"a", "b"}, "c is small"
    assert len(found.thin) < 2000
    for name in ("a", "b"):
        assert found.read(name, 4).tobytes() == WEIGHTS[name].tobytes()


def test_a_default_location_may_be_written_out(tmp_path: Path) -> None:
    proto = chained()
    for tensor in proto.graph.initializer:
        tensor.data_location = onnx.TensorProto.DEFAULT
    path = tmp_path / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    found = split(path)
    assert found is not None
    assert set(found.places) == {"a", "b"}


def test_weights_elsewhere_are_left_alone(tmp_path: Path) -> None:
    proto = chained()
    proto.graph.initializer[0].data_location = onnx.TensorProto.EXTERNAL
    path = tmp_path / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    found = split(path)
    assert found is not None
    assert set(found.places) == {"b"}


def test_same_as_the_object(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(chained(), path)
    x = GENERATOR.standard_normal((3, 64)).astype(np.float32)
    (a,), (b,) = (evaluate(import_model(source), {"x": x}) for source in (path, chained()))
    np.testing.assert_array_equal(a, b)


def test_sizes_are_checked(tmp_path: Path) -> None:
    proto = chained()
    proto.graph.initializer[0].dims[0] = 65
    path = tmp_path / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(FrontendError, match=r"`a`.*16640 bytes, and holds 16384"):
        import_model(path)


def test_two_weights_of_one_name(tmp_path: Path) -> None:
    proto = chained()
    proto.graph.initializer[1].name = "a"
    path = tmp_path / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(FrontendError, match="two initializers are named `a`"):
        import_model(path)


def test_cut_and_changed_files(tmp_path: Path) -> None:
    data = bytearray(chained().SerializeToString())
    path = tmp_path / "m.onnx"
    for _ in range(200):
        mutant = bytearray(data)
        for place in GENERATOR.integers(0, 400, 2):
            mutant[place] = GENERATOR.integers(0, 256)
        path.write_bytes(mutant[: GENERATOR.integers(1, len(data) + 1)])
        try:
            import_model(path)
        except FrontendError:
            continue
