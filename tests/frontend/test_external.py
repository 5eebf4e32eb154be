"""External data: mapped from plain files in the model's folder, refused from anywhere else."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper

from tunesmith.frontend import import_model
from tunesmith.ir.diagnostics import FrontendError
from tunesmith.ir.interpreter import evaluate

from .models import F32, model, node
from .test_shapes import of_type

VALUES = np.arange(4, dtype=np.float32)


def external(**entries: str) -> ModelProto:
    """`y = x + w` with `w` in another file."""
    proto = of_type(model([node("Add", ["x", "w"], ["y"])], {"x": (F32, [4])}, ["y"]), y=(F32, 1))
    tensor = TensorProto(name="w", data_type=F32, data_location=TensorProto.EXTERNAL)
    tensor.dims.append(4)
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)
    proto.graph.initializer.append(tensor)
    return proto


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model's folder, with a canary outside of it."""
    inside = tmp_path / "model"
    (inside / "sub").mkdir(parents=True)
    (inside / "data.bin").write_bytes(bytes(8) + VALUES.tobytes())
    (inside / "sub" / "data.bin").write_bytes(VALUES.tobytes())
    (tmp_path / "secret.bin").write_bytes(VALUES.tobytes())
    (inside / "link.bin").symlink_to(tmp_path / "secret.bin")
    (inside / "linked").symlink_to(tmp_path)
    os.link(tmp_path / "secret.bin", inside / "hard.bin")
    os.mkfifo(inside / "pipe.bin")
    return inside


def save(folder: Path, proto: ModelProto) -> Path:
    """Write a model into the folder."""
    path = folder / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


@pytest.mark.parametrize(
    "entries",
    [
        {"location": "data.bin", "offset": "8", "length": "16"},
        {"location": "data.bin", "offset": "8"},
        {"location": "sub/data.bin", "length": "16"},
    ],
)
def test_mapped(folder: Path, entries: dict[str, str]) -> None:
    graph = import_model(save(folder, external(**entries)))
    (found,) = (n.attributes["value"] for n in graph.nodes if n.op.name == "constant")
    base = found.array  # type: ignore[union-attr]  # a constant
    while base is not None and not isinstance(base, np.memmap):
        base = base.base
    assert isinstance(base, np.memmap), "mapped, not read"
    (y,) = evaluate(graph, {"x": VALUES})
    np.testing.assert_array_equal(y, VALUES * 2)


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"location": "../secret.bin"}, "is at"),
        ({"location": "sub/../data.bin", "offset": "8"}, "is at"),
        ({"location": "link.bin"}, "not a plain file"),
        ({"location": "linked/secret.bin"}, "not a plain file"),
        ({"location": "hard.bin"}, "not a file of its own"),
        ({"location": "pipe.bin"}, "not a plain file"),
        ({"location": "sub"}, "not a plain file"),
        ({"location": "none.bin"}, "missing"),
        ({"location": ""}, "is at"),
        ({}, "is at"),
        ({"location": "data.bin", "length": str(2**50)}, "declares"),
        ({"location": "data.bin", "length": "8"}, "declares"),
        ({"location": "data.bin", "offset": "9"}, "ends at byte 25, the file at 24"),
        ({"location": "data.bin", "offset": "-8"}, "not a number"),
        ({"location": "data.bin", "mode": "w"}, "unknown key"),
    ],
)
def test_refused(folder: Path, entries: dict[str, str], message: str) -> None:
    before = sorted(os.listdir(folder))
    with pytest.raises(FrontendError, match=f"`w`.*{message}"):
        import_model(save(folder, external(**entries)))
    assert sorted({*os.listdir(folder)} - {"m.onnx"}) == before


def test_absolute_path(folder: Path) -> None:
    place = str(folder.parent / "secret.bin")
    with pytest.raises(FrontendError, match="is at"):
        import_model(save(folder, external(location=place)))


def test_an_object_has_no_folder() -> None:
    with pytest.raises(FrontendError, match=r"no folder(.|\n)*pass the path"):
        import_model(external(location="data.bin"))


def test_only_initializers(folder: Path) -> None:
    proto = external(location="data.bin", offset="8")
    tensor = proto.graph.initializer.pop()
    proto.graph.node.insert(0, helper.make_node("Constant", [], ["w"], value=tensor))
    with pytest.raises(FrontendError):
        import_model(save(folder, proto))


def test_as_onnx_writes_it(tmp_path: Path) -> None:
    proto = of_type(
        model([node("MatMul", ["x", "w"], ["y"])], {"x": (F32, ["B", 64])}, ["y"],
              {"w": np.ones((64, 64), np.float32)}), y=(F32, 2),
    )  # fmt: skip
    path = tmp_path / "m.onnx"
    onnx.save_model(proto, path, save_as_external_data=True, location="m.data", size_threshold=0)
    (y,) = evaluate(import_model(path), {"x": np.ones((2, 64), np.float32)})
    assert y.shape == (2, 64)
    assert float(y[0, 0]) == 64.0
