"""`Attention` and `RotaryEmbedding` in their forms, against ONNX Runtime."""

from __future__ import annotations

import numpy as np
import pytest
from onnx.reference import ReferenceEvaluator

from tunesmith.frontend import import_model
from tunesmith.ir.diagnostics import FrontendError
from tunesmith.ir.interpreter import evaluate

from .models import Array, check, compare, counts, declare, one

RNG = np.random.default_rng(3)


def f(*shape: int) -> Array:
    """Random floats."""
    return RNG.standard_normal(shape).astype(np.float32)


Q, K, V = f(2, 4, 3, 8), f(2, 4, 5, 8), f(2, 4, 5, 8)
PAST = f(2, 4, 6, 8)
MASK = RNG.random((3, 5)) > 0.4
MASK[:, 0] = True
HIDDEN = MASK.copy()
HIDDEN[1] = False

CASES: dict[str, tuple[list[Array | None], dict[str, object]]] = {
    "plain": ([Q, K, V], {}),
    "scale": ([Q, K, V], {"scale": 0.3}),
    "causal": ([Q, K, V], {"is_causal": 1}),
    "softcap": ([Q, K, V], {"softcap": 0.5}),
    "float-mask": ([Q, K, V, f(2, 1, 3, 5)], {}),
    "bool-mask": ([Q, K, V, MASK], {}),
    "hidden-row": ([Q, K, V, HIDDEN], {}),
    "groups": ([Q, f(2, 2, 5, 8), f(2, 2, 5, 8)], {}),
    "flat": ([f(2, 3, 32), f(2, 5, 32), f(2, 5, 32)], {"q_num_heads": 4, "kv_num_heads": 4}),
    "flat-groups": ([f(2, 3, 32), f(2, 5, 16), f(2, 5, 16)],
                    {"q_num_heads": 4, "kv_num_heads": 2}),
    "past": ([Q, K, V, None, PAST, PAST], {"outputs": 3}),
    "past-causal": ([Q, f(2, 4, 3, 8), f(2, 4, 3, 8), None, PAST, PAST],
                    {"outputs": 3, "is_causal": 1}),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_attention(name: str) -> None:
    feeds, options = CASES[name]
    proto, live = one("Attention", feeds, opset=23, **options)  # type: ignore[arg-type]  # a table
    graph = check(proto, live)
    assert counts(graph)["attention"] == 1


def test_attention_with_symbols_keeps_the_past_as_offset() -> None:
    feeds = [Q, f(2, 4, 3, 8), f(2, 4, 3, 8), None, PAST, PAST]
    proto, live = one("Attention", feeds, opset=23, outputs=3, is_causal=1)
    names = {"x0": "BHTD", "x1": "BHTD", "x2": "BHTD", "x4": "BHPD", "x5": "BHRD"}
    for value in proto.graph.input:
        for axis in (0, 2):
            value.type.tensor_type.shape.dim[axis].dim_param = names[value.name][axis]
    graph = check(proto, live)
    (found,) = (n for n in graph.nodes if n.op.name == "attention")
    assert str(found.attributes["offset"]) == "P"
    assert str(graph.inputs[4].type) == "f32[B, 4, P, 8]", "R is P"


@pytest.mark.parametrize(
    ("name", "mode"),
    # the reference caps the scores of mode 0 as well, which the text of the operator does not
    [(name, mode) for name in CASES for mode in range(4) if (name, mode) != ("softcap", 0)],
)
def test_scores(name: str, mode: int) -> None:
    """Against ONNX's reference: ONNX Runtime numbers the modes as the first text of opset 23."""
    feeds, options = CASES[name]
    options = {**options, "outputs": 4, "qk_matmul_output_mode": mode}
    proto, live = one("Attention", feeds, opset=23, **options)  # type: ignore[arg-type]  # a table
    with np.errstate(all="ignore"):
        wanted = ReferenceEvaluator(proto).run(None, live)
    compare(evaluate(import_model(declare(proto, wanted)), live), wanted, 1e-5)


def test_an_unknown_mode_of_scores_is_refused() -> None:
    proto, _ = one("Attention", [Q, K, V], opset=23, outputs=4, qk_matmul_output_mode=4)
    with pytest.raises(FrontendError, match="not one of 0 to 3"):
        import_model(declare(proto, [Q, K, V, Q]))


ROTARY: dict[str, tuple[list[Array | None], dict[str, object]]] = {
    "four": ([f(2, 4, 3, 8), f(2, 3, 4), f(2, 3, 4)], {}),
    "interleaved": ([f(2, 4, 3, 8), f(2, 3, 4), f(2, 3, 4)], {"interleaved": 1}),
    "partial": ([f(2, 4, 3, 8), f(2, 3, 2), f(2, 3, 2)],
                {"rotary_embedding_dim": 4, "num_heads": 4}),
    "three": ([f(2, 3, 32), f(2, 3, 4), f(2, 3, 4)], {"num_heads": 4}),
    "positions": ([f(2, 4, 3, 8), f(9, 4), f(9, 4), np.array([[0, 1, 2], [5, 6, 7]])], {}),
    "three-positions": ([f(2, 3, 32), f(9, 4), f(9, 4), np.array([[0, 1, 2], [5, 6, 7]])],
                        {"num_heads": 4, "interleaved": 1}),
}  # fmt: skip


@pytest.mark.parametrize("name", ROTARY)
def test_rotary(name: str) -> None:
    feeds, options = ROTARY[name]
    proto, live = one("RotaryEmbedding", feeds, opset=23, **options)  # type: ignore[arg-type]
    graph = check(proto, live)
    assert counts(graph)["rotary"] == 1
