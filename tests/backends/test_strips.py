"""Chains of convolutions by strips: where a strip begins and ends, and what is no chain."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest

from tunesmith.backends.targets import find_target
from tunesmith.backends.tvm.compile import TvmBackend
from tunesmith.backends.tvm.groups import Group, form_groups
from tunesmith.backends.tvm.kernels.convolutions import conv_work
from tunesmith.backends.tvm.kernels.strips import strip_work
from tunesmith.backends.tvm.legalize import legalize
from tunesmith.backends.tvm.schedule import depthwise, strips
from tunesmith.ir.graph import Graph
from tunesmith.ir.target import Target
from tunesmith.ir.text import parse_graph

from .guarded import check_guarded
from .running import Array, check, merge, pin
from .test_conv import random_feeds

pytestmark = pytest.mark.tvm

ONE = "{strides = [1, 1], low = [0, 0], high = [0, 0], dilations = [1, 1], groups = 1}"
CLIP = "%{to} = clip(%{of}) {{low = -1.0, high = 1.0}}\n"


def small(name: str = "host", l2_bytes: int = 1 << 15) -> Target:
    """A machine of two cores, whose caches hold next to nothing."""
    on = find_target(name, threads=2)
    return replace(on, machine=replace(on.machine, l2_bytes=l2_bytes, cores=2))


@dataclass(frozen=True)
class Chain:
    """Pointwise (not where `first` is 0), depthwise, pointwise (not where `last` is 0)."""

    x: str  # the shape of the image
    first: int
    last: int
    channels: int = 0  # of the image; those of the depthwise convolution are `first`, if that is
    kernel: tuple[int, int] = (3, 3)
    strides: tuple[int, int] = (1, 1)
    low: tuple[int, int] = (1, 1)
    high: tuple[int, int] = (1, 1)
    dilations: tuple[int, int] = (1, 1)
    each: int = 1  # results of a channel
    between: str = CLIP
    behind: str = CLIP
    result: str = "%y"
    front: str = ""  # what makes %q of %x

    def graph(self, seed: int = 0) -> Graph:
        """The graph, its weights and biases constants."""
        middle = self.first or self.channels
        wide = middle * self.each
        window = (
            f"{{strides = {list(self.strides)}, low = {list(self.low)}, high = {list(self.high)}, "
            f"dilations = {list(self.dilations)}, groups = {middle}}}"
        )
        shapes = {
            "w1": (self.first, self.channels, 1, 1), "b1": (self.first,),
            "w2": (wide, 1, *self.kernel), "b2": (wide,),
            "w3": (self.last, wide, 1, 1), "b3": (self.last,),
        }  # fmt: skip
        used = [n for n in shapes if (self.first or n[1] != "1") and (self.last or n[1] != "3")]
        body, x = self.front, "q" if self.front else "x"
        if self.first:
            body += f"%e = conv(%{x}, %w1, %b1) {ONE}\n" + self.between.format(to="f", of="e")
            x = "f"
        body += f"%c = conv(%{x}, %w2, %b2) {window}\n"
        if self.last:
            body += self.between.format(to="d", of="c") + f"%p = conv(%d, %w3, %b3) {ONE}\n"
        body += self.behind.format(to="y", of="p" if self.last else "c")
        arguments = "".join(f", %{n}: f32{list(shapes[n])}" for n in used)
        text = f"graph @f(%x: f32[{self.x}]{arguments}) {{\n{body}return {self.result}\n}}"
        rng = np.random.default_rng(seed)
        weights: dict[str, Array] = {
            n: rng.standard_normal(shapes[n]).astype(np.float32) for n in used
        }
        return pin(parse_graph(text), {}, weights)


GATE = "%{to}s = sigmoid(%{of})\n%{to} = mul(%{of}, %{to}s)\n"
LATER = "%{to} = add(%{of}, %x)\n"  # what the chain began with

CASES = {
    "all three": Chain("1, 5, 31, 33", 12, 7, 5),
    "strided": Chain("1, 5, 31, 33", 12, 7, 5, strides=(2, 2)),
    "strided by three, dilated": Chain("1, 5, 31, 33", 12, 7, 5, (3, 3), (3, 1), dilations=(2, 2)),
    "padding in front": Chain("2, 5, 17, 33", 16, 7, 5, low=(2, 2), high=(0, 0)),
    "padding behind": Chain("1, 5, 17, 33", 16, 7, 5, low=(0, 0), high=(2, 2)),
    "no padding": Chain("1, 3, 19, 47", 16, 9, 3, low=(0, 0), high=(0, 0)),
    "a large window": Chain("1, 5, 23, 33", 12, 7, 5, (7, 7), low=(3, 3), high=(3, 3)),
    "a column": Chain("1, 5, 64, 16", 16, 7, 5, (5, 1), low=(2, 0), high=(2, 0)),
    "two of each": Chain("1, 5, 31, 33", 12, 7, 5, each=2),
    "gates": Chain("1, 5, 31, 33", 12, 7, 5, between=GATE, behind=GATE),
    "what it began with": Chain("1, 5, 31, 33", 12, 5, 5, behind=LATER),
    "any batch": Chain("N, 5, 31, 33", 12, 7, 5),
    "ends depthwise": Chain("1, 5, 31, 33", 12, 0, 5),
    "begins depthwise": Chain("1, 16, 31, 33", 0, 7, 16),
    "one row more than a window": Chain("4, 4, 8, 70", 4, 5, 4, (7, 7), low=(3, 3), high=(3, 3)),
}  # fmt: skip


def chains(graph: Graph, on: Target) -> list[Group]:
    """The kernels of several convolutions."""
    legalize(graph)
    return [group for group in form_groups(graph, on.machine).groups if group.feeding]


def together(cases: dict[str, Chain]) -> Graph:
    return merge([(f"c{i}", case.graph(i)) for i, case in enumerate(cases.values())])


@pytest.mark.parametrize("name", ["host", "x86-64-v3", "x86-64-v2"])
def test_edges(name: str) -> None:
    on = small(name)
    assert len(chains(together(CASES), on)) == len(CASES)
    graph = together(CASES)
    check_guarded(graph, [random_feeds(graph, {"N": n}) for n in (3, 1)], on)


@pytest.mark.parametrize("rows", [1, 2, 5, 8, 15, 16])
@pytest.mark.parametrize("strides", [(1, 1), (2, 2)])
def test_every_cut(rows: int, strides: tuple[int, int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one row, a strip that overlaps the one before it, and the whole image."""
    monkeypatch.setenv("TUNESMITH_CACHE", "off")  # the name of a kernel tells nothing of defaults
    monkeypatch.setattr(strips, "default", lambda *_: strips.StripKnobs(rows=rows))
    case = Chain("1, 5, 31, 33", 12, 7, 5, strides=strides)
    on = small()
    built = check(case.graph(), random_feeds(case.graph(), {}), on)
    (row,) = (row for row in built.lowered.kernels if row["knobs"])
    assert row["knobs"] == {"rows": rows}


