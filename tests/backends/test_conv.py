"""Convolutions and pools against the interpreter, at the sizes where vectors and blocks end."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from tunesmith.backends.targets import find_target
from tunesmith.backends.tvm.compile import TvmBackend
from tunesmith.backends.tvm.kernels.kernel import Kernel
from tunesmith.backends.tvm.schedule import conv
from tunesmith.backends.tvm.schedule.conv_costs import even_panels
from tunesmith.backends.tvm.schedule.conv_knobs import ConvKnobs
from tunesmith.backends.tvm.schedule.emit import Dim
from tunesmith.ir.graph import Graph
from tunesmith.ir.interpreter import evaluate
from tunesmith.ir.target import Target
from tunesmith.ir.text import parse_graph
from tunesmith.ir.types import DType

from .running import Array, assert_close, build, check, merge, pin, target

pytestmark = pytest.mark.tvm


@dataclass(frozen=True)
class Conv:
    """One convolution: sizes, and the text of what stands behind it."""

    x: str  # the shape of the image
    out: int
    kernel: tuple[int, ...]
    inner: int
    strides: tuple[int, ...] = (1, 1)
    low: tuple[int, ...] = (0, 0)
    high: tuple[int, ...] = (0, 0)
    dilations: tuple[int, ...] = (1, 1)
    groups: int = 1
    behind: str = ""

    def graph(self, seed: int = 0) -> Graph:
        """The graph, its weight and bias constants."""
        weight = (self.out, self.inner, *self.kernel)
        attributes = (
            f"strides = {list(self.strides)}, low = {list(self.low)}, high = {list(self.high)}, "
            f"dilations = {list(self.dilations)}, groups = {self.groups}"
        )
        text = (
            f"graph @f(%x: f32[{self.x}], %w: f32{list(weight)}, %b: f32[{self.out}]) {{\n"
            f"  %c = conv(%x, %w, %b) {{{attributes}}}\n{self.behind}"
            f"  return {'%y' if self.behind else '%c'}\n}}"
        )
        rng = np.random.default_rng(seed)
        weights: dict[str, Array] = {
            "w": rng.standard_normal(weight).astype(np.float32),
            "b": rng.standard_normal(self.out).astype(np.float32),
        }
        return pin(parse_graph(text), {}, weights)


ONE, PAD = (1, 1), (1, 1)
CLIP = "  %y = clip(%c) {low = 0.0, high = 6.0}\n"
GATE = "  %s = sigmoid(%c)\n  %t = constant() {value = f32[] 0.5}\n  %y = mul(%s, %t)\n"

STATIC = {
    "pointwise, one pixel": Conv("1, 17, 1, 1", 24, ONE, 17),
    "pointwise, three pixels": Conv("2, 16, 1, 3", 3, ONE, 16),
    "pointwise, fewer than a vector": Conv("1, 3, 3, 3", 17, ONE, 3, behind=CLIP),
    "pointwise, a vector and one": Conv("1, 16, 1, 17", 1, ONE, 16),
    "pointwise, 49 pixels": Conv("2, 24, 7, 7", 17, ONE, 24, behind=GATE),
    "pointwise, 196 pixels": Conv("1, 16, 14, 14", 16, ONE, 16),
    "pointwise, several blocks": Conv("2, 3, 31, 33", 16, ONE, 3),
    "pointwise, stride 2": Conv("1, 17, 15, 13", 16, ONE, 17, strides=(2, 2)),
    "3x3 over 1x1": Conv("1, 3, 1, 1", 16, (3, 3), 3, low=PAD, high=PAD),
    "3x3 over 7x7": Conv("1, 16, 7, 7", 24, (3, 3), 16, low=PAD, high=PAD),
    "3x3 over 8x8": Conv("1, 3, 8, 8", 3, (3, 3), 3),
    "3x3 over 15x17": Conv("1, 17, 15, 17", 1, (3, 3), 17, low=PAD, high=PAD),
    "3x3 over 56x56": Conv("1, 8, 56, 56", 64, (3, 3), 8, low=PAD, high=PAD, behind=CLIP),
    "3x3, stride 2": Conv("1, 3, 29, 56", 64, (3, 3), 3, (2, 2), PAD, PAD),
    "3x3, stride 2, padding behind": Conv("1, 3, 32, 32", 17, (3, 3), 3, (2, 2), high=(1, 1)),
    "3x3, stride 3, dilation 2": Conv(
        "1, 3, 23, 25", 16, (3, 3), 3, (3, 3), (2, 1), (0, 3), (2, 2)
    ),
    "7x7, stride 2": Conv("1, 3, 40, 38", 64, (7, 7), 3, (2, 2), (3, 3), (3, 3)),
    "more than 1024 products": Conv("1, 130, 7, 9", 16, (3, 3), 130, low=PAD, high=PAD),
    "one axis": Conv("2, 16, 37", 24, (3,), 16, (2,), (1,), (1,), (1,)),
    "groups": Conv("1, 32, 9, 9", 24, (3, 3), 8, low=PAD, high=PAD, groups=4),
    "depthwise 3x3": Conv("2, 3, 17, 33", 3, (3, 3), 1, low=PAD, high=PAD, groups=3, behind=CLIP),
    "depthwise 5x5, stride 2": Conv("1, 4, 15, 14", 4, (5, 5), 1, (2, 2), (2, 2), (2, 2), groups=4),
    "depthwise 7x7": Conv("1, 3, 13, 35", 3, (7, 7), 1, low=(3, 3), high=(3, 3), groups=3),
    "depthwise 7x7, two vectors": Conv("1, 2, 17, 64", 2, (7, 7), 1, low=(3, 2), groups=2),
    "depthwise 6x4, stride 3x2": Conv("1, 2, 31, 70", 2, (6, 4), 1, (3, 2), (1, 1), groups=2),
    "depthwise 5x5, dilated": Conv(
        "1, 2, 19, 40", 2, (5, 5), 1, (1, 1), (2, 4), (2, 4), (2, 2), groups=2
    ),
    "depthwise 5x5, dilated, stride 2": Conv(
        "1, 2, 19, 40", 2, (5, 5), 1, (2, 2), (2, 4), (2, 4), (3, 3), groups=2
    ),
    "depthwise over 7x7": Conv("1, 17, 7, 7", 17, (3, 3), 1, low=PAD, high=PAD, groups=17),
    "depthwise 1x7": Conv("1, 12, 3, 40", 12, (1, 7), 1, low=(0, 3), high=(0, 3), groups=12),
    "two results a channel": Conv("1, 3, 9, 20", 6, (3, 3), 1, dilations=(2, 1), groups=3),
}  # fmt: skip

SYMBOLIC = {
    "pointwise": Conv("N, 3, H, W", 17, ONE, 3, behind=CLIP),
    "3x3": Conv("N, 3, H, W", 16, (3, 3), 3, low=PAD, high=PAD),
    "3x3, stride 2": Conv("N, 3, H, W", 8, (3, 3), 3, (2, 2), PAD, PAD),
    "depthwise": Conv("N, 4, H, W", 4, (3, 3), 1, low=PAD, high=PAD, groups=4),
    "depthwise 7x7": Conv("N, 2, H, W", 2, (7, 7), 1, low=(3, 3), high=(3, 3), groups=2),
    "depthwise 5x5, stride 2": Conv("N, 2, H, W", 2, (5, 5), 1, (2, 2), (2, 2), (2, 2), groups=2),
    "depthwise, stride 2": Conv("N, 4, H, W", 4, (3, 3), 1, (2, 2), PAD, PAD, groups=4),
}

WINDOW = "kernel = [3, 3], strides = [2, 2], low = [1, 1], high = [1, 1]"
POOLS = {
    "max": f"max_pool(%x) {{{WINDOW}, dilations = [1, 1]}}",
    "max, wide": "max_pool(%x) {kernel = [5, 1], strides = [1, 3], low = [2, 0], high = [2, 0], "
    "dilations = [1, 1]}",
    "mean": f"average_pool(%x) {{{WINDOW}, count_padding = false}}",
    "mean with padding": f"average_pool(%x) {{{WINDOW}, count_padding = true}}",
    "global": "reduce_mean(%x) {axes = [2, 3], keepdims = true}",
}


def random_feeds(graph: Graph, sizes: dict[str, int], seed: int = 0) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    feeds: dict[str, Array] = {}
    for value in graph.inputs:
        shape = [d if isinstance(d, int) else sizes[str(d)] for d in value.type.shape]
        feeds[value.name] = rng.standard_normal(shape).astype(np.float32)
    return feeds


def together(cases: dict[str, Conv]) -> Graph:
    return merge([(f"c{i}", case.graph(i)) for i, case in enumerate(cases.values())])


def test_static() -> None:
    graph = together(STATIC)
    built = check(graph, random_feeds(graph, {}), find_target("host", threads=2))
    assert set(built.kinds) == {"conv"}


@pytest.mark.parametrize("name", ["x86-64-v3", "x86-64-v2"])
def test_narrower_vectors(name: str) -> None:
    some = list(STATIC.items())[:: 3 if name == "x86-64-v3" else 6]
    graph = together(dict(some))
    check(graph, random_feeds(graph, {}), find_target(name, threads=1))


def run_sizes(graph: Graph, on: Target, sizes: list[tuple[int, int, int]]) -> None:
    feeds = [random_feeds(graph, dict(zip("NHW", some, strict=True))) for some in sizes]
    want = [evaluate(graph, feed) for feed in feeds]
    built = build(graph, on)
    for feed, values, some in zip(feeds, want, sizes, strict=True):
        for one, other in zip(built.run(feed), values, strict=True):
            assert_close(one, other, DType.f32, str(some))


def test_symbolic() -> None:
    graphs = [case.graph(i) for i, case in enumerate(SYMBOLIC.values())]
    graph = merge([(f"c{i}", one) for i, one in enumerate(graphs)])
    sizes = [(1, 1, 1), (2, 7, 7), (1, 8, 15), (1, 16, 16), (2, 5, 33), (1, 40, 65), (3, 1, 17)]
    run_sizes(graph, find_target("host", threads=2), sizes)


@pytest.mark.parametrize("shape", ["N, 3, H, W", "2, 3, 15, 33", "1, 17, 7, 7"])
def test_pools(shape: str) -> None:
    bodies = [
        parse_graph(f"graph @f(%x: f32[{shape}]) {{\n  %y = {body}\n  return %y\n}}")
        for body in POOLS.values()
    ]
    graph = merge([(f"c{i}", one) for i, one in enumerate(bodies)])
    sizes = [(1, 1, 1), (2, 7, 9), (1, 33, 40)] if "H" in shape else [(0, 0, 0)]
    run_sizes(graph, target(), sizes)


def test_nan_and_infinity_stay_where_they_are() -> None:
    body = f"max_pool(%x) {{{WINDOW}, dilations = [1, 1]}}"
    text = f"graph @f(%x: f32[1, 2, 9, 40]) {{\n  %y = {body}\n  return %y\n}}"
    x = np.random.default_rng(0).standard_normal((1, 2, 9, 40)).astype(np.float32)
    x[0, 0, 3, 5], x[0, 1] = np.nan, -np.inf
    check(parse_graph(text), {"x": x})


def test_residual_is_added_before_the_result_is_stored() -> None:
    text = """graph @f(%x: f32[B, 16, 7, 7], %w: f32[24, 16, 3, 3], %r: f32[B, 24, 7, 7]) {
      %c = conv(%x, %w) {strides = [1, 1], low = [1, 1], high = [1, 1], dilations = [1, 1]}
      %s = add(%c, %r)
      %y = relu(%s)
      return %y
    }"""
    rng = np.random.default_rng(1)
    weight = rng.standard_normal((24, 16, 3, 3)).astype(np.float32)
    graph = pin(parse_graph(text), {}, {"w": weight})
    feeds = {
        "x": rng.standard_normal((3, 16, 7, 7)).astype(np.float32),
        "r": rng.standard_normal((3, 24, 7, 7)).astype(np.float32),
    }
    assert check(graph, feeds).kinds == ["conv"]


def test_elementwise_neighbours_need_no_kernel_of_their_own() -> None:
    windows = "strides = [2, 2], low = [1, 1], high = [1, 1], dilations = [1, 1]"
    text = f"""graph @f(%x: f32[B, 3, 15, 40], %g: f32[B, 3, 1, 1], %w: f32[17, 3, 3, 3]) {{
      %m = mul(%x, %g)
      %c = conv(%m, %w) {{{windows}}}
      %s = constant() {{value = f32[] 0.16666667}}
      %h = constant() {{value = f32[] 0.5}}
      %t = mul(%c, %s)
      %u = add(%t, %h)
      %v = clip(%u) {{low = 0.0, high = 1.0}}
      %y = mul(%c, %v)
      return %y
    }}"""
    weight = np.random.default_rng(2).standard_normal((17, 3, 3, 3)).astype(np.float32)
    graph = pin(parse_graph(text), {}, {"w": weight})
    assert check(graph, random_feeds(graph, {"B": 2})).kinds == ["conv"]


def test_what_has_no_schedule_runs_on_loops() -> None:
    text = """graph @f(%x: f32[1, 4, 9, 9], %w: f32[4, 4, 3, 3]) {
      %c = conv(%x, %w) {strides = [1, 1], low = [1, 1], high = [1, 1], dilations = [1, 1]}
      return %c
    }"""
    graph = parse_graph(text)
    assert check(graph, random_feeds(graph, {})).kinds == ["loops"]


def test_errors_grow_no_faster_than_those_of_a_blocked_sum() -> None:
    case = Conv("1, 512, 7, 7", 8, (3, 3), 512, low=PAD, high=PAD)
    graph = case.graph()
    feeds = random_feeds(graph, {})
    wide = {name: array.astype(np.float64) for name, array in feeds.items()}
    weight = next(v for n in graph.nodes for v in n.results if v.type.rank == 4 and v.constant)
    bias = next(v for n in graph.nodes for v in n.results if v.type.rank == 1 and v.constant)
    assert weight.constant is not None and bias.constant is not None
    padded = np.pad(wide["x"], [(0, 0), (0, 0), (1, 1), (1, 1)])
    view = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    exact = np.einsum("nchwij,ocij->nohw", view, weight.constant.array.astype(np.float64))
    exact += bias.constant.array.reshape(1, -1, 1, 1)
    (got,) = build(graph).run(feeds)
    assert np.abs(got - exact).max() < 4e-5 * np.sqrt(4608)


@pytest.mark.parametrize("behind", ["", CLIP])
def test_results_are_asked_for_before_they_are_stored(behind: str) -> None:
    """A store waits for its line if nobody asked."""
    graph = Conv("1, 20, 7, 9", 24, (1, 1), 20, behind=behind).graph()
    (kernel,) = TvmBackend().lower(graph, target()).tunable.values()
    assert isinstance(kernel, Kernel)
    text = kernel.function().script()
    lines = [line for line in text.splitlines() if "llvm.prefetch" in line]
    assert lines and all("w0[" in line for line in lines)


def test_blocks_of_any_size_are_even(monkeypatch: pytest.MonkeyPatch) -> None:
    """How many panels a block has is found out at run time, once for each way it is cut."""
    asked: list[tuple[int, int]] = []

    def spy(count: Dim, most: int, cores: int) -> Dim:
        asked.append((most, cores))
        return even_panels(count, most, cores)

    monkeypatch.setattr(conv, "even_panels", spy)
    machine = find_target("host", threads=2)
    graph = Conv("1, 20, H, W", 24, (1, 1), 20).graph()
    (kernel,) = TvmBackend().lower(graph, machine).tunable.values()
    assert isinstance(kernel, Kernel) and isinstance(kernel.knobs, ConvKnobs)
    kernel.function()
    assert asked == [(kernel.knobs.panels, 2)]
