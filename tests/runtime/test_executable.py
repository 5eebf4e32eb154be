"""Loading and running real libraries."""

from __future__ import annotations

import random
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tunesmith.ir.diagnostics import ArtifactError, InputError, UnsupportedTarget
from tunesmith.runtime import Artifact, Executable, load
from tunesmith.runtime.manifest import Manifest, SymbolSpec, TargetSpec, TensorSpec
from tunesmith.runtime.tvm_module import _Spans, _tensor

from .conftest import TARGET, WEIGHT, expected, tiny_manifest

pytestmark = pytest.mark.tvm


Arrays = dict[str, np.ndarray]


def assert_close(actual: object, wanted: np.ndarray, rtol: float = 1e-6) -> None:
    assert isinstance(actual, np.ndarray)
    np.testing.assert_allclose(actual, wanted, rtol=rtol, atol=1e-6)


def rows(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, 4), np.float32)


def test_run(tiny_path: Path) -> None:
    executable = load(tiny_path)
    assert executable.inputs == tiny_manifest().inputs
    assert executable.outputs == tiny_manifest().outputs
    assert executable.manifest.report == tiny_manifest().report
    for n in (1, 2, 7, 64):
        x = rows(n)
        result = executable.run({"x": x})
        assert list(result) == ["y"] and result["y"].dtype == np.float32
        assert_close(result["y"], expected(x))
        assert_close(executable(x=x)["y"], expected(x))


def test_an_artifact_runs_without_a_file(tiny: Artifact) -> None:
    x = rows(3)
    assert_close(load(tiny).run({"x": x})["y"], expected(x))


def test_inputs_in_any_form(tiny_path: Path) -> None:
    executable = load(tiny_path)
    good = rows(8)
    unaligned = np.frombuffer(bytearray(good.nbytes + 4), np.float32)[1:].reshape(8, 4)
    unaligned[...] = good
    frozen = good.copy()
    frozen.flags.writeable = False
    aligned = executable.empty("x", n=8)
    aligned[...] = good
    wide = executable.empty("x", n=64)
    wide[::8] = good
    one = wide[::64]
    assert aligned.ctypes.data % 64 == 0 and one.strides != (16, 4) and one.flags.c_contiguous
    forms = [good, unaligned, frozen, aligned, wide[::8], np.asfortranarray(good), good[::-1], one,
             np.broadcast_to(good[:1], (5, 4))]  # fmt: skip
    for x in forms:
        kept = x.copy()
        assert_close(executable.run({"x": x})["y"], expected(kept))
        assert np.array_equal(x, kept)
    frozen_aligned = aligned[:]
    frozen_aligned.flags.writeable = False
    result = executable.run({"x": frozen_aligned})["y"]
    assert_close(result, expected(good))


def test_nothing_is_copied_without_need(tiny_path: Path) -> None:
    artifact = Artifact.open(tiny_path)
    executable = load(artifact)
    assert executable._module._weight_spans.starts[0] == artifact.weights["w"].ctypes.data
    x = executable.empty("x", n=64)
    frozen = x[:]
    frozen.flags.writeable = False
    for array in (x, frozen, x[:5], x[1:], x[16:]):
        assert _tensor(array, array.itemsize)[1] == array.ctypes.data
    assert _tensor(x[1:], 64)[1] % 64 == 0
    odd = np.frombuffer(bytearray(41), np.uint8)[1:].view(np.float32)
    assert _tensor(odd, 4)[1] % 4 == 0, "no vector of a CPU may begin within an element"


def test_spans_meet_what_they_overlap() -> None:
    random = np.random.default_rng(0)
    for _ in range(200):
        known = [(int(a), int(a + n)) for a, n in random.integers(0, 15, (5, 2))]
        spans = _Spans(known)
        start = int(random.integers(0, 30))
        end = start + int(random.integers(1, 9))
        meets = any(a < end and start < b for a, b in known if a < b)
        assert spans.meets(start, end) == meets
        assert spans.add(start, end) != meets
        assert spans.meets(start, end)


