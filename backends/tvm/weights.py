"""The weights of an artifact: packed for their kernels when they are asked for."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait

import numpy as np
from numpy.typing import NDArray

from tunesmith.ir.constants import release

from .kernels.kernel import WeightUse

__all__ = ["KEPT_BYTES", "PackedWeights"]

KEPT_BYTES = 512 << 20


class PackedWeights(Mapping[str, NDArray[np.generic]]):
    """What each kernel reads, by name: `w0`, `w1`, …

    Weights are mapped files mostly, and packed ones are memory. So they are kept if all of them
    are no more than `KEPT_BYTES`; beyond that each is packed whenever it is asked for, and whoever
    writes them one after the other has one of them at a time.
    """

    def __init__(self, uses: Sequence[WeightUse]) -> None:
        self._uses = {f"w{number}": use for number, use in enumerate(uses)}
        self._kept: dict[str, Future[NDArray[np.generic]]] = {}
        self.nbytes = sum(use.nbytes for use in uses)
        self.keeps = self.nbytes <= KEPT_BYTES

    def __getitem__(self, name: str) -> NDArray[np.generic]:
        if self.keeps:
            self.begin()
            return self._kept[name].result()
        return _pack(self._uses[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._uses)

    def __len__(self) -> int:
        return len(self._uses)

    def begin(self) -> None:
        """Pack all from now on, in a thread beside the caller's, if they are kept.

        Packing leaves the interpreter free; whoever asks for one of them waits for just that.
        """
        if not self.keeps or self._kept:
            return
        pool = ThreadPoolExecutor(1, "pack")
        self._kept = {name: pool.submit(_pack, use) for name, use in self._uses.items()}
        pool.shutdown(wait=False)

    def settle(self) -> None:
        """Wait until nothing is being packed: a process must not fork beside threads."""
        wait(self._kept.values())


def _pack(use: WeightUse) -> NDArray[np.generic]:
    array = use.array()
    for constant in use.constants:
        if not np.may_share_memory(array, constant.array):
            release(constant.array)
    return array
