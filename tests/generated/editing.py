"""A model while it is rewritten: fresh names, new nodes beside old ones, who reads what."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from tests.conformance.suite import Array

__all__ = ["Editing", "Place"]

FLOATS = frozenset({TensorProto.FLOAT16, TensorProto.FLOAT, TensorProto.DOUBLE})
SIGNED = frozenset({TensorProto.INT8, TensorProto.INT16, TensorProto.INT32, TensorProto.INT64})


@dataclass(frozen=True)
class Place:
    """A value in the graph of which the element type is known, and all sizes or some."""

    name: str
    type: int  # an element type of `TensorProto`
    shape: tuple[int | None, ...]

    @property
    def dtype(self) -> np.dtype[np.generic]:
        """The element type as NumPy's."""
        found: np.dtype[np.generic] = helper.tensor_dtype_to_np_dtype(self.type)
        return found

    @property
    def rank(self) -> int:
        """The number of axes."""
        return len(self.shape)

    @property
    def floating(self) -> bool:
        """Whether elements are floats."""
        return self.type in FLOATS

    @property
    def signed(self) -> bool:
        """Whether an element can be negated."""
        return self.type in FLOATS | SIGNED

    @property
    def number(self) -> bool:
        """Whether elements are no flags."""
        return bool(self.type != TensorProto.BOOL)


class Editing:
    """A copy of a model, and the nodes that a rewrite adds to it.

    Rewrites work on the outermost graph. No name that was there goes, so graphs inside of nodes
    read what they read before.
    """

    def __init__(self, model: ModelProto, random: np.random.Generator) -> None:
        self.model = ModelProto()
        self.model.CopyFrom(model)
        self.random = random
        self.added: list[NodeProto] = []
        self._count = 0
        inferred = onnx.shape_inference.infer_shapes(model)
        graph = inferred.graph
        self.places: dict[str, Place] = {}
        for value in [*graph.input, *graph.value_info, *graph.output]:
            tensor = value.type.tensor_type
            if tensor.elem_type and tensor.HasField("shape"):
                sizes = [d.dim_value if d.HasField("dim_value") else None for d in tensor.shape.dim]
                self.places[value.name] = Place(value.name, tensor.elem_type, tuple(sizes))
        for weight in graph.initializer:
            self.places[weight.name] = Place(weight.name, weight.data_type, tuple(weight.dims))

    @property
    def nodes(self) -> Sequence[NodeProto]:
        """The nodes, in order."""
        found: Sequence[NodeProto] = self.model.graph.node
        return found

    def fresh(self) -> str:
        """A name that nobody has."""
        self._count += 1
        return f"rewritten.{len(self.model.graph.node)}.{self._count}"

    def constant(self, value: object, dtype: np.dtype[np.generic] | type = np.int64) -> str:
        """A new initializer."""
        name = self.fresh()
        array = np.asarray(value, dtype)
        self.model.graph.initializer.append(numpy_helper.from_array(array, name))
        return name

    def call(self, operator: str, *inputs: str, **attributes: object) -> str:
        """A new node; its only output."""
        return self.calls(operator, *inputs, outputs=1, **attributes)[0]

    def calls(
        self, operator: str, *inputs: str, outputs: int, **attributes: object
    ) -> Sequence[str]:
        """A new node; its outputs."""
        names = [self.fresh() for _ in range(outputs)]
        self.added.append(helper.make_node(operator, inputs, names, name=names[0], **attributes))
        return names

    def choose(self, count: int) -> int:
        """One of the first numbers."""
        return int(self.random.integers(count))

    def random_like(self, shape: Sequence[int | None]) -> Array:
        """Flags in a shape whose sizes are known."""
        return self.random.random([size or 0 for size in shape]) < 0.5

    def put_behind(self, place: Place, result: str) -> None:
        """Some of those that read a value read `result` from now on, of the nodes just added.

        If the graph returns the value, it returns `result`.
        """
        graph = self.model.graph
        at = next((i + 1 for i, n in enumerate(graph.node) if place.name in n.output), 0)
        uses = [(n, k) for n in graph.node for k, name in enumerate(n.input) if name == place.name]
        if any(value.name == place.name for value in graph.output) and at:
            inner = self.fresh()
            producer = graph.node[at - 1]
            for node in [*graph.node, *self.added]:
                for k, name in enumerate(node.input):
                    if name == place.name:
                        node.input[k] = inner
            producer.output[list(producer.output).index(place.name)] = inner
            self.added.append(helper.make_node("Identity", [result], [place.name]))
        else:
            taken = [use for use in uses if self.random.random() < 0.7] or uses[:1]
            for node, k in taken:
                node.input[k] = result
        self._insert(at)

    def put_instead(self, node: NodeProto, *results: str) -> None:
        """The nodes just added stand for `node`."""
        at = next(i for i, n in enumerate(self.model.graph.node) if n is node or n == node)
        outputs = list(node.output)
        for result, output in zip(results, outputs, strict=True):
            self.added.append(helper.make_node("Identity", [result], [output]))
        del self.model.graph.node[at]
        self._insert(at)

    def _insert(self, at: int) -> None:
        for number, node in enumerate(self.added):
            self.model.graph.node.insert(at + number, node)
        self.added.clear()

    def forget(self) -> None:
        """Drop the nodes of a rewrite that does not apply after all."""
        self.added.clear()
