"""Winograd's tiles, where a block, a row of tiles or a vector ends; and where they are not used."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import numpy as np
import pytest

from tunesmith.backends.targets import find_target
from tunesmith.backends.tvm.kernels.convolutions import conv_work
from tunesmith.backends.tvm.schedule import conv_knobs, winograd
from tunesmith.ir.graph import Graph, Node

from .running import build
from .test_conv import CLIP, PAD, Conv, random_feeds, run_sizes, together

pytestmark = pytest.mark.tvm

CASES = {
    "even": Conv("1, 32, 12, 14", 32, (3, 3), 32, low=PAD, high=PAD),
    "odd rows and columns": Conv("2, 33, 13, 15", 40, (3, 3), 33, low=PAD, high=PAD),
    "no padding": Conv("1, 35, 11, 40", 33, (3, 3), 35),
    "padding on one side": Conv("1, 32, 9, 31", 39, (3, 3), 32, low=(0, 2), high=(2, 0)),
    "several blocks": Conv("1, 48, 30, 66", 32, (3, 3), 48, low=PAD, high=PAD, behind=CLIP),
    "groups": Conv("1, 64, 14, 14", 68, (3, 3), 32, low=PAD, high=PAD, groups=2),
    "four vectors of tiles": Conv("1, 64, 14, 14", 64, (3, 3), 64, low=PAD, high=PAD),
    "rows in parts": Conv("1, 128, 6, 300", 64, (3, 3), 128, low=PAD, high=PAD),
    "any batch": Conv("N, 32, 15, 17", 32, (3, 3), 32, low=PAD, high=PAD),
}


def convolution(graph: Graph) -> Node:
    (node,) = (node for node in graph.nodes if node.op.name == "conv")
    return node


@pytest.mark.parametrize("name", ["host", "x86-64-v3", "x86-64-v2"])
def test_edges(name: str) -> None:
    on = find_target(name, threads=2)
    on = replace(on, machine=replace(on.machine, l2_bytes=1 << 21))
    for case in CASES.values():
        assert conv_knobs.default(conv_work(convolution(case.graph())), on.machine).tile == 2
    run_sizes(together(CASES), on, [(3, 0, 0), (1, 0, 0)])


@pytest.mark.parametrize(
    ("case", "why"),
    [
        (Conv("1, 32, 28, 28", 32, (3, 3), 32, (2, 2), PAD, PAD), "a stride"),
        (Conv("1, 32, 28, 28", 32, (3, 3), 32, dilations=(2, 2)), "a dilation"),
        (Conv("1, 32, 28, 28", 32, (5, 5), 32), "a window of another size"),
        (Conv("1, 32, 28, 28", 32, (3, 1), 32), "a window of one column"),
        (Conv("1, 3, 28, 28", 32, (3, 3), 3, low=PAD, high=PAD), "three channels to read"),
        (Conv("1, 32, 28, 28", 4, (3, 3), 32, low=PAD, high=PAD), "four results"),
        (Conv("1, 512, 7, 7", 512, (3, 3), 512, low=PAD, high=PAD), "half a vector of tiles"),
    ],
)
def test_what_is_computed_window_by_window(case: Conv, why: str) -> None:
    work, machine = conv_work(convolution(case.graph())), find_target("x86-64-v4").machine
    assert conv_knobs.default(work, machine).tile == 0, why


@pytest.mark.parametrize("name", ["x86-64-v2", "x86-64-v3", "x86-64-v4"])
def test_defaults_fit(name: str) -> None:
    """Into the registers above all; 7x13 from 16 to 31 channels once did not."""
    machine, tiled = find_target(name).machine, 0
    for (height, width), inner, out, kernel in product(
        [(7, 7), (7, 13), (14, 14), (1, 40), (33, 65)], (3, 16, 64, 300), (5, 31, 64), (1, 3)
    ):
        low = (kernel // 2,) * 2
        case = Conv(f"1, {inner}, {height}, {width}", out, (kernel,) * 2, inner, low=low, high=low)
        work = conv_work(convolution(case.graph()))
        knobs = conv_knobs.default(work, machine)
        assert conv_knobs.fits(work, machine, knobs), (height, width, inner, out, kernel)
        tiled += bool(knobs.tile)
    assert tiled > 10


def test_knobs_that_cannot_be_written_do_not_fit() -> None:
    machine = find_target("x86-64-v4").machine
    work = conv_work(convolution(CASES["even"].graph()))
    good = conv_knobs.default(work, machine)
    assert conv_knobs.fits(work, machine, good)
    for change in ({"odd": True}, {"rows": 0}, {"rows": 7}, {"vectors": 4}):
        assert not conv_knobs.fits(work, machine, replace(good, **change))
    strided = conv_work(
        convolution(Conv("1, 16, 12, 14", 16, (3, 3), 16, (2, 2), PAD, PAD).graph())
    )
    assert not conv_knobs.fits(strided, machine, good)


def test_weights_are_transformed_as_the_paper_has_it() -> None:
    weight = np.random.default_rng(0).standard_normal((5, 3, 3, 3))
    image = np.random.default_rng(1).standard_normal((3, 4, 4))
    points = winograd.transformed(weight, 2).reshape(5, 4, 4, 3)
    into = np.array([[1, 0, -1, 0], [0, 1, 1, 0], [0, -1, 1, 0], [0, 1, 0, -1]])
    out_of = np.array([[1, 1, 1, 0], [0, 1, -1, -1]])
    sums = np.einsum("oabc,cab->oab", points, np.einsum("ay,cyx,bx->cab", into, image, into))
    results = np.einsum("ia,oab,jb->oij", out_of, sums, out_of)
    view = np.lib.stride_tricks.sliding_window_view(image, (3, 3), axis=(1, 2))
    np.testing.assert_allclose(results, np.einsum("cijyx,ocyx->oij", view, weight), atol=1e-12)


def test_errors_are_those_of_sums_in_f32() -> None:
    graph = Conv("1, 256, 14, 14", 16, (3, 3), 256, low=PAD, high=PAD).graph()
    assert conv_knobs.default(conv_work(convolution(graph)), find_target("host").machine).tile
    feeds = random_feeds(graph, {})
    weight, bias = (v.constant for v in convolution(graph).present_operands[1:])
    assert weight is not None and bias is not None
    padded = np.pad(feeds["x"].astype(np.float64), [(0, 0), (0, 0), (1, 1), (1, 1)])
    view = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), axis=(2, 3))
    exact = np.einsum("nchwij,ocij->nohw", view, weight.array.astype(np.float64))
    exact += bias.array.reshape(1, -1, 1, 1)
    (got,) = build(graph).run(feeds)
    assert np.abs(got - exact).max() < 4e-6 * np.sqrt(2304)
