"""Writing into the memory of an operand: values computed inside, and inputs that become caches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tunesmith.driver import compile_model
from tunesmith.ir.interpreter import evaluate
from tunesmith.ir.text import parse_graph
from tunesmith.runtime import load

from .running import build, check

pytestmark = pytest.mark.tvm

RNG = np.random.default_rng(31)

COMPUTED = """graph @f(%x: T[B, 2, C + (0<=P) + (0<=S), 3], %y: T[B, 2, S, 3], %p: f32[P], \
%flag: bool[]) {
  %c = where(%flag, %x, %x)
  %w = write_slice(%c, %y) {axis = 2, start = P}
  %v = write_slice(%w, %y) {axis = 2, start = 0}
  %o = transpose(%v) {perm = [0, 2, 1, 3]}
  %m = transpose(%o) {perm = [0, 2, 3, 1]}
  return %o, %m
}"""

KEPT = """graph @f(%x: f32[B, 2, 7, 4], %y: f32[B, 2, S, 4], %p: f32[0<=P]) {
  %d = mul(%y, %y)
  %w = write_slice(%x, %d) {axis = 2, start = P}
  %r = slice(%w) {axis = 2, start = 0, stop = P + S}
  %t = reduce_sum(%r) {axes = [-1], keepdims = false}
  return %r, %t
}"""


BOUNDED = (("[B, 2, C +", "[B<=4, 2, (C<=9) +"), ("0<=S", "0<=S<=9"), ("0<=P", "0<=P<=9"))


@pytest.mark.parametrize("planned", [False, True], ids=["open", "planned"])
@pytest.mark.parametrize("dtype", ["f32", "f16", "i8", "i64", "bool"])
def test_a_value_inside_is_written_in_its_place(dtype: str, planned: bool) -> None:
    text = COMPUTED
    for old, new in BOUNDED if planned else ():
        assert old in text
        text = text.replace(old, new)
    text = text.replace("T[", f"{dtype}[")
    kinds = {"f32": np.float32, "f16": np.float16, "i8": np.int8, "i64": np.int64, "bool": bool}
    for batch, room, rows, past in ((1, 6, 2, 3), (2, 9, 1, 0), (3, 5, 4, 0), (1, 7, 0, 6)):
        x, y = (RNG.integers(0, 2, (batch, 2, n, 3)).astype(kinds[dtype]) for n in (room, rows))
        feeds = {"x": x, "y": y, "p": np.zeros(past, np.float32), "flag": np.asarray(True)}
        assert check(parse_graph(text), feeds).kinds.count("write") == 2


def test_a_write_that_might_not_fit_copies() -> None:
    """Nobody looks at its end when it runs, so it may only read too far, as any slice."""
    text = COMPUTED.replace("C + (0<=P) + (0<=S)", "C").replace("f32[P]", "f32[0<=P]")
    text = text.replace("T[", "f32[")
    x, y = (RNG.standard_normal((1, 2, n, 3)).astype(np.float32) for n in (7, 2))
    feeds = {"x": x, "y": y, "p": np.zeros(4, np.float32), "flag": np.asarray(True)}
    assert "write" not in check(parse_graph(text), feeds).kinds


def test_an_input_that_is_no_output_is_copied() -> None:
    """Nobody has said that it may be written to."""
    text = KEPT.replace("return %r, %t", "return %t")
    x, y = (RNG.standard_normal((2, 2, n, 4)).astype(np.float32) for n in (7, 3))
    feeds = {"x": x, "y": y, "p": np.zeros(2, np.float32)}
    before = x.copy()
    built = check(parse_graph(text), feeds)
    assert "write" not in built.kinds
    np.testing.assert_array_equal(x, before)


def test_a_whole_buffer_as_an_output_is_copied() -> None:
    text = KEPT.replace("return %r, %t", "return %w, %t")
    x, y = (RNG.standard_normal((1, 2, n, 4)).astype(np.float32) for n in (7, 3))
    before = x.copy()
    built = build(parse_graph(text))
    built.run({"x": x, "y": y, "p": np.zeros(2, np.float32)})
    np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize("stop", ["P", "P + S + 1", "7"])
def test_other_rows_than_those_written_are_no_cache(stop: str) -> None:
    """From the size of such an output nobody could tell whether the new rows fit."""
    text = KEPT.replace("stop = P + S", f"stop = {stop}")
    artifact = compile_model(parse_graph(text), preset="", threads=1)
    assert artifact.manifest.caches == ()
    x, y = (RNG.standard_normal((1, 2, n, 4)).astype(np.float32) for n in (7, 3))
    before = x.copy()
    feeds = {"x": x, "y": y, "p": np.zeros(2, np.float32)}
    want = evaluate(parse_graph(text), feeds)
    np.testing.assert_array_equal(load(artifact, threads=1).run(feeds)["r"], want[0])
    np.testing.assert_array_equal(x, before)


@pytest.mark.parametrize("offset", [0, 1])
def test_an_output_is_a_view_of_its_buffer(offset: int) -> None:
    """Wherever the buffer lies: no more is assumed of it than the alignment of an element."""
    artifact = compile_model(parse_graph(KEPT), preset="", threads=1)
    (cache,) = artifact.manifest.caches
    assert (cache.input, cache.output, cache.axis, cache.before) == ("x", "r", 2, "P")
    model = load(artifact, threads=1)
    for batch, rows, past in ((1, 1, 0), (2, 3, 4), (3, 7, 0), (2, 2, 5)):
        memory = RNG.standard_normal(batch * 2 * 7 * 4 + offset).astype(np.float32)
        x = memory[offset:].reshape(batch, 2, 7, 4)
        y = RNG.standard_normal((batch, 2, rows, 4)).astype(np.float32)
        feeds = {"x": x, "y": y, "p": np.zeros(past, np.float32)}
        want, sums = map(np.float32, evaluate(parse_graph(KEPT), {**feeds, "x": x.copy()}))
        behind = x[:, :, past + rows :].copy()
        found: dict[str, Any] = model.run(feeds)
        np.testing.assert_array_equal(found["r"], want)
        np.testing.assert_allclose(found["t"], sums, rtol=1e-6)
        assert np.shares_memory(found["r"], x)
        np.testing.assert_array_equal(x[:, :, past + rows :], behind)
