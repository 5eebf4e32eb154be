"""Fused attention agrees with float64, masks and tails included."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pytest
import tvm
from numpy.typing import NDArray
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script import builder as T

from tunesmith.backends.tvm.schedule import attention
from tunesmith.backends.tvm.schedule.attention_few import heads_together
from tunesmith.ir.target import Machine

from .test_kernels_gemm import compile_function, machines

pytestmark = pytest.mark.tvm

HEADS, KV_HEADS = 6, 2


@dataclass(frozen=True)
class Case:
    mask: bool = False
    causal: bool = False
    offset: int | None = 0  # None: the last query sees all keys
    softcap: float = 0.0
    masked_row: Literal["nan", "zero"] = "nan"


CASES = [
    Case(),
    Case(mask=True),
    Case(mask=True, masked_row="zero"),
    Case(causal=True),
    Case(causal=True, offset=-3, masked_row="zero"),
    Case(mask=True, causal=True, offset=None, softcap=5.0),
]


def build(
    case: Case, lengths: tuple[int, int] | None, sizes: tuple[int, int], machine: Machine
) -> Any:
    head, value = sizes
    known = lengths or (None, None)
    work = attention.AttentionWork(
        queries=known[0], keys=known[1], head_size=head, value_size=value
    )
    with IRBuilder() as builder:
        with T.prim_func(s_tir=True):
            T.func_name("main")
            T.func_attr({"global_symbol": "main", "tirx.noalias": True})
            handles = [T.arg(name, T.handle()) for name in ("q", "k", "v", "m", "o")]
            s, t = lengths if lengths else (T.int64(), T.int64())
            q = T.match_buffer(handles[0], (2, HEADS, s, head), "float32")
            k = T.match_buffer(handles[1], (2, KV_HEADS, t, head), "float32")
            v = T.match_buffer(handles[2], (2, KV_HEADS, t, value), "float32")
            m = T.match_buffer(handles[3], (s, t), "float32")
            o = T.match_buffer(handles[4], (2, s, HEADS, value), "float32")
            attention.emit_attention(
                batch=2, heads=HEADS, kv_heads=KV_HEADS, queries=s, keys=t, head_size=head,
                value_size=value, load_q=lambda *i: q[i], load_k=lambda *i: k[i],
                load_v=lambda *i: v[i], store=lambda *i: T.buffer_store(o, i[-1], list(i[:-1])),
                load_mask=(lambda b, h, i, j: m[i, j]) if case.mask else None,
                scale=head**-0.5, causal=case.causal,
                causal_offset=t - s if case.offset is None else case.offset,
                softcap=case.softcap, masked_row=case.masked_row, machine=machine,
                knobs=attention.default(work, machine),
            )  # fmt: skip
    return compile_function(builder.get(), machine)


def reference(
    case: Case,
    q: NDArray[np.float32],
    k: NDArray[np.float32],
    v: NDArray[np.float32],
    m: NDArray[np.float32],
) -> NDArray[np.float64]:
    wide = [np.repeat(z.astype(np.float64), HEADS // z.shape[1], 1) for z in (q, k, v)]
    s = wide[0] @ wide[1].swapaxes(2, 3) * q.shape[-1] ** -0.5
    s = case.softcap * np.tanh(s / case.softcap) if case.softcap else s
    s = s + m if case.mask else s
    rows, keys = s.shape[2:]
    offset = keys - rows if case.offset is None else case.offset
    if case.causal:
        s = np.where(np.arange(keys) <= np.arange(rows)[:, None] + offset, s, -np.inf)
    with np.errstate(invalid="ignore"):
        e = np.exp(s - s.max(-1, keepdims=True))
        p = e / e.sum(-1, keepdims=True)
    if case.masked_row == "zero":
        p = np.where(s.max(-1, keepdims=True) == -np.inf, 0, p)
    out: NDArray[np.float64] = (p @ wide[2]).transpose(0, 2, 1, 3)
    return out


def check(case: Case, lib: Any, rows: int, keys: int, sizes: tuple[int, int]) -> None:
    rng = np.random.default_rng(rows * 1000 + keys)
    q = rng.standard_normal((2, HEADS, rows, sizes[0])).astype(np.float32) * 3
    k = rng.standard_normal((2, KV_HEADS, keys, sizes[0])).astype(np.float32)
    v = rng.standard_normal((2, KV_HEADS, keys, sizes[1])).astype(np.float32)
    m = rng.standard_normal((rows, keys)).astype(np.float32)
    m[rng.random(m.shape) < 0.3] = -np.inf
    m[0] = -np.inf
    out = tvm.runtime.tensor(np.full((2, rows, HEADS, sizes[1]), 7, np.float32))
    lib["main"](*(tvm.runtime.tensor(z) for z in (q, k, v, m)), out)
    got, want = out.numpy(), reference(case, q, k, v, m)
    np.testing.assert_array_equal(np.isnan(got), np.isnan(want))
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-5)


@pytest.mark.parametrize("machine", machines(), ids=lambda m: m.isa)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_symbolic_lengths(case: Case, machine: Machine) -> None:
    lib = build(case, None, (24, 20), machine)
    sizes = ((1, 1), (1, 37), (5, 7), (8, 9), (9, 40), (16, 16), (17, 40), (33, 12), (13, 200))
    for rows, keys in (*sizes, (100, 97)):
        check(case, lib, rows, keys, (24, 20))


@pytest.mark.parametrize(
    "lengths", [(1, 37), (1, 128), (2, 129), (4, 300), (5, 3), (16, 16), (33, 11), (50, 130)]
)
@pytest.mark.parametrize("case", CASES[::5], ids=str)
def test_static_lengths(case: Case, lengths: tuple[int, int]) -> None:
    lib = build(case, lengths, (64, 48), machines()[0])
    check(case, lib, *lengths, (64, 48))


def test_nan_in_one_key_reaches_every_row_that_sees_it() -> None:
    lib = build(Case(causal=True), (40, 40), (16, 16), machines()[0])
    rng = np.random.default_rng(0)
    q, k, v = (rng.standard_normal((2, n, 40, 16)).astype(np.float32) for n in (6, 2, 2))
    k[:, :, 30] = np.nan
    out = tvm.runtime.tensor(np.zeros((2, 40, HEADS, 16), np.float32))
    mask = np.zeros((40, 40), np.float32)
    lib["main"](*(tvm.runtime.tensor(z) for z in (q, k, v, mask)), out)
    nan = np.isnan(out.numpy()).all((0, 2, 3))
    np.testing.assert_array_equal(nan, np.arange(40) >= 30)


@pytest.mark.parametrize(
    ("group", "shared", "queries", "cores", "together"),
    [(71, 1, 1, 1, 1), (64, 2, 1, 2, 8), (16, 2, 4, 2, 2), (3, 3, 1, 1, 3), (3, 3, 1, 2, 1)],
)
def test_heads_of_a_task(group: int, shared: int, queries: int, cores: int, together: int) -> None:
    """Each row of a task is code of its own, so it has no more than a few."""
    assert heads_together(group, shared, queries, cores) == together
