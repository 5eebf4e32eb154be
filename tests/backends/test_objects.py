"""The cache of object files: hits, damage, workers that fail."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from tunesmith.backends.targets import find_target
from tunesmith.backends.tvm import objects
from tunesmith.backends.tvm.build import tvm_target
from tunesmith.backends.tvm.objects import cache_folder, compile_objects
from tunesmith.driver import compile_model
from tunesmith.ir.diagnostics import BuildError

tirx = pytest.importorskip("tvm.tirx")
pytestmark = pytest.mark.tvm


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path))


def _writer(factor: float, calls: list[float]) -> object:
    from tvm.script.ir_builder import IRBuilder
    from tvm.tirx.script import builder as T

    def write() -> object:
        calls.append(factor)
        with IRBuilder() as builder:
            with T.prim_func(s_tir=True):
                x = T.arg("x", T.buffer((tirx.IntImm("int64", 8),), "float32"))
                y = T.arg("y", T.buffer((tirx.IntImm("int64", 8),), "float32"))
                with T.serial(tirx.IntImm("int64", 8)) as i:
                    T.buffer_store(y, x[i] * tirx.const(factor, "float32"), [i])
        return builder.get()

    return write


def _compile(names: dict[str, object], workers: int = 1) -> dict[str, bytes]:
    target = tvm_target(find_target("host"))
    return compile_objects(names, target, workers)  # type: ignore[arg-type]  # writers


def test_a_kernel_is_compiled_once() -> None:
    calls: list[float] = []
    first = _compile({"k_1": _writer(2.0, calls)})
    again = _compile({"k_1": _writer(2.0, calls)})
    assert first == again and len(first["k_1"]) > 500
    assert calls == [2.0]


def test_a_damaged_object_is_compiled_again() -> None:
    calls: list[float] = []
    first = _compile({"k_1": _writer(2.0, calls)})
    folder = cache_folder()
    assert folder is not None
    (path,) = folder.glob("*/*.o")
    data = bytearray(path.read_bytes())
    data[100] ^= 1
    path.write_bytes(data)
    assert _compile({"k_1": _writer(2.0, calls)}) == first
    assert calls == [2.0, 2.0]


def test_nothing_is_kept_if_the_cache_is_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNESMITH_CACHE", "off")
    calls: list[float] = []
    for _ in range(2):
        _compile({"k_1": _writer(2.0, calls)})
    assert calls == [2.0, 2.0]


@pytest.mark.parametrize("workers", [1, 2])
def test_what_was_done_before_an_interrupt_is_kept(workers: int) -> None:
    names = {f"k_{i}": _writer(float(i), []) for i in range(1, 6)}

    def interrupt(done: int, total: int) -> None:
        if done >= 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        compile_objects(names, tvm_target(find_target("host")), workers, interrupt)  # type: ignore[arg-type]  # writers
    folder = cache_folder()
    assert folder is not None
    assert len(list(folder.glob("*/*.o"))) >= 2


def test_workers_share_the_kernels_out() -> None:
    names = {f"k_{i}": _writer(float(i), []) for i in range(1, 6)}
    objects = _compile(names, workers=2)
    assert sorted(objects) == sorted(names)
    assert len(set(objects.values())) == len(names)


def test_who_is_done_takes_the_next_kernel_and_none_is_compiled_twice(tmp_path: Path) -> None:
    seen = tmp_path / "seen"

    def slow_first(number: int) -> Any:
        write: Any = _writer(float(number), [])

        def slowly() -> Any:
            with seen.open("a") as file:
                file.write(f"{number} {os.getpid()}\n")
            end = time.monotonic() + 60
            while number == 1 and len(seen.read_text().splitlines()) < 7 and time.monotonic() < end:
                time.sleep(0.01)
            return write()

        return slowly

    names = {f"k_{i}": slow_first(i) for i in range(1, 8)}
    assert sorted(_compile(names, workers=2)) == sorted(names)
    rows = [line.split() for line in seen.read_text().splitlines()]
    assert sorted(int(number) for number, _ in rows) == list(range(1, 8))
    of = dict(rows)
    assert [n for n in of if of[n] == of["1"]] == ["1"], "the other worker did all others"


def test_other_threads_end_before_workers_are_forked_and_only_then() -> None:
    told: list[int] = []
    target = tvm_target(find_target("host"))

    def compiled(count: int, workers: int) -> None:
        names = {f"k_{i}": _writer(float(i), []) for i in range(1, count + 1)}
        compile_objects(names, target, workers, before_fork=lambda: told.append(count))  # type: ignore[arg-type]  # writers

    compiled(1, 2)
    compiled(2, 2)  # one of which is in the cache
    assert told == []
    compiled(4, 2)
    assert told == [4]


def test_no_thread_of_the_compiler_runs_beside_a_fork(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[set[threading.Thread]] = []
    fork, before = objects._fork, {*threading.enumerate()}

    def forked(*arguments: Any) -> int:
        seen.append({*threading.enumerate()} - before)
        return fork(*arguments)

    monkeypatch.setattr(objects, "_fork", forked)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 1})
    x = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [4, 512])
    y = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [4, 8])
    random = np.random.default_rng(0)
    weights = [
        onnx.numpy_helper.from_array(random.standard_normal(shape).astype(np.float32), name)
        for name, shape in (("a", (512, 4096)), ("b", (4096, 8)))
    ]
    nodes = [
        onnx.helper.make_node("MatMul", ["x", "a"], ["h"]),
        onnx.helper.make_node("MatMul", ["h", "b"], ["y"]),
    ]
    graph = onnx.helper.make_graph(nodes, "g", [x], [y], weights)
    opset = [onnx.helper.make_opsetid("", 18)]
    path = tmp_path / "m.onnx"
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=10), path)
    compile_model(path, threads=1)
    assert len(seen) == 2 and not any(seen)
    assert {*threading.enumerate()} <= before


def test_a_worker_that_fails_is_an_error_with_its_words() -> None:
    def broken() -> object:
        raise ValueError("no such template")

    with pytest.raises(BuildError, match="no such template"):
        _compile({"k_1": broken, "k_2": _writer(2.0, [])}, workers=2)
