"""Convolution and pooling: the schedules' loops around the evaluator's elements."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from tvm import tirx
from tvm.ir import Expr as Prim
from tvm.tirx.script import builder as T

from tunesmith.ir.dims import Dim, DimExpr
from tunesmith.ir.graph import Node, Value
from tunesmith.ir.target import Machine
from tunesmith.ir.types import DType, Shape

from ..evaluator import Evaluator
from ..index import Index, Sizes
from ..schedule import conv, conv_costs, conv_knobs, depthwise, emit
from ..schedule.knobs import Knobs
from ..schedule.window import Window
from .literals import immediate

__all__ = [
    "ConvLayout",
    "Ends",
    "conv_work",
    "depthwise_fold",
    "emit_conv_group",
    "emit_pool_group",
    "is_depthwise",
    "pool_window",
]


@dataclass(frozen=True)
class ConvLayout:
    """How the weight of a convolution lies in the artifact."""

    work: conv_costs.ConvWork
    knobs: conv_knobs.ConvKnobs

    @property
    def key(self) -> str:
        """A name of the layout."""
        tiles = f"w{self.knobs.tile}" if self.knobs.tile else ""
        return f"conv{self.work.groups}x{self.knobs.tile_o}{tiles}"

    def shape(self) -> tuple[int, ...]:
        """The shape of the packed weight."""
        return conv_knobs.packed_shape(self.work, self.knobs)

    def pack(self, weight: NDArray[np.generic]) -> NDArray[np.generic]:
        """The weight as the kernel reads it."""
        return conv_knobs.pack_weight(weight, self.work, self.knobs)


def is_depthwise(node: Node) -> bool:
    """Whether each channel of the result reads one channel, which at most two results read."""
    if node.op.name != "conv":
        return False
    weight = node.present_operands[1].type.shape
    groups, out = node.attributes["groups"], weight[0]
    return (
        weight[1] == 1
        and isinstance(groups, int)
        and isinstance(out, int)
        and (groups > 1 and out // groups <= 2)
    )


def conv_work(node: Node) -> conv_costs.ConvWork:
    """The convolution, as far as it is known when the model is compiled."""
    return _work(node, Sizes(), write=False)


def pool_window(node: Node) -> Window:
    """The window of a pooling, as far as it is known when the model is compiled."""
    return _window(node, _pair(node, "kernel"), Sizes(), write=False)


def _pair(node: Node, name: str, fallback: int = 1) -> tuple[int, int]:
    """An attribute of two spatial axes; of one axis, it is the second of them."""
    value = node.attributes.get(name)
    if not isinstance(value, tuple):
        return (fallback, fallback)
    found = [v for v in value if isinstance(v, int)]
    return (fallback, found[0]) if len(found) == 1 else (found[0], found[1])


def _window(node: Node, kernel: tuple[int, int], sizes: Sizes, *, write: bool) -> Window:
    """What the node reads; to `write` its kernel, or only to know what is known now."""
    x = node.present_operands[0].type.shape[2:]
    out = node.result.type.shape[2:]

    def size(value: Dim) -> int | Prim:
        found = _size(value, sizes)
        return emit.opaque(found) if write else found

    return Window(
        kernel=kernel,
        strides=_pair(node, "strides"),
        low=_pair(node, "low", 0),
        high=_pair(node, "high", 0),
        dilations=_pair(node, "dilations"),
        image=(1 if len(x) == 1 else size(x[0]), size(x[-1])),
        out=(1 if len(out) == 1 else size(out[0]), size(out[-1])),
        widths=(_size(x[-1], sizes), _size(out[-1], sizes)),
    )


def _work(node: Node, sizes: Sizes, *, write: bool) -> conv_costs.ConvWork:
    out, inner, *kernel = node.present_operands[1].type.shape
    groups = node.attributes["groups"]
    assert isinstance(out, int) and isinstance(inner, int) and isinstance(groups, int)
    rows, columns = (1, *kernel) if len(kernel) == 1 else kernel
    assert isinstance(rows, int) and isinstance(columns, int)
    return conv_costs.ConvWork(
        groups=groups,
        inner=inner,
        out=out // groups,
        window=_window(node, (rows, columns), sizes, write=write),
    )


def _size(value: Dim, sizes: Sizes) -> int | Prim:
    return sizes.expr(value) if isinstance(value, DimExpr) else value


@dataclass(frozen=True)
class Ends:
    """What a convolution reads, and what becomes of its sums."""

    evaluator: Evaluator
    node: Node
    output: Value

    def load(self, image: Prim, channel: Prim, row: Prim, column: Prim) -> Prim:
        """The element of the image at a place; a signal of one axis is an image of one row."""
        x, sizes = self.node.present_operands[0], self.evaluator.sizes
        shape = x.type.shape
        if x.type.rank == 3:
            parts = [image, channel, column]
            return self.evaluator.fresh().read(x, Index.of(shape, parts, sizes))
        at = Index(
            ((shape[:1], image), (shape[1:2], channel), (shape[2:3], row), (shape[3:], column)),
            sizes,
        )
        return self.evaluator.fresh().read(x, at)

    def load_pixel(self, image: Prim, channel: Prim, _: Prim, pixel: Prim) -> Prim:
        """The element at a place in all rows of a channel, which a pointwise product reads by."""
        x = self.node.present_operands[0]
        at = self._place(x.type.shape, image, channel, pixel)
        return self.evaluator.fresh().read(x, at)

    def write(
        self,
        store: tirx.Buffer,
        image: Prim,
        channel: Prim,
        pixel: Prim,
        value: Prim,
        place: Prim | None = None,
    ) -> None:
        """Add the bias, and store it through what is fused behind it, maybe at another `place`."""
        shape = self.node.result.type.shape
        bias = self.node.operands[2] if len(self.node.operands) > 2 else None
        reader = self.evaluator.fresh()
        if bias is not None:
            own = Index(((shape[1:2], channel),), self.evaluator.sizes)
            value = value + reader.read(bias, own)
        at = self._place(shape, image, channel, pixel)
        reader.finish(self.node, self.output, store, at, value, place)

    def ask(self, store: tirx.Buffer, image: Prim, channel: Prim, pixel: Prim) -> None:
        """Ask for the memory that `write` stores to."""
        at = self._place(self.node.result.type.shape, image, channel, pixel)
        emit.ask(store, [at.flat()], write=True, near=3)

    def _place(self, shape: Shape, image: Prim, channel: Prim, pixel: Prim) -> Index:
        parts = ((shape[:1], image), (shape[1:2], channel), (shape[2:], pixel))
        return Index(parts, self.evaluator.sizes)


def depthwise_fold(work: conv_costs.ConvWork, weight: tirx.Buffer) -> depthwise.Fold:
    """The sum of a window's elements, each times its weight."""
    return depthwise.Fold(
        filling=0.0,
        start=0.0,
        weight=lambda channel, tap: weight[channel * work.taps + tap],
        update=lambda so_far, value, factor: so_far + value * factor,
    )


