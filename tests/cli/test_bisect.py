"""Planted faults are named, and shrink to a few nodes: in passes, and in the backend."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper

import tunesmith.passes
from tests.passes.random_graphs import graphs
from tunesmith.backends.targets import find_target
from tunesmith.drift import BACKEND, Check, copy_graph, find_drift, sizes_now
from tunesmith.frontend import import_model
from tunesmith.ir.diagnostics import CompilerError, InputError
from tunesmith.ir.graph import Graph
from tunesmith.ir.interpreter import evaluate
from tunesmith.ir.ops import Expr
from tunesmith.ir.opset import abs_, exp
from tunesmith.ir.rewriter import Rewriter
from tunesmith.ir.subgraph import subgraph
from tunesmith.ir.text import parse_graph, print_graph
from tunesmith.passes.base import Pass, PassContext
from tunesmith.passes.pipeline import Pipeline
from tunesmith.presets import PRESETS
from tunesmith.random_inputs import small_inputs
from tunesmith.reduce import reduce_drift

from .conftest import Cli, write_model


@dataclass(frozen=True, kw_only=True)
class BadFuse(Pass):
    """`tanh(sigmoid(x))  =>  abs(tanh(sigmoid(x)))`, and `tanh(neg(x))` too, which is wrong."""

    name = "bad-fuse"

    def run(self, graph: Graph, context: PassContext) -> bool:
        """Rewrite each `tanh` of a `neg` or a `sigmoid`, once."""
        rewriter = Rewriter(graph)
        for node in list(graph.nodes):
            maker = node.operands[0].producer if node.operands and node.operands[0] else None
            if node.op.name != "tanh" or maker is None or maker.op.name not in ("neg", "sigmoid"):
                continue
            readers = node.result.user_nodes
            if [reader.op.name for reader in readers] == ["abs"]:
                continue
            after = node.next if node.next is not None else graph.terminator
            build = rewriter.before(after)
            fresh = abs_(Expr(build, node.result)).value
            for reader, place in list(node.result.users):
                if reader is not fresh.producer:
                    rewriter.set_operand(reader, place, fresh)
        return rewriter.changed


@dataclass(frozen=True, kw_only=True)
class Raises(Pass):
    """Raises on an `exp`."""

    name = "raises"

    def run(self, graph: Graph, context: PassContext) -> bool:
        """Raise, or change nothing."""
        if any(node.op.name == "exp" for node in graph.nodes):
            raise RuntimeError("no exp here")
        return False


@dataclass(frozen=True, kw_only=True)
class Rough(BadFuse):
    """The same as `bad-fuse`, but admitted."""

    name = "rough"
    exact = False


@pytest.fixture(autouse=True)
def planted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pipelines know the passes above."""
    rows = (*tunesmith.passes.PASSES, BadFuse, Raises, Rough)
    monkeypatch.setattr(tunesmith.passes, "PASSES", rows)


def long_model(path: Path) -> Path:
    """Forty operators, one pair of which is what `bad-fuse` breaks."""
    random = np.random.default_rng(0)
    nodes, name = [], "x"
    for i in range(18):
        nodes += [
            helper.make_node("MatMul", [name, "w"], [f"m{i}"]),
            helper.make_node("Sin" if i % 2 else "Cos", [f"m{i}"], [f"s{i}"]),
        ]
        name = f"s{i}"
        if i == 9:
            nodes += [
                helper.make_node("Neg", [name], ["n"]),
                helper.make_node("Tanh", ["n"], ["t"]),
            ]
            name = "t"
    nodes.append(helper.make_node("MatMul", [name, "v"], ["y"]))
    weights = {
        "w": random.standard_normal((4, 4), dtype=np.float32),
        "v": random.standard_normal((4, 3), dtype=np.float32),
    }
    return write_model(path, nodes, weights)


PIPELINE = "fold-constants,canonicalize,bad-fuse,eliminate-dead-code,fuse-linear"


def test_a_model_without_a_fault(cli: Cli, model: Path) -> None:
    result = cli("bisect", model, "--tries", "2")
    assert (result.code, result.err) == (0, "")
    assert result.out.startswith("PASSED ")
    assert "and the backend keep the outputs on 2 inputs" in result.out
    result = cli("reduce", model, "-o", model.with_name("r.nir"), "--no-backend")
    assert result.code == 1
    assert "there is nothing to reduce" in result.err
    assert not model.with_name("r.nir").exists()


