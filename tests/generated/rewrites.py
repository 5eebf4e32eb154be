"""Rewrites that do not change what a model computes, put at random places of it.

After Zhou et al., 2024, "PolyJuice: Detecting Mis-compilation Bugs in Tensor Compilers with
Equality Saturation Based Rewriting". A rewrite of a value keeps each bit of it, for every value
that there is; one of a node may round otherwise. Compilers take such forms for something special.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper

from tests.conformance.engines import Engine, Run, Stages
from tests.generated.editing import Editing, Place

__all__ = ["NODES", "VALUES", "Rewritten", "apply", "rewritten"]

# A rule adds nodes and names the value that is equal, or is not for this place and says nothing.
ValueRule = Callable[[Editing, Place], str | None]
NodeRule = Callable[[Editing, NodeProto], str | None]

WIDER = {
    TensorProto.FLOAT16: TensorProto.FLOAT,
    TensorProto.FLOAT: TensorProto.DOUBLE,
    TensorProto.BOOL: TensorProto.INT32,
    TensorProto.UINT8: TensorProto.INT32,
    TensorProto.INT8: TensorProto.INT32,
    TensorProto.INT16: TensorProto.INT32,
    TensorProto.INT32: TensorProto.INT64,
}


def _minus_zero(e: Editing, x: Place) -> str | None:
    return e.call("Sub", x.name, e.constant(0, x.dtype)) if x.number else None


def _plus_zero(e: Editing, x: Place) -> str | None:
    return e.call("Add", x.name, e.constant(-0.0, x.dtype)) if x.number else None


def _times_one(e: Editing, x: Place) -> str | None:
    return e.call("Mul", e.constant([1], x.dtype), x.name) if x.number and x.rank else None


def _over_one(e: Editing, x: Place) -> str | None:
    return e.call("Div", x.name, e.constant(1, x.dtype)) if x.number else None


def _negated_twice(e: Editing, x: Place) -> str | None:
    if x.number:
        return e.call("Neg", e.call("Neg", x.name)) if x.signed else None
    return e.call("Not", e.call("Not", x.name))


def _with_itself(e: Editing, x: Place) -> str | None:
    operator = ("Max", "Min") if x.number else ("And", "Or")
    return e.call(operator[e.choose(2)], x.name, x.name)


def _always(e: Editing, x: Place) -> str | None:
    return e.call("Where", e.constant(True, np.bool_), x.name, e.constant(0, x.dtype))


def _either_way(e: Editing, x: Place) -> str | None:
    if None in x.shape:
        return None
    return e.call("Where", e.constant(e.random_like(x.shape), np.bool_), x.name, x.name)


def _wider_and_back(e: Editing, x: Place) -> str | None:
    if x.type not in WIDER:
        return None
    return e.call("Cast", e.call("Cast", x.name, to=WIDER[x.type]), to=x.type)


def _turned_and_back(e: Editing, x: Place) -> str | None:
    if x.rank < 2:
        return None
    perm = e.random.permutation(x.rank)
    turned = e.call("Transpose", x.name, perm=[int(i) for i in perm])
    return e.call("Transpose", turned, perm=[int(i) for i in np.argsort(perm)])


def _flat_and_back(e: Editing, x: Place) -> str | None:
    flat = e.call("Reshape", x.name, e.constant([-1]))
    known = None not in x.shape and 0 not in x.shape
    shape = e.constant(list(x.shape)) if known and e.choose(2) else e.call("Shape", x.name)
    return e.call("Reshape", flat, shape)


def _another_axis(e: Editing, x: Place) -> str | None:
    axes = e.constant([e.choose(x.rank + 1)])
    return e.call("Squeeze", e.call("Unsqueeze", x.name, axes), axes)


def _cut(e: Editing, x: Place) -> tuple[int, int, int] | None:
    """An axis of at least two elements, a place inside, the size."""
    axes = [i for i, size in enumerate(x.shape) if size is not None and size > 1]
    if not axes:
        return None
    axis = axes[e.choose(len(axes))]
    size = x.shape[axis] or 0
    return axis, 1 + e.choose(size - 1), size


def _split_and_joined(e: Editing, x: Place) -> str | None:
    cut = _cut(e, x)
    if cut is None:
        return None
    axis, at, size = cut
    parts = e.calls("Split", x.name, e.constant([at, size - at]), outputs=2, axis=axis)
    return e.call("Concat", *parts, axis=axis)


def _slices_joined(e: Editing, x: Place) -> str | None:
    cut = _cut(e, x)
    if cut is None:
        return None
    axis, at, size = cut
    low = e.call("Slice", x.name, *(e.constant([i]) for i in (0, at, axis)))
    high = e.call("Slice", x.name, *(e.constant([i]) for i in (at - size, 2**62, axis)))
    return e.call("Concat", low, high, axis=axis)


def _padded_and_cut(e: Editing, x: Place) -> str | None:
    if x.rank == 0 or None in x.shape or not x.number:
        return None
    low, high = ([e.choose(3) for _ in x.shape] for _ in range(2))
    pads = e.constant([*low, *high])
    wide = e.call("Pad", x.name, pads, e.constant(e.choose(2), x.dtype))
    stops = [a + (size or 0) for a, size in zip(low, x.shape, strict=True)]
    return e.call("Slice", wide, e.constant(low), e.constant(stops), e.constant(range(x.rank)))


def _reversed_twice(e: Editing, x: Place) -> str | None:
    if x.rank == 0:
        return None
    bounds = [e.constant([i]) for i in (-1, -(2**62), e.choose(x.rank), -1)]
    return e.call("Slice", e.call("Slice", x.name, *bounds), *bounds)


def _gathered(e: Editing, x: Place) -> str | None:
    cut = _cut(e, x)
    if cut is None:
        return None
    axis, at, size = cut
    rolled = e.call("Gather", x.name, e.constant(np.roll(np.arange(size), at)), axis=axis)
    return e.call("Gather", rolled, e.constant(np.roll(np.arange(size), -at)), axis=axis)


def _one_of_many(e: Editing, x: Place) -> str | None:
    lead = e.call("Unsqueeze", x.name, e.constant([0]))
    many = e.call("Concat", lead, lead, lead, axis=0)
    if x.floating and e.choose(2):
        return e.call("ReduceMax", many, axes=[0], keepdims=0)
    return e.call("Gather", many, e.constant(e.choose(3)), axis=0)


def _tiled_and_cut(e: Editing, x: Place) -> str | None:
    cut = _cut(e, x)
    if cut is None:
        return None
    axis, _, size = cut
    tiled = e.call("Tile", x.name, e.constant([2 if i == axis else 1 for i in range(x.rank)]))
    return e.call("Slice", tiled, *(e.constant([i]) for i in (size, 2 * size, axis)))


def _broadcast(e: Editing, x: Place) -> str | None:
    lead = e.call("Expand", x.name, e.constant([2] + [1] * x.rank))
    return e.call("Squeeze", e.calls("Split", lead, outputs=2, axis=0)[1], e.constant([0]))


def _computed_again(e: Editing, x: Place) -> str | None:
    for node in e.nodes:
        if x.name in node.output and not node.op_type.startswith("Random"):
            again = NodeProto()
            again.CopyFrom(node)
            names = [e.fresh() for _ in node.output]
            again.name = names[0]
            del again.output[:]
            again.output.extend(names)
            e.added.append(again)
            return names[list(node.output).index(x.name)]
    return None


VALUES: dict[str, ValueRule] = {
    "x - 0": _minus_zero,
    "x + -0": _plus_zero,
    "1 * x": _times_one,
    "x / 1": _over_one,
    "negated twice": _negated_twice,
    "with itself": _with_itself,
    "where(true, x, 0)": _always,
    "where(c, x, x)": _either_way,
    "wider and back": _wider_and_back,
    "transposed and back": _turned_and_back,
    "flat and back": _flat_and_back,
    "another axis": _another_axis,
    "split and joined": _split_and_joined,
    "slices joined": _slices_joined,
    "padded and cut": _padded_and_cut,
    "reversed twice": _reversed_twice,
    "gathered and back": _gathered,
    "one of many": _one_of_many,
    "tiled and cut": _tiled_and_cut,
    "broadcast and cut": _broadcast,
    "computed again": _computed_again,
}


def _type(e: Editing, name: str) -> Place | None:
    return e.places.get(name)


def _attribute(node: NodeProto, name: str, default: object) -> object:
    return next((helper.get_attribute_value(a) for a in node.attribute if a.name == name), default)


def _gemm_apart(e: Editing, node: NodeProto) -> str | None:
    x = _type(e, node.input[0])
    if x is None or not x.floating:
        return None
    left, right = node.input[0], node.input[1]
    left = e.call("Transpose", left, perm=[1, 0]) if _attribute(node, "transA", 0) else left
    right = e.call("Transpose", right, perm=[1, 0]) if _attribute(node, "transB", 0) else right
    product = e.call("MatMul", left, right)
    alpha, beta = _attribute(node, "alpha", 1.0), _attribute(node, "beta", 1.0)
    product = e.call("Mul", e.constant(alpha, x.dtype), product)
    if len(node.input) < 3 or not node.input[2]:
        return product
    return e.call("Add", e.call("Mul", node.input[2], e.constant(beta, x.dtype)), product)


def _product_turned(e: Editing, node: NodeProto) -> str | None:
    places = [_type(e, name) for name in node.input]
    perms = []
    for place in places:
        if place is None or place.rank < 2:
            return None
        perms.append([*range(place.rank - 2), place.rank - 1, place.rank - 2])
    left, right = (
        e.call("Transpose", name, perm=p) for name, p in zip(node.input, perms, strict=True)
    )
    return e.call("Transpose", e.call("MatMul", right, left), perm=max(perms, key=len))


def _the_other_way(e: Editing, node: NodeProto) -> str | None:
    if len(node.input) != 2:
        return None
    other = {"Less": "Greater", "Greater": "Less"}.get(node.op_type, node.op_type)
    return e.call(other, node.input[1], node.input[0])


def _sum_of_negative(e: Editing, node: NodeProto) -> str | None:
    x = _type(e, node.input[0])
    if x is None or not x.signed:
        return None
    return e.call("Add", node.input[0], e.call("Neg", node.input[1]))


def _relu_as_max(e: Editing, node: NodeProto) -> str | None:
    x = _type(e, node.input[0])
    return None if x is None else e.call("Max", e.constant(0, x.dtype), node.input[0])


def _abs_as_max(e: Editing, node: NodeProto) -> str | None:
    x = _type(e, node.input[0])
    if x is None or not x.floating:
        return None
    return e.call("Max", node.input[0], e.call("Neg", node.input[0]))


def _sigmoid_by_exp(e: Editing, node: NodeProto) -> str | None:
    x = _type(e, node.input[0])
    if x is None or x.type == TensorProto.FLOAT16:
        return None
    one = e.constant(1, x.dtype)
    return e.call("Div", one, e.call("Add", one, e.call("Exp", e.call("Neg", node.input[0]))))


def _leaky_by_where(e: Editing, node: NodeProto) -> str | None:
    x = _type(e, node.input[0])
    if x is None:
        return None
    below = e.call("Less", node.input[0], e.constant(0, x.dtype))
    scaled = e.call("Mul", node.input[0], e.constant(_attribute(node, "alpha", 0.01), x.dtype))
    return e.call("Where", below, scaled, node.input[0])


def _softmax_by_exp(e: Editing, node: NodeProto) -> str | None:
    x = _type(e, node.input[0])
    if x is None or x.type == TensorProto.FLOAT16:
        return None
    axis = _attribute(node, "axis", -1)
    most = e.call("ReduceMax", node.input[0], axes=[axis], keepdims=1)
    powers = e.call("Exp", e.call("Sub", node.input[0], most))
    return e.call("Div", powers, e.call("ReduceSum", powers, e.constant([axis]), keepdims=1))


def _where_inverted(e: Editing, node: NodeProto) -> str | None:
    return e.call("Where", e.call("Not", node.input[0]), node.input[2], node.input[1])


def _clip_by_min_max(e: Editing, node: NodeProto) -> str | None:
    bounds = [*node.input[1:], "", ""][:2]
    result = str(node.input[0])
    for operator, bound in zip(("Max", "Min"), bounds, strict=True):
        result = e.call(operator, result, bound) if bound else result
    return result


def _joined_in_pairs(e: Editing, node: NodeProto) -> str | None:
    if len(node.input) < 3:
        return None
    axis = _attribute(node, "axis", 0)
    at = 1 + e.choose(len(node.input) - 2)
    rest = e.call("Concat", *node.input[at:], axis=axis)
    return e.call("Concat", *node.input[:at], rest, axis=axis)


def _bias_apart(e: Editing, node: NodeProto) -> str | None:
    x = _type(e, node.input[0])
    if x is None or len(node.input) != 3:
        return None
    plain = NodeProto()
    plain.CopyFrom(node)
    del plain.input[2]
    result = e.fresh()
    plain.output[0] = result
    e.added.append(plain)
    shape = e.constant([1, -1] + [1] * (x.rank - 2))
    return e.call("Add", result, e.call("Reshape", node.input[2], shape))


def _padded_before(e: Editing, node: NodeProto) -> str | None:
    x, pads = _type(e, node.input[0]), _attribute(node, "pads", None)
    if x is None or not isinstance(pads, Sequence) or not any(pads):
        return None
    half = len(pads) // 2
    around = [0, 0, *pads[:half], 0, 0, *pads[half:]]
    wide = e.call("Pad", node.input[0], e.constant(around), e.constant(0, x.dtype))
    kept = {a.name: helper.get_attribute_value(a) for a in node.attribute if a.name != "pads"}
    return e.call("Conv", wide, *node.input[1:], **kept)


NODES: dict[str, tuple[tuple[str, ...], NodeRule]] = {
    "Gemm as MatMul and Add": (("Gemm",), _gemm_apart),
    "a product of transposed ones": (("MatMul",), _product_turned),
    "operands the other way": (
        ("Add", "Mul", "Max", "Min", "And", "Or", "Xor", "Equal", "Less", "Greater"),
        _the_other_way,
    ),
    "x + -y": (("Sub",), _sum_of_negative),
    "Relu as Max": (("Relu",), _relu_as_max),
    "Abs as Max": (("Abs",), _abs_as_max),
    "Sigmoid by Exp": (("Sigmoid",), _sigmoid_by_exp),
    "LeakyRelu by Where": (("LeakyRelu",), _leaky_by_where),
    "Softmax by Exp": (("Softmax",), _softmax_by_exp),
    "Where of the opposite": (("Where",), _where_inverted),
    "Clip by Max and Min": (("Clip",), _clip_by_min_max),
    "Concat in pairs": (("Concat",), _joined_in_pairs),
    "the bias of Conv apart": (("Conv",), _bias_apart),
    "Conv of what is padded": (("Conv",), _padded_before),
}


def rewritten(model: ModelProto, seed: int, count: int = 3) -> tuple[ModelProto, list[str]]:
    """A model that computes the same, and the names of the rewrites that made it, in order.

    The model's opset must be 13 to 17: forms of operators are those of then.
    """
    random = np.random.default_rng(seed)
    done: list[str] = []
    for _ in range(20 * count):  # most places suit some rule; a model may have none
        if len(done) == count:
            break
        edit = Editing(model, random)
        name = _one(edit)
        if name is not None:
            model = edit.model
            done.append(name)
    return model, done


@dataclass
class Rewritten:
    """An engine that is given something equal to what it should run."""

    engine: Engine

    @property
    def title(self) -> str:
        """The engine's."""
        return f"{self.engine.title}, of rewritten models"

    def warm(self) -> None:
        """Load the engine."""
        self.engine.warm()

    def prepare(self, model: ModelProto, stages: Stages) -> Run:
        """Rewrite by what the model is called, and compile."""
        return self.engine.prepare(
            rewritten(model, zlib.crc32(model.graph.name.encode()))[0], stages
        )


