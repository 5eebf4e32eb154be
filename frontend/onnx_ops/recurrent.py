"""Recurrent layers, unrolled over a known number of steps.

`DynamicQuantizeLSTM` is ONNX Runtime's: what a product reads becomes u8 by its own range, all of
the input at once and the state at each step.
"""

# mypy: disable-error-code="no-any-return"
# (operators hand back `Any`: their results are read from their types)

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from tunesmith.ir import opset as ops
from tunesmith.ir.dims import Dim
from tunesmith.ir.ops import Expr
from tunesmith.ir.types import DType

from ..limits import LIMITS
from ..onnx_call import Call, Result, Rule, Table
from .activation import softplus
from .building import cast_to, permute, reshape_to, slice_to
from .linear import integer_product
from .quantize import dynamic

__all__ = ["MICROSOFT_RECURRENT", "RECURRENT"]

Activation = Callable[[Expr], Expr]
State = tuple[Expr, ...]
Step = Callable[[Expr, State], State]
Product = Callable[[Expr], Expr]

_ALPHA = {"LeakyRelu": 0.01, "ThresholdedRelu": 1.0, "HardSigmoid": 0.2, "Elu": 1.0}
_SCALED = ("Affine", "LeakyRelu", "ThresholdedRelu", "ScaledTanh", "HardSigmoid", "Elu")
_SHIFTED = ("Affine", "ScaledTanh", "HardSigmoid")


@dataclass(frozen=True)
class _Layer:
    """One direction: its weights, its activations, and whether it runs from the end."""

    call: Call
    weighted: Product  # [T, B, I] → [T, B, gates * H]
    again: Expr | None  # [H, gates * H], if a part of it may be read
    again_weighted: Product  # [B, H] → [B, gates * H]
    bias: tuple[Expr, Expr] | None  # of the input, and of the state
    peepholes: Expr | None
    activations: list[Activation]
    size: int
    backwards: bool

    def gate(self, x: Expr, number: int) -> Expr:
        """The columns of one gate."""
        return slice_to(x, len(x.shape) - 1, number * self.size, (number + 1) * self.size)

    def clipped(self, x: Expr) -> Expr:
        """What goes into an activation, held within bounds if there are some."""
        if "clip" not in self.call.attributes:
            return x
        limit = self.call.number("clip")
        return ops.clip(x, low=-limit, high=limit)


def _rule(gates: int, states: int, defaults: tuple[str, ...],
          step: Callable[[_Layer], Step], quantized: bool = False) -> Rule:  # fmt: skip
    def rule(call: Call) -> Result:
        batch_first = bool(call.integer("layout", 0))
        x = permute(call.x(), (1, 0, 2)) if batch_first else call.x()
        length, batch = x.shape[:2]
        if not isinstance(length, int):
            call.fail(f"needs a known number of steps, not {length}", hint="fix it with `dims`")
        if length > LIMITS.steps:
            call.fail(f"{length} steps are too many to unroll; the limit is {LIMITS.steps}")
        layers = _layers(call, gates, defaults, quantized)
        lengths = _lengths(call, length)
        if quantized and lengths is not None and any(layer.backwards for layer in layers):
            call.fail("sequences of different lengths are quantized forwards only")
        if quantized and lengths is not None:  # what no sequence reads has no part in a range
            places = call.builder.constant(np.arange(length).reshape(length, 1, 1))
            longest = ops.reduce_max(lengths, axes=(0, 1), keepdims=True)
            x = ops.where(ops.greater(reshape_to(longest, (1, 1, 1)), places), x, 0.0)
        results: list[list[Expr]] = [[] for _ in range(1 + states)]
        for number, layer in enumerate(layers):
            start = [_initial(call, 5 + i, number, batch, layer, batch_first)
                     for i in range(states)]  # fmt: skip
            outputs, final = _unrolled(x, layer, step(layer), tuple(start), lengths)
            results[0].append(outputs)
            for found, state in zip(results[1:], final, strict=True):
                found.append(reshape_to(state, (1, batch, layer.size)))
        y = _joined(results[0], 1)
        finals = [_joined(found, 0) for found in results[1:]]
        if batch_first:
            y, finals = permute(y, (2, 0, 1, 3)), [permute(s, (1, 0, 2)) for s in finals]
        return [y, *finals]

    return rule


def _joined(parts: list[Expr], axis: int) -> Expr:
    return parts[0] if len(parts) == 1 else ops.concat(*parts, axis=axis)


