"""Convolutions as products of patches: the same numbers, and when they stay convolutions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from tests.frontend.models import F32, Shape, compare, declare, model, node
from tunesmith.frontend import import_model
from tunesmith.ir.graph import Graph
from tunesmith.ir.interpreter import evaluate
from tunesmith.passes.base import PassContext
from tunesmith.passes.pipeline import Pipeline

RNG = np.random.default_rng(5)


def imported(shape: Shape, weight: tuple[int, ...], bias: bool = False, **options: Any) -> Graph:
    """A graph of one convolution with random weights."""
    arrays = {"w": RNG.standard_normal(weight).astype(np.float32)}
    if bias:
        arrays["b"] = RNG.standard_normal(weight[:1]).astype(np.float32)
    conv = node("Conv", ["x", *arrays], ["y"], **options)
    proto = model([conv], {"x": (F32, shape)}, ["y"], arrays)
    return import_model(declare(proto, [np.zeros([1] * len(shape), np.float32)]))


def converted(graph: Graph) -> tuple[bool, str]:
    """Whether the pass changes the graph, and its reason if it does not."""
    context = PassContext()
    (changed,) = Pipeline.parse("convert-patch-conv").run(graph, context)
    return changed, context.notes[-1].reason


def same(
    shape: Shape, sizes: Sequence[tuple[int, ...]], weight: tuple[int, ...], **options: Any
) -> None:
    """The converted graph gives what the convolution gives."""
    graph = imported(shape, weight, bias=True, **options)
    feeds = [{"x": RNG.standard_normal(size).astype(np.float32)} for size in sizes]
    wanted = [evaluate(graph, feed)[0] for feed in feeds]
    assert converted(graph) == (True, "")
    assert "conv" not in {n.op.name for n in graph.nodes}
    for feed, want in zip(feeds, wanted, strict=True):
        (found,) = evaluate(graph, feed)
        compare([found], [want], 1e-4)


@pytest.mark.parametrize(
    ("kernel", "step"), [(64, 8), (64, 32), (64, 64), (80, 32), (400, 160), (72, 96)]
)
def test_wide_windows_are_frames_side_by_side(kernel: int, step: int) -> None:
    """Of every rest behind the last window, and of a length that is known when it runs."""
    for rest in (0, 1, step - 1):
        length = kernel + 2 * step + rest
        if kernel == step and rest:
            continue  # windows that do not overlap are patches of whole multiples only
        same((2, 3, length), [(2, 3, length)], (5, 3, kernel), strides=[step])
    if kernel != step:
        sizes = [(1, 1, kernel), (2, 1, kernel + step - 1), (1, 1, kernel + 5 * step)]
        same(("B", 1, "S"), sizes, (4, 1, kernel), strides=[step])


def test_wide_windows_of_images() -> None:
    same((1, 2, 32, 48), [(1, 2, 32, 48)], (3, 2, 16, 16), strides=[8, 16])
    same((2, 3, 16, 8), [(2, 3, 16, 8)], (4, 3, 8, 4), strides=[8, 4])


@pytest.mark.parametrize(
    ("weight", "options", "reason"),
    [
        ((4, 1, 63), {"strides": [8]}, "overlap, or leave gaps"),
        ((4, 1, 64), {"strides": [1]}, "share no frames"),
        ((4, 1, 100), {"strides": [25], "pads": [3, 3]}, "padding or dilation"),
        ((4, 1, 66), {"strides": [33], "dilations": [2]}, "padding or dilation"),
        ((4, 1, 9), {"strides": [9]}, "is not a multiple"),
        ((2, 1, 64), {"strides": [32], "group": 2}, "groups"),
    ],
)
def test_what_stays_a_convolution(
    weight: tuple[int, ...], options: dict[str, Any], reason: str
) -> None:
    channels = weight[1] * int(options.get("group", 1))
    changed, why = converted(imported((1, channels, 200), weight, **options))
    assert not changed
    assert reason in why
