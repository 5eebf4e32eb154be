"""Every spelling of softmax attention becomes one `attention`."""

from __future__ import annotations

from dataclasses import dataclass

from tunesmith.ir.builder import Builder
from tunesmith.ir.dims import Dim, exact_div, product
from tunesmith.ir.graph import Graph, Node, Value
from tunesmith.ir.opset import attention, cast, reshape
from tunesmith.ir.rewriter import Rewriter
from tunesmith.ir.types import DType, Shape

from .attention_masks import MaskPlan, plan_masks
from .attention_match import Added, Block, Refused, Shown, find_block, weighs_values
from .base import Note, Pass, PassContext
from .mask_facts import Condition, fills
from .views import Atom, Axes, Chain, flat, regroup, resolve

__all__ = ["FuseAttention"]


@dataclass(frozen=True, kw_only=True)
class FuseAttention(Pass):
    """`softmax(q @ k' * scale + mask) @ v  =>  attention(q, k, v, mask)`.

    Heads that are repeated for groups are looked through, and a mask that is provably the causal
    triangle becomes an attribute. In f16 and bf16 casts around the softmax go: kernels sum in f32,
    the meaning rounds weights to the type of the scores.

    A row that is masked entirely keeps its meaning: NaN, 0, or the mean of the values where the
    mask is a finite number. That binds a triangle and a padding mask of such a number together;
    without `keep_masked_rows` they come apart, and these rows give 0.
    """

    name = "fuse-attention"
    keep_masked_rows: bool = True

    def run(self, graph: Graph, context: PassContext) -> bool:
        """Fuse every block, and put attentions that were imported as such into canonical form."""
        rewriter = Rewriter(graph)
        for node in list(graph.nodes):
            if node.owner is None:
                continue
            if node.op.name == "softmax":
                _fuse(node, rewriter, context, self.keep_masked_rows)
            elif node.op is attention:
                _tidy(node, rewriter, context, self.keep_masked_rows)
        return rewriter.changed


def _note(context: PassContext, node: Node, reason: str, kind: str = "near-miss") -> None:
    context.notes.append(
        Note(FuseAttention.name, kind, "attention", str(node.location), reason=reason)
    )


def _fuse(softmax: Node, rewriter: Rewriter, context: PassContext, keep_rows: bool) -> None:
    """Fuse the block around one softmax, or say why not if it looks like one."""
    combine, masked_row, reason = None, "nan", ""
    try:
        combine, masked_row = weighs_values(softmax)
    except Refused as refusal:
        reason = str(refusal)
    try:
        block = find_block(softmax, combine or softmax, masked_row)
    except Refused as refusal:
        if combine is not None:
            _note(context, softmax, str(refusal))
        return
    axis = softmax.attributes["axis"]
    if axis not in (-1, softmax.result.type.rank - 1):
        reason = f"the softmax is along axis {axis}, not along the keys"
    if reason:
        _note(context, softmax, reason)
        return
    try:
        plan = _Plan.of(block, keep_rows)
    except Refused as refusal:
        _note(context, softmax, str(refusal))
        return
    result = plan.build(rewriter.before(block.combine))
    _note(context, softmax, plan.summary, kind="match")
    if plan.masks.kept_triangle:
        _note_triangle(context, softmax)
    rewriter.replace(block.combine.result, result)
    rewriter.erase_dead([block.combine])


def _note_triangle(context: PassContext, node: Node) -> None:
    reason = "a row may be masked entirely by finite numbers, so the triangle stays in the mask"
    context.notes.append(
        Note(FuseAttention.name, "near-miss", "causal", str(node.location), reason=reason)
    )


@dataclass(frozen=True)
class _Moved:
    """One operand of the attention: a chain, and the axes wanted of it."""

    chain: Chain
    axes: Axes

    def build(self, builder: Builder, dtype: DType) -> Value:
        value = self.chain.build(builder, self.axes)
        if value.type.dtype is not dtype:
            (value,) = builder.emit_values(cast, [value], {"dtype": dtype})
        return value


