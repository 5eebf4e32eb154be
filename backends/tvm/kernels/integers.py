"""Integer arithmetic that wraps, as it does everywhere but in C.

TVM and LLVM take it that numbers of 32 and 64 bits never overflow, signed or not, and fold
`x + 1 > x` to true. So 32 bits are computed in 64, and 64 bits in halves whose sums cannot
overflow.
"""

from __future__ import annotations

from collections.abc import Callable

from tvm import tirx
from tvm.ir import Expr as Prim

from tunesmith.ir.types import DType

from ..schedule.emit import held
from .literals import TVM_DTYPE, immediate

__all__ = ["add", "divide", "modulo", "multiply", "negate", "power", "subtract"]

_BITS, _MASK = tirx.const(32, "uint64"), tirx.const(0xFFFFFFFF, "uint64")


def add(x: Prim, y: Prim, dtype: DType) -> Prim:
    """`x + y`, modulo the range of the type."""
    if dtype.bytes < 8:
        return _wider(lambda a, b: a + b, x, y, dtype)
    (x_low, x_high), (y_low, y_high) = _halves(x, dtype), _halves(y, dtype)
    low = x_low + y_low
    return _joined(low, x_high + y_high + (low >> _BITS), dtype)


def subtract(x: Prim, y: Prim, dtype: DType) -> Prim:
    """`x - y`, modulo the range of the type."""
    if dtype.bytes < 8:
        return _wider(lambda a, b: a - b, x, y, dtype)
    (x_low, x_high), (y_low, y_high) = _halves(x, dtype), _halves(y, dtype)
    low = x_low + (_MASK - y_low) + tirx.const(1, "uint64")
    return _joined(low, x_high + (_MASK - y_high) + (low >> _BITS), dtype)


def negate(x: Prim, dtype: DType) -> Prim:
    """`-x`, modulo the range of the type."""
    return subtract(immediate(0, dtype), x, dtype)


def multiply(x: Prim, y: Prim, dtype: DType) -> Prim:
    """`x * y`, modulo the range of the type."""
    if dtype.bytes < 8:
        return _wider(lambda a, b: a * b, x, y, dtype, "uint64" if dtype is DType.u32 else "int64")
    (x_low, x_high), (y_low, y_high) = _halves(x, dtype), _halves(y, dtype)
    low = x_low * y_low
    cross = tirx.bitwise_and(x_low * y_high, _MASK) + tirx.bitwise_and(x_high * y_low, _MASK)
    return _joined(low, cross + (low >> _BITS), dtype)


def divide(x: Prim, y: Prim, dtype: DType) -> Prim:
    """Towards zero; by -1 the opposite, which wraps where the machine's division would trap."""
    if isinstance(y, tirx.IntImm) and int(y.value) not in (0, -1):
        return tirx.truncdiv(x, y)
    quotient = tirx.truncdiv(x, _safe_divisor(y, dtype))
    if _is_unsigned(dtype):
        return quotient
    opposite = negate(x, dtype)
    return tirx.Select(tirx.EQ(y, immediate(-1, dtype)), opposite, held(quotient))


def modulo(x: Prim, y: Prim, dtype: DType) -> Prim:
    """`x - y * floor(x / y)`; what is taken by 0 is anything."""
    if isinstance(y, tirx.IntImm) and int(y.value) not in (0, -1):
        return tirx.floormod(x, y)
    return tirx.floormod(x, _safe_divisor(y, dtype))


def _safe_divisor(y: Prim, dtype: DType) -> Prim:
    """1 in place of 0 and -1, for which division traps; in a cell, so that it stays so."""
    unsafe = tirx.EQ(y, immediate(0, dtype))
    if not _is_unsigned(dtype):
        unsafe = tirx.any(unsafe, tirx.EQ(y, immediate(-1, dtype)))
    return held(tirx.Select(unsafe, immediate(1, dtype), y))


def power(x: Prim, y: Prim, dtype: DType) -> Prim:
    """By squaring, bit by bit of the exponent, so that products wrap as they do elsewhere.

    In unsigned numbers: TVM takes signed ones for indices, and looks through all variables.
    """
    zero, one = immediate(0, dtype), immediate(1, dtype)
    plain = TVM_DTYPE[dtype]
    field = plain if plain.startswith("u") else f"u{plain}"
    known = int(y.value) if isinstance(y, tirx.IntImm) else None
    signed = not _is_unsigned(dtype)
    bits = 8 * dtype.bytes - signed if known is None else max(known, 0).bit_length()
    result, square = tirx.const(1, field), held(x.astype(field))
    for bit in range(bits):
        product = result * square
        if known is None:
            mask = immediate(1 << bit, dtype)
            product = tirx.Select(tirx.EQ(tirx.bitwise_and(y, mask), zero), result, product)
        elif not known >> bit & 1:
            product = result
        result = held(product)
        square = held(square * square) if bit + 1 < bits else square
    result = result.astype(plain)
    if not signed or (known is not None and known >= 0):
        return result
    flipped = tirx.Select(tirx.EQ(tirx.bitwise_and(y, one), zero), one, x)
    is_unit = tirx.any(tirx.EQ(x, one), tirx.EQ(x, immediate(-1, dtype)))
    return tirx.Select(y < zero, tirx.Select(is_unit, flipped, zero), result)


def _wider(
    function: Callable[[Prim, Prim], Prim], x: Prim, y: Prim, dtype: DType, wide: str = "int64"
) -> Prim:
    """In 64 bits; numbers of less than 32 bits wrap by themselves."""
    if dtype.bytes < 4 and dtype.value.startswith("i"):
        return function(x, y)
    return function(x.astype(wide), y.astype(wide)).astype(TVM_DTYPE[dtype])


def _halves(x: Prim, dtype: DType) -> tuple[Prim, Prim]:
    if isinstance(x, tirx.IntImm):
        bits = int(x.value) % (1 << 64)
        return tirx.const(bits & 0xFFFFFFFF, "uint64"), tirx.const(bits >> 32, "uint64")
    bits = x if dtype is DType.u64 else x.astype("uint64")
    return tirx.bitwise_and(bits, _MASK), bits >> _BITS


def _joined(low: Prim, high: Prim, dtype: DType) -> Prim:
    bits = tirx.bitwise_or(high << _BITS, tirx.bitwise_and(low, _MASK))
    return bits if dtype is DType.u64 else bits.astype("int64")


def _is_unsigned(dtype: DType) -> bool:
    return dtype.value.startswith("u")