@pytest.mark.parametrize("shape", ["33", "31, 1", "1, 5, 31, 33", "5, 1, 1", "31, 33"])
def test_what_is_multiplied_in_front(shape: str) -> None:
    """A pointwise product asks for places in all rows, not for rows and columns."""
    image = f"1, 5, 31, 33], %m: f32[{shape}"
    graph = Chain(image, 12, 7, 5, front="%q = mul(%x, %m)\n").graph()
    assert len(chains(graph, small())) == 1
    alone = parse_graph(f"""graph @f(%x: f32[1, 4, 15, 20], %m: f32[20], %w: f32[8, 4, 1, 1]) {{
      %q = mul(%x, %m)
      %y = conv(%q, %w) {ONE}
      return %y
    }}""")
    weight = {"w": np.random.default_rng(0).standard_normal((8, 4, 1, 1)).astype("f4")}
    for one in (graph, pin(alone, {}, weight)):
        check_guarded(one, [random_feeds(one, {})], small())


def test_a_weight_that_is_also_multiplied_in_front() -> None:
    text = f"""graph @f(%x: f32[1, 8, 31, 33], %d: f32[8, 1, 3, 3], %w: f32[1, 8, 1, 1]) {{
      %c = conv(%x, %d) {ONE.replace("groups = 1", "groups = 8")}
      %m = mul(%c, %w)
      %y = conv(%m, %w) {ONE}
      return %y
    }}"""
    rng = np.random.default_rng(0)
    shapes = {"d": (8, 1, 3, 3), "w": (1, 8, 1, 1)}
    weights = {n: rng.standard_normal(shape).astype("f4") for n, shape in shapes.items()}
    graph = pin(parse_graph(text), {}, weights)
    check(graph, random_feeds(graph, {}), small())


