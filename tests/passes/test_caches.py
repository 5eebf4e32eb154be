"""Which pasts become buffers, what the graph means then, and why the others stay as they were."""

from __future__ import annotations

import numpy as np
import pytest

from tunesmith.ir.diagnostics import PassError
from tunesmith.ir.graph import Graph
from tunesmith.ir.interpreter import evaluate
from tunesmith.ir.text import parse_graph, print_graph
from tunesmith.ir.verifier import verify
from tunesmith.passes.base import PassContext
from tunesmith.passes.caches import cache_bounds, place_caches

RNG = np.random.default_rng(17)
ROOM = 6

STEP = """graph @step(%q: f32[B, 4, S, 3], %k: f32[B, 2, S, 3], %v: f32[B, 2, S, 5], \
%pk: f32[B, 2, 0<=P, 3], %pv: f32[B, 2, P, 5]) {
  %nk = neg(%k)
  %nv = neg(%v)
  %ck = concat(%pk, %nk) {axis = 2}
  %cv = concat(%pv, %nv) {axis = -2}
  %y = attention(%q, %ck, %cv) {scale = 0.5}
  return %y, %ck, %cv
}"""


def feeds_of(batch: int, rows: int, past: int) -> dict[str, np.ndarray]:
    """Random operands of `STEP`."""
    shapes = {"q": (batch, 4, rows, 3), "k": (batch, 2, rows, 3), "v": (batch, 2, rows, 5),
              "pk": (batch, 2, past, 3), "pv": (batch, 2, past, 5)}  # fmt: skip
    return {n: RNG.standard_normal(s).astype(np.float32) for n, s in shapes.items()}


def place(text: str, room: int = ROOM) -> tuple[Graph, list[str]]:
    """The graph with its caches in place, and what is said of each."""
    graph, context = parse_graph(text), PassContext()
    place_caches(graph, room, context)
    verify(graph)
    return graph, [f"{note.kind}: {note.reason}" for note in context.notes]


def test_a_past_becomes_a_buffer() -> None:
    graph, said = place(STEP)
    assert said == [f"match: `{name}` has room for 6 rows" for name in ("pk", "pv")]
    assert (
        print_graph(graph)
        == """graph @step(%q: f32[B, 4, S, 3], %k: f32[B, 2, S, 3], \
%v: f32[B, 2, S, 5], %pk: f32[B, 2, 6, 3], %pv: f32[B, 2, 6, 5], %P: i64[]) {
  %bind_size = bind_size(%P) {size = 0<=P} : i64[]
  %nk = neg(%k) : f32[B, 2, S, 3]
  %nv = neg(%v) : f32[B, 2, S, 5]
  %write_slice = write_slice(%pk, %nk) {axis = 2, start = P} : f32[B, 2, 6, 3]
  %ck = slice(%write_slice) {axis = 2, start = 0, stop = P + S} : f32[B, 2, P + S, 3]
  %write_slice.1 = write_slice(%pv, %nv) {axis = 2, start = P} : f32[B, 2, 6, 5]
  %cv = slice(%write_slice.1) {axis = 2, start = 0, stop = P + S} : f32[B, 2, P + S, 5]
  %y = attention(%q, %ck, %cv) {scale = 0.5} : f32[B, 4, S, 5]
  return %y, %ck, %cv
}"""
    )


