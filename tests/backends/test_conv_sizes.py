"""Convolutions whose sizes are known at run time only: where planes end, panels begin, or nothing
is left, beside the interpreter; and the choice between the two beside the one for fixed sizes."""

from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise, product

import numpy as np
import pytest
import tvm
from tvm.script.ir_builder import IRBuilder
from tvm.sym import Analyzer
from tvm.tirx.script import builder as T

from tunesmith.backends.targets import find_target
from tunesmith.backends.tvm.compile import TvmBackend
from tunesmith.backends.tvm.kernels.convolutions import conv_work
from tunesmith.backends.tvm.kernels.kernel import Kernel
from tunesmith.backends.tvm.schedule import conv_costs, conv_knobs, emit
from tunesmith.backends.tvm.schedule.conv_planes import choose
from tunesmith.backends.tvm.schedule.window import Window
from tunesmith.ir.target import Machine

from .test_conv import CLIP, PAD, Conv, run_sizes, together
from .test_kernels_gemm import compile_function

pytestmark = pytest.mark.tvm

# 510 columns and their padding are the most places that a block of one row may have
EDGES = [(1, 1, 1), (1, 1, 510), (1, 2, 511), (2, 3, 509), (1, 31, 7), (3, 61, 14), (1, 17, 97),
         (1, 40, 15), (1, 19, 257), (1, 9, 255), (0, 5, 33)]  # fmt: skip
ANY = "0<=N, {}, H, W"
SMALL = [(1, 6, 6), (2, 7, 13), (1, 31, 37), (3, 8, 64), (1, 13, 255), (1, 6, 511), (1, 6, 517)]

PADDED = {
    "3x3": Conv(ANY.format(3), 16, (3, 3), 3, low=PAD, high=PAD, behind=CLIP),
    "3x3, stride 2": Conv(ANY.format(3), 9, (3, 3), 3, (2, 2), PAD, PAD),
    "groups": Conv(ANY.format(8), 12, (3, 3), 4, low=PAD, high=PAD, groups=2),
    "few rows fit": Conv(ANY.format(210), 4, (3, 3), 210, low=PAD, high=PAD),
}
INSIDE = {
    "2x2": Conv("N, 5, H, W", 12, (2, 2), 5),
    "pointwise, stride 2": Conv("N, 5, H, W", 24, (1, 1), 5, (2, 2)),
    "3x3, stride 3, dilation 2": Conv(
        "N, 3, H, W", 16, (3, 3), 3, (3, 3), (2, 1), (0, 3), (2, 2)
    ),
    "7x7, stride 2": Conv("N, 3, H, W", 8, (7, 7), 3, (2, 2), (3, 3), (3, 3)),
    "5x1, stride 1x2": Conv("N, 3, H, W", 8, (5, 1), 3, (1, 2), (2, 0), (2, 0)),
    "only rows": Conv("N, 3, H, 29", 16, (3, 3), 3, low=PAD, high=PAD),
    "only columns": Conv("N, 3, 11, W", 16, (3, 3), 3, low=PAD, high=PAD),
    "one axis": Conv("N, 16, W", 24, (3,), 16, (1,), (1,), (1,), (1,)),
}  # fmt: skip


@pytest.mark.parametrize("name", PADDED)
def test_padded(name: str) -> None:
    run_sizes(PADDED[name].graph(), find_target("host", threads=2), EDGES)


def test_images_of_padding_only() -> None:
    case = Conv("0<=N, 3, 0<=H, 0<=W", 16, (3, 3), 3, low=PAD, high=(2, 2))
    sizes = [(1, 0, 0), (2, 0, 33), (1, 33, 0), (0, 0, 5), (1, 1, 0), (2, 17, 30)]
    run_sizes(case.graph(), find_target("host", threads=1), sizes)


def test_inside() -> None:
    graph = together(INSIDE)
    run_sizes(graph, find_target("host", threads=1), SMALL)


# Sizes where tiles reach over the edge, or a row of them is cut into parts.
TILED = [(1, 1, 1), (1, 2, 3), (2, 9, 33), (1, 16, 15), (1, 17, 64), (1, 37, 128), (1, 5, 511),
         (1, 3, 1023), (0, 5, 33), (1, 2, 2050)]  # fmt: skip


def test_winograd() -> None:
    """Tiles of a size that is known at run time only: padded, not padded, in groups."""
    cases = {
        "padded": Conv(ANY.format(33), 40, (3, 3), 33, low=PAD, high=PAD, behind=CLIP),
        "groups": Conv(ANY.format(64), 66, (3, 3), 32, low=PAD, high=PAD, groups=2),
        "padded before": Conv(ANY.format(32), 35, (3, 3), 32, low=(2, 2)),
        "only rows": Conv("N, 32, H, 29", 32, (3, 3), 32, low=PAD, high=PAD),
        "few fit": Conv(ANY.format(240), 32, (3, 3), 240, low=PAD, high=PAD),
    }
    graph = together(cases)
    works = [conv_work(node) for node in graph.nodes if node.op.name == "conv"]
    for name, sizes in (("host", TILED), ("x86-64-v3", TILED[:6])):
        on = find_target(name, threads=2)
        on = replace(on, machine=replace(on.machine, l2_bytes=1 << 21))
        assert all(conv_knobs.default(work, on.machine).tile for work in works)
        run_sizes(graph, on, sizes)


