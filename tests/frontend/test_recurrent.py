"""Recurrent layers against ONNX Runtime: directions, lengths, activations, odd sizes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto

from tunesmith.driver import compile_model
from tunesmith.frontend import import_model
from tunesmith.ir.diagnostics import FrontendError
from tunesmith.ir.interpreter import evaluate
from tunesmith.runtime import load

from .models import Array, check, compare, declare, one, runtime

RNG = np.random.default_rng(23)
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def f(*shape: int) -> Array:
    """Random floats."""
    return np.asarray(RNG.standard_normal(shape) * 0.5, np.float32)


def layer(
    kind: str, steps: int, batch: int, width: int, size: int, count: int = 1,
    lengths: list[int] | None = None, start: bool = False, peepholes: bool = False,
    bias: bool = True, **attributes: Any,
) -> tuple[ModelProto, dict[str, Array]]:  # fmt: skip
    """A model of one layer; its weights are constants."""
    rows = GATES[kind] * size
    feeds: list[Array | None] = [
        f(steps, batch, width),
        f(count, rows, width),
        f(count, rows, size),
    ]
    feeds.append(f(count, 2 * rows) if bias else None)
    feeds.append(None if lengths is None else np.array(lengths, np.int32))
    feeds.append(f(count, batch, size) if start else None)
    if kind == "LSTM":
        feeds.append(f(count, batch, size) if start else None)
        feeds.append(f(count, 3 * size) if peepholes else None)
    while feeds[-1] is None:
        feeds.pop()
    outputs = 3 if kind == "LSTM" else 2
    return one(kind, feeds, opset=14, constants=[1, 2, 3, 7], outputs=outputs, hidden_size=size,
               **attributes)  # fmt: skip


@pytest.mark.parametrize("kind", list(GATES))
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
def test_sizes(kind: str, direction: str) -> None:
    count = 2 if direction == "bidirectional" else 1
    for steps, batch, width, size in ((1, 1, 1, 1), (2, 3, 5, 7), (7, 1, 16, 17), (5, 2, 3, 16)):
        proto, live = layer(
            kind, steps, batch, width, size, count, start=batch > 1, direction=direction
        )
        check(proto, live, 2e-5)


@pytest.mark.parametrize("kind", list(GATES))
@pytest.mark.parametrize("direction", ["forward", "reverse", "bidirectional"])
def test_lengths(kind: str, direction: str) -> None:
    count = 2 if direction == "bidirectional" else 1
    proto, live = layer(kind, 4, 3, 5, 6, count, lengths=[4, 1, 2], start=True,
                        direction=direction)  # fmt: skip
    check(proto, live, 2e-5)


@pytest.mark.parametrize(("bias", "reset"), [(True, 0), (True, 1), (False, 0), (False, 1)])
def test_gru_resets(bias: bool, reset: int) -> None:
    proto, live = layer("GRU", 3, 2, 4, 5, bias=bias, linear_before_reset=reset, start=True)
    check(proto, live, 2e-5)


def test_lstm_options() -> None:
    for proto, live in (
        layer("LSTM", 3, 2, 4, 5, peepholes=True, start=True),
        layer("LSTM", 3, 2, 4, 5, peepholes=True, clip=0.1),
        layer("LSTM", 3, 2, 4, 5, bias=False, input_forget=1),
    ):
        check(proto, live, 2e-5)


@pytest.mark.parametrize(
    ("names", "options"),
    [
        (["Relu"], {}), (["Softsign"], {}), (["Softplus"], {}), (["LeakyRelu"], {}),
        (["Affine"], {"activation_alpha": [0.5], "activation_beta": [0.25]}),
        (["HardSigmoid"], {"activation_alpha": [0.3], "activation_beta": [0.4]}),
        (["Elu"], {"activation_alpha": [0.7]}), (["ScaledTanh"],
         {"activation_alpha": [1.7], "activation_beta": [0.6]}),
    ],
)  # fmt: skip
def test_activations(names: list[str], options: dict[str, Any]) -> None:
    proto, live = layer("RNN", 3, 2, 4, 5, activations=names, **options)
    check(proto, live, 2e-5)


def test_batch_first() -> None:
    x, weight, again = f(3, 2, 4), f(1, 20, 4), f(1, 20, 5)
    proto, live = one("LSTM", [x, weight, again], opset=14, constants=[1, 2], outputs=3,
                      hidden_size=5, layout=1)  # fmt: skip
    turned = np.ascontiguousarray(x.transpose(1, 0, 2))
    plain = one("LSTM", [turned, weight, again], opset=14, constants=[1, 2], outputs=3,
                hidden_size=5)  # fmt: skip
    wanted = runtime(*plain)
    swapped = [wanted[0].transpose(2, 0, 1, 3), *(w.transpose(1, 0, 2) for w in wanted[1:])]
    compare(evaluate(import_model(declare(proto, swapped)), live), swapped, 2e-5)


def test_open_steps_are_refused() -> None:
    proto, live = layer("GRU", 3, 2, 4, 5)
    results = runtime(proto, live)
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "T"
    with pytest.raises(FrontendError, match="known number of steps"):
        import_model(declare(proto, results))


def quantized(
    steps: int, batch: int, width: int, size: int, *, direction: str = "forward",
    dtype: type = np.uint8, columns: bool = False, state: bool = False, peepholes: bool = False,
    lengths: Sequence[int] = (), seed: int = 0,
) -> tuple[ModelProto, dict[str, Array]]:  # fmt: skip
    """A model of `DynamicQuantizeLSTM`, and its inputs."""
    random = np.random.default_rng(seed)

    def f(*shape: int) -> Any:
        return random.standard_normal(shape).astype(np.float32)

    count = 2 if direction == "bidirectional" else 1
    low, high = (0, 256) if dtype is np.uint8 else (-128, 128)
    matrices: list[Array] = [random.integers(low, high, (count, rows, 4 * size)).astype(dtype)
                for rows in (width, size)]  # fmt: skip
    shape = (count, 4 * size) if columns else (count,)
    scales = [(random.random(shape) * 0.01 + 0.002).astype(np.float32) for _ in "WR"]
    middle = (low + high) // 2  # ONNX Runtime wants none that differ, and i8 has none by columns
    zeros: list[Array] = [np.full(shape, 0 if columns and dtype is np.int8 else middle + k, dtype)
             for k in (3, -5)]  # fmt: skip
    feeds: list[Array | None] = [
        f(steps, batch, width), *matrices, f(count, 8 * size) * 0.2,
        np.asarray(lengths, np.int32) if lengths else None,
        *((f(count, batch, size), f(count, batch, size)) if state else (None, None)),
        f(count, 3 * size) * 0.3 if peepholes else None, scales[0], zeros[0], scales[1], zeros[1],
    ]  # fmt: skip
    return one(
        "DynamicQuantizeLSTM", feeds, domain="com.microsoft", opset=21, outputs=3,
        constants=[1, 2, 3, 7, 8, 9, 10, 11], hidden_size=size, direction=direction,
    )  # fmt: skip


QUANTIZED: dict[str, dict[str, Any]] = {
    "one": {"steps": 1, "batch": 1, "width": 1, "size": 1},
    "steps": {"steps": 5, "batch": 1, "width": 3, "size": 4},
    "batch": {"steps": 3, "batch": 2, "width": 16, "size": 17, "state": True},
    "signed": {"steps": 7, "batch": 2, "width": 5, "size": 8, "dtype": np.int8},
    "columns": {"steps": 7, "batch": 2, "width": 5, "size": 8, "columns": True},
    "columns-signed": {"steps": 2, "batch": 2, "width": 5, "size": 8, "columns": True,
                       "dtype": np.int8},
    "both": {"steps": 3, "batch": 2, "width": 5, "size": 8, "direction": "bidirectional",
             "state": True},
    "reverse": {"steps": 3, "batch": 2, "width": 5, "size": 8, "direction": "reverse"},
    "lengths": {"steps": 6, "batch": 3, "width": 5, "size": 8, "lengths": (6, 2, 4), "state": True},
    "all end early": {"steps": 6, "batch": 3, "width": 5, "size": 8, "lengths": (4, 2, 3),
                      "state": True},
    "peepholes": {"steps": 4, "batch": 3, "width": 5, "size": 8, "peepholes": True},
    "primes": {"steps": 17, "batch": 3, "width": 31, "size": 33},
}  # fmt: skip


@pytest.mark.tvm
@pytest.mark.parametrize("name", QUANTIZED)
def test_a_layer_that_quantizes_what_it_reads(name: str) -> None:
    proto, feeds = quantized(**QUANTIZED[name])
    check(proto, feeds, 1e-5)
    if name in ("batch", "both", "lengths"):
        wanted = runtime(proto, feeds)
        found = load(compile_model(declare(proto, wanted), threads=1)).run(feeds)
        compare([*found.values()], wanted, 1e-4)


def test_lengths_backwards_are_not_quantized() -> None:
    proto, feeds = quantized(4, 2, 3, 8, direction="reverse", lengths=(4, 2))
    with pytest.raises(FrontendError, match="forwards only"):
        import_model(declare(proto, runtime(proto, feeds)))
