"""Products of matrices; later also operators that carry graphs."""

from __future__ import annotations

from ..ops import op
from ..types import TensorType, broadcast

__all__ = ["matmul"]


@op("matmul", "pure")
def matmul(x: TensorType, y: TensorType, /) -> TensorType:
    """`[..., M, K] @ [..., K, N]` as in NumPy, rank 2 or more each; narrow floats sum in f32."""
    if x.dtype is not y.dtype:
        raise ValueError(f"needs equal element types, not {x.dtype} and {y.dtype}")
    if x.rank < 2 or y.rank < 2:
        raise ValueError(f"needs matrices, not {x} and {y}")
    if x.shape[-1] != y.shape[-2]:
        raise ValueError(f"{x} @ {y}: {x.shape[-1]} columns against {y.shape[-2]} rows")
    batch = broadcast(x.shape[:-2], y.shape[:-2])
    return x.with_shape((*batch, x.shape[-2], y.shape[-1]))