def test_outputs_are_the_callers(tiny_path: Path) -> None:
    executable = load(tiny_path)
    first = executable.run({"x": rows(5, 1)})["y"]
    kept = first.copy()
    for seed in range(20):
        executable.run({"x": rows(5, seed)})
    assert np.array_equal(first, kept) and first.flags.writeable
    first[...] = -1
    del executable
    assert (first == -1).all()


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ({}, "input `x` is missing"),
        ({"X": rows(1)}, "did you mean `x`?"),
        ({"y": rows(1)}, "the inputs are `x`"),
        ({"x": rows(1), "z": rows(1)}, "there is no input `z`"),
        ({"x": rows(1).astype(np.float64)}, "has the dtype `float64`, not `float32`"),
        ({"x": rows(1).astype(">f4")}, "has the dtype `>f4`"),
        ({"x": [[1.0, 2.0, 3.0, 4.0]]}, "is a `list`, not an array"),
        ({"x": None}, "is a `NoneType`"),
        ({"x": rows(1)[0]}, "has the shape (4,), of rank 1"),
        ({"x": rows(2).T}, "axis 1 is 2, not 4"),
        ({"x": rows(0)}, "makes `n` 0, outside of 1 to 64"),
        ({"x": rows(65)}, "makes `n` 65, outside of 1 to 64"),
    ],
)
def test_wrong_inputs(tiny_path: Path, inputs: dict[str, np.ndarray], message: str) -> None:
    executable = load(tiny_path)
    with pytest.raises(InputError) as caught:
        executable.run(inputs)
    assert message in str(caught.value) and "hint: " in str(caught.value)
    assert executable.run({"x": rows(1)})["y"].shape == (1, 3)


@pytest.fixture(scope="module")
def many(libraries: Path) -> Executable:
    spec = TensorSpec
    manifest = Manifest(
        name="many",
        inputs=(spec("x", "float32", ("n", "m")), spec("ids", "int64", ("n",)),
                spec("half", "float16", ()), spec("flag", "bool", ("m",))),
        outputs=(spec("scaled", "float32", ("n", "m")), spec("same", "float32", ("n", "m")),
                 spec("weight", "int8", (2, 3)), spec("again", "float32", ("n", "m")),
                 spec("flat", "float32", ("n*m",)), spec("more", "int64", ("n",)),
                 spec("root", "float16", ()), spec("negated", "bool", ("m",)),
                 spec("ids", "int64", ("n",))),
        symbols=(SymbolSpec("n", 0, 100), SymbolSpec("m", 0)),
        target=TARGET,
    )  # fmt: skip
    weights: Arrays = {"w": np.arange(6, dtype=np.int8).reshape(2, 3), "v": np.array(3, np.float32)}
    return load(Artifact(manifest=manifest, library=libraries / "many.so", weights=weights))


@pytest.mark.parametrize("shape", [(3, 4), (1, 1), (0, 4), (4, 0), (0, 0)])
def test_dtypes_ranks_and_shared_outputs(many: Executable, shape: tuple[int, int]) -> None:
    x = many.empty("x", n=shape[0], m=shape[1])
    x[...] = np.arange(x.size).reshape(shape)
    ids = np.arange(shape[0], dtype=np.int64)
    feeds: Arrays = {
        "x": x,
        "ids": ids,
        "half": np.array(1.5, np.float16),
        "flag": np.zeros(shape[1], "?"),
    }
    for _ in range(2):  # the second time after all outputs were written over
        result = many.run(feeds)
        assert list(result) == [spec.name for spec in many.outputs]
        for name, value in {
            "scaled": 3 * x, "same": x, "weight": np.arange(6).reshape(2, 3), "again": 3 * x,
            "flat": x.reshape(-1), "more": 2 * ids, "root": np.float16(3),
            "negated": np.ones(shape[1], "?"), "ids": ids,
        }.items():  # fmt: skip
            np.testing.assert_array_equal(result[name], value, err_msg=name, strict=name == "same")
        arrays = [*feeds.values(), *result.values()]
        for i, left in enumerate(arrays):
            assert not any(np.shares_memory(left, right) for right in arrays[:i])
        for output in result.values():
            output[...] = 1


