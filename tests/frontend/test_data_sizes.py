"""Operators whose results have a size that data decides, against ONNX Runtime and NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tunesmith.frontend import import_model
from tunesmith.ir.diagnostics import FrontendError, UndecidedError
from tunesmith.ir.interpreter import evaluate
from tunesmith.ir.symbols import data_symbols
from tunesmith.ir.verifier import verify

from .models import F32, I64, Array, check, compare, declare, model, node, one, runtime

RNG = np.random.default_rng(7)


def sparse(*shape: int, dtype: Any = np.float32) -> Array:
    """Small whole numbers, many of them 0 or equal."""
    return np.asarray(RNG.integers(0, 4, shape)).astype(dtype)


def agree(operator: str, feeds: list[Array | None], opset: int = 17, **options: Any) -> None:
    """Import with every size open, and with sizes that are known."""
    for symbolic in (False, True):
        proto, live = one(operator, feeds, opset=opset, symbolic=symbolic, **options)
        graph = check(proto, live)
        assert data_symbols(graph)
        verify(graph)


@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.int32, np.bool_, np.uint8])
@pytest.mark.parametrize("shape", [(1,), (7,), (3, 5), (2, 3, 1, 4)])
def test_non_zero(dtype: Any, shape: tuple[int, ...]) -> None:
    agree("NonZero", [sparse(*shape, dtype=dtype)])
    agree("NonZero", [np.zeros(shape, dtype)])
    agree("NonZero", [np.ones(shape, dtype)])


def test_non_zero_of_odd_floats_and_of_nothing() -> None:
    agree("NonZero", [np.array([np.nan, 0.0, -0.0, np.inf, 1e-45], np.float32)])
    check(*one("NonZero", [np.zeros((0, 3), np.float32)]))
    check(*one("NonZero", [sparse(2, 3)], constants=[0]))


@pytest.mark.parametrize("axis", [None, 0, 1, -1])
@pytest.mark.parametrize("length", [2, 3])
def test_compress(axis: int | None, length: int) -> None:
    attributes = {} if axis is None else {"axis": axis}
    for flags in (RNG.random(length) < 0.5, np.zeros(length, bool), np.ones(length, bool)):
        agree("Compress", [sparse(3, 3), flags], **attributes)


def test_more_flags_than_elements_are_refused() -> None:
    proto, live = one("Compress", [sparse(2, 3), np.ones(3, bool)], axis=1, symbolic=True)
    graph = check(proto, live)
    with pytest.raises(ValueError, match="a size of 3 elements"):
        evaluate(graph, live | {"x1": np.ones(4, bool)})
    proto, _ = one("Compress", [sparse(2, 3), np.ones(4, bool)], axis=1)
    with pytest.raises(FrontendError, match="4 flags do not fit an axis of 3"):
        import_model(declare(proto, [sparse(2, 3)]))


@pytest.mark.parametrize("ordered", [0, 1])
@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.int8])
@pytest.mark.parametrize("size", [1, 2, 17])
def test_unique(ordered: int, dtype: Any, size: int) -> None:
    agree("Unique", [sparse(size, dtype=dtype)], outputs=4, sorted=ordered)
    agree("Unique", [np.zeros(size, dtype)], outputs=4, sorted=ordered)


@pytest.mark.parametrize("ordered", [0, 1])
@pytest.mark.parametrize("axis", [None, 0, 1, -1])
def test_unique_slices(ordered: int, axis: int | None) -> None:
    attributes: dict[str, Any] = {} if axis is None else {"axis": axis}
    x = RNG.integers(0, 2, (5, 2, 3)).astype(np.float32)
    proto, live = one("Unique", [x], outputs=4, sorted=ordered, **attributes)
    graph = check(proto, live)
    assert len(data_symbols(graph)) == 1


def floats(*values: float) -> Array:
    """A vector."""
    return np.array(values, np.float32)


def boxes(batch: int, count: int) -> NDArray[np.float32]:
    """Boxes whose corners stand in any order."""
    return RNG.random((batch, count, 4), dtype=np.float32)


@pytest.mark.parametrize("center", [0, 1])
@pytest.mark.parametrize(("batch", "classes", "count"), [(1, 1, 1), (1, 3, 12), (2, 2, 7)])
def test_suppression(center: int, batch: int, classes: int, count: int) -> None:
    for most, overlap, lowest in ((0, 0.5, 0.1), (3, 0.3, 0.2), (50, 0.0, 0.5), (50, 0.99, -1.0)):
        scores = RNG.random((batch, classes, count), dtype=np.float32)
        limits = [np.array([most]), floats(overlap), floats(lowest)]
        agree("NonMaxSuppression", [boxes(batch, count), scores, *limits],
              center_point_box=center)  # fmt: skip


def test_suppression_without_limits() -> None:
    given: list[Array | None] = [boxes(1, 6), RNG.random((1, 2, 6), dtype=np.float32)]
    agree("NonMaxSuppression", [*given, np.array([4])])
    agree("NonMaxSuppression", given)


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.float32, np.float64])
@pytest.mark.parametrize(
    ("start", "limit", "step"), [(0, 5, 1), (3, 3, 1), (5, 0, 1), (2, 11, 4), (9, -1, -3)]
)
def test_ranges(dtype: Any, start: int, limit: int, step: int) -> None:
    feeds: list[Array | None] = [np.array(v, dtype) for v in (start, limit, step)]
    agree("Range", feeds)
    agree("Range", feeds, constants=[0, 2])


@pytest.mark.parametrize("k", [0, 1, 5])
def test_the_first_places(k: int) -> None:
    agree("TopK", [sparse(3, 5), np.array([k])], outputs=2)
    agree("TopK", [sparse(5, 2), np.array([k])], outputs=2, axis=0, largest=0)


def test_shapes_and_depths() -> None:
    for shape in ([2, 0, 3], [4]):
        assert data_symbols(check(*one("ConstantOfShape", [np.array(shape)])))
    proto, live = one("OneHot", [np.array([[1, 4], [-1, 9]]), np.array([5]), floats(0, 1)], axis=1)
    check(proto, live)


@pytest.mark.parametrize("step", [1, 2, -1, -3])
@pytest.mark.parametrize("ends", [(0, 4), (1, -1), (-3, 99), (4, 2), (-1, -99), (9, 0), (5, 5)])
def test_slices_between_places_of_data(ends: tuple[int, int], step: int) -> None:
    x = sparse(3, 7)
    first, last = (np.array([end]) for end in ends)
    axes, steps = np.array([1]), np.array([step])
    agree("Slice", [x, first, last, axes, steps], constants=[3, 4])
    agree("Slice", [x, first, last, axes, steps], constants=[1, 3, 4])
    many = [np.array([0, ends[0]]), np.array([2, ends[1]])]
    graph = check(*one("Slice", [x, *many]))
    assert len(data_symbols(graph)) == 2


def test_what_needs_a_size_names_the_inputs_that_would_fix_it() -> None:
    """The ends are left to data; a determinant needs the size, and fixing the ends gives it."""
    nodes = [node("Slice", ["x", "start", "ends"], ["part"]), node("Det", ["part"], ["y"])]
    proto = model(nodes, {"x": (F32, [8, 8]), "ends": (I64, [2])}, {"y": F32},
                  {"start": np.array([0, 0])})  # fmt: skip
    declare(proto, [np.zeros((), np.float32)])
    with pytest.raises(UndecidedError, match="fixing the values of `ends` may help") as caught:
        import_model(proto)
    assert caught.value.inputs == ("ends",)
    assert not data_symbols(import_model(proto, values={"ends": [3, 3]}))


def test_a_size_that_data_decides_is_a_size_like_any_other() -> None:
    """Its symbol goes through shape arithmetic, and two that a model joins become one."""
    nodes = [
        node("NonZero", ["x"], ["places"]), node("Shape", ["places"], ["sizes"]),
        node("Gather", ["sizes", "one"], ["count"], axis=0),
        node("ConstantOfShape", ["count"], ["zeros"]),
        node("Squeeze", ["places", "zero"], ["line"]), node("Cast", ["line"], ["floats"], to=F32),
        node("Add", ["zeros", "floats"], ["y"]), node("Shape", ["y"], ["n"]),
    ]  # fmt: skip
    weights = {"one": np.array([1]), "zero": np.array([0])}
    proto = model(nodes, {"x": (F32, ["length"])}, {"y": F32, "n": I64}, weights)
    for size in (1, 4, 9):
        graph = check(proto, {"x": sparse(size)})
    assert list(data_symbols(graph)) == ["n_places"]


def test_a_name_that_an_input_has_is_not_taken_twice() -> None:
    proto = model([node("NonZero", ["x"], ["y"])], {"x": (F32, ["n_y"])}, {"y": I64})
    graph = check(proto, {"x": sparse(6)})
    assert list(data_symbols(graph)) == ["n_y_"]


def test_two_results_of_one_size_must_have_it() -> None:
    """The number of ones has to be that of twos: else running fails, also in the interpreter."""
    nodes = [
        node("NonZero", ["x"], ["a"]), node("NonZero", ["z"], ["b"]), node("Add", ["a", "b"], ["y"])
    ]  # fmt: skip
    proto = model(nodes, {"x": (F32, [4]), "z": (F32, [4])}, {"y": I64})
    x, z = np.array([1, 0, 1, 0], np.float32), np.array([0, 1, 1, 0], np.float32)
    wanted = runtime(proto, {"x": x, "z": z})
    graph = import_model(declare(proto, wanted))
    compare(evaluate(graph, {"x": x, "z": z}), wanted, 0)
    with pytest.raises(ValueError, match="depends on data"):
        evaluate(graph, {"x": x, "z": np.ones(4, np.float32)})


def test_a_bound_that_no_data_can_be_held_to_is_refused() -> None:
    nodes = [node("NonZero", ["x"], ["a"]), node("Slice", ["a", "start", "end", "axes"], ["y"])]
    weights = {"start": np.array([0]), "end": np.array([3]), "axes": np.array([1])}
    proto = declare(
        model(nodes, {"x": (F32, [4])}, {"y": I64}, weights), [np.zeros((1, 3), np.int64)]
    )
    with pytest.raises(FrontendError, match="`n_a` depends on data, the model works for 3"):
        import_model(proto)
