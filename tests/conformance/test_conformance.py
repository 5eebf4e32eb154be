"""Three hundred cases of the suite, one from every part of it, and the rules of the lists."""

from __future__ import annotations

import pytest

from tests.conformance.child import run_cases
from tests.conformance.engines import Engine, Tunesmith
from tests.conformance.records import faults, read_known, unexplained
from tests.conformance.suite import Case, collect, listed, measure_core, names

pytestmark = pytest.mark.tvm


@pytest.fixture(scope="session")
def cases() -> dict[str, Case]:
    return collect(names(quick=True))


@pytest.fixture(scope="session")
def engine() -> Engine:
    engine = Tunesmith()
    engine.warm()
    return engine


@pytest.mark.parametrize("name", names(quick=True))
def test_case(name: str, cases: dict[str, Case], engine: Engine) -> None:
    """It passes, or ends as `known.txt` says: what else it does there must be written down."""
    known = {key: why for key, why in read_known().items() if key == name}
    assert name in cases, "the installed `onnx` has no such case"
    rows = list(run_cases([cases[name]], engine))
    assert not faults(rows, known, [name])


def test_the_lists_are_whole() -> None:
    every = names()
    assert len(every) == len(set(every)) == 2024
    assert len(names(core=True)) == 1329
    assert len(names(quick=True)) == 300
    assert set(names(quick=True)) <= set(names(core=True))
    sources = [case.source for case in listed()]
    kinds = {kind: sources.count(kind) for kind in sources if not kind.startswith("node/")}
    assert kinds == {"simple": 23, "pytorch-operator": 35, "pytorch-converted": 82}


def test_every_known_case_is_listed_and_explained() -> None:
    known = read_known()
    assert not set(known) - set(names())
    assert not unexplained(known)


def test_the_core_is_what_it_says(cases: dict[str, Case]) -> None:
    assert [name for name, case in cases.items() if not measure_core(case.model)] == []
