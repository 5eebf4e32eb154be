"""Counted runs of numbers against ONNX Runtime, and what is refused."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tunesmith.frontend import import_model
from tunesmith.ir.diagnostics import FrontendError

from .models import check, declare, one

# unigrams 2, 3; bigrams 5 4, 5 6, 7 8, 6 7; a trigram
POOL: dict[str, Any] = {
    "pool_int64s": [2, 3, 5, 4, 5, 6, 7, 8, 6, 7, 5, 6, 7],
    "ngram_counts": [0, 2, 10],
    "ngram_indexes": [6, 0, 3, 1, 4, 2, 8],
    "weights": [0.5, 2.0, 1.5, 3.0, 0.25, 1.0, 4.0],
}
RNG = np.random.default_rng(4)


@pytest.mark.parametrize("mode", ["TF", "IDF", "TFIDF"])
@pytest.mark.parametrize(("least", "most"), [(1, 1), (1, 2), (2, 2), (1, 3), (3, 3)])
@pytest.mark.parametrize("gaps", [0, 1, 5])
def test_counts(mode: str, least: int, most: int, gaps: int) -> None:
    options = {"mode": mode, "min_gram_length": least, "max_gram_length": most,
               "max_skip_count": gaps, **POOL}  # fmt: skip
    for shape in ((1,), (17,), (3, 12), (1, 7)):
        for dtype in (np.int32, np.int64):
            x = RNG.integers(2, 9, shape).astype(dtype)
            check(*one("TfIdfVectorizer", [x], opset=9, **options))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"ngram_indexes": [0, 1]}, "do not name a column"),
        ({"ngram_counts": [0, 3, 10]}, "do not divide"),
        ({"mode": "BM25"}, "have no meaning"),
        ({"weights": [1.0], "mode": "IDF"}, "do not fit"),
        ({"min_gram_length": 3, "max_gram_length": 2}, "have no meaning"),
    ],
)
def test_what_has_no_meaning_is_refused(changed: dict[str, Any], message: str) -> None:
    options = {"mode": "TF", "min_gram_length": 1, "max_gram_length": 2, "max_skip_count": 0}
    proto, _ = one("TfIdfVectorizer", [np.arange(6)], opset=9, **{**options, **POOL, **changed})
    with pytest.raises(FrontendError, match=message):
        import_model(declare(proto, [np.zeros(9, np.float32)]))
