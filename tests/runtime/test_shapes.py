"""Sizes as text, and symbols solved from shapes."""

from __future__ import annotations

import pytest

from tunesmith.runtime.shapes import ShapeSolver, parse_dim


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("S", 7), ("2*S + 1", 15), ("2 * S+1", 15), ("B*S", 21), ("-S + 10", 3), ("S - B - 1", 3),
        ("(S + 1)//2 + B", 7), ("(S)//2", 3), ("2*(B + S)", 20), ("B*S*2 - S", 35),
    ],
)  # fmt: skip
def test_evaluate(text: str, value: int) -> None:
    assert parse_dim(text).evaluate({"S": 7, "B": 3}) == value


@pytest.mark.parametrize(
    "text",
    ["", " ", "S +", "2**S", "S S", "(S", "S)", "S // 0", "S // B", "1.5", "é", "S/2", "x" * 300,
     "(" * 190 + "S" + ")" * 9],
)  # fmt: skip
def test_bad_text_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_dim(text)


def test_solve() -> None:
    assert parse_dim("2*S + 1").solve("S", 9, {}) == 4
    assert parse_dim("2*S + 1").solve("S", 8, {}) is None
    assert parse_dim("B*S + B").solve("S", 12, {"B": 3}) == 3
    assert parse_dim("S*S").solve("S", 9, {}) is None
    assert parse_dim("(S)//2").solve("S", 9, {}) is None


def test_symbols_come_from_any_axis() -> None:
    solver = ShapeSolver([("2*S + 1", "B*S"), (4, "B"), ("B",)])
    assert solver.missing == ()
    assert solver.solve([(9, 12), (4, 3), (3,)]) == ({"B": 3, "S": 4}, None)
    for shapes, place in (
        ([(8, 12), (4, 3), (3,)], (0, 0)),
        ([(9, 13), (4, 3), (3,)], (0, 1)),
        ([(9, 12), (5, 3), (3,)], (1, 0)),
        ([(9, 12), (4, 3), (2,)], (2, 0)),
    ):
        wrong = solver.solve(shapes)[1]
        assert wrong is not None and wrong[0] == place


def test_symbols_that_no_axis_gives() -> None:
    assert ShapeSolver([("B*S",)]).missing == ("B", "S")
    assert ShapeSolver([("S*S", "(T)//2")]).missing == ("S", "T")
    assert ShapeSolver([]).solve([]) == ({}, None)
