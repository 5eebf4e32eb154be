"""A hundred generated models at O0 and O3, as they are and rewritten, beside those who know."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from onnx import ModelProto

from tests.conformance.engines import ENGINES, Engine, Interpreter, Run, Stages, Tunesmith
from tests.conformance.records import Row, faults, read_known, unexplained
from tests.conformance.suite import Array, Case
from tests.generated.__main__ import VOTERS, judge_all
from tests.generated.answers import answers
from tests.generated.corpus import KEPT, choose, keep, operators, read, seeds
from tests.generated.rewrites import Rewritten
from tests.generated.vote import COLUMNS, Answer, Verdict

SEEDS = seeds(KEPT)
LEAST, OPERATORS = 100, 55  # a corpus that shrinks is a fault
KNOWN = Path(__file__).with_name("known.txt")
# The plainest level takes the longest to compile: every third model.
LEVELS = {"O3": SEEDS, "O0": SEEDS[::3], "rewritten": SEEDS[1::2]}


@pytest.fixture(scope="session")
def engines() -> dict[str, Engine]:
    made: dict[str, Engine] = {
        "O3": Tunesmith("O3"), "O0": Tunesmith("O0"), "rewritten": Rewritten(Tunesmith("O3")),
    }  # fmt: skip
    made["O3"].warm()  # what a child needs is the same for all
    return made


@pytest.mark.tvm
@pytest.mark.parametrize(
    ("level", "seed"), [(level, seed) for level, chosen in LEVELS.items() for seed in chosen]
)
def test_model(level: str, seed: int, engines: dict[str, Engine]) -> None:
    """It gives what PyTorch does, or ends as `known.txt` says."""
    (case,) = read(KEPT, [seed])
    verdict = _verdict(case, dict(answers([case], engines[level]))[case.name])
    name = f"{level}/{seed}"
    known = {key: why for key, why in read_known(KNOWN, COLUMNS).items() if key == name}
    assert not faults([Row(name, verdict.column, verdict.reason)], known, [name])


def _verdict(case: Case, answer: Answer) -> Verdict:
    """The voters are asked only where there is something to vote about."""
    given = {case.name: answer}
    verdict = judge_all([case], given, {name: {} for name in VOTERS})[case.name]
    if verdict.column in ("disputed", "inside"):
        return judge_all([case], given, _voices([case]))[case.name]
    return verdict


def _voices(cases: list[Case]) -> dict[str, dict[str, Answer]]:
    found = {}
    for name in VOTERS:
        engine = ENGINES[name]()
        engine.warm()
        found[name] = dict(answers(cases, engine))
    return found


def test_the_interpreter_agrees() -> None:
    """Imported and not compiled: what only fails above is no fault of the importer."""
    engine = Interpreter()
    engine.warm()
    cases = read(KEPT)
    found = dict(answers(cases, engine))
    verdicts = {case.name: _verdict(case, found[case.name]) for case in cases}
    bad = {n: v for n, v in verdicts.items() if v.column not in ("pass", "oracle fault", "inside")}
    assert not bad


def test_the_corpus_is_whole() -> None:
    assert len(SEEDS) >= LEAST
    tried = set().union(*(operators(case) for case in read(KEPT)))
    assert len({operator for operator, _ in tried}) >= OPERATORS
    names = {f"{level}/{seed}" for level, chosen in LEVELS.items() for seed in chosen}
    known = read_known(KNOWN, COLUMNS)
    assert not set(known) - names
    assert not unexplained(known)


def test_what_is_kept_tries_as_much_as_it_can(tmp_path: Path) -> None:
    """Two models: the one that tries the most, and the one with the most that is left."""
    first, second = keep(KEPT, 2, tmp_path / "kept")
    assert seeds(tmp_path / "kept") == [first, second]
    cases = {seed: operators(case) for seed, case in zip(SEEDS, read(KEPT), strict=True)}
    widest = max(SEEDS, key=lambda seed: len(cases[seed]))
    assert choose(KEPT, 1) == [widest] and widest in (first, second)
    other = second if widest == first else first
    assert len(cases[other] - cases[widest]) == max(len(c - cases[widest]) for c in cases.values())


class Planted:
    """The interpreter, with a fault that a compiler could have."""

    title = "planted"

    def warm(self) -> None:
        """Nothing to load."""

    def prepare(self, model: ModelProto, stages: Stages) -> Run:
        """Import."""
        run = Interpreter().prepare(model, stages)
        return lambda given: [_spoilt(y) for y in run(given)]


def _spoilt(y: object) -> Array:
    """One element is another."""
    array = np.array(y)
    if array.size:
        at = array.reshape(-1)[-1:]
        at[...] = ~at if array.dtype == bool else at + 1
    return array


def test_a_planted_fault_is_a_mismatch() -> None:
    """For every finite model that the voters can run, by the votes of all three."""
    cases = read(KEPT, SEEDS[:12])
    right, wrong = dict(answers(cases, Interpreter())), dict(answers(cases, Planted()))
    found = _voices(cases)
    before = judge_all(cases, right, found)
    after = judge_all(cases, wrong, found)
    heard = [c.name for c in cases if all(found[v][c.name].column == "ran" for v in VOTERS)]
    assert len(heard) >= 6
    assert {before[name].column for name in heard} <= {"pass", "oracle fault"}
    assert {after[name].column for name in heard} == {"mismatch"}
