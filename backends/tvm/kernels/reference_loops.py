"""Plain loop nests for operators that have no schedule yet: right, portable, not fast."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from tvm import tirx
from tvm.ir import Expr as Prim
from tvm.tirx.script import builder as T

from tunesmith.ir.dims import Dim, floor_div, product
from tunesmith.ir.graph import Node, Value
from tunesmith.ir.types import DType, Shape

from ..evaluator import Evaluator
from ..index import Index, int64
from .literals import TVM_DTYPE, immediate
from .loops import for_each, is_large
from .movement import wrapped
from .ordering import order
from .scalar import cast_to, is_nan
from .suppress import emit_suppress
from .topk import emit_topk

__all__ = ["LOOP_KERNELS", "emit_loops"]

Combine = Callable[[Prim, Prim], Prim]

_COLUMNS = 64  # results of a reduction that are summed beside each other


def emit_loops(evaluator: Evaluator, node: Node, stores: Sequence[tirx.Buffer]) -> None:
    """Write the kernel of `node`, from the table below."""
    LOOP_KERNELS[node.op.name](evaluator, node, stores)


def _ints(node: Node, name: str) -> tuple[int, ...]:
    value = node.attributes[name]
    assert isinstance(value, tuple)
    return tuple(v for v in value if isinstance(v, int))


def _int(node: Node, name: str) -> int:
    value = node.attributes[name]
    assert isinstance(value, int)
    return value


def _read(evaluator: Evaluator, value: Value, parts: Sequence[Prim]) -> Prim:
    fresh = evaluator.fresh()
    return fresh.read(value, Index.of(value.type.shape, parts, evaluator.sizes))


def _nest(
    evaluator: Evaluator, shape: Shape, body: Callable[[list[Prim]], None], parallel: bool
) -> None:
    """Run `body(parts)` for every place of `shape`."""

    def place(position: Prim) -> None:
        index = Index(((tuple(shape), position),), evaluator.sizes)
        body([T.Bind(p) for p in index.axes()])

    for_each(product(shape), evaluator.sizes, parallel, place)


def _inner(
    evaluator: Evaluator, extents: Sequence[Dim], body: Callable[[list[Prim]], None]
) -> None:
    """Serial loops over `extents`."""

    def level(parts: list[Prim], rest: Sequence[Dim]) -> None:
        if not rest:
            body(parts)
            return
        with T.serial(evaluator.sizes.expr(rest[0])) as i:
            level([*parts, i], rest[1:])

    level([], extents)


def _cell(dtype: DType) -> tirx.Buffer:
    return T.alloc_buffer((int64(1),), TVM_DTYPE[dtype], scope="local")


def _put(cell: tirx.Buffer, value: Prim) -> None:
    T.buffer_store(cell, value, [int64(0)])


def _get(cell: tirx.Buffer) -> Prim:
    return cell[int64(0)]


def _wide(dtype: DType) -> DType:
    return DType.f32 if dtype in (DType.f16, DType.bf16) else dtype


def _limit(dtype: DType, lowest: bool) -> Prim:
    if dtype.is_float:
        return immediate(float("-inf") if lowest else float("inf"), dtype)
    if dtype is DType.bool:
        return immediate(not lowest, dtype)
    bits = 8 * dtype.bytes
    signed = not str(dtype).startswith("u")
    low, high = (-(1 << (bits - 1)), (1 << (bits - 1)) - 1) if signed else (0, (1 << bits) - 1)
    return immediate(low if lowest else high, dtype)


def _better(greater: bool, dtype: DType) -> Combine:
    def pick(x: Prim, y: Prim) -> Prim:
        wins = y > x if greater else y < x
        if dtype.is_float:
            wins = tirx.any(wins, is_nan(y))
        return tirx.Select(wins, y, x)

    return pick


def _reduce(evaluator: Evaluator, node: Node, stores: Sequence[tirx.Buffer]) -> None:
    (x,) = node.present_operands
    rank = x.type.rank
    name = node.op.name
    axes = sorted(a % rank for a in _ints(node, "axes")) if rank else []
    kept = [a for a in range(rank) if a not in axes]
    dtype = _wide(x.type.dtype)
    if name == "reduce_mean" and dtype.is_integer:
        dtype = DType.i64  # a sum may not fit where the mean does
    start, combine = {
        "reduce_sum": (immediate(0, dtype), lambda a, b: a + b),
        "reduce_mean": (immediate(0, dtype), lambda a, b: a + b),
        "reduce_prod": (immediate(1, dtype), lambda a, b: a * b),
        "reduce_max": (_limit(dtype, lowest=True), _better(True, dtype)),
        "reduce_min": (_limit(dtype, lowest=False), _better(False, dtype)),
        "reduce_all": (immediate(True, DType.bool), tirx.And),
    }[name]
    out_shape = tuple(x.type.shape[a] for a in kept)
    # results that are neighbours are summed beside each other: no row of memory is read in steps
    width = out_shape[-1] if kept and kept[-1] == rank - 1 else 1
    some = _COLUMNS if not isinstance(width, int) or width >= _COLUMNS // 4 else 1
    blocked = out_shape if some == 1 else (*out_shape[:-1], floor_div(width + some - 1, some))

    def block(outer: list[Prim]) -> None:
        cells = T.alloc_buffer((int64(some),), TVM_DTYPE[dtype])
        first, count = int64(0) if some == 1 else outer[-1] * int64(some), int64(some)
        if not isinstance(width, int) or width % some:
            count = T.Bind(tirx.min(evaluator.sizes.expr(width) - first, count))

        def places(column: Prim) -> list[Prim]:
            return outer if some == 1 else [*outer[:-1], first + column]

        def visit(inner: list[Prim]) -> None:
            with T.serial(count) as column:
                parts: list[Prim] = [int64(0)] * rank
                for a, p in zip([*kept, *axes], [*places(column), *inner], strict=True):
                    parts[a] = p
                value = cast_to(_read(evaluator, x, parts), x.type.dtype, dtype)
                T.buffer_store(cells, combine(cells[column], value), [column])

        with T.serial(count) as column:
            T.buffer_store(cells, start, [column])
        _inner(evaluator, [x.type.shape[a] for a in axes], visit)
        with T.serial(count) as column:
            result = cells[column]
            if name == "reduce_mean":
                size = product(x.type.shape[a] for a in axes)
                total = cast_to(evaluator.sizes.expr(size), DType.i64, dtype)
                if size == 0:  # which TVM does not divide by
                    result = immediate(float("nan") if dtype.is_float else 0, dtype)
                else:
                    result = result / total if dtype.is_float else tirx.truncdiv(result, total)
            at = Index.of(out_shape, places(column), evaluator.sizes).flat()
            T.buffer_store(stores[0], cast_to(result, dtype, x.type.dtype), [at])

    _nest(evaluator, blocked, block, is_large(x.type.size))


def _arg(evaluator: Evaluator, node: Node, stores: Sequence[tirx.Buffer]) -> None:
    (x,) = node.present_operands
    axis = _int(node, "axis") % x.type.rank
    dtype = _wide(x.type.dtype)
    before, beside = order(node.op.name == "argmax", dtype, nan_first=True)
    ahead = beside if node.attributes["last"] else before
    outer_shape = (*x.type.shape[:axis], *x.type.shape[axis + 1 :])

    def element(outer: list[Prim]) -> None:
        best, place = _cell(dtype), _cell(DType.i64)
        _put(place, int64(0))
        _put(best, immediate(0, dtype))
        with T.serial(evaluator.sizes.expr(x.type.shape[axis])) as i:
            value = _read(evaluator, x, [*outer[:axis], i, *outer[axis:]])
            value = T.Bind(cast_to(value, x.type.dtype, dtype))
            with T.If(tirx.any(tirx.EQ(i, int64(0)), ahead(value, _get(best)))), T.Then():
                _put(best, value)
                _put(place, i)
        at = Index.of(outer_shape, outer, evaluator.sizes).flat()
        T.buffer_store(stores[0], _get(place), [at])

    _nest(evaluator, outer_shape, element, is_large(x.type.size))


def _cumsum(evaluator: Evaluator, node: Node, stores: Sequence[tirx.Buffer]) -> None:
    (x,) = node.present_operands
    axis = _int(node, "axis") % x.type.rank
    size = evaluator.sizes.expr(x.type.shape[axis])
    outer_shape = (*x.type.shape[:axis], *x.type.shape[axis + 1 :])
    dtype = _wide(x.type.dtype)

    def line(outer: list[Prim]) -> None:
        total = _cell(dtype)
        _put(total, immediate(0, dtype))
        with T.serial(size) as step:
            i = size - int64(1) - step if node.attributes["reverse"] else step
            parts = [*outer[:axis], i, *outer[axis:]]
            value = cast_to(_read(evaluator, x, parts), x.type.dtype, dtype)
            at = Index.of(x.type.shape, parts, evaluator.sizes).flat()
            if node.attributes["exclusive"]:
                T.buffer_store(stores[0], cast_to(_get(total), dtype, x.type.dtype), [at])
                _put(total, _get(total) + value)
            else:
                _put(total, _get(total) + value)
                T.buffer_store(stores[0], cast_to(_get(total), dtype, x.type.dtype), [at])

    _nest(evaluator, outer_shape, line, is_large(x.type.size))


def _scatter_nd(evaluator: Evaluator, node: Node, stores: Sequence[tirx.Buffer]) -> None:
    x, places, updates = node.present_operands
    depth = places.type.shape[-1]
    assert isinstance(depth, int)
    sizes = evaluator.sizes

    def copy(parts: list[Prim]) -> None:
        at = Index.of(x.type.shape, parts, sizes).flat()
        T.buffer_store(stores[0], _read(evaluator, x, parts), [at])

    dtype = _wide(x.type.dtype)
    combine: dict[str, Combine] = {
        "none": lambda old, new: new,
        "add": lambda old, new: old + new,
        "mul": lambda old, new: old * new,
        "max": _better(True, dtype),
        "min": _better(False, dtype),
    }

    def write(parts: list[Prim]) -> None:
        outer = parts[: places.type.rank - 1]
        target: list[Prim] = []
        for k in range(depth):
            place = _read(evaluator, places, [*outer, int64(k)])
            target.append(wrapped(sizes, place, places.type.dtype, x.type.shape[k]))
        target += parts[places.type.rank - 1 :]
        at = T.Bind(Index.of(x.type.shape, target, sizes).flat())
        new = cast_to(_read(evaluator, updates, parts), x.type.dtype, dtype)
        old = cast_to(stores[0][at], x.type.dtype, dtype)
        result = combine[str(node.attributes["reduction"])](old, new)
        T.buffer_store(stores[0], cast_to(result, dtype, x.type.dtype), [at])

    _nest(evaluator, x.type.shape, copy, is_large(x.type.size))
    with T.If(sizes.expr(x.type.size) > int64(0)), T.Then():  # else no place is safe to write
        _nest(evaluator, updates.type.shape, write, False)


def _windows(
    node: Node, spatial: list[Prim], offsets: list[Prim], x: Value, evaluator: Evaluator
) -> tuple[list[Prim], Prim]:
    """The place that an offset of a window reads, and whether it is inside."""
    strides, low = _ints(node, "strides"), _ints(node, "low")
    dilations = _ints(node, "dilations") if "dilations" in node.attributes else (1,) * len(low)
    places, inside = [], []
    for a, (at, offset) in enumerate(zip(spatial, offsets, strict=True)):
        place = at * int64(strides[a]) + offset * int64(dilations[a]) - int64(low[a])
        places.append(place)
        inside += [place >= int64(0), place < evaluator.sizes.expr(x.type.shape[2 + a])]
    return places, tirx.all(*inside)


def _conv(evaluator: Evaluator, node: Node, stores: Sequence[tirx.Buffer]) -> None:
    x, weight = node.present_operands[:2]
    out, per_group, *kernel = weight.type.shape
    assert isinstance(out, int)
    each = out // _int(node, "groups")
    dtype = _wide(x.type.dtype)
    sizes = evaluator.sizes

    def element(parts: list[Prim]) -> None:
        n, o, *spatial = parts
        total = _cell(dtype)
        _put(total, immediate(0, dtype))
        group = tirx.floordiv(o, int64(each))

        def visit(inner: list[Prim]) -> None:
            c, *offsets = inner
            places, inside = _windows(node, spatial, offsets, x, evaluator)
            with T.If(inside), T.Then():
                channel = group * sizes.expr(per_group) + c
                a = cast_to(_read(evaluator, x, [n, channel, *places]), x.type.dtype, dtype)
                b = cast_to(_read(evaluator, weight, [o, c, *offsets]), x.type.dtype, dtype)
                _put(total, _get(total) + a * b)

        _inner(evaluator, [per_group, *kernel], visit)
        result = _get(total)
        if len(node.present_operands) > 2:
            bias = _read(evaluator, node.present_operands[2], [o])
            result = result + cast_to(bias, x.type.dtype, dtype)
        at = Index.of(node.result.type.shape, parts, sizes).flat()
        T.buffer_store(stores[0], cast_to(result, dtype, x.type.dtype), [at])

    _nest(evaluator, node.result.type.shape, element, is_large(node.result.type.size))


def _pool(evaluator: Evaluator, node: Node, stores: Sequence[tirx.Buffer]) -> None:
    (x,) = node.present_operands
    mean = node.op.name == "average_pool"
    dtype = _wide(x.type.dtype)
    kernel = _ints(node, "kernel")

    def element(parts: list[Prim]) -> None:
        n, c, *spatial = parts
        total, count = _cell(dtype), _cell(dtype)
        _put(total, immediate(0, dtype) if mean else _limit(dtype, lowest=True))
        _put(count, immediate(0, dtype))

        def visit(offsets: list[Prim]) -> None:
            places, inside = _windows(node, spatial, offsets, x, evaluator)
            with T.If(inside), T.Then():
                value = cast_to(_read(evaluator, x, [n, c, *places]), x.type.dtype, dtype)
                if mean:
                    _put(total, _get(total) + value)
                    _put(count, _get(count) + immediate(1, dtype))
                else:
                    _put(total, _better(True, dtype)(_get(total), value))

        _inner(evaluator, kernel, visit)
        result = _get(total)
        if mean:
            padded = node.attributes["count_padding"]
            area = immediate(int(np.prod(kernel)), dtype)
            result = result / (area if padded else _get(count))
        at = Index.of(node.result.type.shape, parts, evaluator.sizes).flat()
        T.buffer_store(stores[0], cast_to(result, dtype, x.type.dtype), [at])

    _nest(evaluator, node.result.type.shape, element, is_large(node.result.type.size))


def emit_plain_matmul(evaluator: Evaluator, node: Node, output: Value, store: tirx.Buffer) -> None:
    """A product of matrices of any element type, and what is fused behind it."""
    x, y = node.present_operands
    shape = node.result.type.shape
    dtype = _wide(x.type.dtype)

    def element(parts: list[Prim]) -> None:
        total = _cell(dtype)
        _put(total, immediate(0, dtype))
        batch = Index.of(shape[:-2], parts[:-2], evaluator.sizes)
        with T.serial(evaluator.sizes.expr(x.type.shape[-1])) as k:
            left = [*batch.broadcast_to(x.type.shape[:-2]).axes(), parts[-2], k]
            right = [*batch.broadcast_to(y.type.shape[:-2]).axes(), k, parts[-1]]
            a = cast_to(_read(evaluator, x, left), x.type.dtype, dtype)
            b = cast_to(_read(evaluator, y, right), x.type.dtype, dtype)
            _put(total, _get(total) + a * b)
        at = Index.of(shape, parts, evaluator.sizes)
        value = cast_to(_get(total), dtype, x.type.dtype)
        evaluator.fresh().finish(node, output, store, at, value)

    _nest(evaluator, shape, element, is_large(node.result.type.size))


LOOP_KERNELS: dict[str, Callable[[Evaluator, Node, Sequence[tirx.Buffer]], None]] = {
    **dict.fromkeys(
        ("reduce_sum", "reduce_mean", "reduce_prod", "reduce_max", "reduce_min", "reduce_all"),
        _reduce,
    ),
    "argmax": _arg,
    "argmin": _arg,
    "cumsum": _cumsum,
    "topk": emit_topk,
    "scatter_nd": _scatter_nd,
    "conv": _conv,
    "max_pool": _pool,
    "average_pool": _pool,
    "suppress": emit_suppress,
}
