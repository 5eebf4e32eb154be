"""Products of matrices and attention: the schedules' loops around the evaluator's elements."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

from tvm import tirx
from tvm.ir import Expr as Prim
from tvm.tirx.script import builder as T

from tunesmith.ir.dims import DimExpr, product
from tunesmith.ir.graph import Node, Value
from tunesmith.ir.target import Machine
from tunesmith.ir.types import DType, Shape

from ..evaluator import Evaluator
from ..groups import Group
from ..index import Index
from ..schedule import fastmath
from ..schedule.attention import AttentionKnobs, AttentionWork, emit_attention
from ..schedule.batch_matmul import MatmulKnobs, emit_batch_matmul
from ..schedule.gemm import Result, emit_gemm
from ..schedule.gemm_knobs import GemmKnobs, GemmWork
from .literals import immediate

__all__ = ["attention_work", "emit_attention_group", "emit_linear", "emit_matmul", "gemm_work"]

_ACTIVATIONS: dict[str, Callable[[Prim], Prim]] = {
    "none": lambda x: x,
    "relu": lambda x: tirx.Select(x <= immediate(0.0, DType.f32), immediate(0.0, DType.f32), x),
    "gelu": lambda x: (
        x
        * immediate(0.5, DType.f32)
        * (fastmath.erf(x * immediate(0.5**0.5, DType.f32)) + immediate(1.0, DType.f32))
    ),
    "gelu_tanh": lambda x: (
        x
        * fastmath.sigmoid(
            (x + x * x * x * immediate(0.044715, DType.f32))
            * immediate(1.5957691216057308, DType.f32)
        )
    ),
    "gelu_sigmoid": lambda x: x * fastmath.sigmoid(x * immediate(1.702, DType.f32)),
    "silu": lambda x: x * fastmath.sigmoid(x),
    "tanh": fastmath.tanh,
    "sigmoid": fastmath.sigmoid,
}


def _static(size: int | DimExpr) -> int:
    assert isinstance(size, int)
    return size


def gemm_work(group: Group) -> GemmWork:
    """The products of a kernel of linear layers."""
    x, weight = group.anchor.present_operands[:2]
    rows = product(x.type.shape[:-1])
    widths = tuple(
        tuple(_static(each.anchor.present_operands[1].type.shape[1]) for each in part.products)
        for part in group.parts
    )
    return GemmWork(
        rows=rows if isinstance(rows, int) else None,
        inner=_static(weight.type.shape[0]),
        cols=sum(map(sum, widths)),
        results=widths if sum(map(len, widths)) > 1 else (),
        weight_bytes=weight.type.dtype.bytes,
    )


def attention_work(node: Node) -> AttentionWork:
    """The lengths and sizes of an attention."""
    q, k, v = node.present_operands[:3]
    queries, keys = q.type.shape[2], k.type.shape[2]
    return AttentionWork(
        queries=queries if isinstance(queries, int) else None,
        keys=keys if isinstance(keys, int) else None,
        head_size=_static(q.type.shape[3]),
        value_size=_static(v.type.shape[3]),
    )


def emit_linear(
    evaluator: Evaluator,
    group: Group,
    stores: Sequence[tirx.Buffer],
    packed: tirx.Buffer,
    machine: Machine,
    knobs: GemmKnobs,
) -> None:
    """`activation((x @ weight) * scale + bias)` of each part, and what is fused behind it."""
    x = group.anchor.present_operands[0]
    outer, inner = x.type.shape[:-1], _static(x.type.shape[-1])
    rows, sizes = product(outer), evaluator.sizes

    def load(row: Prim, k: Prim) -> Prim:
        return evaluator.fresh().read(x, _place(evaluator, outer, inner, row, k))

    def write(part: Group, store: tirx.Buffer, row: Prim, column: Prim, *sums: Prim) -> None:
        reader = evaluator.fresh()
        *fed, own = [
            _element(reader, each.anchor, column, value)
            for each, value in zip(part.products, sums, strict=True)
        ]
        for each, value in zip(part.feeding, fed, strict=True):
            reader.known[each.anchor.result] = partial(_same, T.Bind(value))
        at = _place(evaluator, outer, _cols(part.anchor), row, column)
        reader.finish(part.anchor, part.last.result, store, at, own)

    emit_gemm(
        rows=rows if isinstance(rows, int) else sizes.expr(rows),
        inner=inner,
        results=[
            Result(_cols(part.anchor), partial(write, part, store))
            for part, store in zip(group.parts, stores, strict=True)
        ],
        load_a=load,
        weight=packed,
        machine=machine,
        knobs=knobs,
        together=len(group.products),
    )


def _cols(node: Node) -> int:
    return _static(node.present_operands[1].type.shape[1])


def _same(value: Prim, _: Index) -> Prim:
    return value


def _place(evaluator: Evaluator, outer: Shape, width: int, row: Prim, column: Prim) -> Index:
    last = ((width,), column)
    return Index(((tuple(outer), row), last) if outer else (last,), evaluator.sizes)


def _element(reader: Evaluator, node: Node, column: Prim, value: Prim) -> Prim:
    """An element of a linear layer from its sum."""
    bias, scale = (node.operands[i] if len(node.operands) > i else None for i in (2, 3))
    at = Index((((_cols(node),), column),), reader.sizes)
    if scale is not None:
        value = value * reader.read(scale, at.broadcast_to(scale.type.shape))
    if bias is not None:
        value = value + reader.read(bias, at.broadcast_to(bias.type.shape))
    activation = _ACTIVATIONS[str(node.attributes["activation"])]
    return activation(value if activation is _ACTIVATIONS["none"] else T.Bind(value))


def emit_matmul(
    evaluator: Evaluator,
    node: Node,
    output: Value,
    store: tirx.Buffer,
    machine: Machine,
    knobs: MatmulKnobs,
) -> None:
    """A product of two activations in f32."""
    x, y = node.present_operands
    shape, sizes = node.result.type.shape, evaluator.sizes
    batch = tuple(shape[:-2])

    def operand(value: Value, b: Prim, i: Prim, j: Prim) -> Prim:
        over = Index(((batch, b),), sizes).broadcast_to(value.type.shape[:-2])
        last = value.type.shape[-2:]
        index = Index((*over.segments, ((last[0],), i), ((last[1],), j)), sizes)
        return evaluator.fresh().read(value, index)

    def write(b: Prim, i: Prim, j: Prim, value: Prim) -> None:
        index = Index(((batch, b), ((shape[-2],), i), ((shape[-1],), j)), sizes)
        evaluator.fresh().finish(node, output, store, index, value)

    def size(value: int | DimExpr) -> int | Prim:
        return value if isinstance(value, int) else sizes.expr(value)

    emit_batch_matmul(
        batch=size(product(batch)),
        rows=size(shape[-2]),
        inner=size(x.type.shape[-1]),
        cols=size(shape[-1]),
        load_a=lambda b, i, k: operand(x, b, i, k),
        load_b=lambda b, k, j: operand(y, b, k, j),
        store=write,
        machine=machine,
        knobs=knobs,
    )


def emit_attention_group(
    evaluator: Evaluator,
    node: Node,
    store: tirx.Buffer,
    machine: Machine,
    knobs: AttentionKnobs,
    by_rows: bool,
) -> None:
    """Attention, its result stored as `[B, H, T, E]`, or `by_rows` as `[B, T, H, E]`."""
    q, k, v = node.present_operands[:3]
    mask = node.operands[3] if len(node.operands) > 3 else None
    batch, heads, queries, width = q.type.shape
    groups, keys = k.type.shape[1:3]
    out = v.type.shape[3]
    sizes = evaluator.sizes

    def reader(value: Value) -> Callable[[Prim, Prim, Prim, Prim], Prim]:
        return lambda *at: evaluator.fresh().read(value, Index.of(value.type.shape, at, sizes))

    def load_mask(b: Prim, h: Prim, i: Prim, j: Prim) -> Prim:
        assert mask is not None
        whole = Index.of((batch, heads, queries, keys), (b, h, i, j), sizes)
        element = evaluator.fresh().read(mask, whole.broadcast_to(mask.type.shape))
        if mask.type.dtype is DType.bool:
            minus = immediate(float("-inf"), DType.f32)
            return tirx.Select(element, immediate(0.0, DType.f32), minus)
        return element

    def write(b: Prim, s: Prim, h: Prim, d: Prim, value: Prim) -> None:
        if by_rows:
            at = Index.of((batch, queries, heads, out), (b, s, h, d), sizes)
        else:
            at = Index.of((batch, heads, queries, out), (b, h, s, d), sizes)
        T.buffer_store(store, value, [at.flat()])

    def size(value: int | DimExpr) -> int | Prim:
        return value if isinstance(value, int) else sizes.expr(value)

    offset = node.attributes["offset"]
    assert isinstance(offset, int | DimExpr)
    emit_attention(
        batch=size(batch),
        heads=_static(heads),
        kv_heads=_static(groups),
        queries=size(queries),
        keys=size(keys),
        head_size=_static(width),
        value_size=_static(out),
        load_q=reader(q),
        load_k=reader(k),
        load_v=reader(v),
        store=write,
        load_mask=None if mask is None else load_mask,
        scale=float(node.attributes["scale"]),  # type: ignore[arg-type]  # checked by the operator
        causal=bool(node.attributes["causal"]),
        causal_offset=size(offset),
        softcap=float(node.attributes["softcap"]),  # type: ignore[arg-type]  # likewise
        masked_row="zero" if node.attributes["masked_row"] == "zero" else "nan",
        machine=machine,
        knobs=knobs,
    )
