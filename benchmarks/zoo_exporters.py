"""What PyTorch's exporters want from their caller: silence, and names of dynamic axes."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

from tunesmith.frontend import torch_import

__all__ = ["export_dim", "quiet"]


def quiet() -> AbstractContextManager[None]:
    """Silence what exporters say about themselves: deprecations, traces, missing torchvision."""
    return torch_import.quiet("transformers")


def export_dim(axis: str, dims: Mapping[str, object]) -> object:
    """A dynamic axis as `torch.export` wants it: a name, or `name + number`."""
    name, _, more = axis.partition(" + ")
    dim: Any = dims[name]
    return dim + int(more) if more else dim
