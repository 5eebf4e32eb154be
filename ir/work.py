"""How much work a node is: arithmetic operations, and bytes to and from memory."""

from __future__ import annotations

from collections.abc import Callable

from .builder import trace
from .dims import Dim, product
from .graph import Node, Value

__all__ = ["bytes_moved", "flops"]


def flops(node: Node) -> Dim:
    """Arithmetic operations; one each for an element of `exp` and of `add`, two for a `matmul`.

    A composite counts what its decomposition does; moving elements is free.
    """
    if node.op.is_composite:
        types = [None if value is None else value.type for value in node.operands]
        total: Dim = 0
        for inner in trace(node.op, types, node.attributes).nodes:
            total = total + flops(inner)
        return total
    rule = _FLOPS.get(node.op.name)
    if rule is not None:
        return rule(node)
    if "elementwise" in node.op.traits:
        return node.results[0].type.size
    if "reduce" in node.op.traits:
        return node.present_operands[0].type.size
    return 0


def bytes_moved(node: Node) -> Dim:
    """Bytes read and written if nothing is fused: each operand and each result once.

    Operators that pick elements read only those; `reshape` and what is known beforehand is free.
    """
    if node.op.name in ("constant", "dim_value", "reshape", "return"):
        return 0
    written = _bytes(node.results)
    match node.op.name:
        case "slice":
            return 2 * written
        case "write_slice":
            return 2 * _bytes(node.present_operands[1:])
        case "gather" | "gather_elements" | "gather_nd":
            return 2 * written + _bytes(node.present_operands[1:])
        case _:
            return _bytes(node.present_operands) + written


def _bytes(values: list[Value]) -> Dim:
    total: Dim = 0
    for value in dict.fromkeys(values):
        total = total + value.type.size * value.type.dtype.bytes
    return total


def _matmul(node: Node) -> Dim:
    return 2 * node.result.type.size * node.present_operands[0].type.shape[-1]


def _conv(node: Node) -> Dim:
    weight = node.present_operands[1].type
    bias = node.result.type.size if len(node.present_operands) > 2 else 0
    return 2 * node.result.type.size * product(weight.shape[1:]) + bias


def _pool(node: Node) -> Dim:
    kernel = node.attributes["kernel"]
    assert isinstance(kernel, tuple)
    return node.result.type.size * product(k for k in kernel if isinstance(k, int))


def _scatter(node: Node) -> Dim:
    return 0 if node.attributes["reduction"] == "none" else node.present_operands[2].type.size


def _first(node: Node) -> Dim:
    return node.present_operands[0].type.size


_FLOPS: dict[str, Callable[[Node], Dim]] = {
    "matmul": _matmul,
    "conv": _conv,
    "max_pool": _pool,
    "average_pool": _pool,
    "scatter_nd": _scatter,
    "cumsum": _first,
    "topk": _first,
    "cast": lambda node: 0,
    "bitcast": lambda node: 0,
}
