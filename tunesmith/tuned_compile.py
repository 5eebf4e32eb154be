"""`tunesmith compile --db`: compile with what was measured before, and search nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.driver import Progress, compile_model
from tunesmith.places import Here, Place
from tunesmith.random_inputs import check_sizes, sizes_to_bench
from tunesmith.runtime import Artifact
from tunesmith.runtime.manifest import Json, SymbolSpec

if TYPE_CHECKING:
    from tunesmith.autotune.choices import FromStore
    from tunesmith.autotune.measure import Workers
    from tunesmith.autotune.records import Record
    from tunesmith.autotune.tune import Store
    from tunesmith.backends.base import Lowered

__all__ = ["compile_with_records"]

_CHECK_SECONDS = 0.2  # of running a recorded kernel beside the default


def compile_with_records(
    source: str | Path,
    store: Store,
    *,
    at: Mapping[str, int] | None = None,
    progress: Progress | None = None,
    warn: Callable[[str], None] = lambda text: None,
    workers: Callable[[Lowered, Mapping[str, int], int], Workers] | None = None,
    place: Place | None = None,
    **options: Any,
) -> Artifact:
    """Compile a model by the knobs of a store, for shapes never tuned by those of near ones.

    Each kernel that a record is used for is built and run beside the untuned one first, in
    processes of their own (`workers`, by default of `place`, which is this machine if not given); a
    record whose kernel computes something else, hangs or crashes is refused, and `warn` hears of
    it. Records are those of the device at `place`. `at` are the sizes that the model was tuned at,
    by default those of `tune`; `options` are those of `compile_model`.

    Raises:
        CompilerError: one of its kinds.
    """
    from tunesmith.autotune.choices import Chosen, FromStore
    from tunesmith.autotune.device import versions_text
    from tunesmith.backends.targets import find_target

    where = place or Here()
    target = options.get("target", "host")
    if isinstance(target, str):
        target = find_target(target, options.get("threads"))
    device = where.device(target)
    found: list[FromStore] = []
    seen: list[Lowered] = []

    def records(symbols: Sequence[SymbolSpec]) -> FromStore:
        sizes = {**sizes_to_bench(symbols), **(at or {})}
        check_sizes(sizes, symbols)
        found.append(FromStore(store, device, versions_text(), sizes))
        return found[-1]

    verify = bool(options.pop("verify", False))  # not before the records are checked
    artifact = compile_model(
        source, **options, progress=progress, records=records, observe=seen.append
    )
    if progress is not None:
        progress("check records")
    (lowered,), (used,) = seen, found
    weights = artifact.manifest.report["weights"]
    assert isinstance(weights, int)
    if workers is not None:
        made = workers(lowered, used.sizes, weights)
    else:
        made = where.workers(lowered.target, used.sizes, weights)
    refused = _refused(lowered, used, made)
    for (template, _), reason in refused.items():
        warn(f"a record of {template} is refused: {reason}")
    kept = {key: r for key, r in _in_use(lowered, used).items() if key not in refused}
    if refused or verify:
        knobs = Chosen({key: record.knobs for key, record in kept.items()})
        artifact = compile_model(
            source, **options, verify=verify, progress=progress, records=lambda _: knobs
        )
    rows = [_row(key, record) for key, record in kept.items()]
    tuned: dict[str, Json] = {"kernels": [*rows], "tried": len(used.tried)}
    report: dict[str, Json] = {**artifact.manifest.report, "tuned": tuned}
    artifact.manifest = replace(artifact.manifest, report=report)
    return artifact


def _in_use(lowered: Lowered, used: FromStore) -> dict[tuple[str, str], Record]:
    """The records by whose knobs a kernel is written: other than the default's, and fitting."""
    from tunesmith.backends.tvm.kernels.kernel import Kernel

    found: dict[tuple[str, str], Record] = {}
    for kernel in lowered.tunable.values():
        assert isinstance(kernel, Kernel) and kernel.template is not None
        if kernel.chosen is not None:
            key = kernel.template.title, kernel.workload
            found[key] = used.used[key]
    return found


def _refused(lowered: Lowered, used: FromStore, workers: Workers) -> dict[tuple[str, str], str]:
    """The kernels whose records do not give what the untuned kernel gives, and in what way."""
    from tunesmith.autotune.device import workload_of
    from tunesmith.autotune.measure import Task
    from tunesmith.autotune.records import Verdict
    from tunesmith.autotune.search import Space
    from tunesmith.backends.tvm.kernels.kernel import Kernel
    from tunesmith.backends.tvm.standalone import with_knobs

    refused: dict[tuple[str, str], str] = {}
    try:
        for kernel in lowered.tunable.values():
            assert isinstance(kernel, Kernel) and kernel.template is not None
            template, knobs = kernel.template, kernel.chosen
            if knobs is None:
                continue
            base = with_knobs(kernel, None)
            work = workload_of(template.title, kernel.workload, template.features, used.sizes)
            space = Space(template.values(), template.default.numbers(), lambda _: True)
            task = Task(base.name, work, space, 0.0, 1, base)
            (outcome,) = workers.measure(task, [knobs.numbers()], _CHECK_SECONDS)
            key = template.title, kernel.workload
            if outcome.verdict not in (Verdict.ok, Verdict.slower) or not outcome.checked:
                refused[key] = f"{outcome.verdict}: {outcome.reason}"
            elif used.used[key].workload != work and outcome.verdict is Verdict.slower:
                refused[key] = "what is quicker for a near shape is not for this one"
    finally:
        workers.close()
    return refused


def _row(key: tuple[str, str], record: Record) -> dict[str, Json]:
    return {"template": key[0], "knobs": {**record.knobs}, "speedup": round(record.speedup, 4),
            "checked": True, "workload": record.workload.sha256}  # fmt: skip
