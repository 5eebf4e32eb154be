"""One group → one TIR function: its buffers, its sizes, its body."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from tunesmith.ir.constants import Constant
from tunesmith.ir.dims import DimExpr, Sym, symbols_of
from tunesmith.ir.graph import Node, Value
from tunesmith.ir.in_place import storage_of
from tunesmith.ir.target import Machine
from tunesmith.ir.types import DType
from tunesmith.runtime.manifest import WEIGHT_ALIGNMENT

from ..evaluator import Evaluator
from ..groups import Group
from ..index import Sizes
from ..schedule import emit
from ..schedule.attention import AttentionKnobs
from ..schedule.batch_matmul import MatmulKnobs
from ..schedule.conv_knobs import ConvKnobs
from ..schedule.depthwise import PlaneKnobs
from ..schedule.gemm_knobs import GemmKnobs, pack_weights, packed_shape
from ..schedule.knobs import Knobs
from ..schedule.strips import StripKnobs
from ..schedule.sweep import ElementKnobs, RowKnobs, default_elements
from .convolutions import ConvLayout, conv_work, emit_conv_group, emit_pool_group
from .elementwise import emit_elementwise, emit_write
from .literals import TVM_DTYPE
from .products import emit_attention_group, emit_linear, emit_matmul
from .reference_loops import emit_loops, emit_plain_matmul
from .rows import emit_rows
from .strips import emit_strips, strip_layouts
from .templates import Template, template_of

__all__ = ["Kernel", "WeightUse", "build_kernel"]

_PRODUCTS = ("gemm", "conv", "attention", "matmul")  # kinds that mostly sum products
_TELLING = (
    "equal", "greater", "greater_equal", "less", "less_equal", "log", "not_equal", "reciprocal",
    "rsqrt", "sign", "sqrt",
)  # fmt: skip
_PACKED = ("gemm", "conv")  # kinds whose second operand is a weight in a layout of its own


@dataclass(frozen=True)
class WeightUse:
    """A constant that a kernel reads, and the layout that it wants it in."""

    constant: Constant
    knobs: GemmKnobs | None = None  # packed for products, else row-major
    layout: ConvLayout | None = None  # or packed for a convolution
    others: tuple[Constant, ...] = ()  # packed behind it, for a kernel of several products
    together: int = 1  # products of a result: their panels take turns

    @property
    def constants(self) -> tuple[Constant, ...]:
        """All that it holds; mostly one."""
        return (self.constant, *self.others)

    @property
    def key(self) -> tuple[tuple[Constant, ...], str | int, int]:
        """Content and layout: equal ones are stored once."""
        if self.layout is not None:
            return self.constants, self.layout.key, self.together
        return self.constants, self.knobs.tile_n if self.knobs else 0, self.together

    def shape(self) -> tuple[int, ...]:
        """How it lies in memory: flat, or in panels with their padding."""
        if self.layout is not None:
            return self.layout.shape()
        if self.knobs is None:
            return (int(self.constant.array.size),)
        return packed_shape([each.array.shape for each in self.constants], self.knobs)

    @property
    def nbytes(self) -> int:
        """Bytes of what `array` returns."""
        return math.prod(self.shape()) * self.constant.type.dtype.bytes

    def array(self) -> NDArray[np.generic]:
        """The elements as the kernel reads them."""
        dtype = TVM_DTYPE[self.constant.type.dtype]
        if self.layout is not None:
            return self.layout.pack(self.constant.array)
        if self.knobs is None:
            return np.asarray(self.constant.array, order="C").reshape(-1).view(dtype)
        arrays = [each.array for each in self.constants]
        return pack_weights(arrays, self.knobs, self.together).view(dtype)


@dataclass
class Kernel:
    """A group ready to be built: the values it reads, the sizes it is told, and how to write it."""

    group: Group
    reads: list[Value]
    symbols: list[Sym]
    inlined: list[Node]
    machine: Machine
    tied: dict[Value, WeightUse] = field(default_factory=dict)  # tables read from packed weights
    chosen: Knobs | None = None  # instead of the default of its template

    @cached_property
    def template(self) -> Template | None:
        """What the kernel is written by, if it has knobs."""
        return template_of(self.group, self.machine, self.inlined)

    @property
    def knobs(self) -> Knobs | None:
        """The knobs that it is written by."""
        return self.chosen or (self.template.default if self.template is not None else None)

    @property
    def weight(self) -> Value | None:
        """The constant that is packed for this kernel, the first of several."""
        return self.packed[0] if self.packed else None

    @property
    def packed(self) -> list[Value]:
        """All constants that are packed into one argument: weights in the order of products.

        In a chain of convolutions each has an argument of its own; this is that of the last.
        """
        if self.group.kind not in _PACKED:
            return []
        parts = self.group.everything if self.group.kind == "gemm" else [self.group]
        return [part.anchor.present_operands[1] for part in parts]

    @property
    def key(self) -> str:
        """Equal for groups that compute the same thing on other values."""
        names: dict[Value, str] = {v: f"r{i}" for i, v in enumerate(self.reads)}
        lines = [f"{self.group.kind} {self.group.by_rows} {self.machine}"]
        lines += [f"after {len(self.group.feeding)}"] if self.group.feeding else []
        lines += [f"{s.low}<={s.name}<={s.high}" for s in self.symbols]
        lines += [f"{names[v]}: {v.type} {self._tile(v)} {_alignment(v)}" for v in self.reads]
        for number, node in enumerate([*self.inlined]):
            operands = []
            for value in node.operands:
                if value is None:
                    operands.append("_")
                elif value in names:
                    operands.append(names[value])
                else:
                    constant = value.constant
                    operands.append(f"{constant.scalar!r}:{value.type}" if constant else "?")
            for i, value in enumerate(node.results):
                names[value] = f"n{number}.{i}"
            lines.append(f"{node.op.name}({operands}) {_attributes(node)} {node.results[0].type}")
        lines.append(" ".join(names[v] for v in self.group.outputs))
        if self.group.overwritten is not None:
            lines.append(f"in memory aligned to {_alignment(self.group.overwritten)}")
        return "\n".join(lines)

    @property
    def workload(self) -> str:
        """The key before other kernels decide where a table lies: records are found by it."""
        return replace(self, tied={}).key

    def _tile(self, value: Value) -> int:
        """The width of the panels that a tied table lies in, 0 for what is row-major."""
        use = self.tied.get(value)
        return use.knobs.tile_n if use is not None and use.knobs is not None else 0

    @property
    def tables(self) -> list[Value]:
        """The constant matrices that the kernel only picks rows of."""
        return [
            v
            for v in self.reads
            if v.constant is not None
            and v.type.rank == 2
            and all(
                n.op.name == "gather" and n.operands[0] is v and n.operands[1] is not v
                for n in self.inlined
                if v in n.operands
            )
        ]

    @property
    def name(self) -> str:
        """The operator and a hash of the key: equal kernels of all models have one name."""
        text = self.key if self.chosen is None else f"{self.key}\n{self.chosen}"
        digest = hashlib.sha256(text.encode()).hexdigest()[:20]
        return f"{self.group.anchor.op.name}_{digest}"

    def weight_use(self, value: Value) -> WeightUse | None:
        """How a read value is stored in the artifact, if it is a constant."""
        constant = value.constant
        if constant is None:
            return None
        if value in self.tied:
            return self.tied[value]
        if isinstance(self.knobs, StripKnobs):
            layouts = strip_layouts(self.group, self.machine, self.knobs)
            return WeightUse(constant, layout=layouts.get(value))
        knobs = self.knobs if value is self.weight else None
        if isinstance(knobs, ConvKnobs):
            return WeightUse(constant, layout=ConvLayout(conv_work(self.group.anchor), knobs))
        if not isinstance(knobs, GemmKnobs):
            return WeightUse(constant)
        others = tuple(v.constant for v in self.packed[1:] if v.constant is not None)
        return WeightUse(constant, knobs, None, others, len(self.group.products))

    def function(self) -> tirx.PrimFunc:
        """Write the TIR function: its arguments are reads, sizes and results; all flat."""
        sizes = Sizes()
        with IRBuilder() as builder:
            with T.prim_func(s_tir=True):
                T.func_name(self.name)
                T.func_attr({"tirx.noalias": True, "tirx.is_scheduled": True})
                buffers: dict[Value, tirx.Buffer] = {}
                for number, value in enumerate(self.reads):
                    use = self.weight_use(value)
                    shape = use.shape() if use else (value.type.size,)
                    dtype = TVM_DTYPE[value.type.dtype]
                    extents = tuple(map(sizes.expr, shape))
                    buffer = T.buffer(extents, dtype, align=_alignment(value))
                    buffers[value] = T.arg(f"r{number}", buffer)
                for symbol in self.symbols:
                    T.arg(symbol.name, sizes.variable(symbol.name))
                stores = []
                for number, value in enumerate(self.group.outputs):
                    count = sizes.expr(value.type.size)
                    dtype = TVM_DTYPE[value.type.dtype]
                    align = _alignment(value)
                    stores.append(T.arg(f"w{number}", T.buffer((count,), dtype, align=align)))
                for value, flags in buffers.items():
                    if value.type.dtype is DType.bool:  # of which TVM cannot load a vector
                        raw = {"data": flags.data, "align": flags.data_alignment}
                        buffers[value] = T.decl_buffer(flags.shape, "uint8", **raw)
                evaluator = Evaluator(sizes, buffers)
                evaluator.tied = {v: self._tile(v) for v in self.tied}
                with emit.flushing(wanted=self.flushes):
                    self._body(evaluator, stores)
        return builder.get()

    @property
    def flushes(self) -> bool:
        """Whether denormals count as zero: in products, if nothing fused tells the two apart."""
        return (
            self.machine.isa.startswith("avx")
            and self.group.kind in _PRODUCTS
            and not any(_tells_zero(node) for node in self.inlined)
        )

    def _body(self, evaluator: Evaluator, stores: list[tirx.Buffer]) -> None:
        group, output, knobs = self.group, self.group.outputs[0], self.knobs
        anchor, store, machine = group.anchor, stores[0], self.machine
        if all(value.type.size == 0 for value in group.outputs):
            T.evaluate(0)
        elif group.kind == "write":
            emit_write(evaluator, anchor, store, self.inlined, default_elements(machine))
        elif group.kind == "elementwise":
            chosen = knobs if isinstance(knobs, ElementKnobs) else None
            emit_elementwise(evaluator, output, store, self.inlined, chosen)
        elif isinstance(knobs, RowKnobs):
            emit_rows(evaluator, anchor, output, store, knobs)
        elif group.kind == "gemm" and isinstance(knobs, GemmKnobs) and self.weight is not None:
            packed = evaluator.buffers[self.weight]
            emit_linear(evaluator, group, stores, packed, machine, knobs)
        elif isinstance(knobs, StripKnobs):
            emit_strips(evaluator, group, store, machine, knobs)
        elif group.kind == "conv" and knobs is not None and self.weight is not None:
            packed = evaluator.buffers[self.weight]
            emit_conv_group(evaluator, anchor, output, store, packed, machine, knobs)
        elif isinstance(knobs, PlaneKnobs):
            emit_pool_group(evaluator, anchor, output, store, machine, knobs)
        elif isinstance(knobs, AttentionKnobs):
            emit_attention_group(evaluator, anchor, store, machine, knobs, group.by_rows)
        elif isinstance(knobs, MatmulKnobs):
            emit_matmul(evaluator, anchor, output, store, machine, knobs)
        elif group.kind == "matmul":
            emit_plain_matmul(evaluator, anchor, output, store)
        else:
            emit_loops(evaluator, anchor, stores)


def build_kernel(group: Group, in_memory: set[Value], machine: Machine) -> Kernel:
    """Collect what a group reads, through the values that are computed on the way."""
    reads: dict[Value, None] = {}
    inlined: dict[Node, None] = {}
    own = {v for node in group.nodes for v in node.results}
    if group.overwritten is not None:
        own.add(group.overwritten)  # it comes as what is written to
    done: set[Value] = set()
    anchors = [part.anchor for part in group.everything]
    further = anchors[1:] if group.kind == "gemm" else []
    packed = {one.operands[1] for one in anchors} if group.kind in _PACKED else set()

    def visit(roots: Iterable[Value]) -> None:
        stack = [(v, False) for v in reversed(list(roots))]
        while stack:
            value, expanded = stack.pop()
            if expanded:
                assert value.producer is not None
                inlined[value.producer] = None
                continue
            if value in done or value in own:
                continue
            done.add(value)
            constant = value.constant
            if constant is not None and constant.scalar is not None and value not in packed:
                continue
            if value in in_memory or constant is not None or value.producer is None:
                reads[value] = None
                continue
            stack.append((value, True))
            stack.extend((v, False) for v in reversed(value.producer.present_operands))

    for node in group.nodes:
        # one argument holds the weights of all products: it stands where the first one is read
        visit([node.present_operands[0], *node.present_operands[2:]] if node in further
              else node.present_operands)  # fmt: skip
        inlined[node] = None
    nodes = list(inlined)
    symbols: dict[str, Sym] = {}
    values = [*reads, *(v for n in nodes for v in (*n.present_operands, *n.results))]
    for value in values:
        symbols.update({s.name: s for s in value.type.symbols()})
    for node in nodes:
        for attribute in node.attributes.values():
            for item in attribute if isinstance(attribute, tuple) else (attribute,):
                if isinstance(item, DimExpr):
                    symbols.update({s.name: s for s in symbols_of(item)})
    return Kernel(group, list(reads), sorted(symbols.values()), nodes, machine)


def _tells_zero(node: Node) -> bool:
    """Whether the result for a denormal number is far from that for zero."""
    if node.op.name in ("div", "mod", "pow"):
        return node.operands[1] is None or node.operands[1].constant is None
    return node.op.name in _TELLING or node.attributes.get("dtype") is DType.bool


def _alignment(value: Value) -> int:
    """Bytes: what users pass in lies wherever they have it, all else where vectors begin."""
    value = storage_of(value)
    given = value.producer is None and value.constant is None
    return value.type.dtype.bytes if given else WEIGHT_ALIGNMENT


def _attributes(node: Node) -> str:
    return ", ".join(f"{k}={v}" for k, v in sorted(node.attributes.items()))
