"""The import rules: (domain, operator) → since which version → the nodes to build."""

from __future__ import annotations

from ..onnx_call import Call, Result, Rule, Table
from .activation import ACTIVATION
from .attention import ATTENTION
from .convolution import CONVOLUTION
from .data_sizes import DATA_SIZES
from .deconvolution import DECONVOLUTION
from .grams import GRAMS
from .grid import GRID
from .linear import LINEAR
from .math import MATH
from .microsoft import MICROSOFT, UNDEFINED
from .microsoft_attention import MICROSOFT_ATTENTION
from .microsoft_decoder import MICROSOFT_DECODER
from .microsoft_fused import MICROSOFT_FUSED
from .microsoft_quantized import MICROSOFT_QUANTIZED
from .movement import MOVEMENT
from .norm import NORM
from .places import PLACES
from .quantize import QUANTIZE
from .recurrent import MICROSOFT_RECURRENT, RECURRENT
from .reduce import REDUCE
from .regions import REGIONS
from .resize import RESIZE
from .sequence import SEQUENCE
from .shape import SHAPE
from .signal import SIGNAL
from .slicing import SLICING

__all__ = ["HINTS", "RULES", "find_rule"]


def _held(call: Call) -> Result:
    """Operators that hold graphs: the importer goes into them, in `onnx_control`."""
    raise AssertionError(f"{call.operator} is imported by the importer itself")


CONTROL: Table = {"If": ((1, _held),), "Loop": ((1, _held),), "Scan": ((8, _held),)}

RULES: dict[tuple[str, str], tuple[tuple[int, Rule], ...]] = {
    (domain, name): rules
    for domain, tables in (
        ("", (ACTIVATION, ATTENTION, CONTROL, CONVOLUTION, DATA_SIZES, DECONVOLUTION, GRAMS, GRID,
              LINEAR, MATH, MOVEMENT, NORM, PLACES, QUANTIZE, RECURRENT, REDUCE, REGIONS,
              RESIZE, SEQUENCE, SHAPE, SIGNAL, SLICING, UNDEFINED)),
        ("com.microsoft", (MICROSOFT, MICROSOFT_ATTENTION, MICROSOFT_DECODER, MICROSOFT_FUSED,
                           MICROSOFT_QUANTIZED, MICROSOFT_RECURRENT)),
    )
    for table in tables
    for name, rules in table.items()
}  # fmt: skip

HINTS = {
    ("com.microsoft", "SparseAttention"): "export attention as `Attention` of opset 23",
}


def find_rule(domain: str, name: str, version: int) -> Rule | None:
    """The rule of an operator in a version of its domain."""
    found = None
    for since, rule in RULES.get((domain, name), ()):
        if since <= version:
            found = rule
    return found
