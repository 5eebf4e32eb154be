"""What needs a process of its own: what gets loaded, thread pools, forks."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tunesmith.runtime import Artifact
from tunesmith.runtime.manifest import Manifest, SymbolSpec, TensorSpec

from .conftest import TARGET


def python(code: str, *arguments: object, **environment: str) -> str:
    """Run code in a fresh process, and give what it printed."""
    inherited = {k: v for k, v in os.environ.items() if not k.endswith("_NUM_THREADS")}
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *map(str, arguments)], text=True,
        capture_output=True, timeout=60, check=False, env=inherited | environment,
    )  # fmt: skip
    assert result.returncode == 0, result.stderr
    return result.stdout


@pytest.fixture
def wide_path(libraries: Path, tmp_path: Path) -> Path:
    manifest = Manifest(
        name="wide",
        inputs=(TensorSpec("x", "float32", ("rows", 1024)),),
        outputs=(TensorSpec("y", "float32", ("rows", 1024)),),
        symbols=(SymbolSpec("rows", 0, 10_000),),
        target=TARGET,
    )
    return Artifact(manifest=manifest, library=libraries / "wide.so").save(tmp_path / "wide.tsm")


def test_importing_loads_nothing() -> None:
    heavy = "{'numpy', 'tvm_ffi', 'tvm', 'torch', 'onnx', 'onnxruntime', 'networkx'}"
    print(
        python(f"""
import sys, time
start = time.perf_counter()
import tunesmith.runtime
assert time.perf_counter() - start < 0.1
assert not {heavy} & set(sys.modules), {heavy} & set(sys.modules)
assert tunesmith.runtime.__all__ == ["Artifact", "Cache", "Executable", "Manifest", "load"]
try:
    tunesmith.runtime.nothing
except AttributeError:
    print("ok")
""")
    )


@pytest.mark.tvm
def test_running_needs_the_small_runtime_only(tiny_path: Path) -> None:
    """Symbolic shapes included: the virtual machine and its builtins are all in it."""
    python("""
import sys
import numpy as np
from tunesmith.runtime import load
executable = load(sys.argv[1], strict=True)
for n in (1, 3, 64):
    assert executable.run({"x": np.ones((n, 4), np.float32)})["y"].shape == (n, 3)
for name in ("onnx", "onnxruntime", "torch", "networkx", "tvm"):
    assert name not in sys.modules, name
maps = open("/proc/self/maps").read()
assert "libtvm_runtime.so" in maps
for library in ("libtvm_compiler", "libtvm_runtime_extra", "libtorch", "libLLVM"):
    assert library not in maps, library
import tvm_ffi
for name in ("match_shape", "make_shape", "alloc_shape_heap", "check_tensor_info", "alloc_storage",
             "alloc_tensor", "null_value", "reshape", "read_if_cond", "make_tuple", "tuple_getitem",
             "tensor_to_shape", "shape_of", "copy", "call_tir_dyn", "invoke_closure"):
    assert tvm_ffi.get_global_func("vm.builtin." + name, allow_missing=True), name
import importlib.util
if importlib.util.find_spec("torch"):
    import torch  # blocked while tvm_ffi was imported, and no longer
    assert torch.ones(1).item() == 1
""", tiny_path)  # fmt: skip


USE = """
import sys, os, threading
import numpy as np
from tunesmith.runtime import load
from tunesmith.ir.diagnostics import InputError
path = sys.argv[1]
x = np.ones((500, 1024), np.float32)
def count(): return len(os.listdir("/proc/self/task"))
def check(executable): assert (executable.run({"x": x})["y"] == 2).all()
def workers():
    import tvm_ffi
    return tvm_ffi.get_global_func("runtime.NumThreads")()
"""


@pytest.mark.tvm
def test_each_executable_has_its_number_of_threads(wide_path: Path) -> None:
    python(USE + """
before = count()
four, one, two = (load(path, threads=n) for n in (4, 1, 2))
for executable, n in ((four, 4), (one, 1), (two, 2), (four, 4)):
    check(executable)
    assert executable.threads == n == workers(), (n, workers())
assert count() <= before + 3 + 1, (before, count())
try:
    load(path, threads=5)
except InputError as error:
    assert "TVM_NUM_THREADS=5" in str(error)
else:
    raise AssertionError
result = []
thread = threading.Thread(target=lambda: (check(two), result.append(workers())))
thread.start(); thread.join()
assert result == [2]
assert len(os.sched_getaffinity(0)) == len(os.sched_getaffinity(os.getpid()))
""", wide_path)  # fmt: skip


@pytest.mark.tvm
def test_default_threads(wide_path: Path) -> None:
    code = USE + "executable = load(path); check(executable); print(executable.threads, workers())"
    assert python(code, wide_path, TVM_NUM_THREADS="3") == "3 3\n"
    assert python(code, wide_path, OMP_NUM_THREADS="1") == "1 1\n"
    pinned = f"import os; os.sched_setaffinity(0, {{{min(os.sched_getaffinity(0))}}})\n" + code
    assert python(pinned, wide_path) == "1 1\n"
    zero = USE + "\ntry: load(path, threads=0)\nexcept InputError: print('no')"
    assert python(zero, wide_path) == "no\n"


@pytest.mark.tvm
def test_a_fork_is_an_error_and_not_a_hang(wide_path: Path) -> None:
    python(USE + """
import multiprocessing, warnings
warnings.simplefilter("ignore")  # newer Pythons warn of forking with threads
two, one = load(path, threads=2), load(path, threads=1)
def child(queue):
    check(one)
    try:
        check(two)
    except InputError as error:
        queue.put(str(error))
    check(one)
context = multiprocessing.get_context("fork")
def fork():
    queue = context.SimpleQueue()
    process = context.Process(target=child, args=(queue,))
    process.start(); process.join(20)
    assert process.exitcode == 0, process.exitcode
    return None if queue.empty() else queue.get()
assert fork() is None      # nothing had run: the child makes its own pool
check(two)
assert "forked" in fork()
check(two)
""", wide_path)  # fmt: skip


@pytest.mark.tvm
def test_a_foreign_pool_is_noticed(wide_path: Path) -> None:
    python(USE + """
os.environ["TVM_NUM_THREADS"] = "1"
from tunesmith.runtime import tvm_module
tvm_module._ffi().get_global_func("runtime.NumThreads")()   # as a compiler would
check(load(path))
executable = load(path, threads=1)
check(executable)
tvm_module._capacity = 2
executable = load(path, threads=2)
try:
    check(executable)
except InputError as error:
    assert "already made a pool of 1" in str(error)
else:
    raise AssertionError
""", wide_path)  # fmt: skip


@pytest.mark.tvm
def test_idle_workers_rest(wide_path: Path) -> None:
    code = """
import sys, time
import numpy as np
from tunesmith.runtime import load
executable = load(sys.argv[1], threads=2)
x = np.ones((512, 1024), np.float32)
for _ in range(5):
    executable.run({"x": x})
start = time.process_time()
time.sleep(0.3)
print(time.process_time() - start)
"""
    assert float(python(code, wide_path)) < 0.04
