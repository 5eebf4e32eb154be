"""Graphs as files: what is written is read back, constants included."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tunesmith.ir.constants import Constant
from tunesmith.ir.diagnostics import ParseError
from tunesmith.ir.interpreter import evaluate
from tunesmith.ir.parser import parse_graph
from tunesmith.ir.store import load_graph, save_graph
from tunesmith.ir.text import print_graph

TEXT = """graph @g(%x: f32[B, 4]) {{
  %w = constant() {{value = {value}}} : f32[4, 8]
  %y = matmul(%x, %w) : f32[B, 8]
  return %y
}}"""


def _weights() -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    return np.random.default_rng(0).standard_normal((4, 8)).astype(np.float32)


def _graph(folder: Path) -> Path:
    from tunesmith.ir.constants import Constant

    constant = Constant(_weights())
    text = TEXT.format(value=f"f32[4, 8] #{constant.digest}")
    save_graph(parse_graph(text, weights={constant.digest: constant.array}), folder / "g.nir")
    return folder / "g.nir"


def test_a_graph_with_weights_is_read_back(tmp_path: Path) -> None:
    path = _graph(tmp_path)
    graph = load_graph(path)
    assert print_graph(graph) + "\n" == path.read_text()
    x = np.random.default_rng(1).standard_normal((3, 4)).astype(np.float32)
    (y,) = evaluate(graph, {"x": x})
    assert float(np.abs(y.astype(np.float32) - x @ _weights()).max()) < 1e-5


def test_constants_are_shared_by_the_files_of_a_folder(tmp_path: Path) -> None:
    graph = load_graph(_graph(tmp_path))
    save_graph(graph, tmp_path / "again.nir", head="// RUN canonicalize\n")
    assert len(list((tmp_path / "weights").glob("*.npy"))) == 1
    assert print_graph(load_graph(tmp_path / "again.nir")) == print_graph(graph)


def test_a_missing_constant_is_named(tmp_path: Path) -> None:
    path = _graph(tmp_path)
    next((tmp_path / "weights").glob("*.npy")).unlink()
    with pytest.raises(ParseError, match="weights"):
        load_graph(path)


def test_a_constant_that_is_not_what_its_name_says_is_refused(tmp_path: Path) -> None:
    path = _graph(tmp_path)
    file = next((tmp_path / "weights").glob("*.npy"))
    np.save(file, np.zeros((2, 2), np.float32))
    with pytest.raises(ParseError):
        load_graph(path)


def test_equal_constants_have_equal_bits() -> None:
    one = np.arange(40, dtype=np.float32)
    late = one.copy()
    late[-1] = 7
    assert Constant(one) == Constant(one.copy())
    assert hash(Constant(one)) == hash(Constant(one.copy()))
    assert Constant(one) != Constant(late)
    zero, nan = np.zeros(1, np.float32), np.full(1, np.nan, np.float32)
    assert Constant(zero) != Constant(-zero)
    assert Constant(nan) == Constant(nan.copy())
    turned = np.asfortranarray(one.reshape(5, 8))
    assert Constant(turned) == Constant(one.reshape(5, 8))
    assert hash(Constant(turned)) == hash(Constant(one.reshape(5, 8)))
