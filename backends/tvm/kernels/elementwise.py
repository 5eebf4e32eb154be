"""Kernels without a product or a reduction: one pass over the result."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from itertools import pairwise

from tvm import tirx
from tvm.ir import Expr as Prim
from tvm.tirx.script import builder as T

from tunesmith.ir.dims import Dim, bounds, product
from tunesmith.ir.graph import Node, Value
from tunesmith.ir.in_place import along
from tunesmith.ir.types import Shape

from ..evaluator import Evaluator
from ..index import Index
from ..schedule import emit
from ..schedule.sweep import ElementKnobs, ElementWork
from .loops import columns, for_each, is_large
from .movement import is_guarded

__all__ = ["element_work", "emit_elementwise", "emit_write"]

_SHARED = 16  # rows of rows that are enough for the threads, at the least sizes


def element_work(output: Value, inlined: list[Node]) -> ElementWork | None:
    """What there is to choose for; `None` where elements are computed one by one."""
    if any(is_guarded(node) for node in inlined):
        return None
    size = output.type.size
    flat = len(_runs(output, inlined)) < 2 and is_large(size)
    return ElementWork(size if isinstance(size, int) else 0, flat)


Element = Callable[[Evaluator, Index], None]  # what is done at a place


def emit_elementwise(
    evaluator: Evaluator,
    output: Value,
    store: tirx.Buffer,
    inlined: list[Node],
    knobs: ElementKnobs | None,
) -> None:
    """Write every element of `output`; `inlined` are the nodes that are computed on the way.

    Without `knobs`, see `element_work`, elements are computed one by one.
    """

    def write(fresh: Evaluator, index: Index) -> None:
        T.buffer_store(store, fresh.compute(output, index), [index.flat()])

    _visit(evaluator, output, inlined, knobs, write)


def emit_write(
    evaluator: Evaluator, node: Node, store: tirx.Buffer, inlined: list[Node], knobs: ElementKnobs
) -> None:
    """Write the elements of a slice to their places in memory that holds the rest already."""
    x, update = node.present_operands
    axis, start = along(node)

    def write(fresh: Evaluator, index: Index) -> None:
        value = fresh.read(update, index)
        parts = index.axes()
        parts[axis] = parts[axis] + fresh.sizes.expr(start)
        place = Index.of(x.type.shape, parts, fresh.sizes)
        T.buffer_store(store, value, [place.flat()])

    others = [inner for inner in inlined if inner is not node]
    work = element_work(update, others)
    _visit(evaluator, update, [*others, node], None if work is None else knobs, write)


def _visit(
    evaluator: Evaluator,
    output: Value,
    inlined: list[Node],
    knobs: ElementKnobs | None,
    element: Element,
) -> None:
    """Do something at every place of `output`, with an evaluator for each."""
    shape = output.type.shape
    runs = _runs(output, inlined)
    dims = [tuple(shape[a:b]) for a, b in runs]
    lanes = 1 if knobs is None else knobs.lanes
    inner = product(dims[-1]) if dims else 1
    outer = [product(d) for d in dims[:-1]]
    parallel = is_large(output.type.size)
    if not outer and parallel:
        _flat(evaluator, dims[0], knobs or ElementKnobs(lanes=1), element)
        return
    sizes = evaluator.sizes
    nested = _nested(outer, inner, lanes)
    shared = outer[: len(outer) - len(nested)]

    def rows(position: Prim) -> None:
        # one variable over the outer runs, split once; those that are nested need no division
        over = Index(((tuple(shared), position),), sizes).axes() if shared else []
        with ExitStack() as stack:
            for size in nested:
                over.append(stack.enter_context(emit.loop(sizes.expr(size))))
            row(over)

    def row(over: list[Prim]) -> None:
        def at(column: Prim) -> None:
            parts = [*zip(dims[:-1], over, strict=True), (dims[-1], column)] if dims else []
            element(evaluator.fresh(), Index(tuple(parts), sizes))

        for low, count in _halves(inlined, inner):
            columns(count, lanes, sizes, at, None if low == 0 else sizes.expr(low))

    for_each(product(shared), sizes, parallel, rows)


def _nested(outer: Sequence[Dim], inner: Dim, lanes: int) -> list[Dim]:
    """The last outer run, as a loop of its own, where a row has fewer elements than a vector.

    There the divisions that split a position cost more than the row. Enough must stay to share out.
    """
    narrow = isinstance(inner, int) and inner < lanes
    if not narrow or len(outer) < 2 or bounds(product(outer[:-1]))[0] < _SHARED:
        return []
    return [outer[-1]]


def _flat(evaluator: Evaluator, dims: Shape, knobs: ElementKnobs, element: Element) -> None:
    """A tensor that is one run of elements is cut into chunks for the threads."""
    sizes = evaluator.sizes
    total = sizes.expr(product(dims))
    chunk = sizes.expr(knobs.chunk)
    with T.parallel(tirx.floordiv(total + chunk - sizes.expr(1), chunk)) as task:
        begin = T.Bind(task * chunk)
        count = T.Bind(tirx.min(total - begin, chunk))

        def at(column: Prim) -> None:
            element(evaluator.fresh(), Index(((dims, begin + column),), sizes))

        columns(count, knobs.lanes, sizes, at)


def _runs(output: Value, inlined: list[Node]) -> list[tuple[int, int]]:
    """Runs of axes that no operator on the way takes apart, so that they are one loop."""
    shape = output.type.shape
    rank = len(shape)
    if rank == 0:
        return []
    plain = all("elementwise" in node.op.traits for node in inlined)
    if not plain:
        return [(i, i + 1) for i in range(rank)]
    cuts = {0, rank}
    operands = [v for node in inlined for v in node.present_operands]
    for value in operands:
        own = (*(1,) * (rank - value.type.rank), *value.type.shape)
        same = [a == b and b != 1 for a, b in zip(own, shape, strict=True)]
        if not any(same) and value.type.size == 1:
            continue
        cuts |= {i for i in range(1, rank) if same[i] != same[i - 1] and shape[i - 1] != 1}
        cuts |= {
            i for i in range(1, rank) if shape[i - 1] == 1 and same[i] != _left(same, shape, i)
        }
    ends = sorted(cuts)
    return list(pairwise(ends))


def _left(same: list[bool], shape: Shape, axis: int) -> bool:
    """Whether the nearest axis to the left that has elements is read in step."""
    for i in range(axis - 1, -1, -1):
        if shape[i] != 1:
            return same[i]
    return same[axis]


def _halves(inlined: list[Node], inner: Dim) -> list[tuple[Dim, Dim]]:
    """Ranges of columns; a half-split rotation is constant in each half of a row."""
    turned = any(n.op.name == "rotary" and not n.attributes["interleaved"] for n in inlined)
    if turned and isinstance(inner, int) and inner % 2 == 0:
        return [(0, inner // 2), (inner // 2, inner // 2)]
    return [(0, inner)]
