"""Small PyTorch modules of the common kinds, with example inputs and what is dynamic in them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

__all__ = ["MODELS", "ODD", "Subject"]

Tensor = Any  # PyTorch is exempt from the type checks: its classes are `Any`


@dataclass(frozen=True)
class Subject:
    """A module, and how to call it."""

    make: Callable[[], Any]
    inputs: Callable[[int, int], dict[str, Tensor]]  # of a batch and a length
    dynamic: dict[str, dict[int, str]]


class Mlp(nn.Module):  # type: ignore[misc]  # its base is `Any`
    """Two layers, a buffer and a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(8, 64), nn.Linear(64, 4)
        self.register_buffer("scale", torch.arange(1.0, 5.0))
        self.shift = torch.tensor([1.0, 2.0, 3.0, 4.0])

    def forward(self, x: Tensor) -> Tensor:
        """One result."""
        return self.down(torch.relu(self.up(x))) * self.scale + self.shift


class Encoder(nn.Module):  # type: ignore[misc]  # its base is `Any`
    """One pre-norm block of attention with a mask, and two results by name."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.last = nn.LayerNorm(32), nn.LayerNorm(32)
        self.qkv, self.out = nn.Linear(32, 96), nn.Linear(32, 32)
        self.up, self.down = nn.Linear(32, 64), nn.Linear(64, 32)

    def forward(self, x: Tensor, mask: Tensor) -> dict[str, Tensor]:
        """The states and their mean."""
        batch, length, width = x.shape
        parts = self.qkv(self.norm(x)).view(batch, length, 3, 4, width // 4)
        q, k, v = parts.permute(2, 0, 3, 1, 4).unbind(0)
        seen = mask[:, None, None, :]
        mixed = nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=seen)
        x = x + self.out(mixed.transpose(1, 2).reshape(batch, length, width))
        x = x + self.down(nn.functional.gelu(self.up(self.last(x))))
        return {"states": x, "mean": x.mean(1)}


class Convolutions(nn.Module):  # type: ignore[misc]  # its base is `Any`
    """Convolutions with batch norm, a depthwise one, pooling and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 16, 3, 2, 1), nn.BatchNorm2d(16), nn.ReLU())
        self.wide = nn.Sequential(nn.Conv2d(16, 16, 3, 1, 1, groups=16), nn.BatchNorm2d(16))
        self.head = nn.Linear(16, 5)

    def forward(self, image: Tensor) -> Tensor:
        """Scores of classes."""
        x = self.stem(image)
        x = nn.functional.max_pool2d(torch.nn.functional.silu(self.wide(x)) + x, 2)
        return self.head(nn.functional.adaptive_avg_pool2d(x, 1).flatten(1))


class Logits(nn.Module):  # type: ignore[misc]  # its base is `Any`
    """A model of transformers with tensors in and tensors out."""

    def __init__(self, model: Any, field: str) -> None:
        super().__init__()
        self.model, self.field = model, field

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """One field of what the model gives."""
        return getattr(self.model(input_ids=input_ids, attention_mask=attention_mask), self.field)


def _gpt2() -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    config = GPT2Config(
        vocab_size=100, n_positions=64, n_embd=32, n_layer=2, n_head=4, use_cache=False
    )
    return Logits(GPT2LMHeadModel(config), "logits")


def _bert() -> Any:
    from transformers import BertConfig, BertModel

    config = BertConfig(
        vocab_size=100, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        intermediate_size=64, max_position_embeddings=64,
    )  # fmt: skip
    return Logits(BertModel(config), "last_hidden_state")


def _tokens(batch: int, length: int) -> dict[str, Tensor]:
    mask = torch.ones(batch, length, dtype=torch.int64)
    mask[batch // 2 :, length - length // 3 :] = 0
    return {"input_ids": torch.randint(1, 100, (batch, length)), "attention_mask": mask}


def _states(batch: int, length: int) -> dict[str, Tensor]:
    mask = torch.ones(batch, length, dtype=torch.bool)
    mask[batch // 2 :, length - length // 3 :] = False
    return {"x": torch.randn(batch, length, 32), "mask": mask}


_TEXT = {0: "batch", 1: "length"}
MODELS = {
    "mlp": Subject(Mlp, lambda b, n: {"x": torch.randn(b, 8)}, {"x": {0: "batch"}}),
    "encoder": Subject(Encoder, _states, {"x": _TEXT, "mask": _TEXT}),
    "convolutions": Subject(
        Convolutions,
        lambda b, n: {"image": torch.randn(b, 3, 16, 16)},
        {"image": {0: "batch"}},
    ),
    "gpt2": Subject(_gpt2, _tokens, {"input_ids": _TEXT, "attention_mask": _TEXT}),
    "bert": Subject(_bert, _tokens, {"input_ids": _TEXT, "attention_mask": _TEXT}),
}


class Pair(nn.Module):  # type: ignore[misc]  # its base is `Any`
    """The second input is twice as long as the first."""

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """A sum."""
        return torch.cat([x, x], 0) + y


class Fixed(nn.Module):  # type: ignore[misc]  # its base is `Any`
    """Takes three rows only."""

    def forward(self, x: Tensor) -> Tensor:
        """A sum."""
        return x + torch.ones(3, 1)


class Branch(nn.Module):  # type: ignore[misc]  # its base is `Any`
    """Does what the data says."""

    def forward(self, x: Tensor) -> Tensor:
        """One or the other."""
        return x + 1 if x.sum() > 0 else x


class Scaled(nn.Module):  # type: ignore[misc]  # its base is `Any`
    """Takes a tuple, a number and a keyword."""

    def forward(self, pair: tuple[Tensor, Tensor], factor: float, *, shift: Tensor) -> Any:
        """Two results."""
        return pair[0] * factor + shift, pair[1] * 2


ODD = {"pair": Pair, "fixed": Fixed, "branch": Branch, "scaled": Scaled}
