"""What goes into a model of the zoo and comes out of it: arrays, axes, and the module's call."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from benchmarks.zoo_configs import Architecture
from tunesmith.runtime.shapes import parse_dim

if TYPE_CHECKING:
    import torch

__all__ = ["Arrays", "call_module", "dynamic_axes", "make_arrays", "onnx_axes"]

Arrays = dict[str, NDArray[np.generic]]


def dynamic_axes(spec: Architecture, small: bool) -> tuple[str, ...]:
    """The names of the axes that stay open, in the order of the inputs."""
    axes = spec.axes_of(spec.inputs, small).values()
    names = [name for tensor in axes for axis in tensor for name in spec.dynamic(axis)]
    return tuple(dict.fromkeys(names))


def onnx_axes(
    spec: Architecture, tensors: Mapping[str, str], small: bool
) -> dict[str, dict[int, str]]:
    """The dynamic axes of `inputs` or `outputs`, by their number."""
    return {
        name: {i: axis for i, axis in enumerate(axes) if spec.dynamic(axis)}
        for name, axes in spec.axes_of(tensors, small).items()
    }


def make_arrays(spec: Architecture, small: bool, sizes: Mapping[str, int], seed: int) -> Arrays:
    """Random inputs as a user would send them: all rows after the first are shorter.

    Tokens are padded at the end; before a token that is new, in front of the past.
    """
    random = np.random.default_rng(seed)
    known = {**spec.settings(small), **sizes}
    shapes = {
        name: tuple(_length(axis, known) for axis in axes)
        for name, axes in spec.axes_of(spec.inputs, small).items()
    }
    masks = {name: _mask(random, *shapes[name]) for name in shapes if name.endswith("mask")}
    if "past" in sizes and "attention_mask" in masks:
        masks["attention_mask"] = masks["attention_mask"][:, ::-1].copy()
    arrays: Arrays = {}
    for name, shape in shapes.items():
        mask = masks.get("attention_mask")
        shown = mask if mask is not None and mask.shape == shape else np.ones((), np.int64)
        if name in masks:
            arrays[name] = masks[name]
        elif name == "input_ids":
            arrays[name] = random.integers(1, spec.setting("vocab_size", small), shape) * shown
        elif name == "token_type_ids":
            half = shown.sum(axis=-1, keepdims=True) // 2
            arrays[name] = (np.arange(shape[1])[None, :] >= half).astype(np.int64) * shown
        else:
            arrays[name] = random.standard_normal(shape, dtype=np.float32)
    return arrays


def _length(axis: str, known: Mapping[str, object]) -> int:
    """The length of an axis, given as text.

    >>> _length("past + width // heads", {"past": 3, "width": 8, "heads": 2})
    7
    """
    return parse_dim(re.sub(r"[A-Za-z_]\w*", lambda m: str(known[m.group()]), axis)).evaluate({})


def _mask(random: np.random.Generator, batch: int, length: int) -> NDArray[np.int64]:
    """Ones for all of the first row, and for at least half of every other."""
    lengths = random.integers(max(1, length // 2), length, size=(batch, 1), endpoint=True)
    lengths[0] = length
    return (np.arange(length)[None, :] < lengths).astype(np.int64)


def call_module(
    spec: Architecture,
    model: torch.nn.Module,
    tensors: Mapping[str, torch.Tensor],
    explicit_positions: bool,
) -> tuple[torch.Tensor, ...]:
    """Call a transformers module with tensors by the names of inputs; the outputs in order."""
    kept = {name: tensor for name, tensor in tensors.items() if "past_key_values." in name}
    call: dict[str, object] = {
        spec.arguments.get(name, name): tensor
        for name, tensor in tensors.items()
        if name not in kept
    }
    call |= spec.call
    if "encoder_outputs" in call:
        call["encoder_outputs"] = (call["encoder_outputs"],)
    if kept:
        call["past_key_values"] = _cache(kept)
    if explicit_positions:
        call["position_ids"] = _positions(tensors)
    result = model(**call)
    flat = {name: result[name] for name in spec.outputs if "{}" not in name}
    return (*flat.values(), *_presents(spec, result))


def _positions(tensors: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """The positions of the tokens, which come after the past."""
    import torch

    batch, length = tensors["input_ids"].shape
    positions: torch.Tensor = torch.arange(length)
    if "past_key_values.0.key" in tensors:
        positions = positions + tensors["past_key_values.0.key"].shape[2]
    return positions.unsqueeze(0).expand(batch, -1)


def _cache(kept: Mapping[str, torch.Tensor]) -> object:
    """Keys and values in the form that transformers wants: of the past, and of an encoder."""
    import transformers

    def layers(part: str) -> object:
        keys = [name for name in kept if name.endswith(f"{part}.key")]
        pairs = [(kept[key], kept[f"{key.removesuffix('key')}value"]) for key in keys]
        return transformers.DynamicCache(pairs)

    if not any(".encoder." in name for name in kept):
        return layers("")
    return transformers.EncoderDecoderCache(layers(".decoder"), layers(".encoder"))


def _presents(spec: Architecture, result: Mapping[str, object]) -> list[torch.Tensor]:
    """The keys and values of all layers, with those of the new token."""
    if not any("{}" in name for name in spec.outputs):
        return []
    cache: object = result["past_key_values"]
    cache = getattr(cache, "self_attention_cache", cache)
    layers = getattr(cache, "layers")  # noqa: B009  # a class of transformers, without types
    return [tensor for layer in layers for tensor in (layer.keys, layer.values)]
