"""Decoders with caches in place, step after step, beside ones that are handed their past."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper

from benchmarks import zoo
from tunesmith.driver import compile_model
from tunesmith.ir.diagnostics import InputError
from tunesmith.ir.interpreter import evaluate
from tunesmith.ir.text import parse_graph
from tunesmith.oracle import OnnxSession
from tunesmith.runtime import Cache, Executable, load
from tunesmith.runtime.shapes import parse_dim

pytestmark = pytest.mark.tvm

Array = NDArray[Any]


def assert_near(ours: Any, theirs: Any, what: str, atol: float = 1e-5) -> None:
    """Floats agree."""
    np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=atol, err_msg=what)


RNG = np.random.default_rng(29)
ROOM = 131  # just beyond a block of keys, so that both sides of its end are met
EDGES = (1, 3, 4, 5, 15, 16, 17, 63, 64, 127, 128, 129, ROOM - 1)

STEP = """graph @step(%q: f32[B, 4, S, 16], %k: f32[B, 2, S, 16], %v: f32[B, 2, S, 32], \
%pk: f32[B, 2, 0<=P, 16], %pv: f32[B, 2, P, 32]) {
  %nk = neg(%k)
  %nv = neg(%v)
  %ck = concat(%pk, %nk) {axis = 2}
  %cv = concat(%pv, %nv) {axis = 2}
  %y = attention(%q, %ck, %cv) {scale = 0.3, causal = true, offset = P}
  return %y, %ck, %cv
}"""


def normal(*shape: int) -> Array:
    """Random floats."""
    return RNG.standard_normal(shape).astype(np.float32)


def operands(batch: int, rows: int) -> dict[str, Array]:
    """What `STEP` takes besides its past."""
    return {"q": normal(batch, 4, rows, 16), "k": normal(batch, 2, rows, 16),
            "v": normal(batch, 2, rows, 32)}  # fmt: skip


def past_of(batch: int, rows: int) -> dict[str, Array]:
    """A past of `STEP`."""
    return {"pk": normal(batch, 2, rows, 16), "pv": normal(batch, 2, rows, 32)}


@pytest.fixture(scope="module")
def step() -> Executable:
    """`STEP` with room for few rows."""
    return load(compile_model(parse_graph(STEP), cache=ROOM, threads=1), threads=1)


def assert_like_the_interpreter(cache: Cache, feeds: dict[str, Array], past: Any) -> Any:
    """Run a step and compare; the past of the next one."""
    found = cache.run(feeds)
    want = evaluate(parse_graph(STEP), {**feeds, **past})
    for name, theirs in zip(("y", "ck", "cv"), want, strict=True):
        assert_near(found[name], theirs, name)
    return {"pk": want[1], "pv": want[2]}


@pytest.mark.parametrize("batch", [1, 3])
def test_any_number_of_new_rows(step: Executable, batch: int) -> None:
    cache = step.cache(B=batch)
    where = cache._buffers["pk"].ctypes.data
    past = past_of(batch, 0)
    for rows in (1, 2, 5, 33, 1, 64, 1, 23, 1):
        past = assert_like_the_interpreter(cache, operands(batch, rows), past)
        assert cache.length == past["pk"].shape[2] and len(cache["pk"][0, 0]) == cache.length
        assert cache["pk"].ctypes.data == where and np.shares_memory(cache["ck"], cache["pk"])
    assert cache.length == cache.capacity == ROOM


@pytest.mark.parametrize("rows", EDGES)
def test_behind_a_past_of_any_length(step: Executable, rows: int) -> None:
    cache, past = step.cache(B=2), past_of(2, rows)
    cache.fill(past)
    assert_like_the_interpreter(cache, operands(2, 1), past)
    cache.truncate(rows)  # the same row again: nothing of the first try is left
    assert_like_the_interpreter(cache, operands(2, 1), past)
    with pytest.raises(InputError, match=r"has room for 131 rows"):
        cache.run(operands(2, ROOM - rows))
    assert cache.length == rows + 1


def test_what_lies_behind_is_never_read(step: Executable) -> None:
    cache, past = step.cache(B=1), past_of(1, 4)
    for buffer in cache._buffers.values():
        buffer[...] = np.nan
    cache.fill(past)
    assert_like_the_interpreter(cache, operands(1, 2), past)


def test_another_thread_is_refused(step: Executable) -> None:
    cache = step.cache(B=1)
    inside, leave, said = threading.Event(), threading.Event(), []

    class Slow(Mapping[str, Array]):
        """Inputs that are looked at for as long as the test wants."""

        held = operands(1, 1)

        def __getitem__(self, name: str) -> Array:
            return self.held[name]

        def __iter__(self) -> Iterator[str]:
            inside.set()
            assert leave.wait(20)
            return iter(self.held)

        def __len__(self) -> int:
            return len(self.held)

    def other() -> None:
        try:
            cache.run(Slow())
        except InputError as error:
            said.append(str(error))

    worker = threading.Thread(target=other)
    worker.start()
    assert inside.wait(20)
    for call in (lambda: cache.run(operands(1, 1)), cache.truncate, lambda: cache.fill({})):
        with pytest.raises(InputError, match="another thread is using this cache"):
            call()
    leave.set()
    worker.join()
    assert not said and cache.length == 1
    cache.run(operands(1, 1))


def test_two_caches_are_two_sequences(step: Executable) -> None:
    pasts = [past_of(1, 7), past_of(1, 20)]
    caches = [step.cache(B=1) for _ in pasts]
    for cache, past in zip(caches, pasts, strict=True):
        cache.fill(past)
    for _ in range(3):
        pasts = [
            assert_like_the_interpreter(cache, operands(1, 1), past)
            for cache, past in zip(caches, pasts, strict=True)
        ]


def test_other_packages_read_the_rows(step: Executable) -> None:
    cache = step.cache(B=1)
    cache.fill(past_of(1, 5))
    cache.run(operands(1, 3))
    view = np.from_dlpack(cache["ck"])
    assert view.shape == (1, 2, 8, 16) and np.shares_memory(view, cache._buffers["pk"])


def test_a_profile_leaves_the_past_alone(step: Executable) -> None:
    past = past_of(1, 9)
    buffers = {n: np.zeros((1, 2, ROOM, a.shape[3]), np.float32) for n, a in past.items()}
    for name, array in past.items():
        buffers[name][:, :, :9] = array
    feeds = {**operands(1, 1), **buffers, "P": np.asarray(9)}
    kinds = [kernel.kind for kernel in step.profile(feeds, rounds=2, warmup=1).kernels]
    assert "write" in kinds
    for name, array in past.items():
        np.testing.assert_array_equal(buffers[name][:, :, :9], array)


def test_threads_with_a_cache_each(step: Executable) -> None:
    """They share the model and its weights, and nothing else."""
    failed: list[BaseException] = []

    def sequence(batch: int) -> None:
        try:
            cache, past = step.cache(B=batch), past_of(batch, 0)
            for _ in range(20):
                past = assert_like_the_interpreter(cache, operands(batch, 1), past)
        except BaseException as error:
            failed.append(error)

    workers = [threading.Thread(target=sequence, args=(batch,)) for batch in (1, 2, 3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not failed


def test_misuse_is_refused(step: Executable) -> None:
    cache = step.cache(B=1)
    cache.fill(past_of(1, 5))
    feeds = operands(1, 1)
    for inputs, message in (
        (operands(2, 1), "has 2 along axis 0, and the cache was made for `B` 1"),
        ({**feeds, "pk": np.zeros((1, 2, ROOM, 16), np.float32)}, "is held by the cache"),
        ({**feeds, "P": np.asarray(4)}, "the inputs make `P` 4, and 5 rows of the cache count"),
        ({**feeds, "P": np.asarray(-1)}, "-1 count"),
        ({"q": feeds["q"]}, "input `k` is missing"),
    ):
        with pytest.raises(InputError, match=message):
            cache.run(inputs)
    whole = past_of(1, 6)
    for past, message in (
        ({"pk": whole["pk"]}, "the past of `pv` is missing"),
        ({**whole, "pv": whole["pv"].astype(np.float64)}, "is float64"),
        ({**whole, "pv": whole["pv"][:, :1]}, "all but axis 2 agree"),
        ({**whole, "pv": whole["pv"][:, :, :3]}, "3 rows here and 6 there"),
        (past_of(1, ROOM + 1), "which has 131 at most"),
    ):
        with pytest.raises(InputError) as caught:
            cache.fill(past)
        assert message in str(caught.value)
    for length in (-1, 6):
        with pytest.raises(InputError, match=f"cannot keep {length} rows of 5"):
            cache.truncate(length)
    with pytest.raises(InputError, match="there is no cache `nothing`"):
        cache["nothing"]
    with pytest.raises(InputError, match="the size of `B` is missing"):
        step.cache()
    assert cache.length == 5


def test_buffers_of_the_user(step: Executable) -> None:
    """`run` takes them too, and refuses what it could not write to, or not without harm."""
    buffers = {"pk": np.zeros((1, 2, ROOM, 16), np.float32),
               "pv": np.zeros((1, 2, ROOM, 32), np.float32)}  # fmt: skip
    feeds = operands(1, 2)
    found = step.run({**feeds, **buffers, "P": np.asarray(0)})
    np.testing.assert_array_equal(found["ck"], -feeds["k"])
    assert np.shares_memory(found["ck"], buffers["pk"])
    fixed = buffers["pk"].copy()
    fixed.flags.writeable = False
    turned = np.zeros((1, 2, 16, ROOM), np.float32).swapaxes(2, 3)
    for wrong in (fixed, turned):
        with pytest.raises(InputError, match="is written to, and is read-only or not contiguous"):
            step.run({**feeds, **buffers, "pk": wrong, "P": np.asarray(0)})
    memory = np.zeros(2 * ROOM * 48, np.float32)
    both = {"pk": memory[: 2 * ROOM * 16].reshape(1, 2, ROOM, 16),
            "pv": memory[16 : 16 + 2 * ROOM * 32].reshape(1, 2, ROOM, 32)}  # fmt: skip
    with pytest.raises(InputError, match="shares memory with another input"):
        step.run({**feeds, **both, "P": np.asarray(0)})
    with pytest.raises(InputError, match=r"outside|has room for"):
        step.run({**feeds, **buffers, "P": np.asarray(ROOM)})


def test_a_model_without_a_cache() -> None:
    model = load(compile_model(parse_graph(STEP), threads=1), threads=1)
    with pytest.raises(InputError, match="no cache that is written in place"):
        model.cache(B=1)


def attention_model(heads: int = 4, groups: int = 2, size: int = 16) -> onnx.ModelProto:
    """A step of ONNX's `Attention`, of opset 23, with a past and a mask of floats."""
    kinds = {"Q": ("b", heads, "s", size), "K": ("b", groups, "s", size),
             "V": ("b", groups, "s", size), "mask": ("b", 1, "s", "total"),
             "pk": ("b", groups, "past", size), "pv": ("b", groups, "past", size)}  # fmt: skip
    results = {"Y": ("b", heads, "s", size), "nk": ("b", groups, "total", size),
               "nv": ("b", groups, "total", size)}  # fmt: skip

    def infos(of: Mapping[str, tuple[Any, ...]]) -> list[onnx.ValueInfoProto]:
        return [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in of.items()]

    node = helper.make_node("Attention", ["Q", "k", "v", "mask", "pk", "pv"], [*results])
    turns = [helper.make_node("Neg", [a], [b]) for a, b in (("K", "k"), ("V", "v"))]
    graph = helper.make_graph([*turns, node], "step", infos(kinds), infos(results))
    return helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 23)])


