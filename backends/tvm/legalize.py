"""What has no kernel of its own becomes smaller operators, until everything has one."""

from __future__ import annotations

import numpy as np

from tunesmith.ir.builder import trace
from tunesmith.ir.dims import product
from tunesmith.ir.graph import Graph, Node, Value
from tunesmith.ir.in_place import kept_outputs, overwritten, storage_of, surely_fits
from tunesmith.ir.ops import OPS
from tunesmith.ir.rewriter import Rewriter
from tunesmith.ir.types import DType

__all__ = ["ROW_REDUCTIONS", "has_kernel", "has_windows", "is_row_operator", "legalize"]

ROW_REDUCTIONS = frozenset({"reduce_sum", "reduce_mean", "reduce_max", "reduce_min"})
_NARROW = (DType.f16, DType.bf16)
_ROW_COMPOSITES = frozenset({"softmax", "log_softmax", "layer_norm", "rms_norm"})
_WINDOWS = frozenset({"conv", "max_pool", "average_pool"})
_WIDENED = frozenset({"attention", "linear", "matmul", *_ROW_COMPOSITES, *_WINDOWS})


def is_row_operator(node: Node) -> bool:
    """Whether the node works on rows of f32: each result row from one row of the first operand."""
    x = node.operands[0] if node.operands else None
    if x is None or x.type.dtype is not DType.f32 or x.type.rank == 0:
        return False
    last = x.type.rank - 1
    if node.op.name in ("softmax", "log_softmax"):
        return node.attributes["axis"] in (-1, last)
    if node.op.name in ("layer_norm", "rms_norm"):
        return all(
            v.type.dtype is DType.f32 and v.type.rank == 1 for v in node.present_operands[1:]
        )
    return node.op.name in ROW_REDUCTIONS and node.attributes["axes"] in ((-1,), (last,))


def has_windows(node: Node) -> bool:
    """Whether the node is a convolution or pooling of f32 along one axis or two, in vectors.

    The weight of a convolution is a constant; what does not fit runs on the reference loops.
    """
    if node.op.name not in _WINDOWS:
        return False
    x = node.present_operands[0].type
    if x.dtype is not DType.f32 or x.rank not in (3, 4) or not isinstance(x.shape[1], int):
        return False
    if 0 in (*x.shape, *node.result.type.shape):
        return False
    if node.op.name != "conv":
        return True
    weight = node.present_operands[1]
    return weight.constant is not None and 0 not in weight.type.shape


def has_kernel(node: Node) -> bool:
    """Whether the backend runs this composite as it is."""
    name = node.op.name
    if "elementwise" in node.op.traits or is_row_operator(node) or overwritten(node) is not None:
        return True
    operands = node.present_operands
    if name == "rotary":
        return isinstance(operands[0].type.shape[-1], int)
    if name == "linear":
        weight = operands[1]
        return (
            operands[0].type.dtype is DType.f32
            and weight.constant is not None
            and weight.type.dtype in (DType.f32, DType.i8, *_NARROW)
            and 0 not in weight.type.shape
        )
    if name == "attention":
        return (
            all(v.type.dtype is DType.f32 for v in operands[:3])
            and all(v.type.dtype in (DType.f32, DType.bool) for v in operands[3:])
            and all(isinstance(operands[i].type.shape[a], int) for i in range(3) for a in (1, 3))
            and 0 not in (*operands[0].type.shape, *operands[1].type.shape, *operands[2].type.shape)
        )
    return False


def legalize(graph: Graph) -> bool:
    """Inline composites without a kernel, and give products by a constant matrix theirs.

    Outputs that lie in inputs are left out: writing in place is all that there is to do.
    """
    rewriter = Rewriter(graph)
    _drop_kept(graph, rewriter)
    known: dict[Value, Value] = {}  # values of f16 and bf16, in f32
    pending = True
    while pending:
        pending = False
        for node in list(graph.nodes):
            if _reduces_tail(node):
                _flatten_tail(node, rewriter)
            elif node.op.name in _WIDENED and _is_narrow(node):
                _widen(node, rewriter, known)
                pending = True
            elif node.op.name == "matmul" and _is_linear(node):
                builder = rewriter.before(node)
                (value,) = builder.emit_values(OPS["linear"], node.operands, {})
                rewriter.replace_node(node, [value])
            elif node.op.is_composite and not has_kernel(node):
                builder = rewriter.before(node)
                types = [v.type if v is not None else None for v in node.operands]
                body = trace(node.op, types, node.attributes)
                rewriter.replace_node(node, builder.inline(body, node.operands))
                pending = True
    _turn_masks(graph, rewriter)
    _part_weights(graph, rewriter)
    _copy_outputs(graph, rewriter)
    return rewriter.changed


def _drop_kept(graph: Graph, rewriter: Rewriter) -> None:
    """Take outputs that lie in inputs out of the graph, and let only sound writes be in place.

    These are writes to an input that an output keeps, whose end whoever runs the graph checks, and
    writes to a value of the graph that surely end inside it. Others copy.
    """
    kept = kept_outputs(graph)
    roots = {each.input for each in kept}
    rewriter.drop_outputs({each.output for each in kept})
    for node in list(graph.nodes):
        taken = overwritten(node)
        if taken is None or taken in roots:
            continue
        if storage_of(taken).producer is None or not surely_fits(node):
            body = trace(node.op, [v.type for v in node.present_operands], node.attributes)
            builder = rewriter.before(node)
            rewriter.replace_node(node, builder.inline(body, node.operands))


def _is_narrow(node: Node) -> bool:
    """Whether a node is that of f32 but for the types: to attention no narrow mask is added."""
    mask = node.operands[3] if node.op.name == "attention" and len(node.operands) > 3 else None
    added = mask is not None and mask.type.dtype is not DType.bool
    return not added and node.present_operands[0].type.dtype in _NARROW


