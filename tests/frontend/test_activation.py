"""Activations where one spelling of a formula loses what another keeps."""

from __future__ import annotations

import numpy as np
import pytest

from tunesmith.frontend import import_model
from tunesmith.ir.interpreter import evaluate

from .models import declare, one


@pytest.mark.parametrize("operator", ["Softplus", "Mish"])
@pytest.mark.parametrize("dtype", ["f4", "f8"])
def test_far_below_zero(operator: str, dtype: str) -> None:
    """`1 + exp(x)` is 1 there, and the result was 0 instead of `exp(x)`."""
    tails = np.concatenate([np.linspace(-80, 80, 4001), [-1e-6, 0.0, 1e-6, -np.inf, np.inf]])
    x = tails.astype(dtype)
    proto, feeds = one(operator, [x], opset=18)
    wide = x.astype(np.longdouble)
    with np.errstate(all="ignore"):
        want = np.logaddexp(0, wide)
        if operator == "Mish":
            want = wide * np.tanh(want)
        (found,) = evaluate(import_model(declare(proto, [x])), feeds)
    want = want.astype(np.float64)
    rtol = 2e-6 if dtype == "f4" else 1e-10
    np.testing.assert_allclose(found.astype(np.float64), want, rtol=rtol, atol=1e-30)
