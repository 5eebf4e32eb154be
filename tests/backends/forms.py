"""Graphs of one operator for every operator of the table, with sizes that a run chooses.

`R` and `S` are at least 1, `Z` may be 0. The operators take the element types of `tests.ir.cases`.
"""

from __future__ import annotations

from dataclasses import replace

from tests.ir.cases import CASES, IDX, Case
from tunesmith.ir.ops import OPS

__all__ = ["EDGES", "FORMS", "dtypes_of"]

WINDOW = "strides = [2], low = [1], high = [1]"
DILATED = f"{WINDOW}, dilations = [1]"
ROTATED = "%x: T[R, 2, S, 6], %c: T[S, 6], %s: T[S, 6]"

_MOVING = {
    "constant": [Case("%x: T[S]", "constant() {value = f32[2, 2] [1.5, -2.0, inf, nan]}")],
    "full": [Case("%x: T[0<=Z]", "full() {value = 3, shape = [2, Z], dtype = T}")],
    "iota": [Case("%x: T[0<=Z]", "iota() {size = Z, dtype = T}")],
    "dim_value": [Case("%x: T[S]", "dim_value() {size = S, dtype = T}")],
    "reshape": [Case("%x: T[R, 0<=Z, 4]", "reshape(%x) {shape = [R*Z, 2, 2]}")],
    "transpose": [Case("%x: T[R, 0<=Z, 3]", "transpose(%x) {perm = [2, 0, 1]}")],
    "expand": [Case("%x: T[R, 1, 0<=Z]", "expand(%x) {shape = [2, R, 5, Z]}")],
    "slice": [Case("%x: T[R, S + 7]", "slice(%x) {axis = 1, start = 2, stop = S + 6, step = 2}")],
    "concat": [Case("%x: T[R, S], %y: T[R, 3]", "concat(%x, %y, %x) {axis = 1}")],
    "write_slice": [
        Case("%y: T[R, 0<=Z], %x: T[R, S + Z + 2]", "write_slice(%x, %y) {axis = 1, start = S}")
    ],
    "pad": [Case("%x: T[R, S]", "pad(%x) {low = [1, 2], high = [0, 1], value = 1.0}")],
    "gather": [Case("%x: T[3, S], %i: i64[R, 2]", "gather(%x, %i)", ranges=IDX)],
    "gather_elements": [
        Case("%x: T[R, 3], %i: i64[R, S]", "gather_elements(%x, %i) {axis = 1}", ranges=IDX)
    ],
    "gather_nd": [Case("%x: T[3, 3, S], %i: i32[R, 2]", "gather_nd(%x, %i)", ranges=IDX)],
    "scatter_nd": [
        Case("%x: T[9, S], %i: i64[1, 1], %u: T[1, S]", "scatter_nd(%x, %i, %u)", ranges=IDX)
    ],
}
_REDUCING = {
    **{
        name: [Case("%x: T[R, S]", f"{name}(%x) {{axes = [-1], keepdims = true}}")]
        for name in ("reduce_sum", "reduce_mean", "reduce_max", "reduce_min", "reduce_prod")
    },
    "reduce_all": [Case("%x: T[R, 0<=Z]", "reduce_all(%x) {axes = [1]}")],
    "argmax": [Case("%x: T[R, S]", "argmax(%x) {axis = 1, last = false}")],
    "argmin": [Case("%x: T[R, S]", "argmin(%x) {axis = 1, last = true}")],
    "cumsum": [Case("%x: T[R, S]", "cumsum(%x) {axis = 1, exclusive = true, reverse = false}")],
    "topk": [Case("%x: T[R, S + 2]", "topk(%x) {k = 3}")],
}
_COMPOUND = {
    "true_places": [Case("%x: T[S + 2]", "true_places(%x)")],
    "suppress": [Case("%x: T[R, 9, 4], %s: T[R, 9], %m: i64[], %o: T[], %l: T[]",
                      "suppress(%x, %s, %m, %o, %l)", ranges={"m": (0, 5), "o": (0.1, 0.9)})],
    "where": [Case("%c: bool[R, 1], %x: T[R, 0<=Z], %y: T[1, Z]", "where(%c, %x, %y)")],
    "dequantize": [Case("%x: i8[R, 0<=Z], %s: T[Z]", "dequantize(%x, %s)")],
    "matmul": [Case("%x: T[R, 0<=Z, 5], %y: T[5, S]", "matmul(%x, %y)")],
    "linear": [Case("%x: T[R, S, 4], %w: T[4, 17]", "linear(%x, %w)")],
    "conv": [Case("%x: T[R, 2, S + 2], %w: T[3, 2, 3], %b: T[3]", f"conv(%x, %w, %b) {{{DILATED}}}",
                  ranges={"w": (-2, 2)})],
    "max_pool": [Case("%x: T[R, 2, S + 2]", f"max_pool(%x) {{kernel = [3], {DILATED}}}")],
    "average_pool": [
        Case("%x: T[R, 2, S + 2]",
             f"average_pool(%x) {{kernel = [3], {WINDOW}, count_padding = false}}")
    ],
    "clip": [Case("%x: T[R, 0<=Z]", "clip(%x) {low = -1.0, high = 1.0}")],
    "softmax": [Case("%x: T[R, S]", "softmax(%x)")],
    "log_softmax": [Case("%x: T[R, S]", "log_softmax(%x)")],
    "layer_norm": [Case("%x: T[R, S], %w: T[S], %b: T[S]", "layer_norm(%x, %w, %b)")],
    "rms_norm": [Case("%x: T[R, S], %w: T[S]", "rms_norm(%x, %w)")],
    "attention": [
        Case("%q: T[R, 4, S, 6], %k: T[R, 2, S, 6], %v: T[R, 2, S, 5]",
             "attention(%q, %k, %v) {scale = 0.5, causal = true}")
    ],
    "rotary": [Case(ROTATED, "rotary(%x, %c, %s)"),
               Case(ROTATED, "rotary(%x, %c, %s) {interleaved = true}")],
}  # fmt: skip