@pytest.mark.parametrize(("batch", "rows", "past"), [(1, 1, 0), (2, 1, 5), (3, 6, 0), (2, 2, 3)])
def test_it_gives_what_it_gave(batch: int, rows: int, past: int) -> None:
    graph, _ = place(STEP)
    feeds = feeds_of(batch, rows, past)
    want = evaluate(parse_graph(STEP), feeds)
    for name in ("pk", "pv"):
        buffer = np.full((batch, 2, ROOM, feeds[name].shape[3]), np.nan, np.float32)
        buffer[:, :, :past] = feeds[name]
        feeds[name] = buffer
    found = evaluate(graph, {**feeds, "P": np.asarray(past, np.int64)})
    for ours, theirs in zip(found, want, strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_mask_tells_the_length() -> None:
    text = STEP.replace("graph @step(", "graph @step(%m: f32[B, 1, 1, (0<=P) + S], ")
    text = text.replace("2, 0<=P, 3", "2, P, 3").replace("%ck, %cv) {s", "%ck, %cv, %m) {s")
    graph, _ = place(text.replace("(0<=P) + S", "(0<=P) + S"))
    assert [value.name for value in graph.inputs] == ["m", "q", "k", "v", "pk", "pv"]


def test_a_taken_name_is_made_longer() -> None:
    graph, _ = place(STEP.replace("%q", "%P"))
    assert graph.inputs[-1].name == "P_length"


def test_bounds_begin_at_none() -> None:
    assert cache_bounds(parse_graph(STEP.replace("0<=P", "P")), ROOM) == {
        "S": (1, 6), "P": (0, 5),
    }  # fmt: skip


KEYS_ONLY = {  # what becomes of the values; keys stay a cache
    "new rows stand before the past": ("concat(%pv, %nv)", "concat(%nv, %pv)"),
    "3 tensors are joined, not a past and new rows": ("concat(%pv, %nv)", "concat(%pv, %nv, %nv)"),
    "the past is read elsewhere too": (
        "  return %y, %ck, %cv", "  %z = exp(%pv)\n  return %y, %ck, %cv, %z"),
    "the rows are two outputs, and a buffer can be one": (
        "return %y, %ck, %cv", 'return %y, %ck, %cv, %cv as "again"'),
    "the output is only a part of the rows, so old ones move": (
        "  return %y, %ck, %cv",
        "  %w = slice(%cv) {axis = 2, start = S, stop = P + S}\n  return %y, %ck, %w"),
    "`exp` reads the rows, and needs them without a gap": (
        "  return %y, %ck, %cv", "  %z = exp(%cv)\n  return %y, %ck, %cv, %z"),
    "its length 4 is not a size that may grow": (
        "%pv: f32[B, 2, P, 5]", "%pv: f32[B, 2, 4, 5]"),
}  # fmt: skip


@pytest.mark.parametrize("reason", KEYS_ONLY)
def test_what_is_used_otherwise_stays(reason: str) -> None:
    old, new = KEYS_ONLY[reason]
    assert old in STEP
    text = STEP.replace(old, new)
    if reason.startswith(
        ("3 tensors", "its length")
    ):  # values that are of another length than keys
        text = text.replace("attention(%q, %ck, %cv)", "attention(%q, %ck, %ck)")
    graph, said = place(text)
    assert said == ["match: `pk` has room for 6 rows", f"near-miss: `pv`: {reason}"]
    shapes = {value.name: str(value.type) for value in graph.inputs}
    assert "f32[B, 2, 6, 3]" in shapes["pk"] and " 6," not in shapes["pv"]


def test_another_axis_and_another_type_stay() -> None:
    text = """graph @step(%k: f32[B, 2, 1, 3], %pk: f32[B, 0<=P, P, 3], %h: f16[B, 2, 0<=R, 3], \
%n: f16[B, 2, 1, 3], %g: f32[0<=Q, 2, 5, 3], %j: f32[1, 2, 5, 3]) {
  %e = expand(%k) {shape = [B, 2, 1, 3]}
  %ch = concat(%h, %n) {axis = 2}
  %a = attention(%n, %ch, %ch) {scale = 1.0}
  %cg = concat(%g, %j) {axis = 0}
  %b = attention(%cg, %cg, %cg) {scale = 1.0}
  return %a, %ch, %b, %cg, %e
}"""
    with pytest.raises(PassError, match="no key/value cache") as caught:
        place(text)
    assert "attention of f16 reads a copy of the rows" in str(caught.value.hint)


def test_too_small_a_cache_is_refused() -> None:
    with pytest.raises(PassError, match="0 rows is too small for a single step"):
        place(STEP, room=0)


def test_a_model_without_a_cache_is_refused() -> None:
    text = "graph @f(%x: f32[B, 4]) { %y = exp(%x) return %y }"
    with pytest.raises(PassError, match="no key/value cache"):
        place(text)


POSITIONS = STEP.replace(
    "  %nk = ",
    """  %t = constant() {value = f32[4, 3] [\
0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0]}
  PLACES
  %e = gather(%t, %o) {axis = 0}
  %nk = """,
).replace("return %y", "return %e, %y")


@pytest.mark.parametrize(
    "places",
    [
        "%p = dim_value() {size = P, dtype = i64}\n  %o = reshape(%p) {shape = [1]}",
        "%i = iota() {size = P + 1, dtype = i64}\n"
        "  %o = slice(%i) {axis = 0, start = P, stop = P + 1}",
    ],
)
def test_positions_end_with_their_table(places: str) -> None:
    """A table of four rows: beyond the fourth, a step would be wrong."""
    text = POSITIONS.replace("PLACES", places)
    for old, new in (("4, S, 3]", "4, 1, 3]"), ("2, S, ", "2, 1, ")):
        text = text.replace(old, new)
    place(text.replace("0<=P", "0<=P<=3"), 4)
    with pytest.raises(PassError, match="6 rows reaches place 5 of a table of 4") as caught:
        place(text.replace("0<=P", "0<=P<=5"), 6)
    assert "--cache 4" in str(caught.value.hint)
