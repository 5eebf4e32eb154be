"""Products of matrices, and sums of products in Einstein's notation."""

from __future__ import annotations

from tunesmith.ir import opset as ops
from tunesmith.ir.dims import Dim, product
from tunesmith.ir.ops import Expr
from tunesmith.ir.types import DType

from ..onnx_call import Call, Result, Table
from .building import cast_to, permute, reshape_to

__all__ = ["LINEAR", "multiplied"]


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
    a, b = cast_to(call.x(0), DType.i32), cast_to(call.x(1), DType.i32)
    if call.has(2):
        zero = cast_to(call.x(2), DType.i32)
        if len(zero.shape) == 1 and zero.shape[0] != 1:
            zero = reshape_to(zero, (*zero.shape, 1))
        a = a - (reshape_to(zero, ()) if zero.shape == (1,) else zero)
    if call.has(3):
        zero = cast_to(call.x(3), DType.i32)
        b = b - (reshape_to(zero, ()) if zero.shape == (1,) else zero)
    return multiplied(a, b)


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
    if any(len(set(term)) != len(term) for term in terms):
        call.fail("a letter that stands twice in one operand is not supported")
    x, letters = call.x(0), terms[0]
    for i, term in enumerate(terms[1:], 1):
        later = set(result).union(*terms[i + 1 :])
        x, letters = _pair(x, letters, call.x(i), term, later)
    x, letters = _summed(x, letters, set(result))
    if set(letters) != set(result):
        call.fail(f"its result has letters that no operand has: {result}")
    return permute(x, (letters.index(c) for c in result))


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


LINEAR: Table = {
    "Einsum": ((12, _einsum),),
    "Gemm": ((1, _gemm),),
    "MatMul": ((1, _matmul),),
    "MatMulInteger": ((10, _matmul_integer),),
}
