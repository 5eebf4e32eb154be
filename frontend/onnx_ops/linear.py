"""Products of matrices, and sums of products in Einstein's notation."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tunesmith.ir import opset as ops
from tunesmith.ir.dims import Dim, product
from tunesmith.ir.ops import Expr
from tunesmith.ir.types import DType

from ..onnx_call import Call, Result, Table
from .building import along, cast_to, index_axis, permute, reshape_to, settled, slice_to

__all__ = ["EXACT", "LINEAR", "integer_product", "multiplied"]


def multiplied(x: Expr, y: Expr) -> Expr:
    """`x @ y` as NumPy's matmul, vectors included."""
    row, column = len(x.shape) == 1, len(y.shape) == 1
    if row:
        x = reshape_to(x, (1, *x.shape))
    if column:
        y = reshape_to(y, (*y.shape, 1))
    found: Expr = ops.matmul(x, y)
    shape = found.shape
    if column:
        shape = shape[:-1]
    if row:
        shape = (*shape[:-2], shape[-1]) if not column else shape[:-1]
    return reshape_to(found, shape)


def _matmul(call: Call) -> Result:
    if not call.rank(0) or not call.rank(1):
        call.fail("needs matrices or vectors, not scalars")
    return multiplied(call.x(0), call.x(1))


def _gemm(call: Call) -> Result:
    a, b = call.x(0), call.x(1)
    if len(a.shape) != 2 or len(b.shape) != 2:
        call.fail(f"needs matrices, not {a.type} and {b.type}")
    a = permute(a, (1, 0)) if call.integer("transA", 0) else a
    b = permute(b, (1, 0)) if call.integer("transB", 0) else b
    alpha, beta = call.number("alpha", 1.0), call.number("beta", 1.0)
    y: Expr = ops.matmul(a, b)
    if alpha != 1.0:
        y = y * (alpha if y.dtype.is_float else int(alpha))
    c = call.optional(2)
    if c is None or beta == 0.0:
        return y
    return y + (c if beta == 1.0 else c * (beta if c.dtype.is_float else int(beta)))


def _matmul_integer(call: Call) -> Result:
    zeros = []
    for index, axis in ((2, 0), (3, 1)):
        zero = cast_to(call.x(index), DType.i32) if call.has(index) else None
        if zero is not None and zero.shape == (1,):
            zero = reshape_to(zero, ())
        elif zero is not None and len(zero.shape) == 1 and axis == 0:
            zero = reshape_to(zero, (*zero.shape, 1))
        zeros.append(zero)
    return integer_product(call, call.x(0), zeros[0], call.x(1), zeros[1])


EXACT = 1 << 24  # sums of integers below this are exact in f32


def integer_product(call: Call, a: Expr, a_zero: Expr | None, b: Expr, b_zero: Expr | None) -> Expr:
    """`(a - a_zero) @ (b - b_zero)` in i32.

    A product by a matrix that is known runs in f32, whose kernels are fast, on as many parts of
    its rows as keep every sum exact.
    """
    right = cast_to(b, DType.i32)
    right = right if b_zero is None else right - b_zero
    weight = settled(right).value.constant
    parts = [] if weight is None or len(a.shape) < 2 else _exact_parts(a.dtype, weight.array)
    if weight is None or not parts:
        left = cast_to(a, DType.i32)
        return multiplied(left if a_zero is None else left - a_zero, right)
    x: Expr = cast_to(a, DType.f32)
    if a_zero is not None:
        x = x - cast_to(a_zero, DType.f32)
    narrow = bool(np.all(np.abs(weight.array.astype(np.int64) + 0.5) < 128))
    total: Expr | None = None
    for start, stop in parts:
        rows = weight.array[start:stop].astype(np.int8 if narrow else np.float32)
        part = slice_to(x, len(x.shape) - 1, start, stop)
        found: Expr = cast_to(ops.linear(part, call.constant(rows)), DType.i32)
        total = found if total is None else total + found
    assert total is not None
    return total


def _exact_parts(dtype: DType, weight: NDArray[np.generic]) -> list[tuple[int, int]]:
    """Runs of rows whose sums are exact in f32, whatever they are multiplied by; none if many."""
    if dtype not in (DType.u8, DType.i8) or weight.ndim != 2 or 0 in weight.shape:
        return []
    reach = np.cumsum(np.abs(weight.astype(np.int64)) * 255, axis=0)
    parts: list[tuple[int, int]] = []
    start, below = 0, np.zeros(weight.shape[1], np.int64)
    while start < len(weight):
        inside = np.flatnonzero((reach[start:] - below).max(axis=1) < EXACT)
        if not inside.size or len(parts) == 8:
            return []
        stop = start + int(inside[-1]) + 1
        parts.append((start, stop))
        start, below = stop, reach[stop - 1]
    return parts


# Einsum.


