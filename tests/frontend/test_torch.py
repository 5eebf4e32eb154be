"""PyTorch modules and saved programs: the graph of the ONNX route, the outputs of PyTorch."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tunesmith
from tunesmith.cli import execute
from tunesmith.driver import optimize
from tunesmith.frontend import import_model, import_torch
from tunesmith.ir.diagnostics import FrontendError
from tunesmith.ir.graph import Graph
from tunesmith.ir.interpreter import evaluate
from tunesmith.ir.text import print_graph
from tunesmith.passes.base import PassContext

torch = pytest.importorskip("torch")
pytest.importorskip("onnxscript")

from tunesmith.frontend.torch_import import TorchSession, export_module, import_program  # noqa: E402

from .torch_models import MODELS, ODD, Subject  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore")  # PyTorch's exporters deprecate each other
BOUNDS = {"batch": (1, 8), "length": (2, 32)}


def made(name: str) -> tuple[Subject, Any]:
    """A module with seeded weights."""
    if name in ("gpt2", "bert"):
        pytest.importorskip("transformers")
    torch.manual_seed(0)
    return MODELS[name], MODELS[name].make().eval()


def canonical(graph: Graph) -> str:
    """The text of a graph after every rewrite, its values numbered: exporters count their own."""
    optimize(graph, "O2", PassContext())
    names: dict[str, str] = {}
    inputs = {f"%{value.name}" for value in graph.inputs}

    def number(found: re.Match[str]) -> str:
        return found[0] if found[0] in inputs else names.setdefault(found[0], f"%v{len(names)}")

    return re.sub(r"%[\w.]+", number, print_graph(graph))


def through_onnx(subject: Subject, module: Any, path: Path, dynamic: bool) -> Graph:
    """What a user does without us: export to a file, import that."""
    inputs = subject.inputs(3, 9)
    dims = {n: torch.export.Dim(n, min=low, max=high) for n, (low, high) in BOUNDS.items()}
    shapes = {
        name: {axis: dims[size] for axis, size in axes.items()}
        for name, axes in subject.dynamic.items()
    }
    torch.onnx.export(
        module, tuple(inputs.values()), path, dynamo=True, verbose=False, opset_version=20,
        dynamic_shapes=shapes if dynamic else None,
    )  # fmt: skip
    names = {size for axes in subject.dynamic.values() for size in axes.values()}
    return import_model(path, dims={n: BOUNDS[n] for n in names} if dynamic else None)


def close(ours: Any, theirs: Any, tolerance: float) -> None:
    """Both are the same but for rounding."""
    np.testing.assert_allclose(ours, theirs, rtol=tolerance, atol=tolerance)


def check_outputs(graph: Graph, module: Any, inputs: Mapping[str, Any]) -> None:
    """Compare with the module, run eagerly."""
    with torch.no_grad():
        wanted = module(*inputs.values())
    wanted = list(wanted.values()) if isinstance(wanted, dict) else [wanted]
    found = evaluate(graph, {name: tensor.numpy() for name, tensor in inputs.items()})
    for ours, theirs in zip(found, wanted, strict=True):
        close(ours, theirs.numpy(), 1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
def test_all_routes_give_one_graph(name: str, tmp_path: Path) -> None:
    subject, module = made(name)
    inputs = subject.inputs(3, 9)
    program: Any = export_module(module, tuple(inputs.values()), None, subject.dynamic, BOUNDS)
    torch.export.save(program, tmp_path / "m.pt2")
    graph = import_program(program, shapes={}, dims={}, values={}, dynamic=subject.dynamic)
    assert [value.name for value in graph.inputs] == list(inputs)
    sizes = {symbol.name: (symbol.low, symbol.high) for symbol in graph.symbols().values()}
    assert sizes == {n: BOUNDS[n] for n in sizes}
    assert "batch" in sizes
    for batch, length in ((1, 2), (5, 31)):
        check_outputs(graph, module, subject.inputs(batch, length))
    text = canonical(graph)
    assert text == canonical(through_onnx(subject, module, tmp_path / "m.onnx", dynamic=True))
    saved = canonical(import_model(tmp_path / "m.pt2"))
    first = next(iter(inputs))
    renamed = re.sub(rf"\b{first}_0\b", "batch", re.sub(rf"\b{first}_1\b", "length", saved))
    assert renamed == text


def test_static_sizes(tmp_path: Path) -> None:
    subject, module = made("encoder")
    inputs = subject.inputs(3, 9)
    graph = import_torch(module, tuple(inputs.values()))
    assert not graph.symbols()
    check_outputs(graph, module, inputs)
    other = through_onnx(subject, module, tmp_path / "m.onnx", dynamic=False)
    assert canonical(graph) == canonical(other)


def test_weights_are_views_of_the_memory_of_pytorch() -> None:
    _, module = made("mlp")
    graph = import_torch(module, (torch.randn(3, 8),))
    held = [n.results[0].constant for n in graph.nodes if n.op.name == "constant"]
    arrays = {c.array.shape: c.array for c in held if c is not None}
    assert np.shares_memory(arrays[64, 8], module.up.weight.detach().numpy())


def test_a_narrower_bound_is_kept_and_a_wider_one_refused(tmp_path: Path) -> None:
    _, module = made("mlp")
    program: Any = export_module(
        module, (torch.randn(3, 8),), None, {"x": {0: "batch"}}, {"batch": (2, 16)}
    )
    torch.export.save(program, tmp_path / "m.pt2")
    (symbol,) = import_model(tmp_path / "m.pt2", dims={"x_0": (3, 5)}).symbols().values()
    assert (symbol.low, symbol.high) == (3, 5)
    assert not import_model(program, dims={"x_0": 4}).symbols()
    for bound in (17, 1, (2, 17), (1, 4)):
        with pytest.raises(FrontendError, match=r"PyTorch exported the program for 2\.\.16"):
            import_model(program, dims={"x_0": bound})


def test_sizes_that_follow_from_others() -> None:
    args = (torch.randn(3, 4), torch.randn(6, 4))
    graph = import_torch(ODD["pair"](), args, dynamic={"x": {0: "n"}, "y": {0: "2*n"}})
    assert [str(value.type) for value in graph.inputs] == ["f32[n, 4]", "f32[2*n, 4]"]
    check_outputs(graph, ODD["pair"](), {"x": torch.randn(7, 4), "y": torch.randn(14, 4)})


def test_a_size_is_not_specialized_in_silence() -> None:
    with pytest.raises(FrontendError, match="cannot trace the module"):
        import_torch(ODD["fixed"](), (torch.randn(3, 4),), dynamic={"x": {0: "batch"}})
    with pytest.raises(FrontendError, match="`a b` is not a size"):
        import_torch(ODD["fixed"](), (torch.randn(3, 4),), dynamic={"x": {0: "a b"}})


def test_what_depends_on_data_is_refused_by_name() -> None:
    with pytest.raises(FrontendError, match="cannot trace the module"):
        import_torch(ODD["branch"](), (torch.randn(3),))


def test_arguments_that_are_no_tensors() -> None:
    args = ((torch.randn(3), torch.randn(2)), 2.0)
    program: Any = export_module(ODD["scaled"](), args, {"shift": torch.ones(3)}, None, {})
    graph = import_model(program)
    session = TorchSession(program, graph.output_names)
    assert session.input_names == [value.name for value in graph.inputs]
    sizes = zip(session.input_names, (3, 2, 3), strict=True)
    feeds: dict[str, Any] = {name: np.full(size, 0.5, np.float32) for name, size in sizes}
    found = session.run(feeds)
    for ours, theirs in zip(evaluate(graph, feeds), found.values(), strict=True):
        close(ours, theirs, 1e-6)


@pytest.mark.tvm
def test_compiled_and_verified_beside_pytorch(tmp_path: Path) -> None:
    _, module = made("mlp")
    dims = {"batch": (1, 8)}
    program: Any = export_module(module, (torch.randn(3, 8),), None, {"x": {0: "batch"}}, dims)
    torch.export.save(program, tmp_path / "m.pt2")
    artifact = tunesmith.compile_model(tmp_path / "m.pt2", verify=True)
    found_out = artifact.manifest.tolerance or {}
    assert found_out["passed"] is True
    assert str(found_out["oracle"]).startswith("torch ")
    artifact.save(tmp_path / "m.tsm")
    x = torch.randn(5, 8)
    (found,) = tunesmith.load(tmp_path / "m.tsm").run({"x": x.numpy()}).values()
    close(found, module(x).detach().numpy(), 1e-4)
    assert execute(["verify", str(tmp_path / "m.tsm"), str(tmp_path / "m.pt2")]) == 0
    with torch.no_grad():
        module.down.bias += 0.01  # another model than the one that was compiled
    other: Any = export_module(module, (x,), None, {"x": {0: "batch"}}, dims)
    torch.export.save(other, tmp_path / "other.pt2")
    assert execute(["verify", str(tmp_path / "m.tsm"), str(tmp_path / "other.pt2")]) == 1
