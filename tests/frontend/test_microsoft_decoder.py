"""Attention of decoders in ONNX Runtime's domain, against ONNX Runtime, at awkward sizes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto

from tunesmith.driver import compile_model
from tunesmith.frontend import import_model
from tunesmith.ir.diagnostics import FrontendError
from tunesmith.ir.interpreter import evaluate
from tunesmith.runtime import load

from .models import Array, compare, declare, one, runtime

RNG = np.random.default_rng(23)
LONGEST = 64  # places that have angles


def f(*shape: int) -> Any:
    """Random floats."""
    return RNG.standard_normal(shape).astype(np.float32)


@dataclass(frozen=True, kw_only=True)
class Grouped:
    """One call of `GroupQueryAttention`."""

    batch: int = 2
    rows: int = 5
    heads: int = 4
    groups: int = 2
    size: int = 8
    past: int | None = None  # places of the cache
    total: int | None = None  # keys of the longest batch, if not all of the cache and the new ones
    counts: tuple[int, ...] = ()  # keys of each batch
    packed: bool = False
    angles: int = 0  # columns that are rotated
    ids: bool = False
    bias: bool = False
    sink: bool = False
    options: dict[str, Any] = field(default_factory=dict)

    def model(self, *, any_size: bool = False) -> tuple[ModelProto, dict[str, Array]]:
        """The model and its inputs; of `any_size`, batch, cache and number of keys are open."""
        b, s, d = self.batch, self.rows, self.size
        q, k, v = f(b, s, self.heads * d), f(b, s, self.groups * d), f(b, s, self.groups * d)
        total = self.total or (self.past or 0) + s
        cache = [None if self.past is None else f(b, self.groups, self.past, d) for _ in "kv"]
        turns = RNG.random((LONGEST, self.angles // 2)).astype(np.float32)
        feeds: list[Array | None] = [
            np.concatenate([q, k, v], 2) if self.packed else q,
            *((None, None) if self.packed else (k, v)), *cache,
            np.asarray(self.counts or [total] * b, np.int32) - 1, np.asarray(total, np.int32),
            *((np.cos(turns), np.sin(turns)) if self.angles else (None, None)),
            RNG.integers(0, LONGEST - s, (b, 1)) + np.arange(s) if self.ids else None,
            f(b, self.heads, s, total) if self.bias else None,
            f(self.heads) if self.sink else None,
        ]  # fmt: skip
        while feeds[-1] is None:
            feeds.pop()
        proto, live = one(
            "GroupQueryAttention",
            feeds,
            domain="com.microsoft",
            opset=21,
            outputs=3,
            constants=[7, 8] if any_size else [6, 7, 8],
            num_heads=self.heads,
            kv_num_heads=self.groups,
            do_rotary=int(self.angles > 0),
            **self.options,
        )
        for value in proto.graph.input if any_size else ():
            dims = value.type.tensor_type.shape.dim
            if dims:
                dims[0].dim_param = "batch"
            if value.name in ("x3", "x4"):
                dims[2].dim_param = "past"
        return proto, live


CASES = {
    "prompt": Grouped(),
    "one": Grouped(batch=1, rows=1, heads=1, groups=1),
    "one-group": Grouped(rows=7, heads=6, groups=1, size=16),
    "packed": Grouped(rows=17, packed=True),
    "rotated": Grouped(size=16, angles=16),
    "neighbours": Grouped(size=16, angles=16, options={"rotary_interleaved": 1}),
    "partly": Grouped(size=32, angles=16),
    "ids": Grouped(batch=1, size=16, angles=16, ids=True),
    "step": Grouped(rows=1, past=7),
    "step-rotated": Grouped(rows=1, past=16, size=16, angles=16),
    "step-ragged": Grouped(rows=1, past=7, size=16, angles=16, counts=(8, 5)),
    "step-ids": Grouped(rows=1, past=6, size=16, angles=16, ids=True),
    "step-packed": Grouped(rows=1, past=15, size=16, angles=16, packed=True),
    "chunk": Grouped(batch=1, rows=3, past=13, size=16, angles=16),
    "room": Grouped(rows=1, past=9, total=6),
    "room-ragged": Grouped(rows=1, past=17, total=9, counts=(9, 3)),
    "room-prompt": Grouped(rows=5, past=9, total=5, size=16, angles=16),
    "no-past-yet": Grouped(past=0, size=16, angles=16),
    "scale": Grouped(options={"scale": 0.3}),
    "softcap": Grouped(options={"softcap": 1.5}),
    "window": Grouped(batch=1, rows=9, options={"local_window_size": 3}),
    "window-of-one": Grouped(batch=1, rows=9, options={"local_window_size": 1}),
    "window-step": Grouped(rows=1, past=7, options={"local_window_size": 3}),
    "smooth": Grouped(options={"smooth_softmax": 1}),
    "smooth-softcap": Grouped(rows=1, past=4, options={"smooth_softmax": 1, "softcap": 2.0}),
    "sink": Grouped(sink=True),
    "sink-softcap": Grouped(rows=1, past=7, sink=True, options={"softcap": 2.0}),
    "bias": Grouped(bias=True),
    "bias-step": Grouped(rows=1, past=4, bias=True),
    "bias-softcap": Grouped(bias=True, options={"softcap": 1.0}),
    "everything": Grouped(
        batch=1, rows=9, size=16, angles=16, bias=True, packed=True,
        options={"smooth_softmax": 1, "local_window_size": 4, "softcap": 3.0, "scale": 0.2},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_grouped_queries(name: str) -> None:
    proto, live = CASES[name].model()
    wanted = runtime(proto, live)
    graph = import_model(declare(proto, wanted))
    compare(evaluate(graph, live), wanted, 1e-5)


@pytest.mark.tvm
@pytest.mark.parametrize("name", ["rotated", "step-ragged", "room-ragged", "sink", "everything"])
def test_grouped_queries_compiled(name: str) -> None:
    proto, live = CASES[name].model()
    wanted = runtime(proto, live)
    found = load(compile_model(declare(proto, wanted), threads=1)).run(live)
    compare([*found.values()], wanted, 1e-4)


@pytest.mark.tvm
def test_sizes_of_a_cache_that_are_known_when_it_runs() -> None:
    """Any batch, any cache, any number of keys in it: the last one is an input."""
    first = Grouped(rows=1, past=9, total=6, size=16, angles=16)
    proto, live = first.model(any_size=True)
    wanted = runtime(proto, live)
    model = load(compile_model(declare(proto, wanted), threads=1))
    for case in (first, Grouped(rows=1, past=9, total=10, size=16, angles=16, counts=(10, 2)),
                 Grouped(batch=3, rows=1, past=17, total=18, size=16, angles=16),
                 Grouped(batch=1, rows=1, past=1, total=1, size=16, angles=16)):  # fmt: skip
        other, feeds = case.model(any_size=True)
        weights = {t.name: t for t in other.graph.initializer}
        for tensor in proto.graph.initializer:  # the angles are those of the first model
            weights[tensor.name].CopyFrom(tensor)
        compare([*model.run(feeds).values()], runtime(other, feeds), 1e-4)


def test_rows_of_a_prompt_that_are_no_padding() -> None:
    """Batches of different lengths: what padding gives has no meaning, all else agrees."""
    case = Grouped(batch=3, rows=7, size=16, angles=16, counts=(7, 3, 1))
    proto, live = case.model()
    wanted = runtime(proto, live)
    found = evaluate(import_model(declare(proto, wanted)), live)
    for row, count in enumerate(case.counts):
        compare([found[0][row, :count]], [wanted[0][row, :count]], 1e-5)
        for got, want in zip(found[1:], wanted[1:], strict=True):
            compare([got[row, :, :count]], [want[row, :, :count]], 1e-5)


@pytest.mark.parametrize(
    ("case", "message"),
    [
        (Grouped(heads=4, groups=3), "cannot share"),
        (Grouped(options={"kv_cache_bit_width": 8}), "kv_cache_bit_width"),
        (Grouped(options={"k_quant_type": "PER_TENSOR"}), "of integers"),
        (Grouped(packed=True, options={}, heads=3, groups=1, size=7), ""),
    ],
)
def test_what_is_refused(case: Grouped, message: str) -> None:
    proto, live = case.model()
    shapes = [f(case.batch, case.rows, case.heads * case.size)]
    shapes += [f(case.batch, case.groups, case.rows, case.size)] * 2
    if not message:  # this one is not: odd sizes of heads are fine without rotation
        evaluate(import_model(declare(proto, shapes)), live)
        return
    with pytest.raises(FrontendError, match=message):
        import_model(declare(proto, shapes))


def multi(kind: str, batch: int, rows: int, keys: int, past: int) -> tuple[Any, dict[str, Any]]:
    """Operands of `MultiHeadAttention` of two heads of eight."""
    heads, size = 2, 8
    q, k, v = f(batch, rows, 16), f(batch, keys, 16), f(batch, keys, 16)
    options: dict[str, Any] = {"num_heads": heads}
    feeds: list[Array | None] = [q, k, v]
    if kind == "packed":
        feeds = [f(batch, rows, heads, 3, size)]
    elif kind == "packed-keys":
        feeds = [q, f(batch, keys, heads, 2, size)]
    elif kind == "heads":
        feeds = [q, f(batch, heads, keys, size), f(batch, heads, keys, size)]
    elif kind == "values":
        feeds = [q, k, f(batch, keys, 10)]
    elif kind == "bias":
        feeds += [f(48)]
    elif kind in ("past", "past-causal"):
        feeds += [None, None, None, f(batch, heads, past, size), f(batch, heads, past, size)]
        options["outputs"] = 3
        options["unidirectional"] = int(kind == "past-causal")
    elif kind == "present":
        options["outputs"] = 3
    elif kind == "causal":
        options["unidirectional"] = 1
    elif kind == "mask":
        feeds += [None, (np.arange(keys) < np.array([[keys]] * batch)).astype(np.int32)]
    elif kind == "added":
        feeds += [None, None, f(batch, heads, rows, keys)]
    return feeds, options


def unpacked(feeds: list[Array | None]) -> list[Array]:
    """Queries, keys and values `[B, S, H*D]` of heads that lie side by side."""
    parts: list[Array] = []
    for x in feeds:
        assert x is not None
        if x.ndim == 5:
            parts += [x[:, :, :, i].reshape(*x.shape[:2], -1) for i in range(x.shape[3])]
        else:
            parts.append(x)
    return parts


@pytest.mark.tvm
@pytest.mark.parametrize(
    "kind", ["plain", "packed", "packed-keys", "heads", "values", "bias", "past", "past-causal",
             "present", "causal", "mask", "added"],
)  # fmt: skip
@pytest.mark.parametrize(("batch", "rows", "past"), [(1, 1, 1), (2, 7, 5), (3, 17, 16)])
def test_as_many_heads_of_keys(kind: str, batch: int, rows: int, past: int) -> None:
    feeds, options = multi(kind, batch, rows, rows, past)
    proto, live = one("MultiHeadAttention", feeds, domain="com.microsoft", opset=21, **options)
    if kind.startswith("packed"):  # which ONNX Runtime takes on other devices only
        apart = [x for x in unpacked(feeds) if x is not None]
        wanted = runtime(
            *one("MultiHeadAttention", apart, domain="com.microsoft", opset=21, **options)
        )
    else:
        wanted = runtime(proto, live)
    graph = import_model(declare(proto, wanted))
    compare(evaluate(graph, live), wanted, 1e-5)
    if rows == 7:
        found = load(compile_model(declare(proto, wanted), threads=1)).run(live)
        compare([*found.values()], wanted, 1e-4)
