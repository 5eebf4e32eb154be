"""A fresh artifact beside ONNX Runtime, in a child process, before anybody relies on it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import cast

from tunesmith.children import answer_of_child
from tunesmith.ir.diagnostics import BackendError, CompilerError
from tunesmith.ir.dims import Dim, evaluate_dim
from tunesmith.oracle import Arrays, Session, compare
from tunesmith.random_inputs import fitting, make_inputs, sizes_to_verify
from tunesmith.runtime import Artifact, load
from tunesmith.runtime.cache import plain_inputs
from tunesmith.runtime.manifest import Json, Manifest

__all__ = ["check_in_child"]

_DEADLINE = 600  # seconds that trying the result may take
_MOST = 65  # a symbol is not tried above this: below, the branches and tails of kernels are met
_WORK = 10**11  # arithmetic operations of one trial, about: a second or two for either engine


def check_in_child(artifact: Artifact, oracle: Callable[[], Session], work: Dim) -> dict[str, Json]:
    """Run both at several sizes and report the differences: what `Manifest.tolerance` holds.

    `oracle` opens the other engine, in the child. `work` is the number of arithmetic operations of
    a run: sizes are smaller where it is great. A model that the oracle cannot load or run
    is no worse for it: then `skipped` says why.

    Raises:
        BackendError: an output differs by more than its tolerance, or the child ended early.
    """
    result = answer_of_child(lambda: _check(artifact, oracle, work), _DEADLINE)
    if "skipped" in result:
        return result
    if not result["passed"]:
        raise BackendError(
            f"the compiled model differs from {result['oracle']}: {json.dumps(result['outputs'])}",
            hint="`tunesmith bisect` names the pass, or the backend",
        )
    return result


def _check(artifact: Artifact, oracle: Callable[[], Session], work: Dim) -> dict[str, Json]:
    try:
        session = oracle()
    except CompilerError as error:
        return {"passed": None, "skipped": error.message}
    manifest, label = artifact.manifest, session.label
    trials: list[tuple[dict[str, int], Arrays, Arrays]] = []
    for number, sizes in enumerate(sizes_to_verify(manifest.given)):
        held = _affordable(manifest, sizes, work)
        bounds = {t.name: t.rows for t in manifest.inputs if t.rows is not None}
        feeds = make_inputs(manifest.inputs, held, seed=number, bounds=bounds)
        try:
            plain = plain_inputs(manifest, feeds)
            theirs = session.run({n: plain[n] for n in session.input_names if n in plain})
        except CompilerError as error:  # random indices may lie outside of a dynamic table
            return {"passed": None, "skipped": error.message}
        trials.append((held, feeds, theirs))
    del session  # both engines have all weights in memory: one after the other
    executable = load(artifact, threads=1)
    rows: list[Json] = []
    passed = True
    for held, given, wanted in trials:
        for row in compare(executable.run(given), wanted):
            passed = passed and row.passed
            known = row.as_json()
            kept = ("name", "passed", "max_abs", "max_rel", "max_ulp", "reason")
            rows.append({"sizes": {**held}, **{k: cast(Json, known[k]) for k in kept}})
    return {"passed": passed, "oracle": label, "outputs": rows}


def _affordable(manifest: Manifest, sizes: Mapping[str, int], work: Dim) -> dict[str, int]:
    """The sizes, the greatest of them halved until a run is no more than `_WORK`."""
    least = {symbol.name: symbol.min for symbol in manifest.given}
    guessed = {s.name: s.max or _MOST for s in manifest.symbols if s.name not in least}
    held = {name: max(min(sizes[name], _MOST), low) for name, low in least.items()}
    while held and evaluate_dim(work, guessed | held) > _WORK:
        name = max(held, key=lambda name: held[name] - least[name])
        if held[name] == least[name]:
            break
        held[name] = max(least[name], held[name] // 2)
    return fitting(manifest, held)
