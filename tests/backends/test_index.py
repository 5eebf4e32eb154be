"""Indices against NumPy: where an element lies, whatever shapes are put around it."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tvm import tirx
from tvm.ir import Expr as Prim

from tunesmith.backends.tvm.index import Index, Sizes, int64
from tunesmith.ir.dims import Dim, dim, evaluate_dim, floor_div, product
from tunesmith.ir.types import Shape

pytestmark = pytest.mark.tvm

B, S, P = dim("B"), dim("S"), dim("P")
NUMBERS = {"B": 3, "S": 5, "P": 4}


ARITHMETIC: dict[type, Callable[[int, int], int]] = {
    tirx.Add: operator.add,
    tirx.Sub: operator.sub,
    tirx.Mul: operator.mul,
    tirx.FloorDiv: operator.floordiv,
    tirx.FloorMod: operator.mod,
}


def number(expr: Prim, sizes: Sizes, known: Mapping[tirx.Var, int] | None = None) -> int:
    """The value of an expression, its symbols and variables replaced by numbers."""
    if isinstance(expr, tirx.IntImm):
        return int(expr.value)
    if isinstance(expr, tirx.Var):
        for name, value in NUMBERS.items():
            if expr.same_as(sizes.variables.get(name)):
                return value
        return next(value for var, value in (known or {}).items() if expr.same_as(var))
    left, right = number(expr.a, sizes, known), number(expr.b, sizes, known)
    return ARITHMETIC[type(expr)](left, right)


def measured(shape: Shape) -> tuple[int, ...]:
    """The shape in numbers."""
    return tuple(evaluate_dim(d, NUMBERS) for d in shape)


def places(shape: Shape) -> list[tuple[int, ...]]:
    """Some places in a tensor, the first and the last among them."""
    extents = measured(shape)
    total = int(np.prod(extents, dtype=np.int64))
    flat = sorted({0, total - 1, total // 2, total // 3, total * 2 // 7})
    return [tuple(map(int, np.unravel_index(at, extents))) for at in flat] if extents else [()]


def variables(rank: int) -> list[tirx.Var]:
    return [tirx.Var(f"i{axis}", "int64") for axis in range(rank)]


def flat_of(place: tuple[int, ...], extents: tuple[int, ...]) -> int:
    return int(np.ravel_multi_index(place, extents)) if extents else 0


SHAPES: list[Shape] = [
    (), (1,), (7,), (2, 3), (1, 4, 1), (2, 1, 3, 1), (B, S, 4), (B * S, 2), (1, S), (S, 1, B),
    (2 * S + 1, 3), (floor_div(S - 1, 2), B),
]  # fmt: skip


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_flat_and_back(shape: Shape) -> None:
    sizes, extents = Sizes(), measured(shape)
    parts = variables(len(shape))
    index = Index.of(shape, parts, sizes)
    whole = tirx.Var("at", "int64")
    run = Index(((shape, whole),), sizes)
    assert index.shape == run.shape == shape
    for place in places(shape):
        known = dict(zip(parts, place, strict=True))
        at = flat_of(place, extents)
        assert number(index.flat(), sizes, known) == at
        assert tuple(number(axis, sizes, {whole: at}) for axis in run.axes()) == place
        assert tuple(number(axis, sizes, known) for axis in index.per_axis().axes()) == place


RESHAPES: list[tuple[Shape, Shape]] = [
    ((6,), (2, 3)), ((2, 3), (3, 2)), ((2, 3, 4), (6, 4)), ((2, 3, 4), (2, 12)),
    ((4, 6), (2, 2, 6)),
    ((1,), ()), ((), (1, 1)), ((1, 6, 1), (6,)), ((2, 1, 3), (2, 3)), ((2, 3), (1, 2, 1, 3, 1)),
    ((B, S, 4), (B * S, 4)), ((B * S, 4), (B, S, 2, 2)), ((B, S, 4), (B * S * 4,)),
    ((B, S, 4), (S, B, 4)), ((B, S, 12), (B, S, 3, 4)), ((B, S, 3, 4), (B, S, 12)),
    ((B * S, 4), (4, 1, B, S)), ((B, S), (1, B, 1, S)), ((B, 2, S), (2 * B, S)),
    ((S + P, 6), (2 * S + 2 * P, 3)), ((B * S, P), (B, S * P)), ((B, 1, S), (B, S, 1)),
    ((2 * floor_div(S, 2), 3), (floor_div(S, 2), 2, 3)),
]  # fmt: skip


@pytest.mark.parametrize(("source", "target"), RESHAPES, ids=str)
def test_reshapes_keep_the_place_in_memory(source: Shape, target: Shape) -> None:
    assert product(source) == product(target)
    for one, other in ((source, target), (target, source)):
        sizes, parts = Sizes(), variables(len(one))
        index = Index.of(one, parts, sizes).reshape_to(other)
        whole = tirx.Var("at", "int64")
        run = Index(((one, whole),), sizes).reshape_to(other)
        assert index.shape == run.shape == other
        for place in places(one):
            known = dict(zip(parts, place, strict=True))
            at = flat_of(place, measured(one))
            want = tuple(map(int, np.unravel_index(at, measured(other)))) if other else ()
            assert number(index.flat(), sizes, known) == at
            assert tuple(number(axis, sizes, known) for axis in index.axes()) == want
            assert tuple(number(axis, sizes, {whole: at}) for axis in run.axes()) == want


BROADCASTS: list[tuple[Shape, Shape]] = [
    ((2, 3), (3,)), ((2, 3), (1, 3)), ((2, 3), (2, 1)), ((2, 3), ()), ((2, 3), (1, 1)),
    ((4, 2, 3), (2, 1)), ((4, 2, 3), (4, 1, 3)), ((B, S, 4), (S, 1)), ((B, S, 4), (B, 1, 4)),
    ((B, S, 4), (4,)), ((B, S), (1, S)), ((B, 1, S), (1, S)), ((1, 1), (1,)), ((B, P, S), (P, S)),
]  # fmt: skip


@pytest.mark.parametrize(("shape", "operand"), BROADCASTS, ids=str)
@pytest.mark.parametrize("merged", [False, True])
def test_broadcast_reads_what_numpy_reads(shape: Shape, operand: Shape, merged: bool) -> None:
    sizes, extents, own = Sizes(), measured(shape), measured(operand)
    offsets = np.arange(int(np.prod(own, dtype=np.int64))).reshape(own)
    table = np.broadcast_to(offsets, extents)
    parts = variables(len(shape))
    whole = tirx.Var("at", "int64")
    index = Index(((shape, whole),), sizes) if merged else Index.of(shape, parts, sizes)
    read = index.broadcast_to(operand)
    assert read.shape == operand
    for place in places(shape):
        known = dict(zip(parts, place, strict=True)) | {whole: flat_of(place, extents)}
        assert number(read.flat(), sizes, known) == table[place]


def test_the_same_shape_is_the_same_index() -> None:
    index = Index.of((B, 4), variables(2), Sizes())
    assert index.broadcast_to((B, 4)) is index and index.reshape_to((B, 4)) is index


def test_runs_stay_together_where_nothing_takes_them_apart() -> None:
    sizes, at = Sizes(), tirx.Var("at", "int64")
    run = Index((((B, S), at), ((4,), int64(2))), sizes)
    for other in ((B * S, 4), (B * S, 2, 2), (1, B * S, 4)):
        first = run.reshape_to(other).segments[0]
        assert first[1].same_as(at), other


def test_an_image_is_one_place_whatever_its_rows_become() -> None:
    """Rows and columns that are halved on the other side: nothing is divided until it is asked."""
    sizes, at = Sizes(), tirx.Var("at", "int64")
    run = Index((((B,), int64(1)), ((2 * S, 2 * P), at)), sizes)
    halved = run.reshape_to((B, S, 2, P, 2))
    assert [part for _, part in halved.segments][1].same_as(at)
    assert halved.reshape_to((B, 2 * S, 2 * P)).segments[1][1].same_as(at)
    rows, columns = halved.cut([1, 3, 5])[1:]
    assert rows[0] == (S, 2) and isinstance(rows[1], tirx.FloorDiv)
    assert columns[0] == (P, 2) and isinstance(columns[1], tirx.FloorMod)
    scale = run.broadcast_to((B, 2 * S, 1)).segments
    assert [dims for dims, _ in scale] == [(B,), (2 * S,), (1,)]


def test_no_elements() -> None:
    sizes, at = Sizes(), tirx.Var("at", "int64")
    assert [number(p, sizes) for p in Index((((2, 0, 3), at),), sizes).axes()] == [0, 0, 0]


def test_sizes_are_polynomials() -> None:
    sizes = Sizes()
    exprs: list[Dim] = [7, S, 3 * S - 2, B * S + P, floor_div(S - 3, 2) + 1, 2 * B * S * P - S, -S]
    for size in exprs:
        assert number(sizes.expr(size), sizes) == evaluate_dim(size, NUMBERS), size
    assert sizes.variable("S") is sizes.variable("S")


def split(total: int, cuts: list[int]) -> Shape:
    """Factors of a size, chosen by numbers."""
    dims: list[int] = []
    for cut in cuts:
        options = [d for d in range(1, total + 1) if total % d == 0]
        dims.append(options[cut % len(options)])
        total //= dims[-1]
    return (*dims, total)


@given(
    st.sampled_from([1, 8, 12, 30, 36, 48]),
    st.lists(st.integers(0, 9), max_size=4),
    st.lists(st.integers(0, 9), max_size=4),
)
def test_reshapes_of_any_shape(total: int, left: list[int], right: list[int]) -> None:
    source, target = split(total, left), split(total, right)
    sizes, parts = Sizes(), variables(len(source))
    index = Index.of(source, parts, sizes).reshape_to(target)
    for place in places(source):
        known = dict(zip(parts, place, strict=True))
        at = flat_of(place, measured(source))
        want = tuple(map(int, np.unravel_index(at, measured(target))))
        assert tuple(number(axis, sizes, known) for axis in index.axes()) == want