def test_the_operator_attention() -> None:
    """Compiled with its own check beside ONNX Runtime, then run to the end of the buffer."""
    artifact = compile_model(attention_model(), dims={"b": (1, 2)}, cache=20, threads=1,
                             verify=True)  # fmt: skip
    assert artifact.manifest.tolerance is not None and artifact.manifest.tolerance["passed"]
    assert [c.input for c in artifact.manifest.caches] == ["pk", "pv"]
    oracle = OnnxSession(attention_model(), threads=1)
    cache = load(artifact, threads=1).cache(b=2)
    past = {"pk": normal(2, 2, 0, 16), "pv": normal(2, 2, 0, 16)}
    for rows in (3, 1, 1, 6, 1, 8):
        feeds = {"Q": normal(2, 4, rows, 16), "K": normal(2, 2, rows, 16),
                 "V": normal(2, 2, rows, 16),
                 "mask": normal(2, 1, rows, cache.length + rows)}  # fmt: skip
        found, want = cache.run(feeds), oracle.run({**feeds, **past})
        for name, theirs in want.items():
            assert_near(found[name], theirs, name)
        past = {"pk": want["nk"], "pv": want["nv"]}
    assert cache.length == 20
    with pytest.raises(InputError, match="has room for 20 rows; 20 count"):
        cache.run({**feeds, "mask": normal(2, 1, 8, 28)})


