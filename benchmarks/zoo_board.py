"""Further architectures, which the board times: decoder steps, sound, convolutions, real weights.

They come through fewer exporter routes than those of `benchmarks.zoo_configs`.
"""

from __future__ import annotations

from dataclasses import replace

from benchmarks.zoo_configs import (
    ARCHITECTURES,
    PIXELS,
    ROUTES,
    SMALL_BLOCKS,
    TOKENS,
    Architecture,
    Route,
)

OLD, DEFAULT, NEW = (ROUTES[i] for i in (1, 4, 6))
PLAIN_ROUTES = (Route("torchscript", 17, ""), Route("dynamo", 18, ""))

_GPT2, _LLAMA = (
    next(spec for spec in ARCHITECTURES if spec.name == name) for name in ("gpt2", "smollm2-135m")
)

# One new token. The masks cover the past and the new token.
_STEP = {"input_ids": "batch, 1", "attention_mask": "batch, past + 1"}


def _cache(name: str, axes: str) -> dict[str, str]:
    """The keys and values of all layers."""
    return {f"{name}.key": axes, f"{name}.value": axes}


_T5_SMALL = {
    "vocab_size": 256,
    "d_model": 64,
    "d_kv": 16,
    "d_ff": 128,
    "num_layers": SMALL_BLOCKS,
    "num_decoder_layers": SMALL_BLOCKS,
    "num_heads": 4,
}
_T5 = {
    "vocab_size": 32128,
    "d_model": 512,
    "d_kv": 64,
    "d_ff": 2048,
    "num_layers": 6,
    "num_decoder_layers": 6,
    "num_heads": 8,
}

_LLAMA_STEP = Architecture(
    name="smollm2-135m-decode",
    config=_LLAMA.config,
    model=_LLAMA.model,
    full=_LLAMA.full,
    small=_LLAMA.small,
    inputs=_STEP
    | _cache(
        "past_key_values.{}",
        "batch, num_key_value_heads, past, hidden_size // num_attention_heads",
    ),
    outputs={"logits": "batch"} | _cache("present.{}", "batch, num_key_value_heads, past + 1"),
    blocks=30,
    call={"use_cache": True},
    routes=(OLD, DEFAULT, NEW),
    layers="num_hidden_layers",
)

BOARD_ARCHITECTURES = (
    Architecture(
        name="minilm-l6",
        config="BertConfig",
        model="BertModel",
        full={
            "vocab_size": 30522,
            "hidden_size": 384,
            "num_hidden_layers": 6,
            "num_attention_heads": 12,
            "intermediate_size": 1536,
            "max_position_embeddings": 512,
        },
        small={},
        inputs=TOKENS | {"token_type_ids": "batch, sequence"},
        outputs={"last_hidden_state": "batch, sequence"},
        blocks=6,
        call={},
        routes=(OLD, DEFAULT, NEW),
        weights="minilm-l6-weights",
    ),
    Architecture(
        name="gpt2-decode",
        config=_GPT2.config,
        model=_GPT2.model,
        full=dict(_GPT2.full) | {"n_embd": 768, "n_layer": 12, "n_head": 12},
        small=_GPT2.small,
        inputs=_STEP | _cache("past_key_values.{}", "batch, n_head, past, n_embd // n_head"),
        outputs={"logits": "batch"} | _cache("present.{}", "batch, n_head, past + 1"),
        blocks=12,
        call={"use_cache": True},
        routes=(OLD, DEFAULT, NEW),
        layers="n_layer",
    ),
    _LLAMA_STEP,
    # As its authors publish it: `torch_dtype` of HuggingFaceTB/SmolLM2-135M is bfloat16.
    replace(_LLAMA_STEP, name="smollm2-135m-decode-bf16", published="bfloat16", routes=(DEFAULT,)),
    Architecture(
        name="t5-small-encoder",
        config="T5Config",
        model="T5EncoderModel",
        full=_T5,
        small=_T5_SMALL,
        inputs=TOKENS,
        outputs={"last_hidden_state": "batch, sequence"},
        blocks=6,
        call={},
        routes=(OLD, DEFAULT, NEW),
    ),
    Architecture(
        name="t5-small-decode",
        config="T5Config",
        model="T5ForConditionalGeneration",
        full=_T5,
        small=_T5_SMALL,
        # The keys and values of the encoder's output are there already: of it nothing is read.
        inputs={
            "input_ids": "batch, 1",
            "encoder_attention_mask": "batch, source",
            "encoder_hidden_states": "batch, source, d_model",
        }
        | _cache("past_key_values.{}.decoder", "batch, num_heads, past, d_kv")
        | _cache("past_key_values.{}.encoder", "batch, num_heads, source, d_kv"),
        outputs={"logits": "batch"} | _cache("present.{}.decoder", "batch, num_heads, past + 1"),
        blocks=12,
        small_blocks=2 * SMALL_BLOCKS,
        call={"use_cache": True},
        routes=(OLD, DEFAULT, NEW),
        layers="num_decoder_layers",
        arguments={
            "input_ids": "decoder_input_ids",
            "encoder_attention_mask": "attention_mask",
            "encoder_hidden_states": "encoder_outputs",
        },
        unused=("encoder",),
    ),
    Architecture(
        name="whisper-tiny-encoder",
        config="WhisperConfig",
        model="WhisperModel",
        full={"num_mel_bins": 80, "max_source_positions": 1500},
        small={
            "num_mel_bins": 16,
            "max_source_positions": 20,
            "d_model": 64,
            "encoder_layers": SMALL_BLOCKS,
            "encoder_attention_heads": 4,
            "encoder_ffn_dim": 128,
            "decoder_layers": 1,
            "decoder_attention_heads": 4,
        },
        inputs={"input_features": "batch, num_mel_bins, 2*max_source_positions"},
        outputs={"last_hidden_state": "batch"},
        blocks=4,
        call={},
        routes=(OLD, DEFAULT, NEW),
        part="encoder",
    ),
    Architecture(
        name="resnet50",
        config="ResNetConfig",
        model="ResNetForImageClassification",
        full={"image_size": 224, "num_labels": 1000},
        small={
            "image_size": 32,
            "num_labels": 10,
            "embedding_size": 16,
            "hidden_sizes": [32, 64],
            "depths": [1, 2],
        },
        inputs=PIXELS,
        outputs={"logits": "batch"},
        blocks=0,
        small_blocks=0,
        call={},
        routes=PLAIN_ROUTES,
    ),
    Architecture(
        name="mobilenet-v2",
        config="MobileNetV2Config",
        model="MobileNetV2ForImageClassification",
        full={"image_size": 224, "num_labels": 1000},
        small={"image_size": 64, "num_labels": 10, "depth_multiplier": 0.25},
        inputs=PIXELS,
        outputs={"logits": "batch"},
        blocks=0,
        small_blocks=0,
        call={},
        routes=PLAIN_ROUTES,
    ),
)