def _terms(call: Call) -> tuple[list[str], str]:
    """The letters of each operand and of the result, with an ellipsis spelled in capitals."""
    equation = call.text("equation").replace(" ", "")
    left, arrow, right = equation.partition("->")
    terms = left.split(",")
    if len(terms) != len(call.inputs):
        call.fail(f"`{equation}` has {len(terms)} operands, the node {len(call.inputs)}")
    most = 0
    for i, term in enumerate(terms):
        if "..." in term:
            most = max(most, call.rank(i) - len(term.replace("...", "")))
    spare = [chr(0x391 + i) for i in range(max(most, 0))]
    for i, term in enumerate(terms):
        count = call.rank(i) - len(term.replace("...", ""))
        if count < 0 or ("..." not in term and count):
            call.fail(f"`{term}` does not fit {call.rank(i)} axes")
        terms[i] = term.replace("...", "".join(spare[len(spare) - count :]))
    if not arrow:
        letters = "".join(terms)
        once = {c for c in letters if letters.count(c) == 1} - set(spare)
        right = "..." + "".join(sorted(once))
    return terms, right.replace("...", "".join(spare))


def _einsum(call: Call) -> Result:
    terms, result = _terms(call)
    x, letters = _diagonal(call.x(0), terms[0])
    for i, term in enumerate(terms[1:], 1):
        later = set(result).union(*terms[i + 1 :])
        x, letters = _pair(x, letters, *_diagonal(call.x(i), term), later)
    x, letters = _summed(x, letters, set(result))
    if set(letters) != set(result):
        call.fail(f"its result has letters that no operand has: {result}")
    return permute(x, (letters.index(c) for c in result))


def _diagonal(x: Expr, letters: str) -> tuple[Expr, str]:
    """An operand with each letter once: of two axes with one letter, only the diagonal counts."""
    for axis in range(len(letters) - 1, -1, -1):
        first = letters.index(letters[axis])
        if first == axis:
            continue
        rank = len(x.shape)
        rows, columns = (
            along(ops.iota(size=x.shape[i], dtype=DType.i64), i, rank) for i in (first, axis)
        )
        kept = ops.where(ops.equal(rows, columns), x, ops.full(
            value=0, shape=(1,) * rank, dtype=x.dtype))  # fmt: skip
        x = ops.reduce_sum(kept, axes=(axis,), keepdims=False)
        letters = letters[:axis] + letters[axis + 1 :]
    return x, letters


def _summed(x: Expr, letters: str, kept: set[str]) -> tuple[Expr, str]:
    axes = tuple(i for i, c in enumerate(letters) if c not in kept)
    if axes:
        x = ops.reduce_sum(x, axes=axes, keepdims=False)
    return x, "".join(c for c in letters if c in kept)


def _pair(x: Expr, a: str, y: Expr, b: str, later: set[str]) -> tuple[Expr, str]:
    """Two operands into one: shared letters that live on are batches, the others are summed."""
    x, a = _summed(x, a, later | set(b))
    y, b = _summed(y, b, later | set(a))
    batch = [c for c in a if c in b and c in later]
    folded = [c for c in a if c in b and c not in later]
    rows, columns = [c for c in a if c not in b], [c for c in b if c not in a]
    sizes: dict[str, Dim] = {}
    for letters, shape in ((a, x.shape), (b, y.shape)):
        for c, size in zip(letters, shape, strict=True):
            if sizes.get(c, 1) == 1:
                sizes[c] = size
    left = permute(x, (a.index(c) for c in batch + rows + folded))
    right = permute(y, (b.index(c) for c in batch + folded + columns))
    kept = left.shape[: len(batch)]
    inner = product(sizes[c] for c in folded)
    m, n = product(sizes[c] for c in rows), product(sizes[c] for c in columns)
    left = reshape_to(left, (*kept, m, inner))
    right = reshape_to(right, (*right.shape[: len(batch)], inner, n))
    found = ops.matmul(left, right)
    shape = (*found.shape[: len(batch)], *(sizes[c] for c in rows), *(sizes[c] for c in columns))
    return reshape_to(found, shape), "".join(batch + rows + columns)


def _det(call: Call) -> Result:
    """The determinant of small matrices, by the minors of the first row."""
    x = call.x()
    size = x.shape[-1] if len(x.shape) > 1 else None
    if size not in (1, 2, 3, 4) or x.shape[-2] != size or not isinstance(size, int):
        call.fail(f"the determinant of {x.type} is not supported: matrices of 1 to 4 rows are")
    rank = len(x.shape)
    items = [
        [index_axis(index_axis(x, rank - 1, j), rank - 2, i) for j in range(size)]
        for i in range(size)
    ]
    return _minors(items)


def _minors(items: list[list[Expr]]) -> Expr:
    if len(items) == 1:
        return items[0][0]
    total: Expr | None = None
    for j, factor in enumerate(items[0]):
        part = factor * _minors([row[:j] + row[j + 1 :] for row in items[1:]])
        total = part if total is None else (total - part if j % 2 else total + part)
    assert total is not None
    return total


LINEAR: Table = {
    "Det": ((11, _det),),
    "Einsum": ((12, _einsum),),
    "Gemm": ((1, _gemm),),
    "MatMul": ((1, _matmul),),
    "MatMulInteger": ((10, _matmul_integer),),
}
