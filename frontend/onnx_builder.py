"""The builder of imported graphs: symbols that an operator needs equal are made equal first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from tunesmith.ir.builder import Builder
from tunesmith.ir.diagnostics import FrontendError, UndecidedError
from tunesmith.ir.dims import Dim, bounds
from tunesmith.ir.graph import Graph, Value
from tunesmith.ir.ops import Attribute, Expr, OpDef
from tunesmith.ir.opset import bind_size, dim_value, maximum, minimum
from tunesmith.ir.types import DType, Shape, TensorType
from tunesmith.ir.types import broadcast as common_shape

from .onnx_origin import Origins
from .onnx_shapes import Facts, identifier

__all__ = ["ImportBuilder"]


class ImportBuilder(Builder):
    """A builder that knows the facts about symbols, and adds to them by raising `Learned`.

    Two inputs of a model often have different names for one size (`batch`, `batch_1`); an
    operator that joins them tells.
    """

    def __init__(self, graph: Graph, facts: Facts) -> None:
        super().__init__(graph)
        self.facts = facts
        self.origins = Origins(graph)
        self._chosen: list[Value] = []
        self._counted: dict[str, int] = {}  # how many sizes from data have a name like this

    def emit_values(
        self, op: OpDef, operands: Sequence[Value | None], attributes: Mapping[str, Attribute]
    ) -> list[Value]:
        """Write one node; symbols that it needs equal become so."""
        types = [None if value is None else value.type for value in operands]
        try:
            self._reconcile(op, types, attributes)
        except ValueError:
            pass  # inference says it better
        return super().emit_values(op, operands, attributes)

    def bind(self, count: Expr, most: Dim | None, hint: str, *, chosen: bool = False) -> Dim:
        """A size that is known at run time, `count`, from 0 up to `most`; it is never outside.

        It is `chosen` if it follows from an operand of sizes, which a caller might fix instead.
        """
        if chosen:
            self._chosen.append(count.value)
        high = None if most is None else bounds(most)[1]
        if high == 0:
            return 0
        base = identifier(hint)
        number = self._counted[base] = self._counted.get(base, 0) + 1
        size = self.facts.from_data(base if number == 1 else f"{base}_{number}", high or 0)
        bind_size(count, size=size)
        return size

    def bind_checked(self, count: Expr, most: Dim | None, hint: str) -> Dim:
        """The same of any number: running fails where it is below 0 or above `most`."""
        held = maximum(count, 0)
        if most is not None:
            held = minimum(held, dim_value(size=most, dtype=DType.i64))
        size = self.bind(held, most, hint, chosen=True)
        bind_size(count, size=size)
        return size

    def undecided(self, error: FrontendError) -> FrontendError:
        """The same error; where sizes were left to data, with the inputs to fix them by."""
        inputs = self.origins.inputs_of(self._chosen)
        if not inputs or isinstance(error, UndecidedError):
            return error
        hint = f"fixing the values of {', '.join(f'`{name}`' for name in inputs)} may help"
        hint = f"{error.hint}; {hint}" if error.hint else hint
        return UndecidedError(error.message, inputs, where=error.where, hint=hint)

    def equate(self, a: Dim, b: Dim) -> None:
        """Make two sizes one; `ValueError` if they are not."""
        if a != b:
            if isinstance(a, int) and isinstance(b, int):
                raise ValueError(f"{a} is not {b}")
            self.facts.equate(a, b, f"{self.location} needs equal sizes {a} and {b}")

    def broadcast(self, *shapes: Shape) -> Shape:
        """The shape that broadcasting gives, after making symbols equal."""
        rank = max(map(len, shapes), default=0)
        for axis in range(rank):
            sizes = [s[axis - rank + len(s)] for s in shapes if axis - rank + len(s) >= 0]
            kept = list(dict.fromkeys(size for size in sizes if size != 1))
            for other in kept[1:]:
                self.equate(kept[0], other)
        return common_shape(*shapes)

    def _all(self, a: Shape, b: Shape) -> None:
        for x, y in zip(a, b, strict=False):
            self.equate(x, y)

    def _reconcile(
        self, op: OpDef, types: list[TensorType | None], attributes: Mapping[str, Attribute]
    ) -> None:
        shapes = [t.shape for t in types if t is not None]
        if op.name == "linear" or not shapes:
            return
        if "elementwise" in op.traits or op.name == "rotary":
            if len(shapes) > 1:
                self.broadcast(*shapes)
        elif op.name == "matmul":
            x, y = shapes
            self.equate(x[-1], y[-2])
            self.broadcast(x[:-2], y[:-2])
        elif op.name == "concat":
            axis = attributes["axis"]
            assert isinstance(axis, int)
            for other in shapes[1:]:
                for i, (a, b) in enumerate(zip(shapes[0], other, strict=True)):
                    if i != axis % len(other):
                        self.equate(a, b)
        elif op.name == "expand":
            shape = attributes["shape"]
            assert isinstance(shape, tuple)
            self.broadcast(shapes[0], shape)  # type: ignore[arg-type]  # a tuple of sizes
        elif op.name == "reshape":
            shape = attributes["shape"]
            assert isinstance(shape, tuple) and types[0] is not None
            self.equate(types[0].size, TensorType(types[0].dtype, shape).size)  # type: ignore[arg-type]  # a tuple of sizes
        elif op.name in ("layer_norm", "rms_norm"):
            for weight in shapes[1:]:
                self.equate(shapes[0][-1], weight[-1])
        elif op.name == "attention":
            self._attention(shapes)
        elif op.name == "conv":
            channels = shapes[1][1] * int(str(attributes.get("groups", 1)))
            self.equate(shapes[0][1], channels)

    def _attention(self, shapes: list[Shape]) -> None:
        q, k, v = shapes[:3]
        self.equate(q[3], k[3])
        self._all(k[:3], v[:3])
        self.equate(q[0], k[0])
        for mask in shapes[3:]:
            self.broadcast((q[0], q[1], q[2], k[2]), mask)

    def is_positive(self, size: Dim) -> bool:
        """Whether a size is at least 1 for all sizes that the symbols can have."""
        return bounds(size)[0] >= 1
