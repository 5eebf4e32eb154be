"""What a pattern matches, and what is told when it nearly does."""

from __future__ import annotations

from tunesmith.ir.ops import Expr
from tunesmith.ir.text import parse_graph
from tunesmith.passes import PASSES
from tunesmith.passes.base import Note, PassContext
from tunesmith.passes.fuse_pass import FusePass
from tunesmith.passes.fuse_rms_norm import FuseRmsNorm
from tunesmith.passes.patterns import Search, find_matches, trace_patterns

RMS = """graph @f(%x: f32[B, 4], %w: f32[4], %e: f32[]) {{
  %q = mul(%x, {square})
  %v = reduce_mean(%q) {{axes = [-1], keepdims = true}}
  %eps = constant() {{value = f32[] 1e-05}}
  %ve = add(%v, {epsilon})
  %r = rsqrt(%ve)
  %n = mul(%x, %r)
  %y = mul(%n, %w)
  return %y{more}
}}"""


def _notes(epsilon: str = "%eps", square: str = "%x", more: str = "") -> list[Note]:
    context = PassContext()
    FuseRmsNorm().run(parse_graph(RMS.format(epsilon=epsilon, square=square, more=more)), context)
    return context.notes


def test_match_is_noted() -> None:
    """One note, with the place of the root."""
    (note,) = _notes()
    assert (note.pass_name, note.kind, note.what) == ("fuse-rms-norm", "match", "rms_norm")
    assert note.where == "<string>:8"


def test_near_misses_say_why() -> None:
    """A value that escapes, a constant that is none, another operand."""
    reasons = {
        "`%v` is used outside of the match": _notes(more=", %v"),
        "`%e` is not a constant of one element": _notes(epsilon="%e"),
        "`%w` is not `%x`": _notes(square="%w"),
    }
    for reason, notes in reasons.items():
        assert all(note.kind == "near-miss" for note in notes)
        assert reason in [note.reason for note in notes]


def test_every_operand_and_attribute_is_in_a_pattern() -> None:
    """What a fusion builds, its patterns fill: no operand and no attribute is lost."""
    for row in PASSES:
        if not issubclass(row, FusePass):
            continue
        assert row.patterns(), row.name
        for pattern in row.patterns():
            assert set(pattern.fixed) <= set(row.result.attribute_defaults), pattern.name


def test_operands_are_the_same_value() -> None:
    """A name that stands twice in a pattern is one value in the graph, by identity or content."""

    def doubled(x: Expr, /) -> Expr:
        return x + x

    (pattern,) = trace_patterns(doubled)
    text = "graph @f(%x: f32[B], %y: f32[B]) {{\n  %z = add(%x, {})\n  return %z\n}}"
    for other, count in (("%x", 1), ("%y", 0)):
        graph = parse_graph(text.format(other))
        found = list(find_matches(pattern, next(graph.nodes), Search()))
        assert len(found) == count


def test_commutative_operands_match_both_ways() -> None:
    """`x * 2` is found in `2 * x`, and the captured attribute is the constant."""

    def scaled(x: Expr, /, *, factor: float) -> Expr:
        return x * factor

    (pattern,) = trace_patterns(scaled)
    graph = parse_graph(
        "graph @f(%x: f32[B]) {\n  %c = constant() {value = f32[] 2.0}\n"
        "  %z = mul(%c, %x)\n  return %z\n}"
    )
    root = list(graph.nodes)[-1]
    (match,) = find_matches(pattern, root, Search())
    assert match["x"] is graph.inputs[0] and match.attributes == {"factor": 2.0}
