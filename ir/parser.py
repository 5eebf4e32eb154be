"""From the text of a graph to the graph; `text.py` says what the text looks like."""

from __future__ import annotations

import difflib
import math
from collections.abc import Iterable, Mapping

import numpy as np
from numpy.typing import NDArray

from . import opset  # noqa: F401  # fills the table of operators
from .constants import Constant
from .diagnostics import CompilerError, Location
from .dims import Dim, DimExpr, Sym, dim, floor_div
from .graph import RETURN, Graph, Node, Value, infer_types
from .ops import OPS, Attribute, OpDef
from .tokens import Token, TokenStream
from .types import DType, TensorType

__all__ = ["parse_graph"]

_DTYPES = {dtype.value: dtype for dtype in DType}
_NOT_SYMBOLS = {"true", "false", "inf", "nan", "_", *_DTYPES}


def parse_graph(
    text: str,
    filename: str = "<string>",
    weights: Mapping[str, NDArray[np.generic]] | None = None,
) -> Graph:
    """The graph that a text describes; `weights` holds the large constants by their hash.

    Written types are checked against inference and may be left out. `ParseError` shows the place.
    """
    return _Parser(text, filename, weights or {}).graph()


class _Parser(TokenStream):
    def __init__(self, text: str, file: str, weights: Mapping[str, NDArray[np.generic]]) -> None:
        super().__init__(text, file)
        self.weights = weights
        self.values: dict[str, Value] = {}
        self.symbols: dict[str, Sym] = {}
        self.first_named: dict[str, int] = {}  # where in the text

    # ---- graphs and nodes

    def graph(self) -> Graph:
        self.expect("graph")
        graph = Graph(self.expect_kind("title", "a name like `@main`").name)
        self.expect("(")
        self.listed(")", lambda: self._input(graph))
        self.expect("{")
        while not self.peek("return"):
            self._node(graph)
        self._return(graph)
        self.expect("}")
        if self.token.kind != "end":
            self.fail(self.token, f"expected the end of the text, found {self.found()}")
        return graph

    def _input(self, graph: Graph) -> None:
        token = self._new_value()
        self.expect(":")
        self.values[token.name] = graph.add_input(token.name, self.type())

    def _new_value(self) -> Token:
        token = self.expect_kind("value", "a value like `%x`")
        if token.name in self.values:
            self.fail(token, f"`%{token.name}` is defined twice", "every value has its own name")
        if not token.name:
            self.fail(token, "a value needs a name")
        return token

    def _old_value(self) -> Value:
        token = self.expect_kind("value", "a value like `%x`")
        value = self.values.get(token.name)
        if value is None:
            hint = _suggest(token.name, self.values, "`%{}`") or (
                "a value is defined on a line above its first use"
            )
            self.fail(token, f"unknown value `%{token.name}`", hint)
        return value

    def _node(self, graph: Graph) -> None:
        if self.token.kind != "value":
            self.fail(self.token, f"expected a node or `return`, found {self.found()}")
        start = self.token
        results = [self._new_value()]
        while self.accept(","):
            results.append(self._new_value())
        self.expect("=")
        name = self.expect_kind("word", "an operator")
        op = OPS.get(name.text)
        if op is None or op is RETURN:
            self.fail(name, f"unknown operator `{name.text}`", _operator_hint(name.text))
        self.expect("(")
        operands = self.listed(")", lambda: None if self.accept("_") else self._old_value())
        attributes = self._attributes(op)
        try:
            bound = op.bind(len(operands), attributes)
        except ValueError as error:
            self.fail(name, str(error))
        try:
            types = infer_types(op, operands, bound)
        except (ValueError, TypeError, AttributeError) as error:
            self.fail(name, f"`{op.name}`: {error}")
        except CompilerError as error:
            self.fail(name, f"`{op.name}`: {error.message}")
        if len(types) != len(results):
            self.fail(start, f"`{op.name}` has {len(types)} results, not {len(results)}",
                      end=results[-1].end)  # fmt: skip
        if self.accept(":"):
            self._check_types(op, types)
        node = Node(op, operands, bound, Location(file=self.file, line=self.line(start)))
        for index, (token, type) in enumerate(zip(results, types, strict=True)):
            if token.name in self.values:
                self.fail(token, f"`%{token.name}` is defined twice")
            value = Value(graph.fresh_name(token.name), type, node, index)
            node.results.append(value)
            self.values[token.name] = value
        for index, operand in enumerate(operands):
            if operand is not None:
                operand.users[(node, index)] = None
        graph.link(node, None)

    def _check_types(self, op: OpDef, types: tuple[TensorType, ...]) -> None:
        for index, inferred in enumerate(types):
            if index:
                self.expect(",")
            start = self.token
            written = self.type()
            if written != inferred:
                self.fail(start, f"`{op.name}` gives {inferred}, not {written}",
                          "the written type must be the inferred one, or be left out",
                          end=self.tokens[self.at - 1].end)  # fmt: skip

    def _attributes(self, op: OpDef) -> dict[str, Attribute]:
        attributes: dict[str, Attribute] = {}

        def item() -> None:
            name = self.expect_kind("word", "the name of an attribute")
            if name.text not in op.attribute_defaults:
                hint = _suggest(name.text, op.attribute_defaults, "`{}`") or (
                    f"its attributes: {', '.join(op.attribute_defaults) or 'none'}"
                )
                self.fail(name, f"`{op.name}` has no attribute `{name.text}`", hint)
            if name.text in attributes:
                self.fail(name, f"attribute `{name.text}` is given twice")
            self.expect("=")
            attributes[name.text] = self._attribute()

        if self.accept("{"):
            self.listed("}", item)
        return attributes

    def _return(self, graph: Graph) -> None:
        self.expect("return")
        while not self.peek("}"):
            if graph.output_names:
                self.expect(",")
            value = self._old_value()
            name = value.name
            if self.accept("as"):
                name = self.expect_kind("string", "the name of an output in quotes").name
            value.users[(graph.terminator, len(graph.output_names))] = None
            graph.terminator.operands.append(value)
            graph.output_names.append(name)

    # ---- types and sizes

    def type(self) -> TensorType:
        token = self.expect_kind("word", "a type like `f32[2, 3]`")
        if token.text not in _DTYPES:
            hint = f"known element types: {', '.join(_DTYPES)}"
            self.fail(token, f"unknown element type `{token.text}`", hint)
        self.expect("[")
        return TensorType(_DTYPES[token.text], tuple(self.listed("]", self._dim)))

    def _dim(self) -> Dim:
        start = self.token
        value = self._sum()
        if self.peek("<="):
            value = self._bounded(start, value)
        return value

    def _bounded(self, start: Token, value: Dim) -> Dim:
        low: int | None = None
        if isinstance(value, int):
            low = value
            self.expect("<=")
            value = self._factor()
        high = 0
        if self.accept("<="):
            high = int(self.expect_kind("int", "a bound").text)
        atom = value.terms[0][0][0] if isinstance(value, DimExpr) else None
        if not isinstance(atom, Sym) or value != dim(atom):
            self.fail(start, "only a symbol has bounds", end=self.tokens[self.at - 1].end)
        bounded = Sym(atom.name, 1 if low is None else low, high)
        if high and high < bounded.low:
            self.fail(start, f"no size lies between {bounded.low} and {high}",
                      end=self.tokens[self.at - 1].end)  # fmt: skip
        if self.first_named[atom.name] < start.start and self.symbols[atom.name] != bounded:
            self.fail(start, f"the bounds of `{atom.name}` stand where it is first named",
                      end=self.tokens[self.at - 1].end)  # fmt: skip
        self.symbols[atom.name] = bounded
        return dim(bounded)

    def _symbol(self, token: Token) -> Sym:
        if token.name not in self.symbols:
            self.symbols[token.name] = Sym(token.name)
            self.first_named[token.name] = token.start
        return self.symbols[token.name]

    def _sum(self) -> Dim:
        negative = self.accept("-")
        total = -self._product() if negative else self._product()
        while self.peek("+", "-"):
            plus = self.take().text == "+"
            term = self._product()
            total = total + term if plus else total - term
        return total

    def _product(self) -> Dim:
        value = self._factor()
        while self.accept("*"):
            value = value * self._factor()
        return value

    def _factor(self) -> Dim:
        token = self.take()
        if token.kind == "int":
            return int(token.text)
        if token.kind == "symbol" or (token.kind == "word" and token.text not in _NOT_SYMBOLS):
            return dim(self._symbol(token))
        if token.kind != "mark" or token.text != "(":
            self.at -= token.kind != "end"
            self.fail(token, f"expected a size, found {self.found()}")
        value = self._dim()
        self.expect(")")
        if self.accept("//"):
            divisor = self.expect_kind("int", "a divisor")
            if not int(divisor.text):
                self.fail(divisor, "a size cannot be divided by 0")
            return floor_div(value, int(divisor.text))
        return value

    # ---- attributes

    def _attribute(self) -> Attribute:
        token = self.token
        if token.kind == "string":
            return self.take().name
        if self.accept("["):
            return tuple(self.listed("]", self._attribute))
        if self.peek("true", "false"):
            return self.take().text == "true"
        if token.kind == "word" and token.text in _DTYPES:
            if self.tokens[self.at + 1].text == "[":
                return self._constant()
            return _DTYPES[self.take().text]
        after = self.tokens[min(self.at + 1, len(self.tokens) - 1)] if self.peek("-") else token
        if after.kind == "float" or after.text in ("inf", "nan"):
            return self._float()
        return self._dim()

    def _float(self) -> float:
        sign = -1.0 if self.accept("-") else 1.0
        return math.copysign(float(self.take().text), sign)

    def _constant(self) -> Constant:
        start = self.token
        type = self.type()
        if not type.is_static:
            self.fail(start, f"a constant has known sizes, not {type}")
        shape = tuple(size for size in type.shape if isinstance(size, int))
        if self.token.kind == "digest":
            return self._weight(type)
        first = self.token
        if type.shape:
            self.expect("[")
            items = self.listed("]", lambda: self._element(type.dtype))
        else:
            items = [self._element(type.dtype)]
        if len(items) != type.size:
            self.fail(first, f"{type} has {type.size} elements, not {len(items)}",
                      end=self.tokens[self.at - 1].end)  # fmt: skip
        return Constant(np.frombuffer(b"".join(items), type.dtype.numpy).reshape(shape))

    def _element(self, dtype: DType) -> bytes:
        """The memory of one element."""
        start = self.token
        negative = self.accept("-")
        token = self.take()
        text = "-" * negative + token.text
        try:
            if token.kind == "bits" and not negative:
                return int(text, 16).to_bytes(dtype.bytes, "little")
            if dtype is DType.bool:
                return np.bool_({"true": True, "false": False}[text]).tobytes()
            if dtype.is_float:
                if token.kind in ("int", "float") or token.text in ("inf", "nan"):
                    with np.errstate(over="ignore"):
                        return bytes(np.asarray(float(text)).astype(dtype.numpy).tobytes())
                raise ValueError
            return np.asarray([int(text)], dtype.numpy).tobytes()
        except (KeyError, ValueError, OverflowError):
            self.fail(start, f"`{text}` is not an element of type {dtype}", end=token.end)

    def _weight(self, type: TensorType) -> Constant:
        token = self.take()
        array = self.weights.get(token.text[1:])
        if array is None:
            missing = "is not among the weights given" if self.weights else "needs its weights"
            self.fail(token, f"the constant {token.text[:9]}… {missing}",
                      "pass the safetensors file that was written beside the text")  # fmt: skip
        constant = Constant(array)
        if constant.type != type:
            self.fail(token, f"the weight is {constant.type}, not {type}")
        return constant


def _suggest(name: str, known: Iterable[str], form: str) -> str | None:
    close = difflib.get_close_matches(name, list(known), n=1)
    return f"did you mean {form.format(close[0])}?" if close else None


def _operator_hint(name: str) -> str:
    known = sorted(set(OPS) - {RETURN.name})
    return _suggest(name, known, "`{}`") or f"known operators: {', '.join(known)}"
