"""The architectures of the zoo as data: configurations, inputs, outputs and exporter routes."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

Settings = Mapping[str, object]


@dataclass(frozen=True)
class Route:
    """One way through PyTorch's exporters."""

    name: str  # torchscript, dynamo or dynamo23
    opset: int
    attention: str  # the attn_implementation of transformers, or nothing to attend with

    @property
    def label(self) -> str:
        """The route as a model's name spells it."""
        return f"{self.name.removesuffix('23')}{self.opset}-{self.attention}".removesuffix("-")


# Opset 14 stands for old files, from before transformers had scaled_dot_product_attention.
ROUTES = (
    Route("torchscript", 14, "eager"),
    Route("torchscript", 17, "eager"),
    Route("torchscript", 17, "sdpa"),
    Route("dynamo", 18, "eager"),
    Route("dynamo", 18, "sdpa"),
    Route("dynamo23", 23, "eager"),
    Route("dynamo23", 23, "sdpa"),
)

SMALL_BLOCKS = 2


@dataclass(frozen=True)
class Architecture:
    """One published architecture: which transformers classes build it, and at which two sizes.

    `inputs` and `outputs` give each tensor its axes as text: numbers, settings, names of dynamic
    axes, and sums of them. A `{}` in a name stands for the number of each of the `layers`.
    """

    name: str
    config: str  # names of classes in transformers
    model: str
    full: Settings
    small: Settings
    inputs: Mapping[str, str]
    outputs: Mapping[str, str]  # fields of what the model returns, in order
    blocks: int  # attention blocks at full size
    call: Settings  # further arguments of every call
    small_blocks: int = SMALL_BLOCKS
    routes: tuple[Route, ...] = ROUTES
    layers: str = ""  # the setting that counts the layers whose keys and values are kept
    arguments: Mapping[str, str] = field(default_factory=dict)  # where an input is called otherwise
    part: str = ""  # the module inside the model that is exported, if not all of it
    unused: tuple[str, ...] = ()  # modules that no call reaches
    weights: str = ""  # the sample with trained weights; there is no small variant then
    published: str = "float32"  # PyTorch's type of the published weights: random ones are of it

    def settings(self, small: bool) -> Settings:
        """The configuration at one of the two sizes."""
        return self.small if small else self.full

    def setting(self, key: str, small: bool) -> int:
        """One number of the configuration."""
        value = self.settings(small)[key]
        assert isinstance(value, int)
        return value

    def axes_of(self, tensors: Mapping[str, str], small: bool) -> dict[str, tuple[str, ...]]:
        """The axes of each of `inputs` or `outputs`, with a tensor for each layer, in order."""
        found = {name: axes for name, axes in tensors.items() if "{}" not in name}
        if self.layers:
            found |= {
                name.format(layer): axes
                for layer in range(self.setting(self.layers, small))
                for name, axes in tensors.items()
                if "{}" in name
            }
        return {name: tuple(re.split(r",\s*", axes)) for name, axes in found.items()}

    def dynamic(self, axis: str) -> list[str]:
        """The names of dynamic axes in the text of one axis."""
        return [name for name in re.findall(r"[A-Za-z_]\w*", axis) if name not in self.full]


TOKENS = {"input_ids": "batch, sequence", "attention_mask": "batch, sequence"}
PIXELS = {"pixel_values": "batch, 3, image_size, image_size"}

ARCHITECTURES = (
    Architecture(
        name="bert-base",
        config="BertConfig",
        model="BertModel",
        full={"vocab_size": 30522, "max_position_embeddings": 512},
        small={
            "vocab_size": 256,
            "hidden_size": 64,
            "num_hidden_layers": SMALL_BLOCKS,
            "num_attention_heads": 4,
            "intermediate_size": 128,
            "max_position_embeddings": 128,
        },
        inputs=TOKENS | {"token_type_ids": "batch, sequence"},
        outputs={"last_hidden_state": "batch, sequence", "pooler_output": "batch"},
        blocks=12,
        call={},
    ),
    Architecture(
        name="distilbert",
        config="DistilBertConfig",
        model="DistilBertModel",
        full={"vocab_size": 30522, "max_position_embeddings": 512},
        small={
            "vocab_size": 256,
            "dim": 64,
            "n_layers": SMALL_BLOCKS,
            "n_heads": 4,
            "hidden_dim": 128,
            "max_position_embeddings": 128,
        },
        inputs=TOKENS,
        outputs={"last_hidden_state": "batch, sequence"},
        blocks=6,
        call={},
    ),
    Architecture(
        name="gpt2",
        config="GPT2Config",
        model="GPT2LMHeadModel",
        full={"vocab_size": 50257, "n_positions": 1024},
        small={
            "vocab_size": 256,
            "n_embd": 64,
            "n_layer": SMALL_BLOCKS,
            "n_head": 4,
            "n_positions": 128,
            "bos_token_id": 0,  # the defaults are outside of so small a vocabulary
            "eos_token_id": 0,
        },
        inputs=TOKENS,
        outputs={"logits": "batch, sequence"},
        blocks=12,
        call={"use_cache": False},
    ),
    Architecture(
        name="vit-b16",
        config="ViTConfig",
        model="ViTForImageClassification",
        full={"image_size": 224, "patch_size": 16, "num_labels": 1000},
        small={
            "image_size": 32,
            "patch_size": 8,
            "num_labels": 10,
            "hidden_size": 64,
            "num_hidden_layers": SMALL_BLOCKS,
            "num_attention_heads": 4,
            "intermediate_size": 128,
        },
        inputs=PIXELS,
        outputs={"logits": "batch"},
        blocks=12,
        call={},
    ),
    Architecture(
        name="smollm2-135m",
        config="LlamaConfig",
        model="LlamaForCausalLM",
        full={
            "vocab_size": 49152,
            "hidden_size": 576,
            "num_hidden_layers": 30,
            "num_attention_heads": 9,
            "num_key_value_heads": 3,
            "intermediate_size": 1536,
            "max_position_embeddings": 8192,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e5},
            "rms_norm_eps": 1e-5,
            "tie_word_embeddings": True,
        },
        small={
            "vocab_size": 256,
            "hidden_size": 64,
            "num_hidden_layers": SMALL_BLOCKS,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "intermediate_size": 128,
            "max_position_embeddings": 128,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1e5},
            "rms_norm_eps": 1e-5,
            "tie_word_embeddings": True,
        },
        inputs=TOKENS,
        outputs={"logits": "batch, sequence"},
        blocks=30,
        call={"use_cache": False},
    ),
)
