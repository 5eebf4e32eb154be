"""The script that calls nnsmith, as far as it runs without it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.generated import generate
from tests.generated.corpus import seeds


def test_the_clock_counts_its_readings() -> None:
    """A search for 20 ms is one of twenty steps, however long they take."""
    clock = generate.Clock()
    start, steps = clock.time(), 0
    while clock.time() - start < 0.0195:
        steps += 1
    assert steps == 19


def test_what_fails_is_told_and_does_not_end_the_run(capfd: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise ValueError("no solution")

    assert generate.alone(lambda: None)
    assert not generate.alone(fail)
    assert "ValueError: no solution" in capfd.readouterr().err


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> None:
    """In the place of nnsmith: odd seeds have no model."""

    def write(tool: object, seed: int, folder: Path) -> None:
        assert seed % 2 == 0, "no model"
        (folder / f"{seed}.onnx").write_bytes(b"")

    monkeypatch.setattr(generate, "_nnsmith", lambda folder: None)
    monkeypatch.setattr(generate, "write", write)
    monkeypatch.setenv("PYTHONHASHSEED", "0")


@pytest.mark.usefixtures("fake")
def test_as_many_models_as_asked_for(tmp_path: Path) -> None:
    """Seeds without a model are passed over, and what is there stays."""
    assert generate.main([str(tmp_path), "--models", "3"]) == 0
    assert seeds(tmp_path) == [0, 2, 4]
    (tmp_path / "2.onnx").write_bytes(b"kept")
    assert generate.main([str(tmp_path), "--models", "4"]) == 0
    assert seeds(tmp_path) == [0, 2, 4, 6]
    assert (tmp_path / "2.onnx").read_bytes() == b"kept"


@pytest.mark.usefixtures("fake")
def test_a_generator_that_never_gives_a_model_ends(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def write(tool: object, seed: int, folder: Path) -> None:
        raise ValueError("broken")

    monkeypatch.setattr(generate, "write", write)
    assert generate.main([str(tmp_path), "--models", "3"]) == 1
    assert seeds(tmp_path) == []
