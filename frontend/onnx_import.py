"""ONNX bytes → checked model → graph; collects all that it cannot import."""

from __future__ import annotations

import logging
import re
from collections import ChainMap
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from pathlib import Path

import onnx.inliner
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # no types
from numpy.typing import ArrayLike
from onnx import GraphProto, ModelProto, NodeProto

from tunesmith.ir.diagnostics import CompilerError, FrontendError, Location, UnsupportedOp
from tunesmith.ir.graph import Graph
from tunesmith.ir.ops import Expr
from tunesmith.ir.rewriter import Rewriter

from .limits import LIMITS
from .onnx_builder import ImportBuilder
from .onnx_call import Call, Rule, Tensor, constant_tensor
from .onnx_check import check_graph, check_limits, label, opsets, run_checker, standard, subgraphs
from .onnx_control import CONTROL
from .onnx_fold import fold
from .onnx_functions import function_body, has_body
from .onnx_inputs import Bounds, Declared, declare_inputs
from .onnx_ops import HINTS, RULES, find_rule
from .onnx_order import in_order
from .onnx_shapes import Learned
from .onnx_split import Split, split
from .onnx_tensors import Held, read_tensor

__all__ = ["import_onnx", "read_model"]

LOG = logging.getLogger("tunesmith.frontend")
Scope = MutableMapping[str, Tensor]


def import_onnx(
    source: str | Path | ModelProto,
    *,
    shapes: Mapping[str, Sequence[int]],
    dims: Bounds,
    values: Mapping[str, ArrayLike],
    held: Held | None = None,
) -> Graph:
    """Check a model and build its graph; `held` has weights that the object lacks."""
    try:
        if isinstance(source, ModelProto):
            return _import(source, None, held, shapes, dims, values)
        model, file = read_model(Path(source))
        return _import(model, Path(source).parent, file, shapes, dims, values)
    except UnicodeDecodeError as error:
        raise FrontendError(f"a name in the model is not text: {error.reason}") from error


def _import(
    model: ModelProto,
    folder: Path | None,
    file: Held | None,
    shapes: Mapping[str, Sequence[int]],
    dims: Bounds,
    values: Mapping[str, ArrayLike],
) -> Graph:
    check_limits(model)
    model = in_order(model)
    check_graph(model)
    weights = _Weights(model, folder, file)
    run_checker(model, file.places if file is not None else ())
    if model.functions:
        model = _inlined(model)
    _collect_unsupported(model)
    declared = declare_inputs(model.graph, shapes, dims, values)
    for _ in range(LIMITS.facts):
        importer = _Importer(model, declared, weights)
        try:
            graph = importer.run()
        except Learned:
            continue
        except FrontendError as error:
            raise importer.builder.undecided(error) from error
        for note in declared.facts.notes:
            LOG.info("%s", note)
        return graph
    raise FrontendError(
        f"the model implies more than {LIMITS.facts} facts about its sizes",
        hint="fix some with `shapes` or `dims`",
    )


def read_model(path: Path) -> tuple[ModelProto, Split | None]:
    """Read a file, but for its large weights and those that lie beside it."""
    try:
        size = path.stat().st_size
        if size > LIMITS.file_bytes:
            raise FrontendError(
                f"the file has {size} bytes", where=str(path),
                hint=f"the limit is {LIMITS.file_bytes}; store weights as external data",
            )  # fmt: skip
        file = split(path)
        data = file.thin if file is not None else path.read_bytes()
    except OSError as error:
        raise FrontendError(f"cannot read the model: {error.strerror}", where=str(path)) from error
    model = ModelProto()
    try:
        model.ParseFromString(data)
    except (DecodeError, ValueError, RuntimeError) as error:
        raise FrontendError(
            "this is not an ONNX model, or a part of it is missing", where=str(path),
            hint="subgraphs that lie too deep in each other cannot be read either",
        ) from error  # fmt: skip
    return model, file


def _inlined(model: ModelProto) -> ModelProto:
    """The model with the calls of its own functions replaced by their bodies."""
    try:
        found = onnx.inliner.inline_local_functions(model)
    except (RuntimeError, ValueError, TypeError) as error:
        raise FrontendError(f"the functions of the model cannot be inlined: {error}") from error
    assert isinstance(found, ModelProto)
    return found