def dtypes_of(op: str) -> list[str]:
    """The element types that an operator takes."""
    return list(dict.fromkeys(d for case in CASES if case.op == op for d in case.dtypes.split()))


def _forms(op: str) -> list[Case]:
    known = {**_MOVING, **_REDUCING, **_COMPOUND}
    if op in known:
        return [replace(case, dtypes=" ".join(dtypes_of(op))) for case in known[op]]
    samples = [case for case in CASES if case.op == op]
    if op in ("cast", "bitcast"):  # one for each type of the result
        return [replace(case, inputs="%x: T[R, 0<=Z]") for case in samples]
    if "elementwise" not in OPS[op].traits:
        return []
    ranges = samples[0].ranges if samples else {}
    dtypes = " ".join(dtypes_of(op))
    if len(OPS[op].operand_names) == 1:
        return [Case("%x: T[R, 0<=Z]", f"{op}(%x)", dtypes, ranges)]
    both = "%x: T[R, 0<=Z], %y: T[R, 1]"
    if op == "pow":
        floats = " ".join(d for d in dtypes.split() if "f" in d)
        rest = " ".join(d for d in dtypes.split() if "f" not in d)
        return [Case(both, "pow(%x, %y)", floats, {"x": (0.5, 2)}),
                Case(both, "pow(%x, %y)", rest, {"y": (1, 4)})]  # fmt: skip
    return [Case(both, f"{op}(%x, %y)", dtypes, ranges)]


# `bind_size` has no element: what it does is tested in `test_data_sizes`.
FORMS: dict[str, list[Case]] = {op: _forms(op) for op in OPS if op not in ("return", "bind_size")}

_LENGTHS = (0, 1, 15, 16, 17, 33, 65)
_LAST = ("reduce_sum(%x) {axes = [-1]}", "reduce_max(%x) {axes = [-1]}", "softmax(%x)")
EDGES: list[Case] = [
    *(Case(f"%x: T[2, {n}], %y: T[{n}]", "add(%x, %y)") for n in _LENGTHS),
    *(Case(f"%x: T[3, {n}]", node) for n in _LENGTHS[1:] for node in _LAST),
    *(Case(f"%x: T[3, {n}, 5]", "reduce_min(%x) {axes = [1]}") for n in (1, 16, 17)),
    *(Case(f"%x: T[2, {m}, {k}], %y: T[2, {k}, {n}]", "matmul(%x, %y)")
      for m, k, n in ((1, 1, 1), (3, 0, 4), (1, 17, 33), (13, 16, 15), (5, 65, 64))),
    Case("%x: T[R, 1, S], %y: T[3, 1]", "sub(%x, %y)"),
    Case("%x: T[R, 1], %y: T[1, 0<=Z]", "sub(%x, %y)"),
    Case("%x: T[0<=Z], %y: T[R, S, 1]", "mul(%x, %y)"),
    Case("%x: T[], %y: T[R, 0<=Z]", "div(%x, %y)"),
    Case("%x: T[1], %y: T[1]", "sub(%x, %y)"),
    Case("%x: T[R, 1, 2, S], %y: T[3, 1, S]", "sub(%x, %y)"),
    Case("%x: T[R, 3, S], %y: T[R, 1, S]", "sub(%x, %y)"),
    *(Case("%x: T[R, 3, 0<=Z]", f"{op}(%x) {{axes = [{axes}], keepdims = {keep}}}")
      for op in ("reduce_sum", "reduce_prod")
      for axes, keep in (("1", "true"), ("0, 2", "false"), ("", "false"), ("1, 2", "true"))),
    Case("%x: T[R, 3, S]", "reduce_mean(%x) {axes = [0, 1, 2]}"),
    Case("%x: T[R, 3, S]", "reduce_max(%x) {axes = [0, 2]}"),
    Case("%x: T[R, 3, S]", "softmax(%x) {axis = 0}"),
    Case("%x: T[R, 3, S]", "argmax(%x) {axis = 0, last = true}"),
    Case("%x: T[R, 3, S]", "cumsum(%x) {axis = 0, exclusive = false, reverse = true}"),
    Case("%x: T[R, 4, S]", "topk(%x) {k = 2, axis = 1, largest = false}"),
    Case("%x: T[0<=Z, 2], %y: T[R, 2]", "concat(%x, %y, %x) {axis = 0}"),
    Case("%x: T[R, 0<=Z]", "pad(%x) {low = [1, 2], high = [0, 1], value = 1.0}"),
    Case("%x: T[R, S + 2]", "pad(%x) {low = [0, -1], high = [2, -1]}"),
    Case("%x: T[3, 0<=Z], %i: i64[R, 2]", "gather(%x, %i)", ranges=IDX),
    Case("%x: T[R, S, 3], %i: u8[2, 2]", "gather(%x, %i) {axis = 2}", ranges={"i": (0, 3)}),
    Case("%x: T[R, S]", "slice(%x) {axis = 1, start = S - 1, stop = -1, step = -3}"),
    Case("%x: T[R, S, 2]", "transpose(%x) {perm = [1, 0, 2]}"),
    *(Case("%x: T[4, S], %i: i64[6, 1], %u: T[6, S]",
           f'scatter_nd(%x, %i, %u) {{reduction = "{r}"}}', ranges=IDX)
      for r in ("add", "mul", "min", "max")),
]  # fmt: skip
