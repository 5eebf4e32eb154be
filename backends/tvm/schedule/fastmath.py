"""Transcendental functions of fp32 scalars as arithmetic, selections and reinterpreted bits.

TVM lowers `exp`, `tanh` and `erf` to one call of libm a lane, even in a vectorized loop; these
become vector code. NaN stays NaN and infinities go to their limits, because every clamp is a
comparison that is false for NaN. Polynomials: Cephes (Moshier, 1992) for `exp` and `log`; rational
functions of odd parts as in Eigen for `tanh` and `erf`. To be called where statements may stand:
intermediate values are bound to variables.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from tvm.ir import Expr
from tvm.script.ir_builder import IRBuilder
from tvm.tirx import Select, const
from tvm.tirx.script import builder as T

from .emit import held

_EXP = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 0.5)
_LOG = (
    7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1,
    -1.6668057665e-1, 2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1,
)  # fmt: skip
_TANH_ABOVE = (
    -2.76076847742355e-16, 2.00018790482477e-13, -8.60467152213735e-11, 5.12229709037114e-08,
    1.48572235717979e-05, 6.37261928875436e-04, 4.89352455891786e-03,
)  # fmt: skip
_TANH_BELOW = (
    1.19825839466702e-06,
    1.18534705686654e-04,
    2.26843463243900e-03,
    4.89352518554385e-03,
)
_ERF_ABOVE = (
    2.1237322016531834e-06, 2.8619795921258628e-04, 3.6580483429133892e-03,
    5.2433021366596222e-02, 1.8741607666015625e-01, 1.1283791065216064e00,
)  # fmt: skip
_ERF_BELOW = (
    3.8918573409318924e-05, 1.1432960163801908e-03, 1.4752088114619255e-02,
    1.1294567584991455e-01, 4.9942579865455627e-01, 1.0,
)  # fmt: skip
_ROUND = 12582912.0  # 1.5 * 2^23: added to a small float it rounds it, into the low bits
_ROUND_BITS = 0x4B400000


def _f(value: float) -> Expr:
    return const(value, "float32")


def _i(value: int) -> Expr:
    return const(value, "int32")


def _named(value: Expr, body: Callable[[Expr], Expr]) -> Expr:
    """Return `body` of a variable that holds `value`, which is so computed once.

    Outside of an IR builder there is no place for a variable, and `value` is repeated instead.
    """
    return body(held(value) if IRBuilder.is_in_scope() else value)


def _polynomial(x: Expr, coefficients: Sequence[float]) -> Expr:
    """Evaluate a polynomial by Horner's rule, the highest power first."""
    total = _f(coefficients[0])
    for coefficient in coefficients[1:]:
        total = total * x + _f(coefficient)
    return total


def _clamp(x: Expr, low: float, high: float) -> Expr:
    """Limit `x`, but let NaN through."""
    return Select(x < _f(low), _f(low), Select(x > _f(high), _f(high), x))


def _power_of_two(n: Expr) -> Expr:
    return T.reinterpret("float32", (n + _i(127)) << _i(23))


def _exp_reduced(x: Expr, scale: Callable[[Expr, Expr], Expr]) -> Expr:
    """Write `exp(x)` as `y * 2^n` with `|log y| <= log(2) / 2` and return `scale(y, n)`.

    `floor` rounds, not the usual addition and subtraction of `_ROUND`: TVM would cancel those.
    """

    def reduced(n: Expr) -> Expr:
        return _named(x - n * _f(0.693359375) - n * _f(-2.12194440e-4), lambda r: finish(r, n))

    def finish(r: Expr, n: Expr) -> Expr:
        y = _polynomial(r, _EXP) * (r * r) + r + _f(1.0)
        bits = T.reinterpret("int32", n + _f(_ROUND)) - _i(_ROUND_BITS)  # a cast, safe for NaN
        return _named(bits, lambda whole: scale(y, whole))

    return _named(T.floor(x * _f(1.44269504088896341) + _f(0.5)), reduced)


