"""Which symbols the shapes of inputs determine, and how."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .diagnostics import InputError, VerifyError
from .dims import Dim, DimExpr, Monomial, Sym, dim, evaluate_dim, symbols_of
from .types import TensorType

if TYPE_CHECKING:
    from .graph import Graph, Node

__all__ = ["Source", "bind_symbols", "bound_symbol", "data_symbols", "symbol_sources"]


@dataclass(frozen=True)
class Source:
    """A symbol is `(size - rest) / factor`, where `size` is that of one axis of one input."""

    symbol: Sym
    input: int
    axis: int
    rest: Dim = 0
    factor: Dim = 1


def symbol_sources(types: Sequence[TensorType]) -> list[Source]:
    """How to compute each symbol; `rest` and `factor` read earlier ones. Others are left out."""
    places = [
        (size, index, axis)
        for index, type in enumerate(types)
        for axis, size in enumerate(type.shape)
        if isinstance(size, DimExpr)
    ]
    found: dict[str, Source] = {}
    for size, index, axis in places:  # a bare symbol is the simplest source
        symbol = next(symbols_of(size), None)
        if symbol is not None and size == dim(symbol) and symbol.name not in found:
            found[symbol.name] = Source(symbol, index, axis)
    progress = True
    while progress:
        progress = False
        for size, index, axis in places:
            unknown = {s.name: s for s in symbols_of(size) if s.name not in found}
            if len(unknown) != 1:
                continue
            (symbol,) = unknown.values()
            linear = [(m, c) for m, c in size.terms if symbol in m]
            divisor: Dim = 0
            for monomial, coefficient in linear:
                divisor = divisor + _without(monomial, symbol, coefficient)
            rest = size - dim(symbol) * divisor
            if divisor != 0 and symbol not in {*symbols_of(rest), *symbols_of(divisor)}:
                found[symbol.name] = Source(symbol, index, axis, rest, divisor)
                progress = True
    return list(found.values())


def _without(monomial: Monomial, symbol: Sym, factor: int) -> Dim:
    left = list(monomial)
    left.remove(symbol)
    return DimExpr(((tuple(left), factor),)) if left else factor


def bound_symbol(node: Node) -> Sym | None:
    """The symbol that a node gives a value to, if nothing above determines it already."""
    size = node.attributes["size"] if "binds" in node.op.traits else None
    symbol = next(symbols_of(size), None) if isinstance(size, DimExpr) else None
    return symbol if symbol is not None and size == dim(symbol) else None


def data_symbols(graph: Graph) -> dict[str, Sym]:
    """The symbols that data determines when the graph runs, in the order of the nodes."""
    given = {s.symbol.name for s in symbol_sources([value.type for value in graph.inputs])}
    bound = (bound_symbol(node) for node in graph.nodes)
    return {s.name: s for s in bound if s is not None and s.name not in given}


def bind_symbols(
    types: Sequence[TensorType], shapes: Sequence[Sequence[int]], names: Sequence[str]
) -> dict[str, int]:
    """The sizes of the symbols for inputs of these shapes; `InputError` where they do not fit."""
    for type, shape, name in zip(types, shapes, names, strict=True):
        if len(shape) != type.rank:
            raise InputError(f"input `{name}` is {type}, but has {len(shape)} axes")
    sizes: dict[str, int] = {}
    for source in symbol_sources(types):
        rest = shapes[source.input][source.axis] - evaluate_dim(source.rest, sizes)
        factor = evaluate_dim(source.factor, sizes)
        sizes[source.symbol.name] = rest // factor if factor else source.symbol.low
        _check_bounds(source.symbol, sizes, names[source.input])
    for symbol in (s for type in types for s in type.symbols()):
        if symbol.name not in sizes:
            raise VerifyError(f"no input determines the symbol `{symbol.name}`")
    for type, shape, name in zip(types, shapes, names, strict=True):
        for axis, (size, actual) in enumerate(zip(type.shape, shape, strict=True)):
            wanted = evaluate_dim(size, sizes)
            if wanted != actual:
                because = "" if isinstance(size, int) else f" (`{size}`{_given(sizes)})"
                raise InputError(
                    f"input `{name}` is {type}: axis {axis} has {actual} elements, "
                    f"not {wanted}{because}"
                )
    return sizes


def _check_bounds(symbol: Sym, sizes: Mapping[str, int], name: str) -> None:
    size = sizes[symbol.name]
    if size < symbol.low or (symbol.high and size > symbol.high):
        high = f" to {symbol.high}" if symbol.high else " or more"
        raise InputError(
            f"input `{name}`: `{symbol.name}` is {size}, outside its bounds",
            hint=f"`{symbol.name}` is {symbol.low}{high}",
        )


def _given(sizes: Mapping[str, int]) -> str:
    return " with " + ", ".join(f"{name} = {size}" for name, size in sizes.items())
