"""The inputs of a model: their types, with sizes from the caller, the file, or fresh symbols."""

from __future__ import annotations

import ast
from collections.abc import Mapping, Sequence
from difflib import get_close_matches

import numpy as np
from numpy.typing import ArrayLike, NDArray
from onnx import GraphProto, ValueInfoProto

from tunesmith.ir.diagnostics import FrontendError
from tunesmith.ir.dims import Dim, substitute
from tunesmith.ir.types import DType, TensorType

from .onnx_shapes import Facts, identifier, plain_symbol
from .onnx_tensors import check_dims, dtype_of
from .onnx_values import as_array, as_value

__all__ = ["Declared", "declare_inputs"]

Bounds = Mapping[str, tuple[int, int] | int]


class Declared:
    """The inputs as the file declares them, over symbols whose facts may still change."""

    def __init__(self) -> None:
        self.types: dict[str, tuple[DType, tuple[Dim, ...]]] = {}
        self.facts = Facts()
        self.values: dict[str, NDArray[np.generic]] = {}  # of the inputs that the caller fixes
        self._names: dict[str, str] = {}  # as the file spells a symbol → as we do

    def type_of(self, name: str) -> TensorType:
        """The type of an input by what is known now."""
        dtype, shape = self.types[name]
        return TensorType(dtype, tuple(self.facts.current(size) for size in shape))

    def symbol(self, text: str) -> Dim:
        """The symbol that the file calls `text`."""
        if text not in self._names:
            base = name = identifier(text)
            count = 1
            while name in self.facts.ranges:
                count += 1
                name = f"{base}_{count}"
            self._names[text] = name
            self.facts.declare(name)
        return self.facts.resolve(self._names[text])

    def spelled(self, text: str) -> str | None:
        """Our name of a symbol, by ours or by that of the file."""
        return self._names.get(text) or (text if text in self.facts.ranges else None)


def declare_inputs(
    graph: GraphProto,
    shapes: Mapping[str, Sequence[int]],
    dims: Bounds,
    values: Mapping[str, ArrayLike],
) -> Declared:
    """Read the declared inputs, then apply what the caller fixes."""
    stored = {t.name for t in graph.initializer} | {t.values.name for t in graph.sparse_initializer}
    declared = Declared()
    inputs = {value.name: value for value in graph.input if value.name not in stored}
    _known(shapes, inputs, "input")
    _known(values, inputs, "input")
    held = {name: as_array(name, value).shape for name, value in values.items()}
    for name, value in inputs.items():
        declared.types[name] = _declare(value, declared, shapes.get(name, held.get(name)))
    for what, fixed in (("shapes", shapes), ("values", held)):
        for name, wanted in fixed.items():
            _fix_shape(name, wanted, declared, what)
    for name, given in values.items():
        declared.values[name] = as_value(name, given, declared.types[name][0])
    _apply(dims, declared)
    return declared


def _known(names: Mapping[str, object], known: Mapping[str, object], what: str) -> None:
    for name in names:
        if name not in known:
            close = get_close_matches(name, known, 1)
            listed = ", ".join(f"`{k}`" for k in known) or "none"
            guess = f"did you mean `{close[0]}`? " if close else ""
            raise FrontendError(
                f"the model has no {what} `{name}`", hint=f"{guess}known {what}s: {listed}"
            )


def _declare(
    value: ValueInfoProto, declared: Declared, wanted: Sequence[int] | None
) -> tuple[DType, tuple[Dim, ...]]:
    where = f"input `{value.name}`"
    if not value.type.HasField("tensor_type"):
        raise FrontendError(
            "only tensors can be inputs", where=where, hint="sequences and maps are not supported"
        )
    tensor = value.type.tensor_type
    dtype = dtype_of(tensor.elem_type, where)
    if not tensor.HasField("shape"):
        if wanted is None:
            raise FrontendError(
                "its rank is not declared", where=where,
                hint=f"pass shapes={{'{value.name}': […]}}",
            )  # fmt: skip
        return dtype, tuple(int(size) for size in wanted)
    sizes: list[Dim] = []
    for axis, size in enumerate(tensor.shape.dim):
        if size.HasField("dim_value") and size.dim_value != -1:  # which some write for "any"
            sizes.append(int(size.dim_value))
        elif isinstance(size.dim_param, str) and any(c.isalnum() for c in size.dim_param):
            # two that are called `?` need not agree
            sizes.append(_expression(size.dim_param, declared))
        else:
            sizes.append(declared.symbol(f"{value.name}_{axis}"))
    check_dims(tuple(s for s in sizes if isinstance(s, int)), where)
    check_dims((1,) * len(sizes), where)
    return dtype, tuple(sizes)