def test_the_pass_is_named(cli: Cli, tmp_path: Path) -> None:
    path = long_model(tmp_path / "m.onnx")
    found, report = tmp_path / "found.nir", tmp_path / "found.json"
    result = cli("bisect", path, "-p", PIPELINE, "-o", found, "--json", report)
    assert result.code == 1
    assert result.out.startswith("FAILED `bad-fuse`, run 3: `y` float32 2x3: ")
    assert "at batch=2" in result.out
    facts = json.loads(report.read_text())
    assert (facts["name"], facts["run"], facts["passed"]) == ("bad-fuse", 3, False)
    assert facts["sizes"] == {"batch": 2}
    text = found.read_text().splitlines()
    assert text[0].startswith("// `bad-fuse`, run 3")
    assert text[1] == "// RUN bad-fuse"
    again = cli("bisect", found, "-p", "bad-fuse", "--no-backend")  # it is a model by itself
    assert again.code == 1
    assert "`bad-fuse`, run 1" in again.out


def test_reduced_to_a_few_nodes(cli: Cli, tmp_path: Path) -> None:
    path, small = long_model(tmp_path / "m.onnx"), tmp_path / "small.nir"
    result = cli("reduce", path, "-o", small, "-p", PIPELINE, "--json", "-")
    assert result.code == 0
    facts = json.loads(result.out)
    assert (facts["name"], facts["complete"]) == ("bad-fuse", True)
    assert facts["before"] >= 39
    assert facts["after"] == 2
    graph = import_model(small)
    assert [node.op.name for node in graph.nodes] == ["neg", "tanh"]
    assert "// RUN bad-fuse\n" in small.read_text()


def test_reduced_as_onnx(cli: Cli, tmp_path: Path) -> None:
    """What is left still shows the fault to whoever imports it and runs all passes."""
    path, small = long_model(tmp_path / "m.onnx"), tmp_path / "small.onnx"
    assert cli("reduce", path, "-o", small, "-p", PIPELINE, "--no-backend").code == 0
    onnx.checker.check_model(str(small), full_check=True)
    assert [node.op_type for node in onnx.load(small).graph.node] == ["Neg", "Tanh"]
    result = cli("bisect", small, "-p", PIPELINE, "--no-backend")
    assert (result.code, "`bad-fuse`" in result.out) == (1, True)


def test_a_pass_that_raises_is_named(cli: Cli, tmp_path: Path) -> None:
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["m"]),
        helper.make_node("Exp", ["m"], ["e"]),
        helper.make_node("Neg", ["e"], ["y"]),
    ]
    path = write_model(tmp_path / "m.onnx", nodes, {"w": np.ones((4, 3), np.float32)})
    result = cli("bisect", path, "-p", "canonicalize,raises", "--no-backend")
    assert result.code == 1
    assert "FAILED `raises`, run 2: RuntimeError: no exp here" in result.out
    assert cli("reduce", path, "-p", "raises", "-o", tmp_path / "r.nir").code == 0
    assert [n.op.name for n in import_model(tmp_path / "r.nir").nodes] == ["exp"]


def test_a_pass_that_is_not_exact_is_not_blamed(cli: Cli, tmp_path: Path) -> None:
    path = long_model(tmp_path / "m.onnx")
    assert cli("bisect", path, "-p", "rough", "--no-backend").code == 0


def test_a_loose_tolerance_lets_it_pass(cli: Cli, tmp_path: Path) -> None:
    path = long_model(tmp_path / "m.onnx")
    assert cli("bisect", path, "-p", PIPELINE, "--no-backend", "--atol", "1000").code == 0


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["bisect", "missing.onnx"], "there is no such file"),
        (["bisect", "MODEL", "-p", "fuse-nothing"], "unknown pass `fuse-nothing`"),
        (["reduce", "MODEL", "-o", "out.txt"], "is neither `.nir` nor `.onnx`"),
        (["reduce", "MODEL"], "missing option"),
    ],
)
def test_what_cannot_be_done_is_told(
    cli: Cli, model: Path, arguments: list[str], text: str
) -> None:
    result = cli(*(str(model) if a == "MODEL" else a for a in arguments))
    assert result.code in (1, 2)
    assert text in result.err


