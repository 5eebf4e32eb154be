"""Whether a model is a model: the rules of ONNX, and ours, before anything is built from it."""

from __future__ import annotations

from collections.abc import Container, Iterator

import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto

from tunesmith.ir.diagnostics import FrontendError

from .limits import LIMITS

__all__ = ["check_graph", "check_limits", "label", "opsets", "run_checker", "standard", "subgraphs"]

STANDARD = "ai.onnx"
SMALL = 1024  # bytes; larger initializers are hidden from the checker, whose copies cost memory


def standard(domain: str) -> str:
    """A domain with the two spellings of the standard one made one."""
    return "" if domain == STANDARD else domain


def label(node: NodeProto) -> str:
    """What to call a node in a message: its name, or that of its first result."""
    return node.name or next((name for name in node.output if name), "") or "unnamed"


def opsets(model: ModelProto) -> dict[str, int]:
    """The version of each domain that the model imports."""
    return {standard(entry.domain): int(entry.version) for entry in model.opset_import}


def subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    """The graphs that a node holds."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def check_limits(model: ModelProto) -> None:
    """Refuse what is no model, or too large a one; `FrontendError` says where."""
    _check_header(model)
    _check_size(model)


def _check_header(model: ModelProto) -> None:
    if not model.HasField("graph") or not model.ir_version:
        raise FrontendError("this is not an ONNX model", hint="it has no graph, or no version")
    versions: dict[str, int] = {}
    for entry in model.opset_import:
        _check_name(entry.domain, "a domain")
        domain = standard(entry.domain)
        if versions.setdefault(domain, entry.version) != entry.version:
            raise FrontendError(f"the model imports two versions of `{domain or STANDARD}`")
    found = versions.get("")
    low, high = LIMITS.opsets
    if found is not None and not low <= found <= high:
        raise FrontendError(
            f"the model is of opset {found}",
            hint=f"opsets {low} to {high} are known; `onnx.version_converter` may help",
        )


def _check_size(model: ModelProto) -> None:
    """Limit nodes and depth, without recursion."""
    work = [(model.graph, 1)]
    work += [(function, 1) for function in model.functions]
    count = 0
    while work:
        graph, depth = work.pop()
        if depth > LIMITS.depth:
            raise FrontendError(
                f"subgraphs lie {depth} deep inside each other", hint=f"the limit is {LIMITS.depth}"
            )
        count += len(graph.node)
        if count > LIMITS.nodes:
            raise FrontendError(
                f"the model has more than {LIMITS.nodes} nodes",
                hint="export it without unrolling, or split it",
            )
        for node in graph.node:
            work.extend((inner, depth + 1) for inner in subgraphs(node))
    _check_functions(model)


def _check_functions(model: ModelProto) -> None:
    """Refuse functions that call themselves, or that grow past the limit once inlined."""
    for function in model.functions:
        for name in (function.name, function.domain, function.overload):
            _check_name(name, "a function")
    bodies = {(standard(f.domain), f.name, f.overload): f for f in model.functions}
    if len(bodies) != len(model.functions):
        raise FrontendError("two functions of the model have one name")
    sizes: dict[tuple[str, str, str], int] = {}
    for root in bodies:
        path = [(root, False)]
        open_calls: set[tuple[str, str, str]] = set()
        while path:
            key, done = path.pop()
            if done:
                open_calls.discard(key)
                sizes[key] = sum(sizes.get(_key(n), 1) for n in _all_nodes(bodies[key].node))
                continue
            if key in sizes:
                continue
            if key in open_calls:
                raise FrontendError(f"function `{key[1]}` calls itself")
            open_calls.add(key)
            path.append((key, True))
            called = {_key(n) for n in _all_nodes(bodies[key].node)} & bodies.keys()
            if called & open_calls:
                raise FrontendError(f"function `{key[1]}` calls itself")
            path.extend((other, False) for other in called)
    total = sum(sizes.get(_key(n), 1) for n in _all_nodes(model.graph.node))
    if total > LIMITS.nodes:
        raise FrontendError(
            f"the model has {total} nodes once its functions are inlined",
            hint=f"the limit is {LIMITS.nodes}",
        )


def _key(node: NodeProto) -> tuple[str, str, str]:
    return standard(node.domain), node.op_type, node.overload


def _all_nodes(nodes: object) -> Iterator[NodeProto]:
    work = list(nodes)  # type: ignore[call-overload]  # a repeated field, which has no type
    while work:
        node = work.pop()
        yield node
        for graph in subgraphs(node):
            work.extend(graph.node)


def _check_name(name: object, what: str) -> None:
    if not isinstance(name, str):  # protobuf hands out bytes where a text is not UTF-8
        raise FrontendError(f"the name of {what} is not text", where=repr(name)[:40])
    if "\0" in name or len(name.encode("utf-8", "surrogatepass")) > LIMITS.name_bytes:
        raise FrontendError(
            f"the name of {what} is too long, or holds a zero byte",
            where=repr(name[:40]),
            hint=f"the limit is {LIMITS.name_bytes} bytes",
        )


def check_graph(model: ModelProto) -> None:
    """Refuse what is no graph: each value has one definition, before its uses.

    Subgraphs see what is outside. `FrontendError` says where.
    """
    _check_scope(model.graph, frozenset(), "")
    for function in model.functions:
        names = set(function.input)
        if len(names) != len(function.input):
            raise FrontendError("two inputs have one name", where=f"function `{function.name}`")
        _check_nodes(list(function.node), names, list(function.output), f" of `{function.name}`")


def _check_scope(graph: GraphProto, outer: frozenset[str], where: str) -> None:
    names: set[str] = set()
    for value in graph.input:
        _check_name(value.name, "an input")
        if not value.name or value.name in names:
            raise FrontendError(f"two inputs are named `{value.name}`", where=where or None)
        names.add(value.name)
    inputs = frozenset(names)
    weights: set[str] = set()
    stored = [t.name for t in graph.initializer]
    stored += [t.values.name for t in graph.sparse_initializer]
    for name in stored:
        _check_name(name, "an initializer")
        if not name or name in weights:
            raise FrontendError(f"two initializers are named `{name}`", where=where or None)
        weights.add(name)
    names = set(inputs | weights | outer)
    _check_nodes(list(graph.node), names, [v.name for v in graph.output], where)


def _check_nodes(nodes: list[NodeProto], names: set[str], outputs: list[str], where: str) -> None:
    producers: dict[str, NodeProto] = {}
    for node in nodes:
        for text in (node.name, node.op_type, node.domain, *node.input):
            _check_name(text, "a node, its operator or its operands")
        for attribute in node.attribute:
            _check_name(attribute.name, "an attribute")
        for name in node.output:
            _check_name(name, "a value")
            if name and (name in producers or name in names):
                raise FrontendError(
                    f"two values are named `{name}`",
                    where=f"node `{label(node)}` ({node.op_type}){where}",
                    hint="a value has one definition",
                )
            if name:
                producers[name] = node
    known = set(names)
    for node in nodes:
        for name in node.input:
            if name and name not in known:
                _undefined(node, name, producers, where)
        for inner in subgraphs(node):
            _check_scope(inner, frozenset(known), f" in `{label(node)}`")
        known.update(name for name in node.output if name)
    for name in outputs:
        if name not in known:
            raise FrontendError(
                f"the output `{name}` is not defined", where=where.strip() or None,
                hint="an output is an input, an initializer or a result of a node",
            )  # fmt: skip


def _undefined(node: NodeProto, name: str, producers: dict[str, NodeProto], where: str) -> None:
    place = f"node `{label(node)}` ({node.op_type}){where}"
    if name not in producers:
        raise FrontendError(f"it reads `{name}`, which is not defined", where=place)
    seen, work = {id(producers[name])}, [producers[name]]
    while work:
        for other in (producers.get(i) for i in work.pop().input):
            if other is not None and id(other) not in seen:
                seen.add(id(other))
                work.append(other)
    if id(node) in seen:
        raise FrontendError(f"it reads `{name}`, which depends on it: a cycle", where=place)
    raise FrontendError(
        f"it reads `{name}`, which is defined after it", where=place, hint="sort the nodes"
    )


UNDEFINED = frozenset({("", "SimplifiedLayerNormalization")})


def run_checker(model: ModelProto, hidden: Container[str] = ()) -> None:
    """The checker of ONNX, on the model without its large weights: those are inputs to it."""
    thin = ModelProto()
    thin.ir_version = model.ir_version
    thin.opset_import.extend(model.opset_import)
    thin.functions.extend(model.functions)
    graph, source = thin.graph, model.graph
    graph.name = source.name
    graph.node.extend(source.node)
    _spell_out(thin)
    graph.input.extend(source.input)
    graph.output.extend(source.output)
    graph.sparse_initializer.extend(source.sparse_initializer)
    inputs = {value.name for value in source.input}
    for tensor in source.initializer:
        inside = tensor.data_location != TensorProto.EXTERNAL and tensor.name not in hidden
        if tensor.ByteSize() <= SMALL and inside:
            graph.initializer.append(tensor)
        elif tensor.name not in inputs:
            graph.input.append(
                onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            )
    try:
        onnx.checker.check_model(thin, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise FrontendError(
            f"the ONNX checker refuses the model: {_short(str(error))}",
            hint="`onnx.checker.check_model(path, full_check=True)` shows the same",
        ) from error
    except (ValueError, TypeError, RuntimeError, UnicodeDecodeError) as error:
        raise FrontendError(f"the ONNX checker fails on the model: {_short(str(error))}") from error


def _spell_out(thin: ModelProto) -> None:
    """Write what the checker does not know.

    That is a default which it loses while it looks into the body of a function, and the home of
    operators that ONNX Runtime's optimizer writes into the standard domain, which lacks them.
    """
    work, home = [thin.graph], "com.microsoft"
    while work:
        for node in work.pop().node:
            work.extend(subgraphs(node))
            if node.op_type == "MeanVarianceNormalization" and not node.attribute:
                node.attribute.append(onnx.helper.make_attribute("axes", [0, 2, 3]))
            elif (node.domain, node.op_type) in UNDEFINED:
                node.domain = home
                if home not in opsets(thin):
                    thin.opset_import.append(onnx.helper.make_opsetid(home, 1))


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 400 else f"{text[:400]}…"
