"""The short run of what `make crash-tests` does at length."""

from __future__ import annotations

from pathlib import Path

import pytest

from .crash import corrupt, fill_disks, kill_writers, rebuild_under_writers


@pytest.mark.slow
def test_killed_writers_lose_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    result = kill_writers(tmp_path, kills=5)
    assert result.kills == 5
    assert result.acknowledged > 10
    assert (result.lost, result.wrong, result.holes) == (0, 0, 0)
    assert (result.told, result.failures) == ([], [])


@pytest.mark.slow
def test_a_rebuild_under_writers_loses_only_what_was_damaged(tmp_path: Path) -> None:
    result = rebuild_under_writers(tmp_path, rounds=3)
    assert len(result.told) == 3, result.told
    assert result.acknowledged > 10
    assert (result.lost, result.wrong, result.failures) == (0, 0, [])


def test_a_full_disk_is_told_and_harms_nothing(tmp_path: Path) -> None:
    result = fill_disks(tmp_path, range(0, 240_001, 40_000), more=20)
    assert result.refused >= 3
    assert result.passed >= 2
    assert (result.lost, result.wrong, result.unexplained) == (0, 0, [])


@pytest.mark.slow
def test_a_corrupt_store_is_a_named_error_or_rebuilt(tmp_path: Path) -> None:
    result = corrupt(tmp_path, count=10)
    assert result.count == 10
    assert result.outcomes["rebuilt"] > 0
    assert (result.crashes, result.wrong, result.silent) == (0, 0, 0), result.problems