def exp(x: Expr) -> Expr:
    """Return `e^x` to 2e-7, relative; denormal results as far as the machine has them."""

    def scale(y: Expr, n: Expr) -> Expr:
        half = n >> _i(1)  # in two steps, for 2^n with n = 128 or n < -126
        return y * _power_of_two(half) * _power_of_two(n - half)

    return _named(x, lambda v: _named(_clamp(v, -104.0, 89.0), lambda c: _exp_reduced(c, scale)))


def exp_nonpositive(x: Expr) -> Expr:
    """Return `e^x` for `x <= 0` (or NaN), 0 below the smallest normal number: for softmax."""

    def clamped(v: Expr) -> Expr:
        low = _f(-87.0)
        y = _named(Select(v < low, low, v), lambda c: _exp_reduced(c, _scaled))
        return Select(v < low, _f(0.0), y)

    return _named(x, clamped)


def _scaled(y: Expr, n: Expr) -> Expr:
    return y * _power_of_two(n)


def tanh(x: Expr) -> Expr:
    """Return `tanh(x)` to 3e-7 (4e-7 on machines without fused multiply-add)."""

    def clamped(c: Expr) -> Expr:
        def square(s: Expr) -> Expr:
            y = c * _polynomial(s, _TANH_ABOVE) / _polynomial(s, _TANH_BELOW)
            return _named(y, lambda v: _clamp(v, -1.0, 1.0))

        return _named(c * c, square)

    def whole(v: Expr) -> Expr:
        inside = _named(_clamp(v, -7.9, 7.9), clamped)
        return Select(v > _f(7.9), _f(1.0), Select(v < _f(-7.9), _f(-1.0), inside))

    return _named(x, whole)


def erf(x: Expr) -> Expr:
    """Return the error function of `x` to 3e-7 (4e-7 on machines without fused multiply-add)."""

    def clamped(c: Expr) -> Expr:
        def square(s: Expr) -> Expr:
            y = c * _polynomial(s, _ERF_ABOVE) / _polynomial(s, _ERF_BELOW)
            return _named(y, lambda v: _clamp(v, -1.0, 1.0))

        return _named(c * c, square)

    def whole(v: Expr) -> Expr:
        inside = _named(_clamp(v, -3.743, 3.743), clamped)
        return Select(v > _f(3.743), _f(1.0), Select(v < _f(-3.743), _f(-1.0), inside))

    return _named(x, whole)


def sigmoid(x: Expr) -> Expr:
    """Return `1 / (1 + exp(-x))` to 2e-7."""
    return _f(1.0) / (_f(1.0) + exp(_f(0.0) - x))


def log(x: Expr) -> Expr:
    """Return the natural logarithm of `x` to 3e-7, relative to the larger of it and 1."""

    def reduced(v: Expr) -> Expr:
        small = v < _f(1.1754944e-38)
        scaled = Select(small, v * _f(8388608.0), v)
        return _named(T.reinterpret("int32", scaled), lambda bits: split(v, small, bits))

    def split(v: Expr, small: Expr, bits: Expr) -> Expr:
        # m in [sqrt(1/2), sqrt(2)), v = m * 2^n
        n = ((bits - _i(0x3F3504F3)) >> _i(23)).astype("float32")
        low = (bits - _i(0x3F3504F3)) & _i(0x007FFFFF)
        m = T.reinterpret("float32", low + _i(0x3F3504F3)) - _f(1.0)
        power = n - Select(small, _f(23.0), _f(0.0))
        return _named(m, lambda r: _named(power, lambda e: finish(v, r, e)))

    def finish(v: Expr, r: Expr, n: Expr) -> Expr:
        square = r * r
        y = _polynomial(r, _LOG) * r * square + n * _f(-2.12194440e-4) - _f(0.5) * square + r
        y = y + n * _f(0.693359375)
        nan, lowest = _f(float("nan")), _f(float("-inf"))
        edge = Select(v == _f(0.0), lowest, Select(v < _f(0.0), nan, v))  # else v is NaN
        return Select(v > _f(0.0), Select(v > _f(3.4028234e38), v, y), edge)

    return _named(x, reduced)
