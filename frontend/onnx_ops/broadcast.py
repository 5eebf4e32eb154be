"""Operators before opset 7, where a second operand was stretched only on demand, along one axis."""

# mypy: disable-error-code="no-any-return"
# (operators hand back `Any`: their results are read from their types)

from __future__ import annotations

from dataclasses import replace

from ..onnx_call import Call, Result, Rule, Tensor
from .building import reshape_to

__all__ = ["since_1"]


def since_1(rule: Rule) -> tuple[tuple[int, Rule], ...]:
    """A rule of opset 7, and what it was before."""

    def before(call: Call) -> Result:
        x, y = call.x(0), call.x(1)
        if call.integer("broadcast", 0):
            free = len(x.shape) - len(y.shape)
            axis = call.integer("axis", free)
            if not 0 <= axis <= free:
                call.fail(f"{y.type} does not lie in {x.type} at axis {axis}")
            y = reshape_to(y, (*y.shape, *(1 for _ in range(free - axis))))
        elif len(x.shape) != len(y.shape):
            call.fail(f"cannot combine {x.type} with {y.type} without `broadcast`")
        return rule(replace(call, inputs=[call.inputs[0], Tensor.of(y)]))

    return (1, before), (7, rule)
