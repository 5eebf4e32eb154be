"""Memory of compiling: how it is measured, and what keeps it low."""

from __future__ import annotations

import copy
import sys
import threading
from pathlib import Path

import numpy as np
import onnx
import pytest

from benchmarks.memory import measure
from benchmarks.memory_model import LAYER_BYTES, WIDTH, build_decoder
from tunesmith.backends.tvm import weights
from tunesmith.backends.tvm.kernels.kernel import WeightUse
from tunesmith.ir.constants import Constant, release

MIB = 1 << 20


def resident(path: Path) -> int:
    """Bytes of one mapped file that this process has in memory, whatever others read of theirs."""
    found, ours = 0, False
    for row in Path("/proc/self/smaps").read_text().splitlines():
        name, *rest = row.split()
        if not name.endswith(":"):  # the head of a mapping, which ends in its file
            ours = row.endswith(str(path))
        elif ours and name == "Rss:":
            found += int(rest[0]) * 1024
    return found


def test_the_peak_of_a_child_and_its_child_is_seen() -> None:
    """A process that starts another: both hold memory, and let it go before they end."""
    inner = "x = bytearray(96 << 20); import time; time.sleep(1.5)"
    outer = (
        f"import subprocess, sys, time; p = subprocess.Popen([sys.executable, '-c', {inner!r}]);"
        " y = bytearray(64 << 20); p.wait(); del y; time.sleep(0.1)"
    )
    peaks, seconds, status = measure([sys.executable, "-c", outer])
    assert status == 0 and seconds > 1.5 and peaks.samples > 5
    for name in ("Pss", "Pss_Anon", "Private_Dirty"):
        assert 160 * MIB <= peaks.bytes[name] <= 200 * MIB, name


def test_a_failure_is_seen() -> None:
    assert measure([sys.executable, "-c", "raise SystemExit(3)"])[2] == 3


def test_pages_of_a_file_are_given_back(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    np.arange(8 * MIB, dtype=np.float32).tofile(path)
    mapped = np.memmap(path, np.float32, "r").reshape(4, -1)[1:].T
    assert resident(path) == 0
    total = float(mapped.sum(dtype=np.float64))
    assert resident(path) >= 24 * MIB
    release(mapped)
    assert resident(path) <= MIB
    assert float(mapped.sum(dtype=np.float64)) == total
    _ = Constant(mapped).digest  # gives back what it read, and what was there before
    assert resident(path) <= 8 * MIB


def test_only_pages_that_nobody_writes_are_given_back(tmp_path: Path) -> None:
    path = tmp_path / "weights"
    np.zeros(MIB, np.float32).tofile(path)
    changed = np.memmap(path, np.float32, "c")
    changed[:] = 7
    own = np.full(MIB, 7, np.float32)
    for array in (changed, own, own[::2]):
        release(array)
        assert (array == 7).all()


@pytest.mark.tvm
def test_weights_beyond_the_limit_are_packed_whenever_they_are_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    uses = [WeightUse(Constant(np.full((8, 4), i, np.float32))) for i in range(3)]
    monkeypatch.setattr(weights, "KEPT_BYTES", 3 * 8 * 4 * 4)
    kept = weights.PackedWeights(uses)
    assert [*kept] == ["w0", "w1", "w2"] and kept.nbytes == 384
    kept.begin()
    kept.settle()
    assert kept["w1"] is kept["w1"]
    monkeypatch.setattr(weights, "KEPT_BYTES", 3 * 8 * 4 * 4 - 1)
    anew = weights.PackedWeights(uses)
    anew.begin()
    assert anew["w1"] is not anew["w1"]
    np.testing.assert_array_equal(anew["w2"], np.full(32, 2, np.float32))


class _Use(WeightUse):
    """A weight that waits until it may be packed, or has no room."""

    def __init__(self, wait: threading.Event | None = None, room: bool = True) -> None:
        super().__init__(Constant(np.ones(4, np.float32)))
        object.__setattr__(self, "wait", wait)
        object.__setattr__(self, "room", room)

    def array(self) -> np.ndarray:
        if self.__dict__["wait"] is not None:
            assert self.__dict__["wait"].wait(30)
        if not self.__dict__["room"]:
            raise MemoryError("no room")
        return super().array()


def _packing() -> list[str]:
    return [t.name for t in threading.enumerate() if t.name == "pack"]


@pytest.mark.tvm
def test_what_packing_raises_is_told_once_and_it_can_be_tried_again() -> None:
    use = _Use(room=False)
    packed = weights.PackedWeights([_Use(), use])
    packed.begin()
    with pytest.raises(MemoryError, match="no room"):
        packed.settle()
    assert not _packing()
    object.__setattr__(use, "room", True)
    np.testing.assert_array_equal(packed["w1"], np.ones(4))
    assert copy.deepcopy(packed)["w0"].tolist() == [1, 1, 1, 1]


@pytest.mark.tvm
def test_packing_that_is_given_up_leaves_no_thread() -> None:
    go = threading.Event()
    packed = weights.PackedWeights([_Use(go), _Use(go), _Use(room=False)])
    packed.begin()
    assert _packing()
    threading.Timer(0.05, go.set).start()
    packed.settle(cancel=True)
    assert not _packing() and len(packed._kept) < 3


def test_the_model_is_as_large_as_it_says(tmp_path: Path) -> None:
    path, size = build_decoder(tmp_path, 1)
    assert size == LAYER_BYTES
    assert (tmp_path / "weights.bin").stat().st_size >= size
    model = onnx.load(path, load_external_data=False)
    onnx.checker.check_model(str(path))
    assert [d.dim_param or d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim] \
        == ["batch", "rows", WIDTH]  # fmt: skip