def _collect_unsupported(model: ModelProto) -> None:
    """Find every operator without a rule, in the whole model, and report them together."""
    versions = opsets(model)
    missing: dict[tuple[str, str], list[str]] = {}
    work: list[GraphProto] = [model.graph]
    while work:
        graph = work.pop()
        for node in graph.node:
            work.extend(subgraphs(node))
            domain = standard(node.domain)
            if not is_known(domain, node.op_type, versions.get(domain, 1)):
                missing.setdefault((domain, node.op_type), []).append(label(node))
    if not missing:
        return
    rows = [("operator", "domain", "opset", "count", "first node")]
    for (domain, name), nodes in sorted(missing.items()):
        version = str(versions.get(domain, "-"))
        rows.append((name, domain or "ai.onnx", version, str(len(nodes)), nodes[0]))
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    lines = ["".join(f"  {row[i]:<{widths[i]}}" for i in range(4)) + f"  {row[4]}" for row in rows]
    what = "1 operator" if len(missing) == 1 else f"{len(missing)} operators"
    raise UnsupportedOp(
        f"{what} of the model cannot be imported\n" + "\n".join(lines), hint=_hint(missing)
    )


def is_known(domain: str, name: str, version: int) -> bool:
    """Whether an operator can be imported: by a rule, or by what ONNX says that it means."""
    return find_rule(domain, name, version) is not None or has_body(domain, name, version)


def _hint(missing: Mapping[tuple[str, str], list[str]]) -> str:
    """The most useful thing to say about what is missing."""
    for domain, name in sorted(missing):
        if (domain, name) in HINTS:
            return f"`{name}`: {HINTS[domain, name]}"
    for domain, name in sorted(missing):
        if domain and ("", name) in RULES:
            return (
                f"`{domain}.{name}` is not the standard `{name}`: the domain makes another operator"
            )
    foreign = sorted({domain for domain, _ in missing if domain})
    if foreign:
        return f"give the model functions for `{foreign[0]}`, or export without these operators"
    return "export at another opset, or replace these operators in the framework"


class _Weights:
    """The initializers, decoded when they are first read, once for all attempts."""

    def __init__(self, model: ModelProto, folder: Path | None, file: Held | None) -> None:
        self.arrays = {}
        for tensor in model.graph.initializer:
            where = f"initializer `{tensor.name}`"
            self.arrays[tensor.name] = read_tensor(tensor, folder, where, external=True, file=file)
        for sparse in model.graph.sparse_initializer:
            raise FrontendError(
                "sparse tensors cannot be imported", where=f"initializer `{sparse.values.name}`",
                hint="store it as a dense tensor",
            )  # fmt: skip