def _widen(node: Node, rewriter: Rewriter, known: dict[Value, Value]) -> None:
    """Compute a node of f16 or bf16 in f32, and round its result once.

    Scores and sums that are rounded on the way cost more bits than a sum of many terms does. The
    weight of a layer stays as it is stored: its kernel widens it. What is wide already is `known`,
    so that layers which read the same still do.
    """
    weight = _weight(node)

    def wide(value: Value | None) -> Value | None:
        if value is None or value is weight or value.type.dtype not in _NARROW:
            return value
        if value not in known:
            known[value] = _wide(value, rewriter, fold=node.op.name == "conv")
        return known[value]

    op = node.op if weight is None else OPS["linear"]
    operands = [wide(v) for v in node.operands]
    builder = rewriter.before(node)
    (y,) = builder.emit_values(op, operands, node.attributes)
    (y,) = builder.emit_values(OPS["cast"], [y], {"dtype": node.result.type.dtype})
    rewriter.replace_node(node, [y])


def _wide(value: Value, rewriter: Rewriter, *, fold: bool) -> Value:
    """The value in f32, right behind where it is made; as a constant, if it is one to `fold`.

    So are vectors; a matrix is widened where it is read, as that takes half of its bytes.
    """
    producer = value.producer
    if producer is None:
        builder = rewriter.at_start()
    else:
        builder = rewriter.before(producer.next or rewriter.graph.terminator)
        builder.location = producer.location
    constant = value.constant
    if constant is not None and (fold or value.type.rank < 2):
        same: Value = builder.constant(constant.array.astype(np.float32), value.name).value
        return same
    return builder.emit_values(OPS["cast"], [value], {"dtype": DType.f32})[0]


def _turn_masks(graph: Graph, rewriter: Rewriter) -> None:
    """Lay masks with a row for each query out by keys: attention has queries in its lanes.

    The mask is turned and turned back. The first stays in memory, once for all layers, and is
    written by whatever computed the mask; the second is only how attention reads it.
    """
    turned: dict[Value, Value] = {}
    for node in list(graph.nodes):
        mask = node.operands[3] if node.op.name == "attention" and len(node.operands) > 3 else None
        if mask is None or mask.type.rank < 2 or 1 in mask.type.shape[-2:]:
            continue
        if mask not in turned:
            builder = rewriter.before(node)
            rank = mask.type.rank
            perm = {"perm": (*range(rank - 2), rank - 1, rank - 2)}
            (by_keys,) = builder.emit_values(OPS["transpose"], [mask], perm)
            (turned[mask],) = builder.emit_values(OPS["transpose"], [by_keys], perm)
        rewriter.set_operand(node, 3, turned[mask])


_WEIGHED = ("conv", "linear")


def _part_weights(graph: Graph, rewriter: Rewriter) -> None:
    """A weight that is an operand of something else too is another value there: it lies otherwise.

    A kernel may read both, and knows its reads by their values.
    """
    for node in list(graph.nodes):
        if node.op.name not in _WEIGHED:
            continue
        producer = node.present_operands[1].producer
        if producer is None or producer.op.name != "constant":
            continue
        if any(user.op.name not in _WEIGHED or place != 1 for user, place in producer.result.users):
            (own,) = rewriter.before(node).emit_values(producer.op, [], producer.attributes)
            rewriter.set_operand(node, 1, own)


def _copy_outputs(graph: Graph, rewriter: Rewriter) -> None:
    """An output that is an input, a constant, or another output gets memory of its own."""
    seen: set[Value] = set()
    for index, value in enumerate(graph.outputs):
        if value.producer is None or value.constant is not None or value in seen:
            builder = rewriter.before(graph.terminator)
            (copy,) = builder.emit_values(OPS["reshape"], [value], {"shape": value.type.shape})
            rewriter.set_operand(graph.terminator, index, copy)
        seen.add(value)


def _reduces_tail(node: Node) -> bool:
    """Whether the node reduces several axes, which are the last: together they are one."""
    if node.op.name not in ROW_REDUCTIONS:
        return False
    x, axes = node.present_operands[0].type, node.attributes["axes"]
    assert isinstance(axes, tuple)
    places = sorted(a % x.rank for a in axes if isinstance(a, int))
    return len(places) > 1 and places == list(range(x.rank - len(places), x.rank))


def _flatten_tail(node: Node, rewriter: Rewriter) -> None:
    """Merge the axes that are reduced, and give the result its shape again."""
    (x,) = node.present_operands
    shape, axes = x.type.shape, node.attributes["axes"]
    assert isinstance(axes, tuple)
    kept = x.type.rank - len(axes)
    builder = rewriter.before(node)
    flat = (*shape[:kept], product(shape[kept:]))
    (rows,) = builder.emit_values(OPS["reshape"], [x], {"shape": flat})
    attributes = {**node.attributes, "axes": (kept,), "keepdims": False}
    (folded,) = builder.emit_values(node.op, [rows], attributes)
    (result,) = builder.emit_values(OPS["reshape"], [folded], {"shape": node.result.type.shape})
    rewriter.replace_node(node, [result])


def _is_linear(node: Node) -> bool:
    return node.present_operands[0].type.dtype is DType.f32 and _weight(node) is not None


def _weight(node: Node) -> Value | None:
    """The constant matrix that a product or a layer is with."""
    if node.op.name not in ("linear", "matmul"):
        return None
    weight = node.present_operands[1]
    fits = weight.constant is not None and weight.type.rank == 2 and 0 not in weight.type.shape
    return weight if fits else None
