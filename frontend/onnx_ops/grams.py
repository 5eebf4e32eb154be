"""Runs of numbers, with gaps, counted in a vocabulary."""

# mypy: disable-error-code="no-any-return"
# (operators hand back `Any`: their results are read from their types)

from __future__ import annotations

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from tunesmith.ir import opset as ops
from tunesmith.ir.ops import Expr
from tunesmith.ir.types import DType

from ..limits import LIMITS
from ..onnx_call import Call, Result, Table
from .building import cast_to, reshape_to, slice_to

__all__ = ["GRAMS"]


def _vocabulary(call: Call) -> list[NDArray[np.int64]]:
    """The n-grams by their length, from 1 on: `[count, n]`."""
    pool, starts = call.integer_list("pool_int64s"), call.integer_list("ngram_counts")
    if pool is None or starts is None:
        call.fail("a vocabulary of text is not supported, one of numbers is")
    ends = [*starts, len(pool)]
    found = []
    for n, (first, last) in enumerate(pairwise(ends), 1):
        if not 0 <= first <= last <= len(pool) or (last - first) % n:
            call.fail(f"`ngram_counts` {list(starts)} do not divide {len(pool)} numbers")
        found.append(np.asarray(pool[first:last], np.int64).reshape(-1, n))
    return found


def _counts(call: Call, x: Expr, grams: NDArray[np.int64], gaps: int) -> Expr:
    """`[N, count]`: how often each n-gram stands in a row, with each gap up to `gaps`."""
    count, n = grams.shape
    size = x.shape[1]
    assert isinstance(size, int)
    known = reshape_to(call.constant(grams.astype(x.dtype.numpy)), (1, 1, count, n))
    total: Expr = ops.full(value=0, shape=(x.shape[0], count), dtype=DType.f32)
    for gap in range(1, (gaps if n > 1 else 0) + 2):  # a run of one has no gap
        windows = size - (n - 1) * gap
        if windows < 1:
            break
        if windows * count * n > LIMITS.elements or gap > LIMITS.steps:
            call.fail(f"{count} runs in {windows} windows are too many")
        parts = [slice_to(x, 1, i * gap, i * gap + windows) for i in range(n)]
        parts = [reshape_to(part, (*part.shape, 1, 1)) for part in parts]
        joined = parts[0] if n == 1 else ops.concat(*parts, axis=3)
        hit = ops.reduce_all(ops.equal(joined, known), axes=(3,))
        total = total + ops.reduce_sum(cast_to(hit, DType.f32), axes=(1,))
    return total


def _vectorize(call: Call) -> Result:
    x = call.x()
    rows = x if len(x.shape) == 2 else reshape_to(x, (1, *x.shape))
    places = call.integer_list("ngram_indexes") or ()
    least, most = call.integer("min_gram_length"), call.integer("max_gram_length")
    gaps, mode = call.integer("max_skip_count"), call.text("mode")
    if len(rows.shape) != 2 or not isinstance(rows.shape[1], int):
        call.fail(f"needs rows of a known length, not {x.type}", hint="fix it with `shapes`")
    if mode not in ("TF", "IDF", "TFIDF") or least < 1 or most < least or gaps < 0:
        call.fail(f"runs of {least} to {most} with {gaps} skipped, as `{mode}`, have no meaning")
    parts: list[Expr] = []
    used: list[int] = []
    first = 0
    for n, grams in enumerate(_vocabulary(call), 1):
        if least <= n <= most and len(grams):
            parts.append(_counts(call, rows, grams, gaps))
            used += range(first, first + len(grams))
        first += len(grams)
    if len(places) != first or not places or sorted(set(places)) != sorted(places):
        call.fail(f"`ngram_indexes` do not name a column for each of {first} runs")
    parts.append(ops.full(value=0, shape=(rows.shape[0], 1), dtype=DType.f32))
    columns = np.full(max(places) + 1, len(used), np.int64)  # a column without a run is zero
    columns[[places[i] for i in used]] = np.arange(len(used))
    y: Expr = ops.gather(ops.concat(*parts, axis=1), call.constant(columns), axis=1)
    if mode != "TF":
        weights = call.number_list("weights")
        factor = np.ones(len(columns), np.float32)
        if weights is not None:
            if len(weights) != len(places):
                call.fail(f"{len(weights)} weights do not fit {len(places)} runs")
            factor[list(places)] = weights
        present = cast_to(ops.greater(y, 0.0), DType.f32) if mode == "IDF" else y
        y = present * call.constant(factor)
    return y if len(x.shape) == 2 else reshape_to(y, y.shape[1:])


GRAMS: Table = {"TfIdfVectorizer": ((9, _vectorize),)}