def test_winograd_is_left_where_it_may_lose() -> None:
    machine = replace(find_target("x86-64-v4").machine, l2_bytes=1 << 21)
    for x, inner in ((ANY.format(512), 512), ("N, 64, 1, W", 64)):
        graph = Conv(x, 64, (3, 3), inner, low=PAD, high=PAD).graph()
        (work,) = (conv_work(node) for node in graph.nodes if node.op.name == "conv")
        assert not conv_knobs.default(work, machine).tile


def test_results_of_known_size_from_images_of_unknown() -> None:
    """7x7 pixels have an odd one, which planes do not compute."""
    shape = "1, 3, 13<=H<=14, 13<=W<=14"
    strided = Conv(shape, 8, (3, 3), 3, (2, 2), PAD, PAD).graph()
    (work,) = (conv_work(node) for node in strided.nodes if node.op.name == "conv")
    assert work.window.pixels == 49
    for threads in (1, 2):
        run_sizes(strided, find_target("host", threads=threads), [(1, 13, 13), (1, 14, 13)])


def test_narrower_vectors() -> None:
    graph = together({"3x3": PADDED["3x3"], "stride 2": PADDED["3x3, stride 2"]})
    run_sizes(graph, find_target("x86-64-v3", threads=1), EDGES[:8])