def emit_conv_group(
    evaluator: Evaluator,
    node: Node,
    output: Value,
    store: tirx.Buffer,
    weight: tirx.Buffer,
    machine: Machine,
    knobs: Knobs,
) -> None:
    """A convolution with its bias, and what is fused behind it."""
    sizes, shape = evaluator.sizes, node.result.type.shape
    ends, work = Ends(evaluator, node, output), _work(node, sizes, write=True)
    write = partial(ends.write, store)
    if isinstance(knobs, conv_knobs.ConvKnobs):
        conv.emit_conv(
            batch=_size(shape[0], sizes),
            work=work,
            load=ends.load_pixel if work.window.pointwise else ends.load,
            weight=weight,
            store=write,
            machine=machine,
            knobs=knobs,
            ask=partial(ends.ask, store),
        )
        return
    assert isinstance(knobs, depthwise.PlaneKnobs)

    def place(image: Prim, channel: Prim, row: Prim, column: Prim, value: Prim) -> None:
        write(image, channel, row * sizes.expr(shape[-1]) + column, value)

    depthwise.emit_planes(
        batch=_size(shape[0], sizes),
        channels=work.groups * work.out,
        each=work.out,
        window=work.window,
        load=ends.load,
        fold=depthwise_fold(work, weight),
        store=place,
        machine=machine,
        knobs=knobs,
    )


def emit_pool_group(
    evaluator: Evaluator,
    node: Node,
    output: Value,
    store: tirx.Buffer,
    machine: Machine,
    knobs: depthwise.PlaneKnobs,
) -> None:
    """The greatest or the mean of each window, and what is fused behind it."""
    sizes, shape = evaluator.sizes, node.result.type.shape
    window = _window(node, _pair(node, "kernel"), sizes, write=True)
    mean = node.op.name == "average_pool"
    channels = shape[1]
    assert isinstance(channels, int)

    def greater(so_far: Prim, value: Prim, _: Prim) -> Prim:
        # the simplifier takes `value != value` of whole vectors for false: NaN is told by its bits
        lanes = machine.vector_bytes // emit.FLOAT_BYTES
        bits = T.reinterpret(f"int32x{lanes}", value)
        magnitude = tirx.bitwise_and(bits, T.broadcast(T.int32(0x7FFFFFFF), lanes))
        is_nan = magnitude > T.broadcast(T.int32(0x7F800000), lanes)
        return tirx.Select(tirx.any(value > so_far, is_nan), value, so_far)

    fold = depthwise.Fold(
        filling=0.0 if mean else float("-inf"),
        start=0.0 if mean else float("-inf"),
        weight=None,
        update=(lambda so_far, value, _: so_far + value) if mean else greater,
    )

    def place(image: Prim, channel: Prim, row: Prim, column: Prim, value: Prim) -> None:
        if mean:
            value = value / _count(node, window, row, column)
        pixel = row * sizes.expr(shape[-1]) + column
        at = Index(((shape[:1], image), (shape[1:2], channel), (shape[2:], pixel)), sizes)
        evaluator.fresh().finish(node, output, store, at, value)

    depthwise.emit_planes(
        batch=_size(shape[0], sizes),
        channels=channels,
        each=1,
        window=window,
        load=Ends(evaluator, node, output).load,
        fold=fold,
        store=place,
        machine=machine,
        knobs=knobs,
    )


def _count(node: Node, window: Window, row: Prim, column: Prim) -> Prim:
    """How many elements of a window count for its mean."""
    if node.attributes["count_padding"] or not window.padded:
        return immediate(float(window.kernel[0] * window.kernel[1]), DType.f32)

    def along(axis: int, at: Prim) -> Prim:
        begin = at * window.strides[axis] - window.low[axis]
        end = tirx.min(begin + window.kernel[axis], window.image[axis])
        return (end - tirx.max(begin, tirx.const(0, "int64"))).astype("int32").astype("float32")

    return along(0, row) * along(1, column)