@dataclass(frozen=True)
class _Plan:
    """All that is decided about one attention before anything is written."""

    q: _Moved
    k: _Moved
    v: _Moved
    masks: MaskPlan
    places: Shape  # [B, H, T, S]
    dtype: DType
    scale: float
    softcap: float
    masked_row: str
    result: Value  # that it replaces

    @classmethod
    def of(cls, block: Block, keep_rows: bool) -> _Plan:
        """The plan for a block; `Refused` says why there is none."""
        scores = block.product.result.type
        batch = scores.shape[:-2]
        q_value, k_value = block.product.present_operands
        v_value = block.combine.present_operands[1]
        q, k = Chain(q_value, scales=True), Chain(k_value, scales=True)
        v = Chain(v_value)
        heads = _heads(block, (q, k, v))
        places = (*heads, *scores.shape[-2:])
        outer = block.combine.present_operands[0].type.shape[:-2]
        q_axes = (*_grouped(q, batch, heads, "queries", shared=True), *q.axes[-2:])
        k_axes = (*_grouped(k, batch, heads, "keys"), *k.axes[:-3:-1])
        v_axes = (*_grouped(v, outer, heads, "values"), *v.axes[-2:])
        k_axes, v_axes = _without_repeats(k_axes, v_axes)
        masks = plan_masks(block.shown, block.added, keep_rows=keep_rows)
        masks.check(places)
        return cls(
            _Moved(q, q_axes),
            _Moved(k, k_axes),
            _Moved(v, v_axes),
            masks,
            places,
            _dtype(block),
            block.scale * q.factor * k.factor,
            block.softcap,
            _masked_row(block.masked_row, masks, keep_rows),
            block.combine.result,
        )

    @property
    def summary(self) -> str:
        """What was found, for the user."""
        heads, groups = self.places[1], _size(self.k.axes[1])
        words = [f"{heads} heads" if heads == groups else f"{heads} heads on {groups}"]
        words.append(f"scale {self.scale:.6g}")
        if self.softcap:
            words.append(f"softcap {self.softcap:g}")
        if self.masks.causal:
            words.append("causal")
        if self.masks.parts or self.masks.added:
            words.append("mask")
        return ", ".join(words)

    def build(self, builder: Builder) -> Value:
        """Write the attention, in the shape and type of what it replaces."""
        q, k, v = (x.build(builder, self.dtype) for x in (self.q, self.k, self.v))
        mask = self.masks.build(builder, self.places, self.dtype)
        operands = [q, k, v] if mask is None else [q, k, v, mask]
        (result,) = builder.emit_values(attention, operands, self.attributes())
        wanted = self.result.type
        if result.type.dtype is not wanted.dtype:
            (result,) = builder.emit_values(cast, [result], {"dtype": wanted.dtype})
        if result.type.shape != wanted.shape:
            (result,) = builder.emit_values(reshape, [result], {"shape": wanted.shape})
        return result

    def attributes(self) -> dict[str, bool | int | float | str | Dim]:
        """The attributes of the attention."""
        return {
            "scale": self.scale,
            "causal": self.masks.causal,
            "offset": self.masks.offset,
            "softcap": self.softcap,
            "masked_row": self.masked_row,
        }


def _masked_row(old: str, masks: MaskPlan, keep_rows: bool) -> str:
    if not masks.can_hide_row:
        return "nan"
    return old if keep_rows else "zero"


def _size(axis: tuple[Atom, ...]) -> Dim:
    return product(atom.size for atom in axis)


def _heads(block: Block, chains: tuple[Chain, ...]) -> tuple[Dim, Dim]:
    """Batch and heads: as the scores have them somewhere, else as the operands were merged."""
    for batch in block.batches:
        if len(batch) == 2:
            return batch[0], batch[1]
    batch = block.batches[0]
    if len(batch) != 1:
        return (batch[0], product(batch[1:])) if batch else (1, 1)
    for chain in chains:
        axes = chain.axes
        if len(axes) == 3 and len(axes[0]) > 1:
            heads = exact_div(batch[0], axes[0][0].size)
            if heads is not None:
                return axes[0][0].size, heads
    return batch[0], 1


