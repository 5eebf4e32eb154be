"""Fourier transforms and mel bands against ONNX Runtime."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tunesmith.frontend import import_model
from tunesmith.ir.diagnostics import FrontendError
from tunesmith.ir.interpreter import evaluate

from .models import Array, check, compare, declare, one, runtime

RNG = np.random.default_rng(41)


def f(*shape: int) -> Array:
    """Random floats."""
    return RNG.standard_normal(shape).astype(np.float32)


@pytest.mark.parametrize("size", [1, 2, 7, 16, 31])
@pytest.mark.parametrize("options", [{}, {"inverse": 1}, {"onesided": 1}], ids=str)
def test_dft(size: int, options: dict[str, Any]) -> None:
    for parts in (1, 2):
        if parts == 2 and "onesided" in options:
            continue
        proto, live = one("DFT", [f(2, size, 3, parts)], opset=17, axis=1, **options)
        if parts == 1 and "inverse" in options:  # ONNX Runtime takes complex signals only
            signal = live["x0"][..., 0].astype(np.complex64)
            found = np.fft.ifft(signal, axis=1)
            wanted = [np.stack([found.real, found.imag], -1).astype(np.float32)]
            compare(evaluate(import_model(declare(proto, wanted)), live), wanted, 2e-5)
            continue
        check(proto, live, 1e-4)


@pytest.mark.parametrize("length", [5, 8, 12])
def test_dft_of_another_length(length: int) -> None:
    proto, live = one("DFT", [f(2, 8, 1), np.asarray(length), np.asarray(1)], opset=20,
                      constants=[1, 2])  # fmt: skip
    spectrum = np.fft.fft(live["x0"][..., 0], length, axis=1)
    wanted = [np.stack([spectrum.real, spectrum.imag], -1).astype(np.float32)]
    declare(proto, wanted)
    compare(evaluate(import_model(proto), live), wanted, 2e-5)


@pytest.mark.parametrize("size", [2, 7, 8])
def test_half_a_spectrum_back(size: int) -> None:
    signal = f(3, size)
    half = np.fft.rfft(signal)
    pair = np.stack([half.real, half.imag], -1).astype(np.float32)
    proto, live = one("DFT", [pair, np.asarray(size), np.asarray(1)], opset=20, constants=[1, 2],
                      inverse=1, onesided=1)  # fmt: skip
    graph = import_model(declare(proto, [signal[..., None]]))
    compare(evaluate(graph, live), [np.asarray(signal)[..., None]], 2e-5)


@pytest.mark.parametrize("onesided", [0, 1])
@pytest.mark.parametrize("windowed", [False, True])
def test_stft(onesided: int, windowed: bool) -> None:
    window = np.hanning(16).astype(np.float32) if windowed else None
    for size, step in ((16, 1), (33, 7), (128, 8)):
        proto, live = one(
            "STFT", [f(2, size, 1), np.asarray(step), window, np.asarray(16)], opset=17,
            constants=[1, 2, 3], onesided=onesided,
        )  # fmt: skip
        check(proto, live, 2e-4)


def test_stft_of_any_length() -> None:
    feeds = [f(2, 40, 1), np.asarray(4), np.hanning(16).astype(np.float32)]
    proto, live = one("STFT", feeds, opset=17, constants=[1, 2])
    proto.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "T"
    graph = check(proto, live, 2e-4)
    compare(evaluate(graph, {"x0": f(2, 77, 1)})[:0], [], 1e-4)
    x = f(2, 77, 1)
    compare(evaluate(graph, {"x0": x}), runtime(proto, {"x0": x}), 2e-4)


def test_mel_bands() -> None:
    for bins, length, rate, low, high in ((8, 16, 8192, 0, 4096), (40, 512, 16000, 20, 8000)):
        feeds = [np.asarray(v) for v in (bins, length, rate)]
        feeds += [np.asarray(v, np.float32) for v in (low, high)]
        proto, live = one("MelWeightMatrix", feeds, opset=17, constants=range(5))
        check(proto, live, 1e-5)


def test_open_sizes_are_refused() -> None:
    proto, live = one("DFT", [f(2, 8, 1)], opset=17)
    results = runtime(proto, live)
    proto.graph.input[0].type.tensor_type.shape.dim[1].dim_param = "T"
    with pytest.raises(FrontendError, match="needs a known size"):
        import_model(declare(proto, results))