TEXT = """graph @f(%x: f32[B, 8]) {
  %a = exp(%x)
  %b = sigmoid(%a)
  %c = add(%b, %x)
  %d = relu(%c)
  %e = mul(%d, %b)
  return %e
}"""


@pytest.mark.tvm
def test_the_backend_is_named_and_its_fault_shrinks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A backend that takes `relu` for `exp`: the passes are right, the kernels are not."""
    from tunesmith.backends.tvm.compile import TvmBackend

    lower = TvmBackend.lower

    def wrong(self: TvmBackend, graph: Graph, *rest: object) -> object:
        rewriter = Rewriter(graph)
        for node in list(graph.nodes):
            if node.op.name == "relu" and node.operands[0] is not None:
                build = rewriter.before(node)
                rewriter.replace_node(node, [exp(Expr(build, node.operands[0]))])
        return lower(self, graph, *rest)  # type: ignore[arg-type]  # as it was called

    monkeypatch.setattr(TvmBackend, "lower", wrong)
    graph = parse_graph(TEXT)
    check = Check(Pipeline.parse("canonicalize"), find_target("host", 1))
    drift = find_drift(graph, [small_inputs(graph)], check)
    assert drift is not None
    assert drift.name == BACKEND
    assert print_graph(graph) == print_graph(parse_graph(TEXT))
    found = reduce_drift(drift.graph, drift, check.only(BACKEND), seconds=200)
    assert [node.op.name for node in found.graph.nodes] == ["relu"]
    assert found.complete
    (wanted,) = evaluate(found.graph, found.feeds)
    assert np.all(np.asarray(wanted, np.float32) >= 0)


@pytest.mark.tvm
def test_a_backend_that_crashes_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    monkeypatch.setattr("tunesmith.drift._run", lambda *arguments: os.abort())
    graph = parse_graph(TEXT)
    check = Check(Pipeline.parse(""), find_target("host", 1))
    drift = find_drift(graph, [small_inputs(graph)], check)
    assert drift is not None
    assert (drift.name, "status" in drift.what) == (BACKEND, True)


def test_a_drift_that_is_not_there_is_not_reduced() -> None:
    graph = parse_graph(TEXT)
    check = Check(Pipeline.parse("canonicalize"), find_target("host", 1), backend=False)
    from tunesmith.drift import Drift

    claimed = Drift("canonicalize", 1, "", graph, small_inputs(graph))
    with pytest.raises(CompilerError, match="not in a copy of it"):
        reduce_drift(graph, claimed, check)
    with pytest.raises(InputError, match="missing or unknown"):
        find_drift(graph, [{}], check)


@given(graphs(), st.data())
def test_a_part_of_a_graph_gives_what_the_whole_gave(graph: Graph, data: st.DataObject) -> None:
    """Any set of nodes, with what the whole computed as its inputs."""
    feeds = small_inputs(graph)
    nodes = list(graph.nodes)
    values = [value for node in nodes for value in node.results]
    whole, _, order = subgraph(graph, nodes, outputs=values)
    known = dict(zip(order, evaluate(whole, feeds), strict=True))
    known |= {value: np.asarray(feeds[value.name]) for value in graph.inputs}
    chosen = [node for node in nodes if data.draw(st.booleans()) and node.op.name != "constant"]
    if not chosen:
        return
    part, sources, outputs = subgraph(graph, chosen, sizes=sizes_now(graph, feeds))
    found = evaluate(part, {name: known[value] for name, value in sources.items()})
    for array, value in zip(found, outputs, strict=True):
        np.testing.assert_array_equal(array, known[value])
    assert print_graph(copy_graph(graph)) == print_graph(copy_graph(copy_graph(graph)))


def test_presets_are_exact_here() -> None:
    """No fault is planted here, and none is found."""
    graph = parse_graph(TEXT)
    for text in PRESETS.values():
        check = Check(Pipeline.parse(text), find_target("host", 1), backend=False)
        assert (
            find_drift(graph, [small_inputs(graph), small_inputs(graph, least=True)], check) is None
        )
