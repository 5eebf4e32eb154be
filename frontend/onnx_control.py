"""Operators that hold graphs: the branch that is taken, and loops that are unrolled."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
from onnx import GraphProto

from tunesmith.ir import opset as ops
from tunesmith.ir.dims import Dim
from tunesmith.ir.ops import Expr
from tunesmith.ir.types import DType

from .limits import LIMITS
from .onnx_call import Call, Tensor
from .onnx_content import of_items
from .onnx_ops.building import index_axis, reshape_to
from .onnx_shapes import Learned

__all__ = ["CONTROL", "Body"]

Body = Callable[[GraphProto, Mapping[str, Tensor]], list[Tensor]]
Results = list[Expr | Tensor]


def _graph(call: Call, name: str) -> GraphProto:
    found = call.attributes.get(name)
    if found is None or not found.HasField("g"):
        call.fail(f"it needs the graph `{name}`")
    return found.g


def _if(call: Call, body: Body) -> Results:
    """The branch of a condition that is known; else both, and a choice between their results."""
    condition = call.scalar(0)
    if condition is not None:
        return [*body(_graph(call, "then_branch" if condition else "else_branch"), {})]
    if call.tensor(0).type.size != 1:
        call.fail(f"its condition {call.tensor(0).type} is not one flag")
    try:
        yes, no = (body(_graph(call, name), {}) for name in ("then_branch", "else_branch"))
    except Learned:  # what one branch asks of sizes is not so for the other
        call.undecided(
            "its condition depends on data, and a branch works for some sizes only", call.tensor(0),
            hint="fix these sizes with `shapes` or `dims`",
        )  # fmt: skip
    found: Results = []
    flag = reshape_to(call.x(0), ())
    for a, b in zip(yes, no, strict=True):
        if a.type != b.type:
            call.undecided(
                f"its condition depends on data, and its branches give {a.type} and {b.type}",
                call.tensor(0), hint="give both results one type",
            )  # fmt: skip
        found.append(ops.where(flag, a.expr, b.expr))
    return found


def _loop(call: Call, body: Body) -> Results:
    """As many rounds as are known; what each round gives is stacked."""
    graph = _graph(call, "body")
    rounds = call.sizes(0, "number of rounds")[0] if call.has(0) else None
    if rounds is not None and not isinstance(rounds, int):
        call.fail(f"needs a known number of rounds, not {rounds}", hint="fix it with `dims`")
    going = Tensor.of(call.constant(np.asarray(True)))
    if call.has(1):
        going = call.tensor(1)
    state = [call.tensor(i) for i in range(2, len(call.inputs))]
    names = [value.name for value in graph.input]
    stacked: list[list[Expr]] = [[] for _ in graph.output[1 + len(state) :]]
    count = 0
    while (rounds is None or count < rounds) and _flag(call, going):
        if count >= LIMITS.steps:
            call.fail(f"more than {LIMITS.steps} rounds are too many to unroll")
        number = call.content(of_items([count], ()), DType.i64)
        given = dict(zip(names, [number, going, *state], strict=True))
        going, *results = body(graph, given)
        state, rows = results[: len(state)], results[len(state) :]
        for part, row in zip(stacked, rows, strict=True):
            part.append(row.expr)
        count += 1
    if not count and stacked:
        call.fail("a loop without a round, whose results have no known shape, is not supported")
    return [*state, *(_stacked(rows, 0) for rows in stacked)]


def _flag(call: Call, going: Tensor) -> bool:
    content = call.settled(going).content
    item = None if content is None or content.size != 1 else content.reshape(-1)[0]
    if not isinstance(item, bool | int):
        call.undecided(
            "whether it goes on depends on data, which is not supported",
            going,
            hint="export the model without the loop",
        )
    return bool(item)


def _stacked(rows: Sequence[Expr], axis: int) -> Expr:
    """Results of rounds along a new axis."""
    shape = rows[0].shape
    parts = [reshape_to(row, (*shape[:axis], 1, *shape[axis:])) for row in rows]
    found = parts[0] if len(parts) == 1 else ops.concat(*parts, axis=axis)
    assert isinstance(found, Expr)
    return found


def _scan(call: Call, body: Body) -> Results:
    """A round for each element of an axis."""
    if call.opset < 9:
        call.fail("`Scan` of opset 8, by batches, is not supported", hint="export at opset 9 or up")
    graph = _graph(call, "body")
    scanned = call.integer("num_scan_inputs")
    states = len(call.inputs) - scanned
    outputs = len(graph.output) - states
    if scanned < 1 or states < 0 or outputs < 0:
        call.fail(f"{scanned} of its {len(call.inputs)} operands cannot be scanned")
    ahead = call.integer_list("scan_input_directions") or (0,) * scanned
    behind = call.integer_list("scan_output_directions") or (0,) * outputs
    given = call.integer_list("scan_input_axes") or (0,) * scanned
    axes = [call.axis(axis, call.rank(states + i)) for i, axis in enumerate(given)]
    sizes = {call.shape(states + i)[axis] for i, axis in enumerate(axes)}
    length = _length(call, sizes)
    names = [value.name for value in graph.input]
    state = [call.tensor(i) for i in range(states)]
    rows: list[list[Expr]] = [[] for _ in range(outputs)]
    for step in range(length):
        parts = []
        for i, axis in enumerate(axes):
            at = length - 1 - step if ahead[i] else step
            parts.append(Tensor.of(index_axis(call.x(states + i), axis, at)))
        results = body(graph, dict(zip(names, [*state, *parts], strict=True)))
        state = results[:states]
        for found, row in zip(rows, results[states:], strict=True):
            found.append(row.expr)
    places = call.integer_list("scan_output_axes") or (0,) * outputs
    stacked = []
    for found, place, turned in zip(rows, places, behind, strict=True):
        ordered = found[::-1] if turned else found
        stacked.append(_stacked(ordered, call.axis(place, len(ordered[0].shape) + 1)))
    return [*state, *stacked]


def _length(call: Call, sizes: set[Dim]) -> int:
    length = next(iter(sizes))
    if len(sizes) != 1 or not isinstance(length, int):
        text = ", ".join(map(str, sizes))
        call.fail(f"needs one known number of rounds, not {text}", hint="fix it with `dims`")
    if not 0 < length <= LIMITS.steps:
        call.fail(f"{length} rounds cannot be unrolled; the limit is {LIMITS.steps}")
    return length


CONTROL: dict[str, Callable[[Call, Body], Results]] = {"If": _if, "Loop": _loop, "Scan": _scan}
