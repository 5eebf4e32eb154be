"""Kernels that pass over memory once, by the corners of their knobs, beside the interpreter."""

from __future__ import annotations

import itertools
from collections.abc import Mapping

import numpy as np
import pytest

from tunesmith.backends.targets import TARGETS, find_target
from tunesmith.backends.tvm.compile import TvmBackend
from tunesmith.backends.tvm.kernels.kernel import Kernel
from tunesmith.backends.tvm.schedule.sweep import RowKnobs, RowWork, default_rows, fits_rows
from tunesmith.ir.interpreter import evaluate
from tunesmith.ir.text import parse_graph
from tunesmith.ir.types import DType

from .running import Built, assert_close

pytestmark = pytest.mark.tvm

BODIES = {
    "sum": ("f32[R, Z]", "reduce_sum(%x) {axes = [1], keepdims = false}"),
    "mean of 49": ("f32[R, 49]", "reduce_mean(%x) {axes = [1], keepdims = false}"),
    "greatest": ("f32[R, Z]", "reduce_max(%x) {axes = [1], keepdims = true}"),
    "least of 5": ("f32[R, 5]", "reduce_min(%x) {axes = [1], keepdims = false}"),
    "softmax": ("f32[R, Z]", "softmax(%x)"),
    "log softmax of 37": ("f32[R, 37]", "log_softmax(%x)"),
    "elements": ("f32[R, Z]", "gelu(%x)"),
    "turned": ("f32[R, Z, 3]", "transpose(%x) {perm = [1, 0, 2]}"),
}
SIZES = [(1, 1), (3, 7), (9, 64), (17, 129), (131, 257)]


class Fixed:
    """Records that give every kernel these knobs."""

    def __init__(self, numbers: Mapping[str, int]) -> None:
        self.numbers, self.asked = numbers, 0

    def knobs(
        self, template: str, text: str, features: Mapping[str, int]
    ) -> Mapping[str, int] | None:
        """See `TuningRecords`."""
        self.asked += 1
        return self.numbers


def corners(name: str, threads: int) -> list[dict[str, int]]:
    """The least and the greatest of each knob, as far as they fit."""
    kind, body = BODIES[name]
    graph = parse_graph(f"graph @f(%x: {kind}) {{\n  %y = {body}\n  return %y\n}}")
    lowered = TvmBackend().lower(graph, find_target("host", threads=threads))
    (kernel,) = lowered.tunable.values()
    assert isinstance(kernel, Kernel) and kernel.template is not None
    template = kernel.template
    ends = [(values[0], values[-1]) for values in template.values().values()]
    grid = [dict(zip(template.values(), point, strict=True)) for point in itertools.product(*ends)]
    default = template.default.numbers()
    singly = [{**default, knob: end} for knob, pair in zip(default, ends, strict=True)
              for end in pair]  # fmt: skip
    return [p for p in [*grid, *singly] if template.knobs(p) is not None and p != default]


@pytest.mark.parametrize("name", BODIES)
def test_corners_at_awkward_sizes(name: str) -> None:
    tried = corners(name, 2)
    assert len(tried) >= 2
    kind, body = BODIES[name]
    for numbers in tried:
        graph = parse_graph(f"graph @f(%x: {kind}) {{\n  %y = {body}\n  return %y\n}}")
        records = Fixed(numbers)
        lowered = TvmBackend().lower(graph, find_target("host", threads=2), records)
        (kernel,) = lowered.tunable.values()
        assert isinstance(kernel, Kernel) and kernel.chosen is not None
        assert kernel.chosen.numbers() == numbers and records.asked
        built = Built(graph, lowered, TvmBackend().build(lowered))
        for rows, length in SIZES:
            shape = [{"R": rows, "Z": length}.get(str(d), d) for d in graph.inputs[0].type.shape]
            x = np.random.default_rng(0).standard_normal([int(str(d)) for d in shape]).astype("f4")
            (want,) = evaluate(graph, {"x": x})
            (got,) = built.run({"x": x})
            assert_close(got, want, DType.f32, f"{name} at {rows}x{length} by {numbers}")


@pytest.mark.parametrize("target", TARGETS)
def test_the_default_of_a_fold_is_the_shortest_chain_and_fits(target: str) -> None:
    machine = TARGETS[target].machine
    whole = machine.vector_bytes // 4
    for length in (1, 9, 16, 49, 64, 128, 197, 768, 4096):
        work = RowWork(rows=64, length=length, fold=True, shared=True)
        best = default_rows(work, machine)
        assert fits_rows(work, machine, best), (length, best)

        def chain(knobs: RowKnobs, length: int = length) -> float:
            return length / (knobs.lanes * knobs.ways) + knobs.lanes

        plain = RowKnobs(lanes=whole)
        assert chain(best) <= chain(plain) + 1
        if length >= 16 * whole * 4:
            assert best == plain, "a long row is summed in whole vectors"
    unknown = RowWork(rows=0, length=0, fold=True, shared=True)
    assert default_rows(unknown, machine) == RowKnobs(lanes=whole)


def test_what_computes_one_by_one_has_no_knobs() -> None:
    text = """graph @f(%x: f32[0<=N, 4], %z: f32[0<=M, 4]) {
      %y = concat(%x, %z) {axis = 0}
      return %y
    }"""
    lowered = TvmBackend().lower(parse_graph(text), find_target("host", threads=1))
    assert not lowered.tunable
