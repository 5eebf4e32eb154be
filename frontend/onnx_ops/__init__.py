"""The import rules: (domain, operator) → since which version → the nodes to build."""

from __future__ import annotations

from ..onnx_call import Call, Result, Rule, Table
from .activation import ACTIVATION
from .attention import ATTENTION
from .convolution import CONVOLUTION
from .deconvolution import DECONVOLUTION
from .grid import GRID
from .linear import LINEAR
from .math import MATH
from .microsoft import MICROSOFT
from .movement import MOVEMENT
from .norm import NORM
from .quantize import QUANTIZE
from .recurrent import RECURRENT
from .reduce import REDUCE
from .resize import RESIZE
from .shape import SHAPE
from .slicing import SLICING

__all__ = ["HINTS", "RULES", "find_rule"]


def _branch(call: Call) -> Result:
    """`If`: the importer takes the branch that is known, or refuses."""
    raise AssertionError(f"{call.operator} is imported by the importer itself")


CONTROL: Table = {"If": ((1, _branch),)}

RULES: dict[tuple[str, str], tuple[tuple[int, Rule], ...]] = {
    (domain, name): rules
    for domain, tables in (
        ("", (ACTIVATION, ATTENTION, CONTROL, CONVOLUTION, DECONVOLUTION, GRID, LINEAR, MATH,
              MOVEMENT, NORM, QUANTIZE, RECURRENT, REDUCE, RESIZE, SHAPE, SLICING)),
        ("com.microsoft", (MICROSOFT,)),
    )
    for table in tables
    for name, rules in table.items()
}  # fmt: skip

HINTS = {
    ("", "Loop"): "loops are not supported yet; export the model unrolled, or without the loop",
    ("", "Scan"): "loops are not supported yet; export the model unrolled, or without the loop",
    ("", "NonMaxSuppression"): "results whose size depends on data are not supported",
    ("com.microsoft", "Attention"): "export before ONNX Runtime's optimizer packs Q, K and V",
    ("com.microsoft", "MatMulNBits"): "weights of fewer than 8 bits are not supported yet",
}


def find_rule(domain: str, name: str, version: int) -> Rule | None:
    """The rule of an operator in a version of its domain."""
    found = None
    for since, rule in RULES.get((domain, name), ()):
        if since <= version:
            found = rule
    return found