class _Importer:
    """One attempt to build the graph with the facts known so far."""

    def __init__(self, model: ModelProto, declared: Declared, weights: _Weights) -> None:
        self.model = model
        self.declared = declared
        self.weights = weights
        self.versions = opsets(model)
        self.unrolled = 0
        self.builder = ImportBuilder(Graph(_clean(model.graph.name) or "main"), declared.facts)

    def run(self) -> Graph:
        """Build the graph, without the nodes that nothing reads."""
        source = self.model.graph
        scope: Scope = {}
        for name in self.declared.types:
            read = self.builder.input(name, self.declared.type_of(name))
            scope[name] = Tensor.of(read)
            if (value := self.declared.values.get(name)) is not None:
                where = Location(name, "input")
                scope[name] = constant_tensor(self.builder, value, f"{_clean(name)}.value", where)
        for name, array in self.weights.arrays.items():
            scope[name] = constant_tensor(self.builder, array, _clean(name), Location(name))
        with self.builder:
            for node in source.node:
                self.add(node, scope, self.versions)
            outputs = [self.output(value.name, scope) for value in source.output]
        graph = self.builder.finish(outputs, [value.name for value in source.output])
        self.check_outputs(graph)
        Rewriter(graph).erase_dead(list(graph.nodes))
        _check_values(graph)
        return graph

    def output(self, name: str, scope: Scope) -> Expr:
        """An output of the model."""
        with self.builder.at(Location(name, "output")):
            return scope[name].expr

    def check_outputs(self, graph: Graph) -> None:
        """Hold the element types of the outputs against the declared ones; names of sizes lie."""
        from .onnx_tensors import dtype_of

        for declared, value in zip(self.model.graph.output, graph.outputs, strict=True):
            where = f"output `{declared.name}`"
            if declared.type.HasField("tensor_type") and declared.type.tensor_type.elem_type:
                dtype = dtype_of(declared.type.tensor_type.elem_type, where)
                if dtype is not value.type.dtype:
                    raise FrontendError(
                        f"it is declared as {dtype} and computed as {value.type.dtype}", where=where
                    )

    def add(
        self, node: NodeProto, scope: Scope, versions: Mapping[str, int], outer: str = ""
    ) -> None:
        """Import one node into `scope`; `outer` is the node whose meaning it is a part of."""
        location = Location(outer or label(node), node.op_type)
        domain = standard(node.domain)
        version = versions.get(domain, 1)
        call = Call(
            self.builder, node.op_type, domain, version, location,
            [scope[name] if name else None for name in node.input], list(node.output),
            {attribute.name: attribute for attribute in node.attribute},
        )  # fmt: skip
        rule = find_rule(domain, node.op_type, version)
        with self.builder.at(location):
            results = (
                self.expand(call, node, versions)
                if rule is None
                else self.apply(call, rule, scope, versions)
            )
        if len(results) < sum(bool(name) for name in node.output):
            call.fail(f"it has {len(node.output)} results, {len(results)} can be imported")
        for name, result in zip(node.output, results, strict=False):
            if name:
                scope[name] = result if isinstance(result, Tensor) else Tensor.of(result)

    def expand(self, call: Call, node: NodeProto, outer: Mapping[str, int]) -> list[Expr | Tensor]:
        """Import the body by which ONNX defines an operator, in place.

        A domain that the body names no version of has that of the `outer` graph.
        """
        if not has_body(call.domain, call.operator, call.opset):
            call.fail(f"`{call.operator}` cannot be imported", hint=HINTS.get(("", call.operator)))
        types = [None if x is None else x.type for x in call.inputs]
        try:
            body = function_body(node, call.domain, call.opset, types)
        except (RuntimeError, ValueError, KeyError) as error:
            call.fail(f"it cannot be written with smaller operators: {error}")
        inner: Scope = {
            name: x for name, x in zip(body.input, call.inputs, strict=False) if x is not None
        }
        versions = {**outer}
        versions |= {standard(entry.domain): int(entry.version) for entry in body.opset_import}
        for part in body.node:
            self.add(part, inner, versions, call.location.name)
        return [inner[name] for name in body.output[: len(call.outputs)]]

    def apply(
        self, call: Call, rule: Rule, scope: Scope, versions: Mapping[str, int]
    ) -> Sequence[Expr | Tensor]:
        """Run a rule; whatever breaks in it is the fault of the model, and named."""
        try:
            if not call.domain and call.operator in CONTROL:
                return CONTROL[call.operator](
                    call, lambda graph, given: self.body(graph, given, scope, versions, call)
                )
            found = fold(call)
            result = rule(call) if found is None else found
        except FrontendError:
            raise
        except CompilerError as error:
            raise FrontendError(error.message, where=call.location, hint=error.hint) from error
        except (ValueError, TypeError, LookupError, ArithmeticError, AssertionError) as error:
            raise FrontendError(f"it cannot be imported: {error}", where=call.location) from error
        return [result] if isinstance(result, Expr | Tensor) else list(result)

    def body(
        self, graph: GraphProto, given: Mapping[str, Tensor], scope: Scope,
        versions: Mapping[str, int], call: Call,
    ) -> list[Tensor]:  # fmt: skip
        """Import a graph that a node holds, in place; it sees what is outside."""
        inner: Scope = ChainMap(dict(given), scope)  # reads through, writes inside
        for tensor in graph.initializer:
            where = f"{call.location}, initializer `{tensor.name}`"
            array = read_tensor(tensor, None, where)
            inner[tensor.name] = constant_tensor(
                self.builder, array, _clean(tensor.name), call.location
            )
        for node in graph.node:
            self.unrolled += 1  # also of what is folded, and leaves no node
            if max(self.unrolled, len(self.builder.graph)) > LIMITS.nodes:
                call.fail(f"unrolled, it has more than {LIMITS.nodes} nodes")
            self.add(node, inner, versions)
        return [inner[value.name] for value in graph.output]


def _check_values(graph: Graph) -> None:
    """Refuse results that no machine should be asked for: a few bytes can name them."""
    for node in graph.nodes:
        for value in node.results:
            size = value.type.size
            if node.op.name == "constant" or not isinstance(size, int):
                continue
            if size * value.type.dtype.bytes > LIMITS.value_bytes:
                raise FrontendError(
                    f"its result {value.type} has {size * value.type.dtype.bytes} bytes",
                    where=node.location,
                    hint=f"the limit is {LIMITS.value_bytes}; see `value_bytes` in docs/hostile.md",
                )


def _clean(name: str) -> str:
    """A name for a value: letters, digits, dots and underscores."""
    found = re.sub(r"[^A-Za-z0-9_.]+", "_", name).strip("._")
    return f"w{found}" if found[:1].isdigit() else found


def import_rules() -> Iterator[tuple[str, str, int]]:
    """Every operator that has a rule: domain, name, first version."""
    for (domain, name), rules in sorted(RULES.items()):
        yield domain, name, rules[0][0]
