"""A chain of convolutions as one kernel: each strip of the last result with all that it needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from tvm import tirx
from tvm.ir import Expr as Prim
from tvm.tirx.script import builder as T

from tunesmith.ir.graph import Value
from tunesmith.ir.target import Machine
from tunesmith.ir.types import DType

from ..evaluator import Evaluator
from ..schedule import conv, conv_knobs, depthwise, emit
from ..schedule.conv_costs import ConvWork, plane_sizes
from ..schedule.strips import StripKnobs, StripWork, held_rows
from ..schedule.window import Window
from .convolutions import ConvLayout, Ends, conv_work, depthwise_fold, is_depthwise

if TYPE_CHECKING:
    from ..groups import Group

__all__ = ["as_stage", "emit_strips", "strip_layouts", "strip_work"]


def as_stage(group: Group) -> ConvWork | None:
    """The work of a convolution that strips can go over: depthwise or pointwise, of known size."""
    node = group.anchor
    if group.kind != "conv" or node.result.type.rank != 4:
        return None
    weight, x = node.present_operands[1], node.present_operands[0]
    if weight.constant is None or x.type.dtype is not DType.f32:
        return None
    work = conv_work(node)
    if plane_sizes(work.window) is None or 0 in work.window.out or 0 in work.window.image:
        return None
    pointwise = work.groups == 1 and work.window.pointwise
    return work if pointwise or (is_depthwise(node) and work.groups > 1) else None


def strip_work(groups: Sequence[Group]) -> StripWork:
    """The work of a chain, the first convolution first."""
    stages = [as_stage(group) for group in groups]
    images = groups[-1].anchor.result.type.shape[0]
    known = images if isinstance(images, int) else 1
    return StripWork(images=known, stages=tuple(stage for stage in stages if stage is not None))


def strip_layouts(group: Group, machine: Machine, knobs: StripKnobs) -> dict[Value, ConvLayout]:
    """How the weights of the products in a chain lie in the artifact."""
    stages = group.products
    works = strip_work(stages).stages
    return {
        stage.anchor.present_operands[1]: _layout(work, rows, machine)
        for stage, work, rows in zip(stages, works, held_rows(works, knobs.rows), strict=True)
        if work.groups == 1
    }


def _layout(work: ConvWork, rows: int, machine: Machine) -> ConvLayout:
    """The product of a strip, as one core computes it; pixels are neighbours over its rows."""
    strip = replace(work.window, image=(rows, work.window.image[1]))
    part = replace(work, window=_rows_of(strip, rows))
    return ConvLayout(part, conv_knobs.default(part, replace(machine, cores=1)))


def _rows_of(window: Window, rows: int) -> Window:
    """The window, for so many rows of the result."""
    return replace(window, out=(rows, window.out[1]))


def emit_strips(
    evaluator: Evaluator, group: Group, store: tirx.Buffer, machine: Machine, knobs: StripKnobs
) -> None:
    """A chain of convolutions, each with its bias and what is fused behind it."""
    stages = group.products
    works = strip_work(stages).stages
    rows = held_rows(works, knobs.rows)
    layouts = strip_layouts(group, machine, knobs)
    images = group.anchor.result.type.shape[0]
    batch = images if isinstance(images, int) else evaluator.sizes.expr(images)
    height = works[-1].window.out[0]
    blocks = emit.ceil_div(height, knobs.rows)
    with emit.loop(emit.times(batch, blocks), parallel=True) as task:
        block = T.Bind(task % emit.index(blocks))
        image = T.Bind(task // emit.index(blocks))
        first, _ = emit.piece(block, knobs.rows, height)
        firsts = _firsts(works, rows, first)
        strip: _Strip | None = None
        for stage, work, begin, count in zip(stages, works, firsts, rows, strict=True):
            ends = Ends(evaluator, stage.anchor, stage.outputs[0])
            load: conv.LoadImage = ends.load if work.groups > 1 else ends.load_pixel
            load = load if strip is None else strip.load
            write = partial(ends.write, store)
            if stage is not group:
                strip = _Strip.of(work, begin, count)
                write = partial(strip.write, ends)
            packed = evaluator.buffers[stage.anchor.present_operands[1]]
            if work.groups > 1:
                depthwise.emit_rows_of_planes(
                    image=image,
                    first=begin,
                    count=count,
                    channels=work.groups * work.out,
                    each=work.out,
                    window=work.window,
                    load=load,
                    fold=depthwise_fold(work, packed),
                    store=partial(_at_pixel, write, work),
                    machine=machine,
                    knobs=depthwise.default(_rows_of(work.window, count), machine),
                )
            else:
                layout = layouts[stage.anchor.present_operands[1]]
                _product(layout, image, begin, load, packed, write, machine)


class _Strip:
    """Some rows of all channels of a result that is never whole."""

    def __init__(self, buffer: tirx.Buffer, first: Prim, rows: int, width: int) -> None:
        self.buffer, self.first, self.rows, self.width = buffer, first, rows, width

    @classmethod
    def of(cls, work: ConvWork, first: Prim, rows: int) -> _Strip:
        """Memory for the rows from `first` on."""
        sizes = plane_sizes(work.window)
        assert sizes is not None
        room = work.groups * work.out * rows * sizes[1]
        return cls(T.alloc_buffer((room,), "float32"), first, rows, sizes[1])

    def load(self, _: Prim, channel: Prim, row: Prim, column: Prim) -> Prim:
        """The element at a row of the whole image; the column may run on into the next rows."""
        return self.buffer[self._place(channel, row * self.width + column)]

    def write(self, ends: Ends, image: Prim, channel: Prim, pixel: Prim, value: Prim) -> None:
        """Store an element, with what is fused behind it."""
        ends.write(self.buffer, image, channel, pixel, value, self._place(channel, pixel))

    def _place(self, channel: Prim, pixel: Prim) -> Prim:
        return channel * (self.rows * self.width) + (pixel - self.first * self.width)


def _firsts(works: Sequence[ConvWork], rows: Sequence[int], first: Prim) -> list[Prim]:
    """The first row of each result in a strip; at the edges rows beyond need are computed."""
    result = [first]
    for work, count in zip(reversed(works[1:]), reversed(rows[:-1]), strict=True):
        window = work.window
        low = result[0] * window.strides[0] - window.low[0]
        last = emit.index(window.image[0]) - count
        result.insert(0, T.Bind(T.max(emit.index(0), T.min(low, last))))
    return result


def _product(
    layout: ConvLayout,
    image: Prim,
    first: Prim,
    load: conv.LoadImage,
    packed: tirx.Buffer,
    write: conv.StorePixel,
    machine: Machine,
) -> None:
    """A pointwise convolution of the rows from `first` on."""
    start = T.Bind(first * emit.index(layout.work.window.out[1]))

    def element(_: Prim, channel: Prim, row: Prim, column: Prim) -> Prim:
        return load(image, channel, row, start + column)

    def put(_: Prim, channel: Prim, pixel: Prim, value: Prim) -> None:
        write(image, channel, start + pixel, value)

    conv.emit_conv(
        batch=1,
        work=layout.work,
        load=element,
        weight=packed,
        store=put,
        machine=machine,
        knobs=layout.knobs,
        parallel=False,
    )


def _at_pixel(
    write: Callable[[Prim, Prim, Prim, Prim], None],
    work: ConvWork,
    image: Prim,
    channel: Prim,
    row: Prim,
    column: Prim,
    value: Prim,
) -> None:
    write(image, channel, row * emit.index(work.window.out[1]) + column, value)