def test_symbols_agree_between_inputs(many: Executable) -> None:
    feeds: Arrays = {"x": np.zeros((3, 4), np.float32), "ids": np.zeros(2, np.int64),
             "half": np.zeros((), np.float16), "flag": np.zeros(4, "?")}  # fmt: skip
    with pytest.raises(InputError) as caught:
        many.run(feeds)
    assert "axis 0 is 2, not n" in str(caught.value) and "`n` is 3" in str(caught.value)
    with pytest.raises(InputError, match="the size of `m` is missing"):
        many.empty("x", n=3)


def test_threads_of_python_may_share_an_executable(tiny_path: Path) -> None:
    executable = load(tiny_path)
    wrong: list[int] = []

    def work(seed: int) -> None:
        for step in range(200):
            x = rows(1 + (seed + step) % 30, seed)
            if not np.allclose(executable.run({"x": x})["y"], expected(x), rtol=1e-5, atol=1e-5):
                wrong.append(seed)

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert not wrong


def test_calls_of_several_threads_overlap(tiny: Artifact) -> None:
    """Each thread waits inside its call for the others: in turns they would never meet."""
    executable = load(tiny, threads=1)
    inside = threading.Barrier(3, timeout=30)
    contexts: list[Any] = []
    results: list[Any] = []

    def work(seed: int) -> None:
        machine, inner = executable._module._context()
        contexts.append(machine)

        def meet(*tensors: Any) -> Any:
            inside.wait()
            return inner(*tensors)

        executable._module._contexts.value = (machine, meet)
        x = rows(seed + 1, seed)
        results.append((executable.run({"x": x})["y"], expected(x)))

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len({id(machine) for machine in contexts}) == 3
    assert len(results) == 3
    for got, want in results:
        assert_close(got, want, 1e-5)


class Lender:
    """A tensor of a package that is not here, in the memory of an array."""

    def __init__(self, array: np.ndarray, fault: str = "") -> None:
        self.array, self.fault = array, fault

    def __dlpack__(self, **options: Any) -> Any:
        if self.fault:
            raise BufferError(self.fault)
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self) -> tuple[int, int]:
        return (1, 0)


def test_tensors_of_other_packages_are_taken_where_they_are(tiny: Artifact) -> None:
    executable = load(tiny)
    x = executable.empty("x", n=3)
    x[...] = rows(3)
    taken: list[int] = []
    inner = executable._module._context()[1]

    def seen(tensor: Any) -> Any:
        taken.append(tensor.data_ptr())
        return inner(tensor)

    executable._module._contexts.value = (None, seen)
    assert_close(executable.run({"x": Lender(x)})["y"], expected(x), 1e-5)
    assert taken == [x.ctypes.data]


def test_tensors_that_cannot_be_read(tiny: Artifact) -> None:
    with pytest.raises(InputError) as caught:
        load(tiny).run({"x": Lender(rows(3), fault="it lies elsewhere")})
    message = str(caught.value)
    assert "`Lender` that cannot be read: it lies elsewhere" in message and "CPU memory" in message


def test_many_loads_are_separate(tiny: Artifact, libraries: Path) -> None:
    """The linker must not take the second library for the first: their descriptors are equal."""
    executables = [load(replace(tiny, weights={"w": WEIGHT * k})) for k in range(1, 40)]
    x = rows(2)
    for k, executable in enumerate(executables, 1):
        assert_close(executable.run({"x": x})["y"], k * expected(x), 1e-5)
    del executable
    executables.clear()
    assert load(tiny).run({"x": x})["y"].shape == (2, 3)