def _layers(call: Call, gates: int, defaults: tuple[str, ...], quantized: bool) -> list[_Layer]:
    direction = call.text("direction", "forward")
    if direction not in ("forward", "reverse", "bidirectional"):
        call.fail(f"`direction` cannot be `{direction}`")
    count = 2 if direction == "bidirectional" else 1
    weight, again = call.x(1), call.x(2)
    if quantized:  # which has rows for what is read, not for gates
        size, width = again.shape[1], weight.shape[2]
    else:
        size, width = again.shape[2], weight.shape[1]
    if not isinstance(size, int) or weight.shape[0] != count or width != gates * size:
        call.fail(f"its weights {weight.type} and {again.type} do not fit {count} directions")
    if call.integer("hidden_size", size) != size:
        call.fail(f"its `hidden_size` is not that of the weights, {size}")
    activations = _activations(call, defaults * count)
    each = len(defaults)
    layers = []
    for i in range(count):
        if quantized:
            matrix = None
            first, second = (_integers(call, place, scale, i) for place, scale in ((1, 8), (2, 10)))
        else:
            matrix = permute(_direction(again, i), (1, 0))
            first, second = (_floats(x) for x in (permute(_direction(weight, i), (1, 0)), matrix))
        layers.append(_Layer(
            call, first, matrix, second, _biases(call, i, gates * size),
            _direction(call.x(7), i) if "LSTM" in call.operator and call.has(7) else None,
            activations[i * each : (i + 1) * each], size, direction == "reverse" or i == 1,
        ))  # fmt: skip
    return layers


def _floats(matrix: Expr) -> Product:
    """A product by a matrix."""
    return lambda x: ops.matmul(x, matrix)


def _integers(call: Call, place: int, scale: int, number: int) -> Product:
    """A product by a matrix of integers, which has one scale and zero point, or one a column."""
    matrix = _direction(call.x(place), number)
    factor, zero = (
        reshape_to(part, ()) if part.type.size == 1 else reshape_to(part, part.shape[-1:])
        for part in (slice_to(call.x(i), 0, number, number + 1) for i in (scale, scale + 1))
    )

    def product(x: Expr) -> Expr:
        codes, x_scale, x_zero = dynamic(call, x)
        total = integer_product(
            call, codes, cast_to(x_zero, DType.i32), matrix, cast_to(zero, DType.i32)
        )
        return cast_to(total, DType.f32) * (x_scale * factor)

    return product


def _direction(x: Expr, number: int) -> Expr:
    return reshape_to(slice_to(x, 0, number, number + 1), x.shape[1:])


def _biases(call: Call, number: int, width: int) -> tuple[Expr, Expr] | None:
    if not call.has(3):
        return None
    both = _direction(call.x(3), number)
    return slice_to(both, 0, 0, width), slice_to(both, 0, width, 2 * width)


def _activations(call: Call, defaults: tuple[str, ...]) -> list[Activation]:
    given = call.attributes.get("activations")
    names = list(defaults)
    if given is not None:
        names = [bytes(item).decode("utf-8", "replace") for item in given.strings]
    if len(names) != len(defaults):
        call.fail(f"it has {len(names)} activations instead of {len(defaults)}")
    known = {name.lower(): name for name in (*_PLAIN, *_SCALED)}
    alphas, betas = (
        (call.number_list("activation_alpha") or []),
        (call.number_list("activation_beta") or []),
    )
    found = []
    for name in names:
        exact = known.get(name.lower())
        if exact is None:
            call.fail(f"its activation `{name}` is not known")
        if exact in _PLAIN:
            found.append(_PLAIN[exact])
            continue
        alpha = alphas.pop(0) if alphas else _ALPHA.get(exact)
        beta = None
        if exact in _SHIFTED:
            beta = betas.pop(0) if betas else {"HardSigmoid": 0.5}.get(exact)
        if alpha is None or (exact in _SHIFTED and beta is None):
            call.fail(f"its activation `{name}` needs an alpha and a beta")
        found.append(_scaled(exact, alpha, beta or 0.0))
    return found


_PLAIN: dict[str, Activation] = {
    "Relu": lambda x: ops.relu(x),
    "Tanh": lambda x: ops.tanh(x),
    "Sigmoid": lambda x: ops.sigmoid(x),
    "Softsign": lambda x: x / (ops.abs_(x) + 1.0),
    "Softplus": softplus,
}


def _scaled(name: str, alpha: float, beta: float) -> Activation:
    rules: dict[str, Activation] = {
        "Affine": lambda x: x * alpha + beta,
        "LeakyRelu": lambda x: ops.where(ops.less(x, 0.0), x * alpha, x),
        "ThresholdedRelu": lambda x: ops.where(ops.greater(x, alpha), x, 0.0),
        "ScaledTanh": lambda x: ops.tanh(x * beta) * alpha,
        "HardSigmoid": lambda x: ops.clip(x * alpha + beta, low=0.0, high=1.0),
        "Elu": lambda x: ops.where(ops.less(x, 0.0), (ops.exp(x) - 1.0) * alpha, x),
    }
    return rules[name]


