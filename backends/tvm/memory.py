"""How much memory a lowered model needs besides its weights, once its storage is planned."""

from __future__ import annotations

from collections.abc import Mapping

from tvm import relax, tirx
from tvm.ir import Expr, IRModule

from tunesmith.ir.dims import Dim, floor_div

from .kernels.literals import TVM_DTYPE

__all__ = ["planned_bytes"]

DTYPE_BYTES = {name: dtype.bytes for dtype, name in TVM_DTYPE.items()}


def planned_bytes(module: IRModule, sizes: Mapping[str, Dim]) -> Dim | None:
    """The bytes of all shared storage and of the results of `main`, in the symbols of the graph.

    `sizes` are the dims that the variables of the module stand for. Intermediate values that are
    never alive together share storage. Workspaces inside of kernels, a few times the second cache
    at most for each thread, are not counted. `None` if a size is written in a way that the dims of
    a graph do not have.
    """
    total: Dim = 0
    for block in module["main"].body.blocks:
        for binding in block.bindings:
            found = _allocated(binding.value, sizes)
            if found is None:
                return None
            total = total + found
    return total


def _allocated(value: Expr, sizes: Mapping[str, Dim]) -> Dim | None:
    """The bytes that a call allocates: storage, or a result that lives on."""
    name = getattr(getattr(value, "op", None), "name", "")
    if name not in ("relax.memory.alloc_storage", "relax.builtin.alloc_tensor"):
        return 0
    shape = value.args[0]
    assert isinstance(shape, relax.ShapeExpr)
    total: Dim = 1
    for size in shape.values:
        one = _dim(size, sizes)
        if one is None:
            return None
        total = total * one
    if name == "relax.builtin.alloc_tensor":
        total = total * DTYPE_BYTES[str(value.args[1].value)]
    return total


def _dim(expr: Expr, sizes: Mapping[str, Dim]) -> Dim | None:
    """A size of TVM as a dim."""
    if isinstance(expr, tirx.IntImm):
        return int(expr.value)
    if isinstance(expr, tirx.Var):
        return sizes.get(expr.name)
    if not isinstance(expr, tirx.Add | tirx.Sub | tirx.Mul | tirx.FloorDiv):
        return None
    left, right = _dim(expr.a, sizes), _dim(expr.b, sizes)
    if left is None or right is None:
        return None
    if isinstance(expr, tirx.Add):
        return left + right
    if isinstance(expr, tirx.Sub):
        return left - right
    if isinstance(expr, tirx.Mul):
        return left * right
    return floor_div(left, right) if isinstance(right, int) else None