def _one(edit: Editing) -> str | None:
    """Try one rule at one place; its name, if it applies."""
    if edit.choose(3) == 0:
        node = edit.nodes[edit.choose(len(edit.nodes))]
        fitting = [(n, rule) for n, (types, rule) in NODES.items() if node.op_type in types]
        if not fitting:
            return None
        name, rule = fitting[edit.choose(len(fitting))]
        result = rule(edit, node)
        if result is None:
            return None
        edit.put_instead(node, result)
        return name
    places = _places(edit)
    if not places:
        return None
    place = places[edit.choose(len(places))]
    names = [*VALUES]
    name = names[edit.choose(len(names))]
    equal = VALUES[name](edit, place)
    if equal is None:
        return None
    edit.put_behind(place, equal)
    return name


def apply(edit: Editing, name: str) -> bool:
    """Put one rewrite where it applies, at the first such place; whether there is one."""
    if name in VALUES:
        for place in _places(edit):
            result = VALUES[name](edit, place)
            if result is not None:
                edit.put_behind(place, result)
                return True
            edit.forget()
        return False
    types, rule = NODES[name]
    for node in edit.nodes:
        result = rule(edit, node) if node.op_type in types else None
        if result is not None:
            edit.put_instead(node, result)
            return True
        edit.forget()
    return False


def _places(edit: Editing) -> list[Place]:
    """What somebody reads and the inputs go into: forms of constants are folded, whatever they are.

    In the order of the graph.
    """
    read = {name for node in edit.nodes for name in node.input}
    read |= {value.name for value in edit.model.graph.output}
    fixed = _constants(edit)
    return [p for name, p in edit.places.items() if name in read and name not in fixed]


def _constants(edit: Editing) -> set[str]:
    """The values that no input of the model goes into."""
    found = {tensor.name for tensor in edit.model.graph.initializer} | {""}
    for node in edit.nodes:
        if all(name in found for name in node.input):
            found |= set(node.output)
    return found
