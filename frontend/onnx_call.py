"""What import rules work with: values, some of them known, and one ONNX node at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn, TypeVar

import numpy as np
from numpy.typing import NDArray
from onnx import AttributeProto

from tunesmith.ir.diagnostics import FrontendError, Location, UndecidedError
from tunesmith.ir.dims import Dim, DimExpr
from tunesmith.ir.ops import Expr
from tunesmith.ir.opset import cast, reshape, slice_
from tunesmith.ir.types import DType, Shape, TensorType

from .limits import LIMITS
from .onnx_builder import ImportBuilder
from .onnx_content import Content, as_content, emit_content, of_items
from .onnx_tensors import dtype_of, read_tensor

__all__ = ["Call", "Result", "Rule", "Table", "Tensor"]

D = TypeVar("D", int, float, str)


class Tensor:
    """An ONNX value: its type, the node that makes it when it is asked for, what is known of it.

    `array` is a whole constant; `content` the elements of a small tensor of sizes, where each is
    a number or a polynomial of symbols. A known value is written only if something reads it.
    """

    __slots__ = ("_content", "_emit", "_expr", "array", "type")

    def __init__(
        self,
        type: TensorType,
        emit: Callable[[], Expr],
        *,
        array: NDArray[np.generic] | None = None,
        content: Content | None = None,
    ) -> None:
        self.type = type
        self.array = array
        self._emit = emit
        self._expr: Expr | None = None
        self._content = content

    @property
    def expr(self) -> Expr:
        """The value in the graph."""
        if self._expr is None:
            self._expr = self._emit()
        return self._expr

    @property
    def content(self) -> Content | None:
        """The elements, if they are known, and few enough to look into."""
        if self._content is None and self.array is not None and not self.type.dtype.is_stored:
            limit = 64 if self.type.dtype.is_float else LIMITS.content
            if self.array.size <= limit:
                self._content = as_content(self.array)
        elif self._content is None and self.type.is_static and self.type.size == 0:
            self._content = of_items([], [int(str(size)) for size in self.type.shape])
        return self._content

    @classmethod
    def of(cls, expr: Expr) -> Tensor:
        """A value that stands in the graph."""
        found = cls(expr.type, lambda: expr)
        found._expr = expr
        if (constant := expr.value.constant) is not None:
            found.array = constant.array
        return found


Result = Expr | Tensor | Sequence[Expr | Tensor]


@dataclass
class Call:
    """One ONNX node while it is imported: what it is applied to, with which attributes."""

    builder: ImportBuilder
    operator: str
    domain: str
    opset: int
    location: Location
    inputs: list[Tensor | None]
    outputs: list[str]
    attributes: Mapping[str, AttributeProto]

    def fail(self, message: str, hint: str | None = None) -> NoReturn:
        """Refuse the node."""
        raise FrontendError(message, where=self.location, hint=hint)

    def undecided(self, message: str, *tensors: Tensor, hint: str | None = None) -> NoReturn:
        """Refuse the node because of elements that are not known; name the inputs they are from."""
        found = self.builder.origins.inputs_of([x.expr.value for x in tensors])
        if not found:
            self.fail(message, hint)
        names = " and ".join(f"`{name}`" for name in found)
        several = "values of inputs" if len(found) > 1 else "value of input"
        fix = f"fix the {several} {names}: `values`, or `--value {found[0]}=…`"
        raise UndecidedError(
            message, found, where=self.location, hint=f"{hint}, or {fix}" if hint else fix
        )

    # Operands.

    def has(self, index: int) -> bool:
        """Whether an operand is there."""
        return index < len(self.inputs) and self.inputs[index] is not None

    def tensor(self, index: int) -> Tensor:
        """An operand that must be there."""
        found = self.inputs[index] if index < len(self.inputs) else None
        if found is None:
            self.fail(f"operand {index} is missing")
        return found

    def x(self, index: int = 0) -> Expr:
        """An operand that must be there, as a value of the graph."""
        return self.tensor(index).expr

    def optional(self, index: int) -> Expr | None:
        """An operand, or `None`."""
        return self.x(index) if self.has(index) else None

    def all(self) -> list[Expr]:
        """All operands."""
        return [self.x(i) for i in range(len(self.inputs))]

    def shape(self, index: int = 0) -> Shape:
        """The shape of an operand."""
        return self.tensor(index).type.shape

    def dtype(self, index: int = 0) -> DType:
        """The element type of an operand."""
        return self.tensor(index).type.dtype

    def rank(self, index: int = 0) -> int:
        """The number of axes of an operand."""
        return self.tensor(index).type.rank

    def known(self, index: int) -> Content | None:
        """The elements of an operand, if import knows them."""
        return self.tensor(index).content if self.has(index) else None

    def settled(self, tensor: Tensor) -> Tensor:
        """A tensor with its elements, if it follows from constants and known sizes only."""
        if tensor.content is None and tensor.array is None:
            tensor.array = self.builder.origins.array_of(tensor.expr.value)
        return tensor

    def elements(self, index: int, what: str) -> Content:
        """The elements of an operand that must be known, few enough to look into."""
        tensor = self.settled(self.tensor(index))
        if tensor.content is None:
            if tensor.array is not None:
                self.fail(f"its {what} has {tensor.array.size} elements, which are too many")
            self.undecided(f"its {what} depends on data, which is not supported", tensor)
        return tensor.content

    def sizes(self, index: int, what: str) -> tuple[Dim, ...]:
        """The elements of an operand of sizes or places; they must not depend on data."""
        content = self.elements(index, what)
        flat = [
            int(item) if isinstance(item, float) and item.is_integer() else item
            for item in content.reshape(-1).tolist()
        ]
        for item in flat:
            if not isinstance(item, int | DimExpr) or isinstance(item, bool):
                self.fail(f"its {what} holds {item}, which is not a size")
        return tuple(flat)

    def counts(self, index: int, what: str, most: Dim | None = None) -> tuple[Dim, ...]:
        """The elements of an operand of sizes, none below 0 or above `most`: data may decide them.

        Those that are not known become symbols that data binds; what does not fit fails to run.
        """
        tensor = self.settled(self.tensor(index))
        if tensor.content is not None or not tensor.type.is_static:
            return self.sizes(index, what)
        flat = cast(reshape(tensor.expr, shape=(tensor.type.size,)), dtype=DType.i64)
        found: list[Dim] = []
        for place in range(int(str(tensor.type.size))):
            part = slice_(flat, axis=0, start=place, stop=place + 1)
            one = self.builder.bind_checked(reshape(part, shape=()), most, f"n_{self.outputs[0]}")
            found.append(one)
        return tuple(found)

    def integers(self, index: int, what: str) -> tuple[int, ...]:
        """The elements of an operand, as numbers."""
        values = self.sizes(index, what)
        if not all(isinstance(v, int) for v in values):
            text = ", ".join(map(str, values))
            self.fail(
                f"its {what} depends on the sizes of the inputs: {text}",
                hint="fix these sizes with `shapes` or `dims`",
            )
        return tuple(int(v) for v in values if isinstance(v, int))

    def scalar(self, index: int) -> bool | int | float | None:
        """The one element of an operand that is a known number."""
        content = self.settled(self.tensor(index)).content
        if content is None or content.size != 1:
            return None
        item = content.reshape(-1)[0]
        return item if isinstance(item, bool | int | float) else None

    def axes(self, since: int, index: int = 1) -> tuple[int, ...] | None:
        """`axes`: an attribute, or from opset `since` on an operand."""
        if self.opset < since:
            return self.integer_list("axes")
        return self.integers(index, "list of axes") if self.has(index) else None

    def axis(self, value: int, rank: int) -> int:
        """An axis counted from the front."""
        if not -rank <= value < max(rank, 1):
            self.fail(f"axis {value} is not one of {rank}")
        return value % rank if rank else 0

    # Attributes.

    def _attribute(self, name: str, kind: int) -> AttributeProto | None:
        found = self.attributes.get(name)
        if found is not None and found.type != kind:
            self.fail(f"its attribute `{name}` has the wrong type")
        return found

    def integer(self, name: str, default: int | None = None) -> int:
        """An integer attribute."""
        found = self._attribute(name, AttributeProto.INT)
        return self._default(name, default) if found is None else int(found.i)

    def number(self, name: str, default: float | None = None) -> float:
        """A number attribute: the shortest decimal that has its single-precision value."""
        found = self._attribute(name, AttributeProto.FLOAT)
        return self._default(name, default) if found is None else float(str(np.float32(found.f)))

    def text(self, name: str, default: str | None = None) -> str:
        """A text attribute."""
        found = self._attribute(name, AttributeProto.STRING)
        if found is None:
            return self._default(name, default)
        return bytes(found.s).decode("utf-8", "replace")

    def integer_list(self, name: str) -> tuple[int, ...] | None:
        """A list attribute, or `None`."""
        found = self._attribute(name, AttributeProto.INTS)
        return None if found is None else tuple(found.ints)

    def number_list(self, name: str) -> list[float] | None:
        """A list of numbers as an attribute, or `None`."""
        found = self._attribute(name, AttributeProto.FLOATS)
        return None if found is None else [float(item) for item in found.floats]

    def array(self, name: str) -> NDArray[np.generic] | None:
        """A tensor attribute, or `None`."""
        found = self._attribute(name, AttributeProto.TENSOR)
        if found is None:
            return None
        return read_tensor(found.t, None, f"{self.location}, attribute `{name}`")

    def element(self, name: str, default: int = 0) -> DType:
        """An element type attribute."""
        number = self.integer(name, default or None)
        return dtype_of(number, str(self.location))

    def _default(self, name: str, default: D | None) -> D:
        if default is None:
            self.fail(f"it needs the attribute `{name}`")
        return default

    # Results.

    def wants(self, index: int) -> bool:
        """Whether result `index` has a name."""
        return index < len(self.outputs) and bool(self.outputs[index])

    def refuse_result(self, index: int, what: str) -> None:
        """Refuse the node if result `index` is asked for."""
        if self.wants(index):
            self.fail(f"its result {index}, {what}, is not supported")

    def constant(self, array: NDArray[np.generic]) -> Expr:
        """A constant in the graph."""
        return self.builder.constant(np.asarray(array))

    def scalar_of(self, value: int | float, dtype: DType) -> Expr:
        """A rank-0 constant."""
        return self.constant(np.asarray(value, dtype.numpy))

    def content(self, content: Content, dtype: DType) -> Tensor:
        """A known result."""
        builder, location = self.builder, self.location

        def emit() -> Expr:
            with builder.at(location):
                return emit_content(builder, content, dtype)

        return Tensor(TensorType(dtype, tuple(content.shape)), emit, content=content)

    def later(self, type: TensorType, emit: Callable[[], Expr],
              content: Content | None = None) -> Tensor:  # fmt: skip
        """A result that is written when it is read."""
        builder, location = self.builder, self.location

        def emit_here() -> Expr:
            with builder.at(location):
                return emit()

        return Tensor(type, emit_here, content=content)

    def broadcast(self, *shapes: Shape) -> Shape:
        """The common shape of some operands, with symbols made equal where they must be."""
        try:
            return self.builder.broadcast(*shapes)
        except ValueError as error:
            self.fail(str(error))


Rule = Callable[[Call], Result]
Table = dict[str, tuple[tuple[int, Rule], ...]]


def constant_tensor(
    builder: ImportBuilder, array: NDArray[np.generic], name: str, location: Location
) -> Tensor:
    """A constant that is written once, when it is first read."""

    def emit() -> Expr:
        with builder.at(location):
            return builder.constant(array, name)

    type = TensorType(DType.of(array.dtype), tuple(int(size) for size in array.shape))
    return Tensor(type, emit, array=array)
