"""Workers of this machine: builders and a runner, forked from a process that has TVM in memory.

A candidate runs in a runner, beside the kernel with the knobs by analysis, on cores of its own:
nothing is built while one runs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from tunesmith.backends.tvm.kernels.kernel import Kernel
from tunesmith.backends.tvm.launch import launch_of, weights_of
from tunesmith.backends.tvm.standalone import build_variant, other_sizes, with_knobs
from tunesmith.ir.diagnostics import BuildError
from tunesmith.ir.target import Target

from .builders import BUILD_DEADLINE, Builders, Built
from .measure import Outcome, Task
from .records import Verdict
from .runner import WORDS, Order, Runners

__all__ = ["LocalWorkers"]

_RUN_DEADLINE = 20.0  # seconds, of one candidate
_CALLS = 60  # at most, of the default's time each, before a candidate counts as hanging


class LocalWorkers:
    """Build on all cores, then measure with as many threads as the target has, one at a time."""

    def __init__(
        self,
        target: Target,
        sizes: Mapping[str, int],
        spread: int,
        *,
        build_deadline: float = BUILD_DEADLINE,
        run_deadline: float = _RUN_DEADLINE,
        build: Callable[[Kernel, Target, Path], None] = build_variant,
    ) -> None:
        self.sizes, self.spread = dict(sizes), spread
        self.builders = Builders(target, build_deadline, build)
        self.runners = Runners(target.machine.cores, run_deadline)

    def measure(
        self, task: Task, candidates: Sequence[Mapping[str, int]], seconds: float
    ) -> Iterator[Outcome]:
        """Try knobs; see `Workers`."""
        for base, variants in self.builders.batches(task, candidates):
            for variant in variants:
                yield variant.failure or self._run(task, base, variant, seconds)

    def close(self) -> None:
        """End the runner and remove what was built."""
        self.runners.close()
        self.builders.close()

    def _run(self, task: Task, base: Built, variant: Built, seconds: float) -> Outcome:
        kernel = base.kernel
        template = kernel.template
        assert template is not None
        try:
            orders = self._order(base), self._order(variant)
        except (BuildError, KeyError) as error:  # a symbol that only data decides has no size
            return Outcome(Verdict.build_failed, reason=f"it cannot be called: {error}"[:WORDS])

        def supply(chosen: Mapping[str, int]) -> Mapping[str, Callable[[], Any]]:
            """Weights as these knobs want them: the runner has the constants, being forked."""
            return weights_of(with_knobs(kernel, template.knobs(chosen) if chosen else None))

        slow = _CALLS * task.seconds / max(1, task.calls)
        return self.runners.measure(task.name, *orders, seconds, supply, slow)

    def _order(self, built: Built) -> Order:
        kernel = built.kernel
        others = [launch_of(kernel, sizes, 0) for sizes in other_sizes(kernel, self.sizes)]
        launch = launch_of(kernel, self.sizes, self.spread)
        return Order(built.path, launch, {**built.knobs}, tuple(others))
