"""The architectures of the zoo as data: configurations, inputs, outputs and exporter routes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

Settings = Mapping[str, object]


@dataclass(frozen=True)
class Architecture:
    """One published architecture: which transformers classes build it, and at which two sizes."""

    name: str
    config: str  # names of classes in transformers
    model: str
    full: Settings
    small: Settings
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]  # fields of what the model returns, in order
    blocks: int  # attention blocks at full size
    call: Settings  # further arguments of every call

    def settings(self, small: bool) -> Settings:
        """The configuration at one of the two sizes."""
        return self.small if small else self.full

    def setting(self, key: str, small: bool) -> int:
        """One number of the configuration."""
        value = self.settings(small)[key]
        assert isinstance(value, int)
        return value


@dataclass(frozen=True)
class Route:
    """One way through PyTorch's exporters."""

    name: str  # torchscript, dynamo or dynamo23
    opset: int
    attention: str  # the attn_implementation of transformers

    @property
    def label(self) -> str:
        """The route as a model's name spells it."""
        return f"{self.name.removesuffix('23')}{self.opset}-{self.attention}"


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
        inputs=("input_ids", "attention_mask", "token_type_ids"),
        outputs=("last_hidden_state", "pooler_output"),
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
        inputs=("input_ids", "attention_mask"),
        outputs=("last_hidden_state",),
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
        inputs=("input_ids", "attention_mask"),
        outputs=("logits",),
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
        inputs=("pixel_values",),
        outputs=("logits",),
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
        inputs=("input_ids", "attention_mask"),
        outputs=("logits",),
        blocks=30,
        call={"use_cache": False},
    ),
)
