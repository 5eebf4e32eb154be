"""What PyTorch's exporters want from their caller: silence, and names of dynamic axes."""

from __future__ import annotations

import contextlib
import logging
import warnings
from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["export_dim", "quiet"]


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence what exporters say about themselves: deprecations, traces, missing torchvision."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "transformers")]
    loggers.append(logging.getLogger("torch.onnx._internal.exporter._registration"))
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def export_dim(axis: str, dims: Mapping[str, object]) -> object:
    """A dynamic axis as `torch.export` wants it: a name, or `name + number`."""
    name, _, more = axis.partition(" + ")
    dim: Any = dims[name]
    return dim + int(more) if more else dim
