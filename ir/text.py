"""The text of a graph: canonical, one node a line, and the inverse of `parse_graph`.

Where the grammar has to be chosen: a name that is not a plain word is quoted (`%"a/b:0"`, and a
symbol as `` `batch size` ``); the bounds of a symbol stand where it is first named (`2<=S<=512`,
inside an expression in parentheses); `(S - 3)//2` binds tighter than `*`; a float that no decimal
gives back exactly (a NaN with a payload) stands as its bits, `0x7fc00001`. A `//` that no digit
follows begins a comment.
"""

from __future__ import annotations

import inspect
import json
import re
from typing import Any

import numpy as np

from .constants import Constant
from .dims import Dim, DimExpr, FloorDiv, Sym
from .graph import Graph, Node, Value
from .ops import Attribute
from .parser import parse_graph
from .types import DType, TensorType

__all__ = ["INLINE_ELEMENTS", "parse_graph", "print_graph", "print_node", "value_text"]

INLINE_ELEMENTS = 16  # constants with more elements stand as a hash

_PLAIN_VALUE = re.compile(r"[A-Za-z0-9_.$]+\Z")
_PLAIN_SYMBOL = re.compile(r"[A-Za-z_][A-Za-z0-9_.$]*\Z")
_RESERVED = {"_", "true", "false", "inf", "nan", "as", *(dtype.value for dtype in DType)}


def print_graph(graph: Graph, locations: bool = False) -> str:
    """The text of a graph; with `locations`, a comment on each node says where it comes from."""
    printer = _Printer()
    inputs = ", ".join(f"{value_text(v)}: {printer.type(v.type)}" for v in graph.inputs)
    lines = [f"graph @{_quoted(graph.name)}({inputs}) {{"]
    for node in graph.nodes:
        comment = f"  // {_comment(node)}" if locations and _comment(node) else ""
        lines.append(f"  {printer.node(node)}{comment}")
    returned = ", ".join(
        value_text(value) + ("" if name == value.name else f" as {_string(name)}")
        for value, name in zip(graph.outputs, graph.output_names, strict=True)
    )
    return "\n".join([*lines, f"  return {returned}".rstrip(), "}"])


def print_node(node: Node) -> str:
    """The line of one node, with the bounds of every symbol in it."""
    return _Printer().node(node)


def value_text(value: Value | None) -> str:
    """`%name`, quoted where it must be; `_` for an absent operand."""
    return "_" if value is None else f"%{_quoted(value.name)}"


def _quoted(name: str) -> str:
    return name if _PLAIN_VALUE.match(name) else _string(name)


def _string(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _comment(node: Node) -> str:
    name, operator = node.location.name, node.location.operator
    text = f"{name} ({operator})" if name and operator else name or (operator and f"({operator})")
    return _string(text)[1:-1]


class _Printer:
    """Knows which symbols have been named, so that bounds are printed once."""

    def __init__(self) -> None:
        self.named: set[str] = set()

    def node(self, node: Node) -> str:
        results = ", ".join(map(value_text, node.results))
        operands = ", ".join(map(value_text, node.operands))
        defaults = node.op.attribute_defaults
        attributes = []
        for name in sorted(node.attributes):
            text = self.attribute(node.attributes[name])
            if name not in defaults or not _is_default(text, defaults[name], node, name):
                attributes.append(f"{name} = {text}")
        braces = f" {{{', '.join(attributes)}}}" if attributes else ""
        types = ", ".join(self.type(value.type) for value in node.results)
        head = f"{results} = " if results else ""
        return f"{head}{node.op.name}({operands}){braces}" + (f" : {types}" if types else "")

    def type(self, type: TensorType) -> str:
        return f"{type.dtype}[{', '.join(map(self.dim, type.shape))}]"

    def dim(self, value: Dim) -> str:
        if isinstance(value, DimExpr) and value.terms[0][1] == 1 and len(value.terms) == 1:
            monomial = value.terms[0][0]
            if len(monomial) == 1 and isinstance(monomial[0], Sym):
                return self._symbol(monomial[0])
        return self._polynomial(value)

    def _polynomial(self, value: Dim) -> str:
        if isinstance(value, int):
            return str(value)
        text = ""
        for monomial, factor in value.terms:
            names = [self._atom(atom) for atom in monomial]
            if abs(factor) != 1 or not names:
                names.insert(0, str(abs(factor)))
            sign = "-" if factor < 0 else "+"
            lead = f" {sign} " if text else "-" * (factor < 0)
            text += lead + "*".join(names)
        return text

    def _atom(self, atom: Sym | FloorDiv) -> str:
        if isinstance(atom, FloorDiv):
            return f"({self._polynomial(atom.numerator)})//{atom.denominator}"
        text = self._symbol(atom)
        return f"({text})" if "<=" in text else text

    def _symbol(self, symbol: Sym) -> str:
        name = symbol.name
        if not _PLAIN_SYMBOL.match(name) or name in _RESERVED:
            name = "`" + _string(name)[1:-1].replace("`", "\\u0060") + "`"
        if symbol.name in self.named:
            return name
        self.named.add(symbol.name)
        low = f"{symbol.low}<=" if symbol.low != 1 else ""
        high = f"<={symbol.high}" if symbol.high else ""
        return f"{low}{name}{high}"

    def attribute(self, value: Attribute) -> str:
        match value:
            case bool():
                return "true" if value else "false"
            case int() | DimExpr():
                return self.dim(value)
            case float():
                return repr(value)
            case str():
                return _string(value)
            case DType():
                return value.value
            case Constant():
                return self.constant(value)
            case tuple():
                return f"[{', '.join(map(self.attribute, value))}]"
            case _:  # the wildcard of a pattern
                return str(value)

    def constant(self, constant: Constant) -> str:
        if constant.array.size > INLINE_ELEMENTS:
            return f"{constant.type} #{constant.digest}"
        elements = [_element(item, constant.type.dtype) for item in constant.array.reshape(-1)]
        if not constant.type.shape:
            return f"{constant.type} {elements[0]}"
        return f"{constant.type} [{', '.join(elements)}]"


def _is_default(text: str, default: Any, node: Node, name: str) -> bool:
    if default is inspect.Parameter.empty:
        return False
    if isinstance(default, int) and isinstance(node.attributes[name], float):
        default = float(default)
    return text == _Printer().attribute(default)


def _element(item: Any, dtype: DType) -> str:
    if dtype is DType.bool:
        return "true" if item else "false"
    if dtype.is_stored:
        return f"0x{item.tobytes()[0]:02x}"
    if not dtype.is_float:
        return str(int(item))
    number = float(item)
    for text in (str(item), repr(number)):
        if "e" not in text and "." not in text and text not in ("inf", "-inf", "nan"):
            text += ".0"
        if np.float64(text).astype(dtype.numpy).tobytes() == item.tobytes():
            return text
    bits = int.from_bytes(item.tobytes(), "little")
    return f"0x{bits:0{2 * dtype.bytes}x}"