def window(height: int, width: int, stride: int) -> Window:
    out = ((height - 1) // stride + 1, (width - 1) // stride + 1)
    return Window(
        kernel=(3, 3),
        strides=(stride, stride),
        low=PAD,
        high=PAD,
        dilations=(1, 1),
        image=(height, width),
        out=out,
        widths=(width, out[1]),
    )


def cost(work: conv_costs.ConvWork, blocks: list[int], lanes: int) -> float:
    """What blocks of so many rows cost for each pixel; 1 is a product without any waste."""
    height, width = (emit.static(size) or 0 for size in work.window.out)
    columns = -(-((emit.static(work.window.image[1]) or 0) + 2) // work.window.strides[1])
    reach = 2 // work.window.strides[0]
    places = sum(-(-((rows - 1) * columns + width) // lanes) * lanes for rows in blocks)
    return (places + 2.0 * sum(rows + reach for rows in blocks) * width / work.out) / (
        height * width
    )


@pytest.mark.parametrize("stride", [1, 2])
def test_the_choice_is_that_for_fixed_sizes(stride: int) -> None:
    """Or one that costs at most a tenth more: rows are not tried one by one."""
    machine = replace(find_target("x86-64-v4").machine, l2_bytes=1 << 21, cores=1)
    lanes, by_rows, by_panels = emit.lanes_of(machine), 0, 0
    for height, width, inner, out in product(
        (1, 7, 28, 61, 160), (1, 6, 14, 30, 97, 160, 255, 300, 510, 511), (3, 96, 210), (8, 24, 64)
    ):
        work = conv_costs.ConvWork(
            groups=1, inner=inner, out=out, window=window(height, width, stride)
        )
        room = conv_costs.plane_room(work, machine)
        choice = choose(work, 56, room, lanes)
        rows, pays = emit.static(choice.rows), emit.static(Analyzer().simplify(choice.pays))
        assert rows is not None and pays is not None
        known = emit.static(work.window.pixels) or 0
        least, fixed = conv_costs.best_rows(work, 0, lambda _: 8, machine)
        if least >= known * (out + 16) * 9 * inner:
            fixed = 0  # panels cost less
        unrolled = 1.0 + 16.0 / out
        lines = emit.static(work.window.out[0]) or 0
        blocks = [min(rows, lines - first) for first in range(0, lines, rows)]
        assert len(blocks) == emit.static(choice.blocks)
        got = cost(work, blocks, lanes) if pays else unrolled
        best = cost(work, [fixed] * -(-lines // fixed), lanes) if fixed else unrolled
        assert got <= 1.1 * best, (height, width, inner, out, rows, pays, fixed)
        by_rows, by_panels = by_rows + pays, by_panels + (not pays)
    assert by_rows > 20 and by_panels > 20


@pytest.mark.parametrize("cores", [1, 2, 3])
def test_blocks_of_panels_are_even(cores: int) -> None:
    """By a kernel as when the model is compiled; and no core gets a block that is nearly empty."""
    most, counts = 8, np.arange(200, dtype=np.int64)
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("main")
        T.func_attr({"global_symbol": "main", "tirx.noalias": True})
        x, y = T.arg("x", T.handle()), T.arg("y", T.handle())
        a, b = (T.match_buffer(handle, (len(counts),), "int64") for handle in (x, y))
        with emit.loop(len(counts)) as i:
            count = emit.opaque(a[i])
            each = emit.opaque(conv_costs.even_panels(count, most, cores))
            T.buffer_store(b, emit.index(each), [i])
    out = tvm.runtime.tensor(np.zeros_like(counts))
    library = compile_function(builder.get(), find_target("host").machine)
    library["main"](tvm.runtime.tensor(counts), out)
    assert out.numpy()[0] == 0  # an image without pixels has no block
    for count, each in zip(counts[1:].tolist(), out.numpy()[1:].tolist(), strict=True):
        assert each == conv_costs.even_panels(count, most, cores), count
        assert 1 <= each <= most
        blocks = -(-count // each)
        if blocks > 1:  # a core's panels are at most one a round more than its even share
            rounds = -(-blocks // cores)
            assert rounds * each < count / cores + each + rounds, (count, each)


@pytest.mark.parametrize("cores", [1, 2, 3, 8, 16])
@pytest.mark.parametrize("name", ["x86-64-v3", "x86-64-v4"])
def test_the_busiest_core_decides(cores: int, name: str) -> None:
    """How an image is cut is about best, of all ways, where tasks are shared out one by one.

    Other ways may fill more of the second cache than the default does, and all that stays is in
    whole tiles: that is the rest.
    """
    machine = replace(find_target(name).machine, l2_bytes=1 << 20, cores=cores)
    ratios = []
    for size, channels, groups in product((7, 14, 28, 56), (24, 32, 64, 128), (1, 2)):
        work = conv_costs.ConvWork(
            groups=groups, inner=channels, out=channels, window=window(size, size, 1)
        )
        knobs = conv_knobs.default(work, machine)
        chosen = busiest(work, knobs, machine)
        others = [
            busiest(work, other, machine)
            for tile, rows in product((0, 2), range(1, size // 2 + 1))
            for other in (replace(knobs, odd=False, rows=rows, tile=tile, panels=4),)
            if conv_knobs.fits(work, machine, other)
        ]
        ratios.append(chosen / min(others))
        assert ratios[-1] <= 1.4, (work, knobs)
    assert np.exp(np.mean(np.log(ratios))) <= 1.03


def busiest(work: conv_costs.ConvWork, knobs: conv_knobs.ConvKnobs, machine: Machine) -> float:
    """The cost of the core with the most to do, task by task as the kernel shares them out."""
    height, width = (emit.static(size) or 0 for size in work.window.out)
    tiles, lanes = -(-work.out // knobs.tile_o), emit.lanes_of(machine)
    if knobs.rows:
        some = conv_costs.cut(work, knobs.tile, knobs.rows, machine)
        reach = (knobs.rows + work.window.furthest) * some.width * some.parts
        places = -(-some.places // lanes) * lanes
        costs = [conv_costs.costs_of(work, places, reach, knobs.tile)] * (some.blocks * some.parts)
    else:
        panel = knobs.vectors * lanes + knobs.odd
        panels = -(-height * width // panel)
        count = -(-panels // knobs.panels)
        cuts = [min(i * panels // count * panel, height * width) for i in range(count + 1)]
        costs = [
            ((high - low) * work.out * work.depth, (high - low) * 16 * work.depth)
            for low, high in pairwise(cuts)
        ]
    parts = emit.static(conv_costs.shares(len(costs) * work.groups, tiles, machine.cores)) or 1
    each = -(-tiles // parts)
    tasks = [
        together * max(0, min(tiles, (part + 1) * each) - part * each) / tiles + again
        for _ in range(work.groups)
        for together, again in costs
        for part in range(parts)
    ]
    step = -(-len(tasks) // machine.cores)
    return max(sum(tasks[i : i + step]) for i in range(0, len(tasks), step))


@pytest.mark.parametrize(("size", "channels"), [(28, 128), (20, 384), (40, 192)])
def test_blocks_of_panels_differ_by_one(size: int, channels: int) -> None:
    """As the code says: where a block begins is its number by all panels, divided by all blocks."""
    target = find_target("x86-64-v4", threads=2)
    target = replace(target, machine=replace(target.machine, l2_bytes=1 << 20))
    graph = Conv(f"1, {channels}, {size}, {size}", 64, (1, 1), channels).graph()
    (kernel,) = TvmBackend().lower(graph, target).tunable.values()
    assert isinstance(kernel, Kernel) and isinstance(kernel.knobs, conv_knobs.ConvKnobs)
    width = kernel.knobs.vectors * 16 + kernel.knobs.odd
    panels = -(-size * size // width)
    blocks = -(-panels // kernel.knobs.panels)
    text = kernel.function().script()
    assert blocks > 1 and panels % blocks
    assert re.search(rf"\* T.int64\({panels}\) // T.int64\({blocks}\)", text), (panels, blocks)


def test_a_group_costs_no_more_beside_another() -> None:
    machine = replace(find_target("x86-64-v4").machine, cores=2)
    one, two = (
        conv_costs.best_rows(
            conv_costs.ConvWork(groups=groups, inner=32, out=64, window=window(28, 28, 1)),
            0, lambda _: 8, machine,
        )[0]
        for groups in (1, 2)
    )  # fmt: skip
    assert two <= one