def _lengths(call: Call, length: int) -> Expr | None:
    """How many steps each sequence of the batch has; `None` if all have all."""
    if not call.has(4):
        return None
    array = call.tensor(4).array
    if array is not None and (array == length).all():
        return None
    lengths = cast_to(call.x(4), DType.i64)
    return reshape_to(lengths, (*lengths.shape, 1))


def _initial(
    call: Call, index: int, number: int, batch: Dim, layer: _Layer, batch_first: bool
) -> Expr:
    if not call.has(index):
        return ops.full(value=0.0, shape=(batch, layer.size), dtype=call.dtype())
    state = permute(call.x(index), (1, 0, 2)) if batch_first else call.x(index)
    return _direction(state, number)


def _unrolled(
    x: Expr, layer: _Layer, step: Step, state: State, lengths: Expr | None
) -> tuple[Expr, State]:
    """All outputs `[T, 1, B, H]`, and the states at the end."""
    length, batch = x.shape[:2]
    assert isinstance(length, int)
    inputs = layer.weighted(x)
    if layer.bias is not None:
        inputs = inputs + layer.bias[0]
    outputs: list[Expr] = []
    given = state
    for i in range(length):
        at = length - 1 - i if layer.backwards else i
        now = step(reshape_to(slice_to(inputs, 0, at, at + 1), inputs.shape[1:]), given)
        shown = now[0]
        if lengths is not None:
            going = ops.greater(lengths, at)
            now = tuple(ops.where(going, a, b) for a, b in zip(now, state, strict=True))
            shown = ops.where(going, shown, 0.0)
        given = state = now
        if not layer.backwards:  # zeros of sequences that have ended have no part in a range
            given = (shown, *state[1:])
        outputs.append(reshape_to(shown, (1, 1, batch, layer.size)))
    if layer.backwards:
        outputs.reverse()
    if not outputs:
        return ops.full(value=0.0, shape=(0, 1, batch, layer.size), dtype=x.dtype), state
    return _joined(outputs, 0), state


def _through(layer: _Layer, h: Expr) -> Expr:
    """What the state adds to the gates."""
    found = layer.again_weighted(h)
    return found if layer.bias is None else found + layer.bias[1]


def _rnn(layer: _Layer) -> Step:
    def step(x: Expr, state: State) -> State:
        return (layer.activations[0](layer.clipped(x + _through(layer, state[0]))),)

    return step


def _gru(layer: _Layer) -> Step:
    f, g = layer.activations
    reset_last = bool(layer.call.integer("linear_before_reset", 0))
    again = layer.again
    assert again is not None

    def step(x: Expr, state: State) -> State:
        (h,) = state
        if reset_last:
            added = _through(layer, h)
        else:  # the third gate sees the state after its reset
            added = ops.matmul(h, slice_to(again, 1, 0, 2 * layer.size))
            if layer.bias is not None:
                added = added + slice_to(layer.bias[1], 0, 0, 2 * layer.size)
        update = f(layer.clipped(layer.gate(x, 0) + layer.gate(added, 0)))
        reset = f(layer.clipped(layer.gate(x, 1) + layer.gate(added, 1)))
        if reset_last:
            hidden = layer.gate(x, 2) + reset * layer.gate(added, 2)
        else:
            hidden = layer.gate(x, 2) + ops.matmul(reset * h, layer.gate(again, 2))
            if layer.bias is not None:
                hidden = hidden + layer.gate(layer.bias[1], 2)
        new = g(layer.clipped(hidden))
        return ((1.0 - update) * new + update * h,)

    return step


def _lstm(layer: _Layer) -> Step:
    f, g, last = layer.activations
    coupled = bool(layer.call.integer("input_forget", 0))

    def peep(x: Expr, cell: Expr, number: int) -> Expr:
        return x if layer.peepholes is None else x + cell * layer.gate(layer.peepholes, number)

    def step(x: Expr, state: State) -> State:
        h, cell = state
        gates = x + _through(layer, h)
        enter = f(layer.clipped(peep(layer.gate(gates, 0), cell, 0)))
        forget = 1.0 - enter if coupled else f(
            layer.clipped(peep(layer.gate(gates, 2), cell, 2))
        )  # fmt: skip
        new = forget * cell + enter * g(layer.clipped(layer.gate(gates, 3)))
        leave = f(layer.clipped(peep(layer.gate(gates, 1), new, 1)))
        return leave * last(new), new

    return step


RECURRENT: Table = {
    "GRU": ((7, _rule(3, 1, ("Sigmoid", "Tanh"), _gru)),),
    "LSTM": ((7, _rule(4, 2, ("Sigmoid", "Tanh", "Tanh"), _lstm)),),
    "RNN": ((7, _rule(1, 1, ("Tanh",), _rnn)),),
}
MICROSOFT_RECURRENT: Table = {
    "DynamicQuantizeLSTM": ((1, _rule(4, 2, ("Sigmoid", "Tanh", "Tanh"), _lstm, quantized=True)),),
}
