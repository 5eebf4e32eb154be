"""Three hundred cases of the suite, one from every part of it, and the rules of the lists."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, TensorProto
from onnx.reference import ReferenceEvaluator

from tests.conformance.child import run_cases
from tests.conformance.engines import Engine, Tunesmith
from tests.conformance.judge import judge
from tests.conformance.records import faults, read_known, unexplained
from tests.conformance.suite import (
    TOLERANCES,
    Case,
    as_value,
    collect,
    listed,
    measure_core,
    names,
)

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
    assert kinds == {"simple": 23, "pytorch-operator": 35, "pytorch-converted": 82, "network": 9}


def test_every_known_case_is_listed_and_explained() -> None:
    known = read_known()
    assert not set(known) - set(names())
    assert not unexplained(known)


def test_the_core_is_what_it_says(cases: dict[str, Case]) -> None:
    assert [name for name, case in cases.items() if not measure_core(case.model)] == []


@pytest.mark.parametrize("name", TOLERANCES)
def test_the_exact_answer_misses_a_case_of_its_own_tolerance(name: str) -> None:
    """In f64, rounded once: beyond the suite's tolerance, within that of the table."""
    case = collect([name])[name]
    wide = ModelProto()
    wide.CopyFrom(case.model)
    for value in [*wide.graph.input, *wide.graph.output]:
        if value.type.tensor_type.elem_type == TensorProto.FLOAT:
            value.type.tensor_type.elem_type = TensorProto.DOUBLE
    names = [value.name for value in wide.graph.input]
    for given, wanted in case.data_sets():
        feeds = {
            name: x.astype(np.float64) if isinstance(x, np.ndarray) and x.dtype == np.float32 else x
            for name, x in zip(names, given, strict=True)
        }
        exact = [as_value(y) for y in ReferenceEvaluator(wide).run(None, feeds)]
        narrow = [
            y.astype(w.dtype) if isinstance(y, np.ndarray) and isinstance(w, np.ndarray) else y
            for y, w in zip(exact, wanted, strict=True)
        ]
        assert judge(narrow, wanted, 1e-3, 1e-7)[0]
        assert not judge(narrow, wanted, case.rtol, case.atol)[0]
