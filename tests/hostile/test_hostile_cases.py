"""The hostile models that are refused, a few hundred mutants, and what must be noticed."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.frontend.test_hostile import chain
from tunesmith.ir.diagnostics import FrontendError, InputError, TimeLimit
from tunesmith.ir.limits import Limits

from .cases import CASES
from .fuzz import (
    ACCEPTED,
    BAD,
    BUG,
    CRASH,
    HANG,
    REFUSED,
    UNLIKE,
    corpus,
    fuzz,
    judge,
    mutant,
    rows,
)
from .run import run_case

BY_NAME = {case.name: case for case in CASES}
SUBSET = (
    "external data at `../`", "external data through a symlink",
    "external data through a hardlink", "external data in a sparse tensor",
    "a weight of 2^40 elements with none", "ConstantOfShape of 2^36 elements",
    "a constant that doubles 30 times", "a loop of 2^62 rounds", "subgraphs nested 300 deep",
)  # fmt: skip


def test_there_are_enough_cases() -> None:
    assert len(BY_NAME) == len(CASES) >= 24
    assert len([case for case in CASES if case.says]) >= 24


@pytest.mark.parametrize("name", SUBSET)
def test_refused_in_a_process_of_its_own(name: str) -> None:
    outcome = run_case(BY_NAME[name])
    assert outcome.wrong == ()
    assert outcome.verdict == "refused"
    assert outcome.message


def test_a_verdict_can_be_wrong() -> None:
    case = BY_NAME["a cycle"]
    assert "does not say" in run_case(replace(case, says="something else")).wrong[0]
    assert "instead of 0" in run_case(replace(case, says="")).wrong[0]
    assert "more than 0" in run_case(replace(case, seconds=0.0)).wrong[0]


def test_what_is_opened_outside_is_seen(tmp_path: Path) -> None:
    from .child import Watch

    inside, secret = tmp_path / "model", tmp_path / "secret.bin"
    inside.mkdir()
    secret.write_bytes(b"x")
    (inside / "own.bin").write_bytes(b"x")
    (inside / "link.bin").symlink_to(secret)
    os.link(secret, inside / "hard.bin")
    watch = Watch(inside, tmp_path / "out" / "m.tsm", secret)
    for name in ("own.bin", "link.bin", "hard.bin", "../other.bin"):
        watch("open", (str(inside / name), "r", 0))
    assert [Path(p).name for p in watch.foreign] == ["secret.bin", "hard.bin", "other.bin"]


def test_mutants_are_refused_or_imported(tmp_path: Path) -> None:
    tally = fuzz(range(300), tmp_path)
    assert tally.bad == []
    assert sum(rows(tally).values()) == 300
    assert rows(tally)["refused"] > 150
    assert rows(tally)["accepted"] > 10


def test_the_models_that_are_mutated_are_valid(tmp_path: Path) -> None:
    assert [judge(data, tmp_path / "m.onnx") for data in corpus()] == [ACCEPTED] * len(corpus())
    assert mutant(corpus(), 3) == mutant(corpus(), 3) != mutant(corpus(), 4)


def test_what_must_not_happen_to_a_mutant_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Crashes and hangs end a child; the ones behind them are still tried."""
    kinds = {3: CRASH, 5: HANG, 6: BUG, 7: UNLIKE}
    known = {mutant(corpus(), seed): kind for seed, kind in kinds.items()}

    def planted(data: bytes, path: Path) -> bytes:
        kind = known.get(data, REFUSED)
        if kind == CRASH:
            os.abort()
        if kind == HANG:
            time.sleep(600)
        return kind

    tally = fuzz(range(10), tmp_path, judged=planted, deadline=5.0)
    assert dict(tally.bad) == kinds
    assert tally.counts[REFUSED] == 6
    assert set(BAD) == set(kinds.values())


def test_bugs_and_the_checker_are_asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import onnx

    data = corpus()[1]

    def refuses(*arguments: object, **options: object) -> None:
        raise onnx.checker.ValidationError("no")

    with monkeypatch.context() as patch:
        patch.setattr("tunesmith.driver.optimize", refuses)
        assert judge(data, tmp_path / "m.onnx") == BUG
    with monkeypatch.context() as patch:
        patch.setattr("tunesmith.frontend.onnx_import.run_checker", lambda *a: None)
        patch.setattr("onnx.checker.check_model", refuses)
        assert judge(data, tmp_path / "m.onnx") == UNLIKE


def test_limits_are_read_from_the_environment() -> None:
    found = Limits.read({"TUNESMITH_LIMITS": "nodes=7, depth=3"})
    assert (found.nodes, found.depth, found.rank) == (7, 3, Limits().rank)
    for text in ("nodes", "nodes=-1", "nods=3", "opsets=3", "nodes=1e3"):
        with pytest.raises(InputError, match="is not a limit"):
            Limits.read({"TUNESMITH_LIMITS": text})


@pytest.mark.parametrize("limit", [20, 19])
def test_at_the_limit_and_one_past_it(limit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from tunesmith.frontend import import_model, onnx_check

    monkeypatch.setattr(onnx_check, "LIMITS", replace(Limits(), nodes=limit))
    if limit == 20:
        assert len(import_model(chain(20))) == 20
    else:
        with pytest.raises(FrontendError, match="more than 19 nodes"):
            import_model(chain(20))


def test_a_deadline_interrupts_and_leaves_nothing_behind() -> None:
    import signal

    from tunesmith.deadline import deadline

    before = signal.getsignal(signal.SIGALRM)
    left = signal.getitimer(signal.ITIMER_REAL)[0]
    with pytest.raises(TimeLimit, match=r"compiling took longer than 0\.1 s"):
        with deadline(0.1, "compiling"):
            while True:
                time.sleep(0.01)
    with pytest.raises(TimeLimit):  # also where the interruption is taken for another error
        with deadline(0.1, "compiling"):
            try:
                time.sleep(5)
            except TimeLimit:
                raise ValueError("something else") from None
    with pytest.raises(ValueError, match="mine"):
        with deadline(60, "compiling"):
            raise ValueError("mine")
    assert signal.getsignal(signal.SIGALRM) == before
    assert abs(signal.getitimer(signal.ITIMER_REAL)[0] - left) < 60


def test_folding_ends_with_its_budget() -> None:
    """Constants that are made of constants, again and again: not more than twice what there is."""
    from tunesmith.ir.text import parse_graph
    from tunesmith.passes.base import PassContext
    from tunesmith.passes.fold_constants import FoldConstants

    text = (
        "graph @f(%x: f32[4]) {\n"
        "  %a = constant() {value = f32[4] [1.0, 2.0, 3.0, 4.0]} : f32[4]\n"
        "  %b = neg(%a) : f32[4]\n  %c = exp(%a) : f32[4]\n  %d = add(%b, %c) : f32[4]\n"
        "  %y = add(%d, %x) : f32[4]\n  return %y\n}"
    )
    for left, nodes in ((48, 1), (47, 2), (16, 3), (15, 4)):
        graph = parse_graph(text)
        FoldConstants().run(graph, PassContext(fold_left=left))
        assert sum(node.op.name != "constant" for node in graph.nodes) == nodes
