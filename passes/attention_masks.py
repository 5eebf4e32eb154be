"""The masks of an attention: what becomes `causal`, and the one operand that the rest becomes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import inf

import numpy as np

from tunesmith.ir.builder import Builder
from tunesmith.ir.dims import Dim, bounds
from tunesmith.ir.graph import Value
from tunesmith.ir.opset import add, cast, logical_and, logical_not, mul, where
from tunesmith.ir.types import DType, Shape

from .attention_match import Added, Refused, Shown
from .mask_facts import Condition, always, causal_offset, conditions, overflows, swallows
from .views import Atom, Axes, Chain, flat, regroup, resolve, scalar_of

__all__ = ["MaskPlan", "plan_masks"]


@dataclass(frozen=True)
class _Part:
    """What is left of one joined condition: the source itself, or some of what it joins."""

    source: Condition
    left: tuple[Condition, ...]
    batch: Shape

    @property
    def whole(self) -> bool:
        return not self.source.negated and self.left == tuple(conditions(self.source))


@dataclass(frozen=True)
class MaskPlan:
    """What the masks of one attention come to."""

    parts: tuple[_Part, ...]
    added: tuple[tuple[Added, _Part | None], ...]
    causal: bool
    offset: Dim
    kept_triangle: bool  # a causal part stays in the operand: a row might be masked entirely

    @property
    def can_hide_row(self) -> bool:
        """Whether every score of a row may be -inf."""
        open_causal = self.causal and bounds(self.offset)[0] < 0
        if self.parts or open_causal or any(entry.fill is None for entry, _ in self.added):
            return True
        total = sum(entry.fill.number for entry, _ in self.added if entry.fill is not None)
        return any(overflows(total, entry.dtype) for entry, _ in self.added)

    def check(self, places: Shape) -> None:
        """Raise `Refused` if a mask does not lie over scores `[B, H, T, S]`."""
        found = [(part.source.value, part.batch) for part in self.parts]
        found += [(a.value, a.batch) for a, _ in self.added if a.value is not None]
        found += [(p.source.value, p.batch) for _, p in self.added if p is not None]
        for value, batch in found:
            _fitted_axes(Chain(value), value, batch, places)

    def keeps(self, mask: Value | None, places: Shape) -> bool:
        """Whether the operand that would be written is `mask`, as it is."""
        if mask is None:
            return not self.parts and not self.added
        whole = [part.source.value for part in self.parts if part.whole]
        whole += [a.value for a, p in self.added if a.value and (p is None or _reads_whole(p))]
        if len(self.parts) + len(self.added) != 1 or whole != [mask]:
            return False
        chain = Chain(mask)
        axes = _fitted_axes(chain, mask, places[:2], places)
        return axes == ((),) * (4 - mask.type.rank) + chain.axes

    def build(self, builder: Builder, places: Shape, dtype: DType) -> Value | None:
        """Write the mask operand for scores `[B, H, T, S]`."""
        flags = [x for part in self.parts for x in _flags(builder, part, places)]
        numbers = [_number(builder, a, part, places, dtype) for a, part in self.added]
        shown = _reduce(builder, logical_and, flags)
        total = _reduce(builder, add, numbers)
        if total is None or shown is None:
            return total if shown is None else shown
        hidden = builder.constant(np.asarray(-inf, dtype=dtype.numpy)).value
        return builder.emit_values(where, [shown, total, hidden], {})[0]


def plan_masks(
    shown: Sequence[Shown],
    added: Sequence[Added],
    *,
    causal: bool = False,
    offset: Dim = 0,
    keep_rows: bool = True,
) -> MaskPlan:
    """Split the masks into the causal triangle, conditions and sums; nothing is written yet.

    Without `keep_rows` the number that masks does not matter, if it is as good as -inf for rows
    that see a key.
    """
    parts = [_part(item.condition, item.batch) for item in shown]
    sums: list[tuple[Added, _Part | None]] = []
    for entry in added:
        if entry.value is not None and scalar_of(entry.value) == 0.0:
            continue
        if entry.fill is None:
            sums.append((entry, None))
            continue
        as_good = swallows(entry.fill.number, entry.dtype)
        part = _part(entry.fill.shown, entry.batch)
        if entry.fill.number == -inf and entry.fill.shown.value.type.dtype is not DType.bool:
            found = causal_offset(entry.fill.shown)
            if found is None or (causal and found != offset):
                sums.append((entry, None))
            else:
                causal, offset = True, found
        elif entry.fill.number == -inf or (as_good and not keep_rows and not _is_float(part)):
            parts.append(part)
        elif part.left:
            sums.append((entry, part))
    finite_triangle = None if causal or parts else _only_triangle(sums)
    if finite_triangle is not None:
        return MaskPlan((), (), True, finite_triangle, False)
    for entry, _ in sums:
        number = -1.0 if entry.fill is None else entry.fill.number
        if entry.value is None and not swallows(number, entry.dtype):
            raise Refused(f"masked scores become {number:g}, not -inf: a sum cannot say that")
    kept = any(_offsets(part.left) for _, part in sums if part is not None)
    causal, offset, parts = _take_triangle(parts, causal, offset)
    return MaskPlan(tuple(p for p in parts if p.left), tuple(sums), causal, offset, kept)


def _part(source: Condition, batch: Shape) -> _Part:
    return _Part(source, tuple(c for c in conditions(source) if not always(c)), batch)


def _offsets(left: Sequence[Condition]) -> list[Dim]:
    return [found for c in left if (found := causal_offset(c)) is not None]


def _only_triangle(sums: Sequence[tuple[Added, _Part | None]]) -> Dim | None:
    """The offset of a finite mask that is one triangle and nothing else.

    Row i then sees key 0, so its greatest score is an ordinary one, and the exponential of a score
    near the lowest number is 0, as that of -inf: no row is masked entirely.
    """
    if len(sums) != 1:
        return None
    entry, part = sums[0]
    if part is None or entry.fill is None or len(part.left) != 1:
        return None
    found = causal_offset(part.left[0])
    if found is None or bounds(found)[0] < 0:
        return None
    number = entry.fill.number
    return found if swallows(number, entry.dtype) or _is_lowest(number, entry.dtype) else None


def _is_lowest(number: float, dtype: DType) -> bool:
    return dtype is DType.f16 and number <= -65504.0


def _take_triangle(parts: list[_Part], causal: bool, offset: Dim) -> tuple[bool, Dim, list[_Part]]:
    """Take causal conditions out; all of them if they agree, else the first."""
    result = []
    for part in parts:
        left = []
        for condition in part.left:
            found = causal_offset(condition)
            if found is None or (causal and found != offset):
                left.append(condition)
            else:
                causal, offset = True, found
        result.append(replace(part, left=tuple(left)))
    return causal, offset, result


def _flags(builder: Builder, part: _Part, places: Shape) -> list[Value]:
    if part.whole:
        return [_fitted(builder, part.source.value, part.batch, places)]
    result = []
    for condition in part.left:
        value = _fitted(builder, condition.value, part.batch, places)
        if condition.negated:
            (value,) = builder.emit_values(logical_not, [value], {})
        result.append(value)
    return result


def _number(
    builder: Builder, entry: Added, part: _Part | None, places: Shape, dtype: DType
) -> Value:
    """The float that is added, in the element type of the scores."""
    if entry.value is not None and (part is None or _reads_whole(part)):
        value = _fitted(builder, entry.value, entry.batch, places)
        if value.type.dtype is not dtype:
            (value,) = builder.emit_values(cast, [value], {"dtype": dtype})
        if entry.factor == 1.0:
            return value
        factor = builder.constant(np.asarray(entry.factor, dtype=dtype.numpy)).value
        return builder.emit_values(mul, [value, factor], {})[0]
    assert part is not None and entry.fill is not None
    shown = _reduce(builder, logical_and, _flags(builder, part, places))
    zero = builder.constant(np.asarray(0, dtype=dtype.numpy)).value
    low = builder.constant(np.asarray(entry.fill.number, dtype=dtype.numpy)).value
    return builder.emit_values(where, [shown, zero, low], {})[0]


def _reads_whole(part: _Part) -> bool:
    """Whether a float mask stays as it is: all of its conditions are left, or it is a constant."""
    return _is_float(part) or part.left == tuple(conditions(part.source))


def _is_float(part: _Part) -> bool:
    """Whether the condition is a constant of floats, 0 where a score is shown."""
    return part.source.value.type.dtype is not DType.bool


def _reduce(builder: Builder, op: object, values: Sequence[Value]) -> Value | None:
    total: Value | None = None
    for value in dict.fromkeys(values) if op is logical_and else values:
        if total is None:
            total = value
        else:
            total = builder.emit_values(op, [total, value], {})[0]  # type: ignore[arg-type]  # an operator
    return total


def _fitted(builder: Builder, value: Value, batch: Shape, places: Shape) -> Value:
    """A mask over scores `[*batch, T, S]` as one over `[B, H, T, S]`, copies left out."""
    chain = Chain(value)
    return chain.build(builder, _fitted_axes(chain, value, batch, places), loose=True)


def _fitted_axes(chain: Chain, value: Value, batch: Shape, places: Shape) -> Axes:
    """The axes of a mask over `[B, H, T, S]`; `Refused` if it does not lie in them."""
    axes = chain.axes
    while len(axes) > len(batch) + 2 and not axes[0]:
        axes = axes[1:]
    padded = ((),) * (len(batch) + 2 - len(axes)) + axes
    outer, inner = padded[:-2], padded[-2:]
    if not any(outer):
        grouped: Axes | None = ((), ())
    elif tuple(batch) == tuple(places[:2]):
        grouped = outer
    else:
        filled = tuple(
            (Atom(size, repeated=True),) if not axis and size != 1 else axis
            for axis, size in zip(outer, batch, strict=True)
        )
        grouped = regroup(flat(filled), places[:2])
    if grouped is None:
        raise Refused(f"the mask {value.type} does not broadcast to {_text(places)}")
    axes = resolve((*grouped, *inner))
    return tuple(() if all(atom.repeated for atom in axis) else axis for axis in axes)


def _text(shape: Shape) -> str:
    return f"[{', '.join(map(str, shape))}]"
