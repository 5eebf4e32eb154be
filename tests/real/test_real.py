"""The small ones of the real files, and that the comparison can fail."""

from __future__ import annotations

import numpy as np
import pytest

from .__main__ import render
from .run import Result, _distance, measure
from .subjects import SUBJECTS, TOLERANCE, Subject


@pytest.mark.tvm
@pytest.mark.parametrize("subject", [s for s in SUBJECTS if s.small], ids=lambda s: str(s.name))
def test_a_small_real_file(subject: Subject) -> None:
    try:
        result = measure(subject)
    except LookupError as error:
        pytest.skip(str(error))
    assert result.passed, result
    assert result.largest > 100 * TOLERANCE  # or zeros would pass


def test_what_a_comparison_sees() -> None:
    x = np.linspace(-1, 1, 5, dtype=np.float32)
    assert _distance(x, x) == ("", 0.0, 1.0)
    assert _distance(x + np.float32(0.5), x)[1] == 0.5
    assert "instead of" in _distance(x[:4], x)[0]
    assert "instead of" in _distance(x.astype(np.float64), x)[0]
    assert "not finite" in _distance(np.where(x > 0, np.nan, x).astype(np.float32), x)[0]
    assert "integers differ" in _distance(np.array([1, 2]), np.array([1, 3]))[0]


def test_the_verdict_is_in_the_document() -> None:
    good = Result("a", "a.onnx", "p", ("N 1..",), (), ("1x2",), TOLERANCE / 2, 3.0, 1.0)
    far = Result("b", "b.onnx", "p", (), (), ("1x2",), 2 * TOLERANCE, 3.0, 1.0)
    text = render([good, far])
    assert "1 of 2 pass" in text
    assert text.count("FAILED") == 1
