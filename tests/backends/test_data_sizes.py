"""Sizes that data decides, compiled: beside the interpreter and ONNX Runtime, and their guards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from tunesmith.driver import compile_model
from tunesmith.ir.diagnostics import InputError, VerifyError
from tunesmith.ir.interpreter import evaluate
from tunesmith.ir.onnx_export import export_onnx
from tunesmith.ir.text import parse_graph, print_graph
from tunesmith.ir.verifier import verify
from tunesmith.oracle import OnnxSession
from tunesmith.passes.base import PassContext
from tunesmith.passes.eliminate_dead_code import EliminateDeadCode
from tunesmith.runtime import Executable, load

pytestmark = pytest.mark.tvm

CHOSEN = """graph @chosen(%x: f32[S]) {
  %zero = full() {value = 0.0, shape = [], dtype = f32}
  %flags = greater(%x, %zero)
  %ones = cast(%flags) {dtype = i64}
  %count = reduce_sum(%ones) {axes = [0]}
  %bound = bind_size(%count) {size = 0<=N}
  %all = true_places(%flags)
  %places = slice(%all) {axis = 0, start = 0, stop = N}
  %found = gather(%x, %places)
  %line = iota() {size = N, dtype = f32}
  %y = add(%found, %line)
  %n = dim_value() {size = 2*N + 1, dtype = i64}
  return %y, %n
}
"""
EQUAL = """graph @equal(%x: f32[S], %n: i64[]) {
  %b = bind_size(%n) {size = S}
  %y = exp(%x)
  return %y
}
"""
SUPPRESS = """graph @suppress(%b: f32[R, N, 4], %s: f32[R, N], %m: i64[], %o: f32[], %l: f32[]) {
  %y = suppress(%b, %s, %m, %o, %l) {center = CENTER}
  return %y
}
"""


def numbers(size: int, seed: int = 0) -> NDArray[np.float32]:
    """Random numbers."""
    return np.random.default_rng(seed).standard_normal(size, dtype=np.float32)


@pytest.mark.parametrize("preset", ["O0", "O2"])
@pytest.mark.parametrize("most", ["", "<=40"])
def test_a_size_is_bound_while_it_runs(preset: str, most: str) -> None:
    """With every size bounded, storage is planned beforehand; it is enough for the greatest."""
    text = CHOSEN.replace("[S]", f"[S{most}]").replace("0<=N", f"0<=N{most}")
    executable = load(
        compile_model(parse_graph(text), preset=preset, threads=1), threads=1
    )  # fmt: skip
    assert [s.name for s in executable.manifest.symbols] == ["S", "N"]
    assert [s.name for s in executable.manifest.given] == ["S"]
    assert executable.outputs[0].dims == ("N",)
    for size in (1, 2, 17, 40, 3):
        for x in (numbers(size), np.ones(size, np.float32), -np.ones(size, np.float32)):
            wanted = evaluate(parse_graph(text), {"x": x})
            for ours, want in zip(executable.run({"x": x}).values(), wanted, strict=True):
                assert ours.shape == want.shape and ours.dtype == want.dtype
                assert np.allclose(ours, want.astype(np.float64), atol=1e-6)


def test_a_size_that_is_known_already_is_compared() -> None:
    executable = load(compile_model(parse_graph(EQUAL), threads=1), threads=1)
    x = numbers(3)
    assert np.allclose(executable.run({"x": x, "n": np.array(3)})["y"], np.exp(x).astype(float))
    with pytest.raises(InputError, match="asks for a size of 4 where 3 is right"):
        executable.run({"x": x, "n": np.array(4)})
    assert np.allclose(executable.run({"x": x, "n": np.array(3)})["y"], np.exp(x).astype(float))


def test_the_graph_prints_parses_verifies_and_exports() -> None:
    graph = parse_graph(CHOSEN)
    verify(graph)
    assert print_graph(parse_graph(print_graph(graph))) == print_graph(graph)
    exported = OnnxSession(export_onnx(graph), threads=1)
    for x in (numbers(9), -np.ones(4, np.float32)):
        for theirs, ours in zip(exported.run({"x": x}).values(), evaluate(graph, {"x": x}),
                                strict=True):  # fmt: skip
            np.testing.assert_array_equal(theirs, ours)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("%zero = full", "%early = iota() {size = Q, dtype = f32}\n  %zero = full",
         "symbol `Q`, which nothing above determines"),
        ("size = 0<=N}", "size = 0<=N}\n  %again = bind_size(%count) {size = M*N}",
         "symbol `M`, which nothing above determines"),
    ],
)  # fmt: skip
def test_a_size_is_used_below_the_node_that_binds_it(old: str, new: str, message: str) -> None:
    with pytest.raises(VerifyError, match=message):
        verify(parse_graph(CHOSEN.replace(old, new, 1)))


@pytest.mark.parametrize("count", ["f32[]", "i32[]", "i64[1]"])
def test_only_one_number_binds_a_size(count: str) -> None:
    with pytest.raises(Exception, match="needs one number of i64"):
        parse_graph(f"graph @f(%n: {count}) {{ %b = bind_size(%n) {{size = N}} return %b }}")


def test_a_node_that_binds_is_not_dead() -> None:
    graph = parse_graph(CHOSEN)
    EliminateDeadCode().run(graph, PassContext())
    assert any(node.op.name == "bind_size" for node in graph.nodes)


def _rows(seed: int, rows: int, count: int) -> dict[str, NDArray[Any]]:
    random = np.random.default_rng(seed)
    scores = -np.sort(-random.random((rows, count), dtype=np.float32))
    return {"b": random.random((rows, count, 4), dtype=np.float32), "s": scores}


@pytest.mark.parametrize("center", ["true", "false"])
def test_suppression(center: str) -> None:
    """The kernel, the interpreter, and ONNX Runtime by the exported graph."""
    text = SUPPRESS.replace("CENTER", center)
    executable = load(compile_model(parse_graph(text), threads=1), threads=1)
    exported = OnnxSession(export_onnx(parse_graph(text)), threads=1)
    kept = 0
    for seed, (rows, count) in enumerate([(1, 1), (1, 2), (3, 17), (2, 64)]):
        for most, overlap, lowest in ((0, 0.5, 0.0), (2, 0.2, 0.1), (99, 0.4, 0.3)):
            limits = {"m": np.array(most), "o": np.array(overlap, np.float32),
                      "l": np.array(lowest, np.float32)}  # fmt: skip
            feeds = _rows(seed, rows, count) | limits
            (wanted,) = evaluate(parse_graph(text), feeds)
            np.testing.assert_array_equal(executable.run(feeds)["y"], wanted)
            np.testing.assert_array_equal(exported.run(feeds)["y"], wanted)
            kept += int(wanted.sum())
    assert kept > 50


MODELS = {
    "unique": "(int64[n] x) => (int64[u] y, int64[u] i, int64[n] r, int64[u] c)"
              " { y, i, r, c = Unique<sorted=0>(x) }",
    "compress": "(int64[n] x) => (int64[m] y) { two = Constant<value_int=2>() f = Less(x, two)"
                " y = Compress<axis=0>(x, f) }",
    "range": "(int64[n] x) => (float[k] y) { l = ReduceMax<keepdims=0>(x)"
             " a = Constant<value_int=0>() d = Constant<value_int=1>() r = Range(a, l, d)"
             " c = Cast<to=1>(r) y = Exp(c) }",
}  # fmt: skip


def _model(name: str) -> onnx.ModelProto:
    return onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> g {MODELS[name]}')


@pytest.mark.parametrize("name", list(MODELS))
def test_imported_and_compiled(name: str, tmp_path: Path) -> None:
    path = tmp_path / "m.tsm"
    compile_model(_model(name), threads=1, verify=True).save(path)
    executable = load(path, threads=1)
    theirs = OnnxSession(_model(name), threads=1)
    for size in (1, 2, 9, 33):
        feeds = {"x": np.random.default_rng(size).integers(0, 6, size)}
        for ours, want in zip(executable.run(feeds).values(), theirs.run(feeds).values(),
                              strict=True):  # fmt: skip
            assert ours.shape == want.shape
            assert np.allclose(ours, want.astype(np.float64), rtol=1e-5)


@pytest.fixture(scope="module")
def first() -> Executable:
    text = "(float[n] x, int64[1] k) => (float[m] y, int64[m] i) { y, i = TopK(x, k) }"
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> g {text}')
    return load(compile_model(proto, threads=1), threads=1)


@pytest.mark.parametrize(("k", "told"), [(5, "size of 5 where 4"), (-1, "size of -1 where 0")])
def test_more_than_there_is_and_less_than_nothing_are_refused(
    first: Executable, k: int, told: str
) -> None:
    with pytest.raises(InputError, match=told):
        first.run({"x": numbers(4), "k": np.array([k])})


@pytest.mark.parametrize(
    ("text", "few", "told"),
    [
        ("(float[n] x) => (float[m] y, int64[m] i) <int64[1] k = {5}> { y, i = TopK(x, k) }",
         numbers(4), "outside of 5 on"),
        ("(float[n] x) => (float[m] y, int64[m] i) <int64[1] k = {5}> "
         "{ d = Concat <axis = 0> (x, x) y, i = TopK(d, k) }", numbers(2), "outside of 3 on"),
        ("(float[n] x) => (int64[a, m] y, int64[a, m] i) <int64[1] k = {5}> "
         "{ p = NonZero(x) y, i = TopK(p, k) }", numbers(3), "size of 5 where 3"),
    ],
)  # fmt: skip
def test_the_first_of_fewer(text: str, few: NDArray[np.float32], told: str) -> None:
    """As many as there are at least: by the bounds of a size, or when data tells."""
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> g {text}')
    executable = load(compile_model(proto, threads=1), threads=1)
    theirs, feeds = OnnxSession(proto, threads=1), {"x": numbers(9)}
    for ours, want in zip(executable.run(feeds).values(), theirs.run(feeds).values(), strict=True):
        np.testing.assert_array_equal(ours, want)
    with pytest.raises(InputError, match=told):
        executable.run({"x": few})


def test_what_memory_does_not_hold_is_an_error() -> None:
    text = "(int64[2] s) => (float[a, b] y) { y = ConstantOfShape(s) }"
    proto = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> g {text}')
    executable = load(compile_model(proto, threads=1), threads=1)
    assert executable.run({"s": np.array([2, 3])})["y"].shape == (2, 3)
    with pytest.raises(Exception, match="bad_alloc"):
        executable.run({"s": np.array([2**40, 2**10])})
    assert executable.run({"s": np.array([0, 3])})["y"].shape == (0, 3)