def _expression(text: str, declared: Declared) -> Dim:
    """A declared size: a name, or a sum or product such as `past_length + 1`."""
    if text.isidentifier() or len(text) > 200:
        return declared.symbol(text)
    try:
        found = _evaluate(ast.parse(text, mode="eval").body, declared)
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        found = None
    return declared.symbol(text) if found is None else found


def _evaluate(tree: ast.expr, declared: Declared) -> Dim | None:
    match tree:
        case ast.Name(id=name):
            return declared.symbol(name)
        case ast.Constant(value=int(value)) if not isinstance(value, bool) and value < 2**31:
            return value
        case ast.BinOp(left=left, op=ast.Add() | ast.Mult() as op, right=right):
            if not (_plain(left) and _plain(right)):
                return None
            a, b = _evaluate(left, declared), _evaluate(right, declared)
            if a is None or b is None:
                return None
            return a + b if isinstance(op, ast.Add) else a * b
    return None


def _plain(tree: ast.expr) -> bool:
    """Whether an expression has names, numbers, sums and products only."""
    allowed = (ast.Name, ast.Constant, ast.BinOp, ast.Add, ast.Mult, ast.Load)
    return all(isinstance(part, allowed) for part in ast.walk(tree))


def _fix_shape(name: str, wanted: Sequence[int], declared: Declared, what: str) -> None:
    dtype, shape = declared.types[name]
    sizes = tuple(int(size) for size in wanted)
    where = f"input `{name}`"
    check_dims(sizes, where)
    text = ", ".join(map(str, shape))
    if len(sizes) != len(shape):
        raise FrontendError(
            f"it has {len(shape)} axes, `{what}` gives it {len(sizes)}", where=where,
            hint=f"it is declared as [{text}]",
        )  # fmt: skip
    for declared_size, size in zip(shape, sizes, strict=True):
        now = declared.facts.current(declared_size)
        symbol = plain_symbol(now)
        if symbol is not None:
            declared.facts.ranges[symbol.name] = (0, 0)
            declared.facts.fix(symbol.name, size, f"`{what}` of `{name}`")
        elif isinstance(now, int) and now != size:
            raise FrontendError(
                f"`{what}` gives it {list(sizes)}, which is not [{text}]", where=where,
                hint=f"{declared_size} is {now}",
            )  # fmt: skip
    declared.types[name] = (dtype, sizes)


def _apply(dims: Bounds, declared: Declared) -> None:
    facts = declared.facts
    _known({n: 0 for n in dims if declared.spelled(n) is None}, facts.ranges, "size")
    for given, bound in dims.items():
        name = declared.spelled(given)
        assert name is not None
        low, high = (bound, bound) if isinstance(bound, int) else bound
        if low < 0 or (high and high < low) or (high == 0 and low > 0 and isinstance(bound, int)):
            raise FrontendError(
                f"`{given}` cannot have the bounds {low}..{high}",
                hint="pass a size, or (least, greatest) with 0 for an open end",
            )
        if name in facts.sizes:
            if substitute(facts.sizes[name], {}) != low:
                raise FrontendError(f"`{given}` is fixed to {facts.sizes[name]} by `shapes`")
            continue
        facts.ranges[name] = (low, high)
        facts.chosen.add(name)
        if isinstance(bound, int):
            facts.sizes[name] = bound
