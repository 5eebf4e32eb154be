"""ONNX Runtime's operators on integers that stand for floats: blocks of few bits, and products.

Meanings are those of ONNX Runtime's `docs/ContribOperators.md`. Weights that are constants stay
integers in the graph, one to a byte.
"""

# mypy: disable-error-code="no-any-return"
# (operators hand back `Any`: their results are read from their types)

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from tunesmith.ir import opset as ops
from tunesmith.ir.ops import Expr
from tunesmith.ir.types import DType

from ..onnx_call import Call, Result, Table
from .building import cast_to, expand_to, reshape_to, settled, slice_to
from .linear import integer_product, multiplied
from .narrow import widened
from .quantize import dynamic

__all__ = ["MICROSOFT_QUANTIZED", "scaled_product"]


def _known(call: Call, index: int, what: str) -> NDArray[np.generic]:
    """A weight as an array; it must be a constant."""
    found = settled(call.x(index)).value.constant
    if found is None:
        call.fail(f"its {what} must be a constant", hint="make it an initializer")
    return found.array


def _unpacked(packed: NDArray[np.generic], bits: int) -> NDArray[np.uint8]:
    """Bytes `[..., n]` → elements `[..., n * 8 / bits]`, the lowest bits of a byte first."""
    data = packed.astype(np.uint8)
    fields = [data >> (bits * i) & ((1 << bits) - 1) for i in range(8 // bits)]
    return np.stack(fields, axis=-1).reshape(*data.shape[:-1], -1)


def _bits(call: Call, default: int) -> int:
    bits = call.integer("bits", default)
    if bits not in (2, 4, 8):
        call.fail(f"weights of {bits} bits are not supported, of 2, 4 or 8 they are")
    return bits


def _matmul_bits(call: Call) -> Result:
    """`A @ dequantized(B).T + bias`: rows of B in blocks, each with a scale and a zero point."""
    if call.has(4):
        call.fail("groups by index (`g_idx`) are not supported")
    if call.integer("weight_prepacked", 0):
        call.fail("weights that are packed for one device are not supported")
    a, bits = call.x(0), _bits(call, 4)
    inner, cols, block = (call.integer(name) for name in ("K", "N", "block_size"))
    if inner < 1 or cols < 1 or block < 1:
        call.fail(f"blocks of {block} of {cols} rows of {inner} make no matrix")
    if a.shape[-1] != inner:
        call.fail(f"{a.type} does not have the {inner} columns that `K` says")
    blocks = -(-inner // block)
    packed = _known(call, 1, "matrix")
    if packed.dtype != np.uint8 or packed.size != cols * blocks * (block * bits // 8):
        call.fail(f"a matrix of {packed.size} bytes does not hold {cols} rows of {inner}")
    codes = _unpacked(packed.reshape(cols, blocks, -1), bits).astype(np.int16)
    if call.has(3) and call.dtype(3).is_float:
        zeros = reshape_to(call.x(3), (cols, blocks))
        codes_zero = None
    else:
        zeros, codes_zero = None, np.full((cols, blocks), 1 << (bits - 1), np.int16)
        if call.has(3):
            each = -(-blocks * bits // 8)
            held = _unpacked(_known(call, 3, "zero points").reshape(cols, each), bits)
            codes_zero = held[:, :blocks].astype(np.int16)
    if codes_zero is not None:
        codes = codes - codes_zero[..., None]
    narrow = np.int8 if not codes.size or abs(codes + 0.5).max() < 128 else np.int16
    flat = codes.reshape(cols, blocks * block)[:, :inner].T.astype(narrow)

    def by_rows(x: Expr) -> Expr:  # [N, blocks] → [K, N]
        turned = reshape_to(ops.transpose(reshape_to(x, (cols, blocks)), perm=(1, 0)),
                            (blocks, 1, cols))  # fmt: skip
        wide = reshape_to(expand_to(turned, (blocks, block, cols)), (blocks * block, cols))
        return slice_to(wide, 0, 0, inner)

    scale = by_rows(call.x(2))
    weight: Expr = ops.dequantize(call.constant(flat), scale)
    if zeros is not None:
        weight = weight - cast_to(by_rows(zeros), weight.dtype) * scale
    y = multiplied(a, cast_to(weight, a.dtype))
    return y + call.x(5) if call.has(5) else y


def _gather_blocks(call: Call) -> Result:
    """Rows of a table in blocks: codes and scales are gathered, and only then multiplied."""
    data, indices = call.x(0), call.x(1)
    rank, block = len(data.shape), call.integer("block_size", 128)
    gathered = call.axis(call.integer("gather_axis", 0), rank)
    blocked = call.axis(call.integer("quantize_axis", 1), rank)
    if gathered == blocked or block < 16 or block & (block - 1):
        call.fail(f"blocks of {block} along axis {blocked}, gathered along {gathered}, are not"
                  " supported")  # fmt: skip
    zero: Expr | None = None
    if data.dtype is DType.u8:
        bits = _bits(call, 4)
        if bits < 8 and gathered == rank - 1:
            call.fail("bytes that hold several elements cannot be gathered along their axis")
        codes = call.constant(_unpacked(_known(call, 0, "table"), bits))
        middle = call.scalar_of(1 << (bits - 1), DType.i32)
        if call.has(3):
            held = _unpacked(_known(call, 3, "zero points"), bits)
            zero = call.constant(held[..., : _last(call, 2)])
        else:
            zero = middle
    elif data.dtype in (DType.i4, DType.u4):
        codes = widened(call, data)
        zero = widened(call, call.x(3)) if call.has(3) else None
    else:
        call.fail(f"a table of {data.dtype} is not supported, of u8, i4 and u4 it is")
    size = codes.shape[blocked]
    scales = call.x(2)
    if not isinstance(size, int) or scales.shape[blocked] != -(-size // block):
        call.fail(f"scales {scales.type} do not fit {codes.type} in blocks of {block}")
    rows = [ops.gather(x, indices, axis=gathered) for x in (codes, scales)]
    if zero is not None and zero.shape:
        zero = ops.gather(zero, indices, axis=gathered)
    shift = len(indices.shape) - 1 if gathered < blocked else 0
    axis = blocked + shift
    whole = cast_to(rows[0], DType.i32)
    if zero is not None:
        zero = cast_to(zero, DType.i32)
        whole = whole - (zero if not zero.shape else _by_blocks(zero, axis, block, size))
    return ops.dequantize(whole, _by_blocks(rows[1], axis, block, size))


def _last(call: Call, index: int) -> int:
    """The last size of an operand, which must be known."""
    size = call.shape(index)[-1]
    if not isinstance(size, int):
        call.fail(f"needs a known size, not {size}")
    return size


def _by_blocks(x: Expr, axis: int, block: int, size: int) -> Expr:
    """Each element `block` times along an axis, cut to `size`."""
    shape = x.shape
    wide = reshape_to(x, (*shape[: axis + 1], 1, *shape[axis + 1 :]))
    wide = expand_to(wide, (*shape[: axis + 1], block, *shape[axis + 1 :]))
    flat = reshape_to(wide, (*shape[:axis], shape[axis] * block, *shape[axis + 1 :]))
    return slice_to(flat, axis, 0, size)


def scaled_product(
    call: Call, a: Expr, a_zero: Expr | None, a_scale: Expr, b: int, b_zero: int, b_scale: Expr
) -> Expr:
    """`(a - a_zero) @ (b - b_zero) * (a_scale * b_scale)`; `b`, `b_zero` are operands' places."""
    zeros = [a_zero, call.x(b_zero) if call.has(b_zero) else None]
    left, right = (None if z is None else _scalar(cast_to(z, DType.i32)) for z in zeros)
    total = integer_product(call, a, left, call.x(b), right)
    return cast_to(total, DType.f32) * (_scalar(a_scale) * _scalar(b_scale))


def _scalar(x: Expr) -> Expr:
    return reshape_to(x, ()) if x.shape == (1,) else x


def _dynamic_matmul(call: Call) -> Result:
    """Rows become u8 by the range of all of them; the rest is `MatMulIntegerToFloat`."""
    codes, scale, zero = dynamic(call, call.x(0))
    y = scaled_product(call, codes, zero, scale, 1, 3, call.x(2))
    return y + call.x(4) if call.has(4) else y


def _integer_to_float(call: Call) -> Result:
    zero = call.x(4) if call.has(4) else None
    y = scaled_product(call, call.x(0), zero, call.x(2), 1, 5, call.x(3))
    return y + call.x(6) if call.has(6) else y


MICROSOFT_QUANTIZED: Table = {
    "DynamicQuantizeMatMul": ((1, _dynamic_matmul),),
    "GatherBlockQuantized": ((1, _gather_blocks),),
    "MatMulIntegerToFloat": ((1, _integer_to_float),),
    "MatMulNBits": ((1, _matmul_bits),),
}