def test_a_chain_ends_where_more_would_be_computed_twice() -> None:
    """Depthwise convolutions and their products by turns, as MobileNet has them."""
    body, x, weights, rng = [], "x", {}, np.random.default_rng(0)
    for n in range(8):
        weights[f"d{n}"] = rng.standard_normal((16, 1, 3, 3)).astype("f4")
        weights[f"p{n}"] = rng.standard_normal((16, 16, 1, 1)).astype("f4")
        window = "{strides = [1, 1], low = [1, 1], high = [1, 1], dilations = [1, 1], groups = 16}"
        body += [f"%c{n} = conv(%{x}, %d{n}) {window}", f"%y{n} = conv(%c{n}, %p{n}) {ONE}"]
        x = f"y{n}"
    types = "".join(f", %{n}: f32{list(w.shape)}" for n, w in weights.items())
    lines = "\n".join(body)
    text = f"graph @f(%x: f32[1, 16, 48, 48]{types}) {{\n{lines}\nreturn %{x}\n}}"
    graph = pin(parse_graph(text), {}, weights)
    machine = replace(find_target("x86-64-v4", threads=2).machine, l2_bytes=1 << 17, cores=2)
    found = chains(graph, replace(small(), machine=machine))
    assert found
    for chain in found:
        work = strip_work(chain.products)
        rows = strips.default(work, machine).rows
        computed = -(-work.height // rows) * work.products(rows)
        assert computed < 1.4 * work.products(work.height), len(work.stages)


@pytest.mark.parametrize(
    ("case", "why"),
    [
        (Chain("1, 5, H, 33", 12, 7, 5), "a height that is not known"),
        (Chain("1, 5, 31, W", 12, 7, 5), "a width that is not known"),
        (Chain("1, 5, 31, 33", 12, 7, 5, result="%y, %f, %d"), "what is between is a result"),
        (Chain("1, 5, 5, 7", 12, 7, 5), "the second cache holds what is between"),
    ],
)
def test_no_chain(case: Chain, why: str) -> None:
    assert not chains(case.graph(), small()), why
    sizes = {"H": 31, "W": 33}
    check(case.graph(), random_feeds(case.graph(), sizes), small())


def test_a_result_with_two_readers_ends_a_chain() -> None:
    twice = Chain("1, 5, 31, 33", 12, 12, 5, behind="%{to} = add(%{of}, %f)\n")
    (chain,) = chains(twice.graph(), small())
    assert len(chain.feeding) == 1, "the pointwise convolution has a kernel of its own"
    check(twice.graph(), random_feeds(twice.graph(), {}), small())


@pytest.mark.parametrize(
    ("second", "why"),
    [
        (f"conv(%c, %w, %b) {ONE}", "two pointwise convolutions, and one weight"),
        (f"conv(%c, %v, %b) {ONE}", "two pointwise convolutions"),
        (f"conv(%c, %v, %b) {ONE.replace('strides = [1, 1]', 'strides = [2, 2]')}", "strides"),
    ],
)
def test_what_is_not_linked(second: str, why: str) -> None:
    text = f"""graph @f(%x: f32[1, 8, 31, 33], %w: f32[8, 8, 1, 1], %v: f32[8, 8, 1, 1],
                     %b: f32[8]) {{
      %c = conv(%x, %w, %b) {ONE}
      %y = {second}
      return %y
    }}"""
    rng = np.random.default_rng(0)
    weights = {n: rng.standard_normal((8, 8, 1, 1)).astype("f4") for n in "wv"}
    weights["b"] = rng.standard_normal(8).astype("f4")
    graph = pin(parse_graph(text), {}, weights)
    assert not chains(graph, small()), why


def test_strips_pay_where_no_cache_holds_what_is_between() -> None:
    machine = find_target("x86-64-v4", threads=2).machine
    machine = replace(machine, l2_bytes=2 << 20, cores=2)
    wide = Chain("1, 16, 112, 112", 96, 24, 16, strides=(2, 2))
    (chain,) = chains(wide.graph(), replace(small(), machine=machine))
    work = strip_work(chain.products)
    knobs = strips.default(work, machine)
    assert len(work.stages) == 3 and strips.fits(work, machine, knobs)
    assert work.held(knobs.rows) <= machine.l2_bytes
    assert work.height % (machine.cores * knobs.rows) == 0, "both cores have the same to do"
    assert strips.held_rows(work.stages, 4) == [9, 4, 4]
    assert work.moved() == 2 * 4 * (96 * 112 * 112 + 96 * 56 * 56)
    assert not strips.fits(work, machine, strips.StripKnobs(rows=57)), "more rows than there are"
    assert not strips.fits(work, replace(machine, l2_bytes=1 << 16), knobs), "a smaller cache"
    high = Chain("1, 16, 12, 9000", 96, 24, 16, (11, 3), low=(5, 1), high=(5, 1))
    assert not strips.pays(strip_work(_groups(high)), machine), "no strip of a row fits"
    small_image = Chain("1, 16, 28, 28", 96, 24, 16)
    assert not strips.pays(strip_work(_groups(small_image)), machine)


def test_strips_may_fill_the_cache() -> None:
    """Twice the rows, so that an eighth and not a quarter of the first result is computed twice."""
    machine = find_target("x86-64-v4", threads=2).machine
    machine = replace(machine, l2_bytes=1 << 20, cores=1)
    work = strip_work(_groups(Chain("1, 24, 56, 56", 144, 24, 24)))
    assert strips.default(work, machine).rows == 14
    assert machine.l2_bytes // 2 < work.held(14) <= machine.l2_bytes


@pytest.mark.parametrize(
    ("height", "kernel", "rows", "high"),
    [
        (14, 3, 14, 7),
        (7, 3, 7, 7),
        (30, 3, 30, 8),
        ("H", 3, 32, 1),
        (14, 5, 14, 7),
        ("H", 5, 32, 8),
    ],
)
def test_rows_of_a_depthwise_window_share_what_they_load(
    height: int | str, kernel: int, rows: int, high: int
) -> None:
    """Not for small windows where an image may turn out to have a row or two."""
    reach = (kernel // 2, kernel // 2)
    case = Chain(f"1, 8, {height}, 14", 0, 0, 8, (kernel, kernel), low=reach, high=reach)
    (node,) = (node for node in case.graph().nodes if node.op.name == "conv")
    knobs = depthwise.default(conv_work(node).window, find_target("x86-64-v4", threads=1).machine)
    assert (knobs.rows, knobs.high) == (rows, high)


def _groups(case: Chain) -> list[Group]:
    graph = case.graph()
    return [Group("conv", node) for node in graph.nodes if node.op.name == "conv"]


def test_the_kernel_is_one_and_reads_each_weight_once() -> None:
    graph = CASES["all three"].graph()
    (row,) = TvmBackend().lower(graph, small()).kernels
    nodes = row["nodes"]
    assert row["kind"] == "conv" and isinstance(nodes, list) and nodes.count("conv") == 3
    assert row["weight_bytes"] == str(4 * (12 * 5 + 12 + 12 * 9 + 12 + 7 * 12 + 7))
