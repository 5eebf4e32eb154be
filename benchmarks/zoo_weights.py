"""The weights of the zoo's modules: random ones, drawn anew, or those of a pinned sample."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from benchmarks.zoo_configs import Architecture
from tunesmith.samples import locate

if TYPE_CHECKING:
    import torch

__all__ = ["SEED", "make_model"]

SEED = 2024


def make_model(spec: Architecture, small: bool, attention: str) -> torch.nn.Module:
    """The transformers module of an architecture, as far as its call reaches, with its weights."""
    import transformers

    chosen = {"attn_implementation": attention} if attention else {}
    config = getattr(transformers, spec.config)(**spec.settings(small), **chosen)
    model: torch.nn.Module = getattr(transformers, spec.model)(config).eval()
    for name in spec.unused:
        delattr(model, name)
    if spec.part:
        model = model.get_submodule(spec.part)
    if spec.weights:
        _load(model, spec.weights)
    else:
        _perturb(model, small)
        _round(model, spec.published)
    return model


def _load(model: torch.nn.Module, sample: str) -> None:
    """Put trained weights into a module; every one of them must have its place."""
    from safetensors.torch import load_file

    weights = load_file(locate(sample))
    weights.pop("embeddings.position_ids", None)  # old files keep this count of positions
    model.load_state_dict(weights)


def _round(model: torch.nn.Module, published: str) -> None:
    """Round every parameter to a type, and keep it in f32."""
    import torch

    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.to(getattr(torch, published)))


def _perturb(model: torch.nn.Module, small: bool) -> None:
    """Draw every parameter anew, so that no two are equal and no bias or norm is neutral.

    Exporters merge equal constants, and a lost bias of zeros would go unseen.
    """
    import torch

    generator = torch.Generator().manual_seed(SEED)
    norms = [part for part in model.modules() if isinstance(part, torch.nn.BatchNorm2d)]
    # Narrow layers need more for as large a signal; convolutions have their own measure of it.
    deviation = 0.12 if small and not norms else 0.02
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1 and bool((parameter == 1).all()):
                parameter.normal_(1.0, 0.1, generator=generator)
            elif norms and parameter.ndim == 4:
                width = math.prod(parameter.shape[1:])
                parameter.normal_(0.0, width**-0.5, generator=generator)
            else:
                parameter.normal_(0.0, deviation, generator=generator)
        for norm in norms:
            norm.running_mean.normal_(0.0, 0.1, generator=generator)
            norm.running_var.uniform_(0.5, 1.5, generator=generator)
