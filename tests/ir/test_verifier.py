"""Each check of the verifier finds what it is there for, and says where."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from tunesmith.ir.diagnostics import Location, VerifyError
from tunesmith.ir.dims import Sym, dim
from tunesmith.ir.graph import RETURN, Graph, Node
from tunesmith.ir.ops import OPS
from tunesmith.ir.rewriter import Rewriter
from tunesmith.ir.text import parse_graph
from tunesmith.ir.verifier import CHECKS, verify

TEXT = """graph @g(%x: f32[B, 4], %w: f32[4]) {
  %a = exp(%x)
  %b = rms_norm(%a, %w)
  %c = reshape(%b) {shape = [2*B, 2]}
  return %c, %a
}"""


def _nodes(graph: Graph) -> list[Node]:
    return list(graph.nodes)


def swap(graph: Graph) -> None:
    first, second, _ = graph.nodes
    Rewriter(graph).move_before(first, graph.terminator)
    assert second.previous is None


def foreign(graph: Graph) -> None:
    other = parse_graph(TEXT)
    Rewriter(graph).set_operand(_nodes(graph)[0], 0, other.inputs[0])


def cycle(graph: Graph) -> None:
    _nodes(graph)[2].next = _nodes(graph)[1]


def lose_link(graph: Graph) -> None:
    _nodes(graph)[1].previous = None


def lose_count(graph: Graph) -> None:
    first = _nodes(graph)[0]
    first.next = first.next and first.next.next
    assert first.next is not None
    first.next.previous = first


def forget_user(graph: Graph) -> None:
    _nodes(graph)[0].result.users.popitem()


def forget_output(graph: Graph) -> None:
    graph.output_names.pop()


def same_outputs(graph: Graph) -> None:
    graph.output_names[:] = ["y", "y"]


def absent_output(graph: Graph) -> None:
    graph.terminator.operands[0] = None


def early_return(graph: Graph) -> None:
    graph.link(Node(RETURN, [], {}), _nodes(graph)[1])


def wrong_index(graph: Graph) -> None:
    _nodes(graph)[0].result.index = 1


def wrong_input(graph: Graph) -> None:
    graph.inputs.reverse()


def same_name(graph: Graph) -> None:
    _nodes(graph)[1].result.name = "x"


def no_name(graph: Graph) -> None:
    _nodes(graph)[1].result.name = ""


def drop_attribute(graph: Graph) -> None:
    del _nodes(graph)[1].attributes["epsilon"]


def odd_attribute(graph: Graph) -> None:
    _nodes(graph)[1].attributes["epsilons"] = 1.0


def absent_operand(graph: Graph) -> None:
    Rewriter(graph).set_operand(_nodes(graph)[1], 1, None)


def other_operator(graph: Graph) -> None:
    op = OPS["exp"]
    _nodes(graph)[0].op = type(op)("exp", op.function, op.traits)


def wrong_type(graph: Graph) -> None:
    value = _nodes(graph)[2].result
    value.type = value.type.with_shape((dim("B"), 4))


def wrong_size(graph: Graph) -> None:
    _nodes(graph)[2].attributes["shape"] = (dim("B"), 2)


def free_symbol(graph: Graph) -> None:
    extra = graph.add_input("e", graph.inputs[0].type.with_shape([dim("P") * dim("P")]))
    assert extra.type.symbols()


def overwrite_read(graph: Graph) -> None:
    x = graph.inputs[0]
    writer = Rewriter(graph).before(graph.terminator)
    writer.emit_values(OPS["write_slice"], [x, x], {"axis": 0, "start": 0})


def overwrite_constant(graph: Graph) -> None:
    fixed = Rewriter(graph).at_start().constant(np.zeros((2, 2), np.float32)).value
    writer = Rewriter(graph).before(graph.terminator)
    writer.emit_values(OPS["write_slice"], [fixed, fixed], {"axis": 0, "start": 0})


def other_bounds(graph: Graph) -> None:
    shape = (dim(Sym("B", 1, 9)), 2)
    graph.add_input("e", graph.inputs[0].type.with_shape(shape))


def free_attribute(graph: Graph) -> None:
    attributes = {"size": dim("P"), "dtype": graph.inputs[0].type.dtype}
    rewriter = Rewriter(graph)
    rewriter.before(graph.terminator).emit(OPS["dim_value"], [], attributes)


BROKEN: list[tuple[Callable[[Graph], None], str, str]] = [
    (cycle, "order", "more nodes are linked"),
    (lose_link, "order", "not linked to its neighbour"),
    (lose_count, "order", "2 nodes are linked, but 3"),
    (forget_output, "terminator", "2 outputs have 1 names"),
    (same_outputs, "terminator", "two outputs are named `y`"),
    (absent_output, "terminator", "an output is absent"),
    (early_return, "terminator", "stands before the end"),
    (wrong_index, "results", "%a is not result 0"),
    (wrong_input, "results", "%w is not input 0"),
    (swap, "ssa", "%a is not defined above its use"),
    (foreign, "ssa", "%x is not defined above its use"),
    (forget_user, "users", "%a lists 1 uses"),
    (same_name, "names", "two values are named `%x`"),
    (no_name, "names", "a value has no name"),
    (drop_attribute, "operands", "the attribute `epsilon` is not set"),
    (odd_attribute, "operands", "has no attribute `epsilons`"),
    (absent_operand, "operands", "the operand `weight` is absent"),
    (other_operator, "operands", "is not an operator of the table"),
    (wrong_type, "types", r"inference gives f32\[2\*B, 2\], the node has f32\[B, 4\]"),
    (wrong_size, "types", "`reshape`: f32"),
    (overwrite_read, "in_place", "is overwritten, yet read elsewhere"),
    (overwrite_constant, "in_place", "is a constant, and cannot be written to"),
    (free_symbol, "symbols", "the symbol `P`, which nothing above determines"),
    (
        free_attribute,
        "symbols",
        "`size` has the symbol `P`, which nothing above determines",
    ),
    (other_bounds, "symbols", "other bounds: 1<=B and 1<=B<=9"),
]


def test_a_sound_graph_passes() -> None:
    verify(parse_graph(TEXT))
    verify(parse_graph("graph @g() { return }"))


@pytest.mark.parametrize(("damage", "check", "message"), BROKEN)
def test_finds(damage: Callable[[Graph], None], check: str, message: str) -> None:
    graph = parse_graph(TEXT, "m.nir")
    damage(graph)
    with pytest.raises(VerifyError, match=f"check `{check}`: .*{message}"):
        verify(graph)


def test_every_check_is_tested_and_documented() -> None:
    assert {row[1] for row in BROKEN} == CHECKS.keys()
    assert all(check.__doc__ for check in CHECKS.values())


def test_errors_show_the_node_and_its_place() -> None:
    graph = parse_graph(TEXT, "m.nir")
    node = next(graph.nodes)
    node.location = Location("/model/Exp", "Exp")
    swap(graph)
    with pytest.raises(VerifyError) as caught:
        verify(graph)
    assert str(caught.value) == (
        "m.nir:3: error: check `ssa`: %a is not defined above its use\n"
        "    %b = rms_norm(%a, %w) : f32[B, 4]\n"
        "hint: move its definition up, or pass it in as an input"
    )


def test_deep_graphs_need_no_recursion() -> None:
    lines = ["graph @g(%v0: f32[S]) {"]
    lines += [f"%v{i + 1} = exp(%v{i})" for i in range(20_000)]
    graph = parse_graph("\n".join([*lines, "return %v20000 }"]))
    verify(graph)