def refused(artifact: Artifact, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        load(artifact)
    assert message in str(caught.value)


def test_artifacts_for_something_else(tiny: Artifact, tmp_path: Path) -> None:
    future = replace(TARGET, cpu="future", features=("avx2", "sse99"))
    other = Artifact(manifest=tiny_manifest(future), library=tiny.library, weights=tiny.weights)
    with pytest.raises(UnsupportedTarget) as caught:
        load(other.save(tmp_path / "future.tsm"))
    assert "future.tsm" in str(caught.value) and "`sse99`" in str(caught.value)
    for change, error, message in (
        ({"target": TargetSpec("avr-none", "x")}, UnsupportedTarget, "made for `avr-none`"),
        ({"versions": {"apache-tvm": "0.1"}}, ArtifactError, "made with apache-tvm 0.1"),
        ({"entry": "other"}, ArtifactError, "other"),
        ({"inputs": ()}, ArtifactError, "takes 1 inputs besides the weights"),
        ({"inputs": (TensorSpec("x", "float32", ("n*n", 4)),)}, ArtifactError, "size of `n`"),
    ):
        refused(replace(tiny, manifest=replace(tiny.manifest, **change)), error, message)


def test_outputs_that_break_the_promise(tiny: Artifact) -> None:
    for outputs in (
        (TensorSpec("y", "int32", ("n", 3)),),
        (TensorSpec("y", "float32", ("n",)),),
        (TensorSpec("y", "float32", ("n", 4)),),
        (*tiny.manifest.outputs, TensorSpec("z", "float32", ())),
    ):
        executable = load(replace(tiny, manifest=replace(tiny.manifest, outputs=outputs)))
        with pytest.raises(ArtifactError):
            executable.run({"x": rows(2)})


def test_libraries_that_are_none(tiny: Artifact, tmp_path: Path) -> None:
    whole = tiny.library_bytes()
    for library, message in (
        (b"not code", "not an ELF file"),
        (whole[:64], "cannot be loaded"),
        (tmp_path / "missing.so", "cannot read the file"),
    ):
        refused(replace(tiny, library=library), ArtifactError, message)


def test_a_library_with_a_missing_symbol(tiny: Artifact, tmp_path: Path) -> None:
    import subprocess

    (tmp_path / "a.c").write_text(
        "int nobody_has_this(void);\nint f(void) {return nobody_has_this();}"
    )
    command = ["cc", "-shared", "-fPIC", "-o", str(tmp_path / "a.so"), str(tmp_path / "a.c")]
    subprocess.run(command, check=True)
    refused(replace(tiny, library=tmp_path / "a.so"), ArtifactError, "nobody_has_this")


def test_damage_never_ends_the_process(tiny_path: Path) -> None:
    """50 cuts and 200 flips: refused, or loaded if only weights changed and nobody asked."""
    good = tiny_path.read_bytes()
    start = good.index(WEIGHT.tobytes())
    source = random.Random(1)
    flips = [source.randrange(len(good)) for _ in range(190)]
    for at in [*flips, *range(start, start + 10)]:
        damaged = bytearray(good)
        damaged[at] ^= 1 << source.randrange(8)
        tiny_path.write_bytes(damaged)
        with pytest.raises(ArtifactError):
            load(tiny_path, strict=True)
        if start <= at < start + WEIGHT.nbytes:
            assert load(tiny_path).run({"x": rows(2)})["y"].shape == (2, 3)
        else:
            with pytest.raises(ArtifactError):
                load(tiny_path)
    for cut in range(50):
        tiny_path.write_bytes(good[: len(good) * cut // 50])
        with pytest.raises(ArtifactError):
            load(tiny_path)
    tiny_path.write_bytes(good)
    assert load(tiny_path, strict=True).run({"x": rows(2)})["y"].shape == (2, 3)