def _grouped(
    chain: Chain, batch: Shape, heads: tuple[Dim, Dim], what: str, *, shared: bool = False
) -> Axes:
    """The leading axes of an operand as batch and heads."""
    axes = chain.axes[:-2]
    axes = ((),) * (len(batch) - len(axes)) + axes
    if batch and not shared and not axes[0] and batch[0] != 1:
        raise Refused(f"the {what} are the same for the whole batch")
    filled = tuple(
        (Atom(size, repeated=True),) if not axis and size != 1 else axis
        for axis, size in zip(axes, batch, strict=True)
    )
    grouped = regroup(flat(filled), heads)
    if grouped is None:
        raise Refused(f"the batch axes of the {what} do not split into {heads[0]} and {heads[1]}")
    return grouped


def _without_repeats(k: Axes, v: Axes) -> tuple[Axes, Axes]:
    """Leave out that key heads are repeated, if keys and values agree on how often."""
    k, v = resolve(k), resolve(v)
    left, right = k[1], v[1]
    while left and right and left[-1].repeated and right[-1].repeated:
        if left[-1].size != right[-1].size:
            break
        left, right = left[:-1], right[:-1]
    return (k[0], left, *k[2:]), (v[0], right, *v[2:])


def _dtype(block: Block) -> DType:
    """The widest type in which scores meet a float mask, or operands are multiplied."""
    found = {block.product.result.type.dtype, block.combine.result.type.dtype}
    masks = {added.dtype for added in block.added}
    if len(masks) > 1:
        raise Refused(f"masks are added in {' and '.join(sorted(map(str, masks)))}")
    widest = max(found | masks, key=lambda dtype: (dtype.bytes, dtype is DType.bf16))
    if masks and widest not in masks:
        raise Refused(f"a mask is added in {masks.pop()} to scores that end in {widest}")
    return widest


def _tidy(node: Node, rewriter: Rewriter, context: PassContext, keep_rows: bool) -> None:
    """Look through repeated heads and split the mask of an attention that was imported as one."""
    q_value, k_value, v_value = node.present_operands[:3]
    mask = node.operands[3] if len(node.operands) > 3 else None
    places = (*q_value.type.shape[:3], k_value.type.shape[2])
    shown, added = [], []
    if mask is not None and mask.type.dtype is DType.bool:
        shown.append(Shown(Condition(mask), places[:2]))
    elif mask is not None:
        added.append(Added(mask, fills(mask), 1.0, places[:2], mask.type.dtype))
    causal, offset = bool(node.attributes["causal"]), node.attributes["offset"]
    scale, softcap = node.attributes["scale"], node.attributes["softcap"]
    assert isinstance(scale, float) and isinstance(softcap, float)
    assert not isinstance(offset, tuple | str | float)
    masks = plan_masks(shown, added, causal=causal, offset=offset, keep_rows=keep_rows)  # type: ignore[arg-type]  # a dim
    q, k, v = Chain(q_value, scales=True), Chain(k_value, scales=True), Chain(v_value)
    k_axes, v_axes = k.axes, v.axes
    if k_value.type.shape[1] == v_value.type.shape[1] == places[1]:
        k_axes, v_axes = _without_repeats(k_axes, v_axes)
    plan = _Plan(
        _Moved(q, q.axes),
        _Moved(k, k_axes),
        _Moved(v, v_axes),
        masks,
        places,
        q_value.type.dtype,
        scale * q.factor * k.factor,
        softcap,
        _masked_row(str(node.attributes["masked_row"]), masks, keep_rows),
        node.result,
    )
    if masks.kept_triangle:
        _note_triangle(context, node)
    if _is_tidy(plan, node, k_value, v_value):
        return
    _note(context, node, plan.summary, kind="match")
    result = plan.build(rewriter.before(node))
    rewriter.replace(node.result, result)
    rewriter.erase_dead([node])


def _is_tidy(plan: _Plan, node: Node, k: Value, v: Value) -> bool:
    """Whether the plan is what the node says already."""
    if plan.attributes() != node.attributes or plan.q.chain.factor * plan.k.chain.factor != 1.0:
        return False
    if plan.k.axes != plan.k.chain.axes or plan.v.axes != plan.v.chain.axes:
        return False
    mask = node.operands[3] if len(node.operands) > 3 else None
    return plan.masks.keeps(mask, plan.places)