NAMES = [f"{model}-decode/{route}/small" for model in ("gpt2", "smollm2-135m", "t5-small")
         for route in ("torchscript17-eager", "dynamo18-sdpa", "dynamo23-sdpa")]  # fmt: skip


@pytest.mark.zoo
@pytest.mark.parametrize("name", NAMES)
def test_exported_decoders(name: str) -> None:
    """From no past to some, and at every edge, beside ONNX Runtime with an explicit past."""
    if reason := zoo.unavailable():
        pytest.skip(reason)
    entry = zoo.TABLE[name]
    path = zoo.path(entry)
    room = 128 if "gpt2" in name else ROOM  # as many as it has positions
    artifact = compile_model(path, cache=room, threads=1)
    arena = parse_dim(str(artifact.manifest.report["arena"]))
    least, most = ({"batch": 1, "source": 1, "past": rows} for rows in (0, room - 1))
    heads = artifact.manifest.outputs[1].dims[1]
    assert isinstance(heads, int), "a mask and a bias grow, and no cache: a row of it is more"
    assert arena.evaluate(most) - arena.evaluate(least) < (room - 1) * heads * 16 * 4
    assert len(artifact.manifest.caches) == 4
    model, oracle = load(artifact, threads=1), OnnxSession(path, threads=1)
    cache = model.cache(batch=2)
    names = {c.input: c.output for c in artifact.manifest.caches}
    past = {n: cache[n].copy() for n in names}
    for number, rows in enumerate([0, 1, 2, *(n for n in EDGES if 3 < n < room)]):
        feeds = zoo.inputs(entry, 2, max(rows, 1), seed=number)
        if rows != cache.length:
            past = {n: normal(*cache._buffers[n].shape)[:, :, :rows] for n in names}
            cache.fill(past)
        mine = {n: a for n, a in feeds.items() if n not in names}
        if "attention_mask" in mine:
            mine["attention_mask"] = np.ones((2, rows + 1), np.int64)
            mine["attention_mask"][1, : rows // 2] = 0
        found, want = cache.run(mine), oracle.run({**mine, **past})
        for key, theirs in want.items():
            assert_near(found[key], theirs, key, 1e-4)
        past = {n: want[output] for n, output in names.items()}
    assert cache.length == room
    if "attention_mask" in mine:
        mine["attention_mask"] = np.ones((2, room + 1), np.int64)
    with pytest.raises(InputError, match=f"has room for {room} rows; {room} count"):
        cache.run(mine)
