"""The process that measures for others: it has a library, a text and bytes, and no kernel."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.autotune.test_local import HEAD, KERNELS, SIZES, points, task_of
from tests.backends.running import target
from tunesmith.autotune.bench import Bench, order_of, outcome_of
from tunesmith.autotune.records import Verdict
from tunesmith.backends.tvm.build import link
from tunesmith.backends.tvm.kernels.kernel import Kernel
from tunesmith.backends.tvm.launch import Launch, launch_of, weights_of
from tunesmith.backends.tvm.standalone import build_variant, build_written, with_knobs, written
from tunesmith.ir.diagnostics import BuildError, TuneError

pytestmark = pytest.mark.tvm


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench(1, 2.0)
    yield made
    made.close()


def kernels_of(name: str) -> tuple[Kernel, Kernel]:
    """One with the knobs by analysis, and with others that pack its weight in another way."""
    task = task_of(name)
    kernel = task.kernel
    assert isinstance(kernel, Kernel) and kernel.template is not None
    variants = [with_knobs(kernel, kernel.template.knobs(knobs)) for knobs in points(task, 40)]
    names = {*weights_of(kernel)}
    return kernel, next((v for v in variants if {*weights_of(v)} != names), variants[0])


def order(bench: Bench, kernel: Kernel, library: bytes) -> dict[str, Any]:
    weights = {name: bench.keep(a().tobytes()) for name, a in weights_of(kernel).items()}
    return order_of(kernel, SIZES, 0, bench.keep(library), weights)


def planted(folder: Path, body: str) -> bytes:
    (folder / "bad.c").write_text(HEAD + body)
    link(str(folder / "bad.so"), [str(folder / "bad.c")])
    return (folder / "bad.so").read_bytes()


@pytest.mark.parametrize("name", KERNELS)
def test_text_says_how_a_kernel_is_called_and_what_it_computes(name: str, tmp_path: Path) -> None:
    for number, kernel in enumerate(kernels_of(name)):
        launch = launch_of(kernel, SIZES, 0)
        assert Launch.parse(launch.text()) == launch
        assert launch.weights == sorted(weights_of(kernel))
        for operand in launch.reads:
            if operand.weight:
                array = weights_of(kernel)[operand.weight]()
                assert (array.dtype.name, array.shape) == (operand.dtype, operand.shape)
        folders = [tmp_path / f"{number}{side}" for side in "ab"]
        for folder in folders:
            folder.mkdir()
        build_variant(kernel, target(), folders[0] / "k.so")
        build_written(written(kernel), target(), folders[1] / "k.so")
        one, other = ((folder / "kernel.o").read_bytes() for folder in folders)
        assert one == other


def test_it_measures_and_outlives_candidates_that_misbehave(bench: Bench, tmp_path: Path) -> None:
    libraries = []
    kernels = kernels_of("gemm")
    for number, kernel in enumerate(kernels):
        folder = tmp_path / str(number)
        folder.mkdir()
        build_variant(kernel, target(), folder / "k.so")
        libraries.append((folder / "k.so").read_bytes())
    assert {*weights_of(kernels[0])} != {*weights_of(kernels[1])}
    base, good = (order(bench, k, code) for k, code in zip(kernels, libraries, strict=True))

    def measured(what: dict[str, Any]) -> tuple[Verdict, bool]:
        outcome = outcome_of(bench.measure("gemm", base, what, 0.01))
        return outcome.verdict, outcome.checked

    fine = [(Verdict.ok, True), (Verdict.slower, True)]
    assert measured(good) in fine
    start = time.monotonic()
    hanging = order(bench, kernels[0], planted(tmp_path, "{ for (volatile int i = 0;; i++) {} }"))
    assert measured(hanging) == (Verdict.timeout, False)
    assert time.monotonic() - start < 5
    lazy = order(bench, kernels[0], planted(tmp_path, "{ return 0; }"))
    assert measured(lazy) == (Verdict.wrong, True)
    assert measured(good) in fine
    # it is what is sent that is read: zeros instead of its weight give other results
    (name,) = good["weights"]
    zeros = bench.keep(bytes(weights_of(kernels[1])[name]().nbytes))
    other = bench.measure("in a new runner", base, {**good, "weights": {name: zeros}}, 0.01)
    assert outcome_of(other).verdict is Verdict.wrong


def test_content_is_what_its_name_says_and_has_no_path(bench: Bench) -> None:
    with pytest.raises(TuneError, match="not what its name says"):
        bench._ask({"do": "keep", "name": "0" * 64}, b"other")
    with pytest.raises(TuneError, match="is no digest"):
        side = {"library": "../" * 20 + "etc/pw", "launch": launch_text(), "others": [],
                "weights": {}}  # fmt: skip
        bench.measure("k", side, side, 0.01)


def launch_text() -> str:
    return Launch((), (), ()).text()


def test_what_is_no_function_and_no_launch_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BuildError, match="no function of TVM"):
        build_written("{}", target(), tmp_path / "k.so")
    with pytest.raises(ValueError, match="no shape"):
        Launch.parse('{"reads": [{"dtype": "float32", "shape": [-1], "weight": ""}], "sizes": [],'
                     ' "results": [], "apart": 0}')  # fmt: skip
    with pytest.raises(ValueError, match="no elements"):
        Launch.parse('{"reads": [{"dtype": "object", "shape": [1], "weight": ""}], "sizes": [],'
                     ' "results": [], "apart": 0}')  # fmt: skip


def test_it_ends_with_whoever_started_it_and_leaves_no_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    made = Bench(1, 2.0)
    made.keep(b"x")
    assert [p.read_bytes() for p in tmp_path.glob("tunesmith-bench-*/*")] == [b"x"]
    made.close()
    assert not Path(f"/proc/{made.process.pid}").exists()
    assert not [*tmp_path.iterdir()]


def test_what_a_killed_one_left_is_removed_by_the_next_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    killed, living = Bench(1, 2.0), Bench(1, 2.0)
    killed.keep(b"killed")
    living.keep(b"living")
    killed.process.kill()
    killed.close()
    for folder in tmp_path.iterdir():
        os.utime(folder, (0, 0))
    third = Bench(1, 2.0)
    third.keep(b"third")
    kept = {path.read_bytes() for path in tmp_path.glob("*/*")}
    living.close()
    third.close()
    assert kept == {b"living", b"third"}
