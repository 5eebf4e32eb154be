"""The zoo: its table is complete, its inputs are realistic, and what it builds is checked."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest

from benchmarks import zoo
from benchmarks.zoo import ENTRIES, TABLE

BLOCKS = {"bert-base": 12, "distilbert": 6, "gpt2": 12, "vit-b16": 12, "smollm2-135m": 30}
ROUTES = {
    "torchscript14-eager",
    "torchscript17-eager",
    "torchscript17-sdpa",
    "dynamo18-eager",
    "dynamo18-sdpa",
    "dynamo23-eager",
    "dynamo23-sdpa",
}


@pytest.fixture
def empty_zoo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of its own."""
    monkeypatch.setenv("TUNESMITH_ZOO", str(tmp_path))
    return tmp_path


@pytest.fixture
def exporters() -> None:
    """PyTorch and transformers, or a reason to skip."""
    if reason := zoo.unavailable():
        pytest.skip(reason)


def test_the_table_is_complete() -> None:
    expected = {f"{name}/{route}" for name in BLOCKS for route in ROUTES}
    assert set(ENTRIES) == expected | {f"{name}/small" for name in expected}
    assert all(name == entry.name for name, entry in ENTRIES.items())
    for entry in ENTRIES.values():
        assert entry.blocks == (2 if entry.small else BLOCKS[entry.architecture])
        assert entry.dynamic[0] == "batch"
        assert entry.opset == int("".join(c for c in entry.name.split("/")[1] if c.isdigit()))
    assert len({entry.file for entry in ENTRIES.values()}) == len(ENTRIES)


def test_the_cache_is_where_the_environment_says(empty_zoo: Path) -> None:
    assert all(empty_zoo in entry.file.parents for entry in ENTRIES.values())


def test_rows_after_the_first_are_padded_at_the_end() -> None:
    entry = ENTRIES["bert-base/dynamo18-sdpa"]
    arrays = zoo.inputs(entry, batch=5, seq=33, seed=1)
    assert tuple(arrays) == ("input_ids", "attention_mask", "token_type_ids")
    assert all(array.dtype == np.int64 and array.shape == (5, 33) for array in arrays.values())
    mask = np.asarray(arrays["attention_mask"], dtype=np.int64)
    lengths = mask.sum(axis=1)
    assert lengths[0] == 33
    assert lengths.min() >= 1
    assert len(set(lengths.tolist())) > 1
    assert (np.diff(mask, axis=1) <= 0).all()
    assert np.array_equal(arrays["input_ids"] != 0, mask == 1)


def test_images_have_the_size_of_the_variant() -> None:
    small = zoo.inputs(ENTRIES["vit-b16/dynamo18-sdpa/small"], batch=2)
    full = zoo.inputs(ENTRIES["vit-b16/dynamo18-sdpa"], batch=1)
    assert small["pixel_values"].shape == (2, 3, 32, 32)
    assert full["pixel_values"].shape == (1, 3, 224, 224)


def test_inputs_repeat() -> None:
    entry = ENTRIES["gpt2/dynamo18-sdpa"]
    first, second = zoo.inputs(entry, 2, 9, seed=3), zoo.inputs(entry, 2, 9, seed=3)
    assert all(np.array_equal(first[name], second[name]) for name in first)


def _nodes(path: Path) -> Counter[str]:
    """How often each operator occurs."""
    return Counter(node.op_type for node in onnx.load(path).graph.node)


@pytest.mark.zoo
@pytest.mark.usefixtures("exporters")
@pytest.mark.parametrize(
    ("name", "signature"),
    [
        ("distilbert/torchscript17-sdpa/small", {"Softmax": 2, "IsNaN": 2}),
        pytest.param(
            "smollm2-135m/dynamo23-sdpa/small",
            {"Attention": 2, "RotaryEmbedding": 4, "RMSNormalization": 5},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_a_small_model_builds_and_matches(
    empty_zoo: Path, name: str, signature: dict[str, int]
) -> None:
    entry = ENTRIES[name]
    path = zoo.path(entry)  # compares with the module, and raises if they differ
    assert [file for file in empty_zoo.rglob("*") if file.is_file()] == [path]
    assert path.stat().st_size < 1_000_000
    counts = _nodes(path)
    assert {operator: counts[operator] for operator in signature} == signature
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert [list(value.shape) for value in session.get_inputs()] == [list(entry.dynamic)] * 2
    for batch, seq in ((1, 1), (4, 29)):
        outputs = session.run(None, zoo.inputs(entry, batch, seq))
        assert outputs[0].shape[:2] == (batch, seq)
        assert all(np.isfinite(output).all() for output in outputs)
    written = path.stat().st_mtime_ns
    assert zoo.path(entry).stat().st_mtime_ns == written


@pytest.mark.zoo
@pytest.mark.usefixtures("exporters")
def test_a_file_that_differs_never_reaches_the_cache(
    empty_zoo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zoo, "TOLERANCE", -1.0)
    with pytest.raises(zoo.ZooMismatch, match="logits is off by"):
        zoo.path(ENTRIES["vit-b16/torchscript17-eager/small"])
    assert not [file for file in empty_zoo.rglob("*") if file.is_file()]


def test_without_the_exporters_the_reason_is_given(
    empty_zoo: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(zoo, "unavailable", lambda: "no torch")
    with pytest.raises(zoo.ZooUnavailable, match=r"gpt2/dynamo18-sdpa/small.* no torch"):
        zoo.path(ENTRIES["gpt2/dynamo18-sdpa/small"])
    assert not list(empty_zoo.iterdir())


def test_a_name_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        zoo.main(["list", "no-such-model"])
    assert "no entry is called no-such-model" in capsys.readouterr().err


def test_list_prints_every_small_entry(empty_zoo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert zoo.main(["list", "--small"]) == 0
    printed = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert printed == [entry.name for entry in TABLE.values() if entry.small]
