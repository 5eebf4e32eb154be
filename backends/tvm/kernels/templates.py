"""Templates: which kernels have knobs, their defaults by analysis, and what else may be tried."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import partial
from typing import TypeVar

from tunesmith.ir.dims import DimExpr
from tunesmith.ir.graph import Node
from tunesmith.ir.target import Machine
from tunesmith.ir.types import DType

from ..groups import Group
from ..schedule import (
    attention,
    batch_matmul,
    conv_knobs,
    depthwise,
    emit,
    gemm_knobs,
    strips,
    sweep,
)
from ..schedule.knobs import Knobs
from .convolutions import conv_work, is_depthwise, pool_window
from .elementwise import element_work
from .products import attention_work, gemm_work
from .rows import row_work
from .strips import strip_work

__all__ = ["Template", "template_of"]


K = TypeVar("K", bound=Knobs)


@dataclass(frozen=True)
class Template:
    """The template that a kernel is written by, with the work of that kernel.

    `version` grows when knobs change their meaning: what was measured before does not count then.
    """

    name: str
    version: int
    default: Knobs
    fits: Callable[[Knobs], bool]
    features: Mapping[str, int]  # sizes that tell how near the work of another kernel is; 0 unknown

    @property
    def title(self) -> str:
        """Its name and version."""
        return f"{self.name}/{self.version}"

    def values(self) -> dict[str, tuple[int, ...]]:
        """The values of each knob, in order; those of the default are among them."""
        own = self.default.numbers()
        return {
            name: tuple(sorted({*values, own[name]}))
            for name, values in self.default.values().items()
        }

    def knobs(self, numbers: Mapping[str, int]) -> Knobs | None:
        """Knobs from their numbers; `None` if this kernel cannot be written by them."""
        if numbers.keys() != self.default.numbers().keys():
            return None
        knobs = self.default.of(dict(numbers))
        return knobs if knobs == self.default or self.fits(knobs) else None


def template_of(group: Group, machine: Machine, inlined: list[Node]) -> Template | None:
    """The template of a group; `None` if its kernel has no knobs.

    `inlined` are the nodes that it computes, in order.
    """
    node = group.anchor
    if group.kind == "gemm":
        gemm = gemm_work(group)
        fits = partial(gemm_knobs.fits, gemm, machine)
        return _template("gemm", 4, gemm, gemm_knobs.default(gemm, machine), fits)
    if group.kind == "conv" and group.feeding:
        chain = strip_work(group.products)
        fits = partial(strips.fits, chain, machine)
        return _template("strips", 1, chain, strips.default(chain, machine), fits)
    if group.kind == "conv" and not is_depthwise(node):
        conv = conv_work(node)
        fits = partial(conv_knobs.fits, conv, machine)
        return _template("conv", 4, conv, conv_knobs.default(conv, machine), fits)
    if group.kind in ("conv", "pool"):
        window = conv_work(node).window if group.kind == "conv" else pool_window(node)
        fits = partial(depthwise.fits, window, machine)
        return _template("planes", 2, window, depthwise.default(window, machine), fits)
    if group.kind == "attention":
        work = attention_work(node)
        fits = partial(attention.fits, work, machine)
        return _template("attention", 2, work, attention.default(work, machine), fits)
    if group.kind == "elementwise":
        return _elements(group, machine, inlined)
    if group.kind == "rows":
        rows = row_work(node)
        fits = partial(sweep.fits_rows, rows, machine)
        return _template("rows", 1, rows, sweep.default_rows(rows, machine), fits)
    if group.kind == "matmul" and node.present_operands[0].type.dtype is DType.f32:
        return _batch_matmul(node, machine)
    return None


def _elements(group: Group, machine: Machine, inlined: list[Node]) -> Template | None:
    work = element_work(group.outputs[0], inlined)
    if work is None:
        return None
    fits = partial(sweep.fits_elements, work, machine)
    return _template("elements", 1, work, sweep.default_elements(machine), fits)


def _batch_matmul(node: Node, machine: Machine) -> Template:
    sizes = {"rows": node.result.type.shape[-2], "cols": node.result.type.shape[-1],
             "inner": node.present_operands[0].type.shape[-1]}  # fmt: skip
    known = {name: size if isinstance(size, int) else 0 for name, size in sizes.items()}
    cols = known["cols"] or None
    default = batch_matmul.default(cols, machine)

    def fits(knobs: Knobs) -> bool:
        return isinstance(knobs, batch_matmul.MatmulKnobs) and batch_matmul.fits(
            cols, machine, knobs
        )

    return Template("matmul", 1, default, fits, known)


def _template(
    name: str, version: int, work: object, default: K, fits: Callable[[K], bool]
) -> Template:
    def checked(knobs: Knobs) -> bool:
        return isinstance(knobs, type(default)) and fits(knobs)

    return Template(name, version, default, checked, dict(_features("", work)))


def _features(prefix: str, value: object) -> list[tuple[str, int]]:
    """The numbers of a description of work, by their places in it; 0 for what is not known yet."""
    if value is None or isinstance(value, DimExpr):
        return [(prefix, 0)]
    if isinstance(value, int):
        return [(prefix, int(value))]
    if isinstance(value, tuple):
        return [pair for i, part in enumerate(value) for pair in _features(f"{prefix}{i}", part)]
    if is_dataclass(value):
        return [
            pair
            for f in fields(value)
            for pair in _features(
                f"{prefix}.{f.name}" if prefix else f.name, getattr(value, f.name)
            )
        ]
    return [(prefix, emit.static(value) or 0)]
