"""Every operator with every element type against the interpreter, at the sizes where vectors end.

All graphs of one element type are one module. Inputs lie between forbidden pages.
"""

from __future__ import annotations

import numpy as np
import pytest

from tests.ir.cases import ALL, Case, random_array
from tunesmith.ir.graph import Graph
from tunesmith.ir.ops import OPS
from tunesmith.ir.types import DType

from .forms import EDGES, FORMS, dtypes_of
from .guarded import check_guarded
from .running import Array, merge

pytestmark = pytest.mark.tvm

# R, S and Z: each length once, none of them the other
SIZES = [
    (1, 1, 0), (3, 2, 1), (2, 15, 17), (1, 16, 31), (2, 17, 16), (5, 31, 15), (1, 33, 63),
    (2, 63, 65), (1, 64, 33), (3, 65, 64),
]  # fmt: skip
LARGE = (3, 5, 1370)  # several tasks, where an elementwise kernel is shared out

SPECIAL = [np.nan, np.inf, -np.inf, -0.0, 0.0, 1.0, -1.0, 0.5, 2.5, -3.5, 7.0]


def together(cases: list[tuple[str, Case]]) -> tuple[Graph, dict[str, Case]]:
    """One graph of many cases with their types, and the case that each prefix stands for."""
    named = {f"{i} {case} {dtype}": (case, dtype) for i, (dtype, case) in enumerate(cases)}
    merged = merge([(name, case.graph(dtype)) for name, (case, dtype) in named.items()])
    return merged, {name: case for name, (case, _) in named.items()}


def random_feeds(
    graph: Graph, cases: dict[str, Case], sizes: tuple[int, int, int], special: bool = False
) -> dict[str, Array]:
    """Random inputs, of special values where a case does not bound them."""
    rng = np.random.default_rng(sum(sizes))
    known = dict(zip("RSZ", sizes, strict=True))
    feeds: dict[str, Array] = {}
    for value in graph.inputs:
        prefix, name = value.name.rsplit(".", 1)
        bounds, type = cases[prefix].ranges.get(name), value.type.substitute(known)
        feeds[value.name] = random_array(type, rng, bounds)
        if special and bounds is None and type.dtype is not DType.bool:
            feeds[value.name] = rng.choice(specials(type.dtype), feeds[value.name].shape)
    return feeds


def specials(dtype: DType) -> Array:
    """Values of a type at which an operator may go wrong; what is divided by 0 is undefined."""
    if dtype.is_float:
        return np.asarray(SPECIAL).astype(dtype.numpy)
    limits = np.iinfo(dtype.value.replace("i", "int").replace("u", "uint"))
    return np.asarray(
        [limits.min or 3, limits.max, limits.max // 2, -1 if limits.min else 7, 1, 2, 5],
        dtype.numpy,
    )


def test_every_operator_has_a_form() -> None:
    missing = [op for op in FORMS if not FORMS[op] or not dtypes_of(op)]
    assert not missing and FORMS.keys() == OPS.keys() - {"return", "bind_size"}


@pytest.mark.parametrize("dtype", ALL.split())
def test_operators(dtype: str) -> None:
    forms = [case for some in FORMS.values() for case in some if dtype in case.dtypes.split()]
    graph, cases = together([(dtype, case) for case in forms])
    feeds = [random_feeds(graph, cases, sizes) for sizes in [*SIZES, LARGE]]
    feeds.append(random_feeds(graph, cases, (3, 21, 37), special=True))
    check_guarded(graph, feeds)


def test_shapes_at_edges() -> None:
    graph, cases = together([("f32", case) for case in EDGES])
    check_guarded(graph, [random_feeds(graph, cases, sizes) for sizes in SIZES])
