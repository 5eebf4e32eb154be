"""The weights of an artifact: packed for their kernels when they are asked for."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence

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
        self._kept: dict[str, NDArray[np.generic]] = {}
        self._packing: threading.Thread | None = None
        self._ended = False
        self._error: Exception | None = None
        self.nbytes = sum(use.nbytes for use in uses)
        self.keeps = self.nbytes <= KEPT_BYTES

    def __getitem__(self, name: str) -> NDArray[np.generic]:
        self.settle()
        if name in self._kept:
            return self._kept[name]
        array = _pack(self._uses[name])
        if self.keeps:
            self._kept[name] = array
        return array

    def __iter__(self) -> Iterator[str]:
        return iter(self._uses)

    def __len__(self) -> int:
        return len(self._uses)

    def begin(self) -> None:
        """Pack all from now on, if they are kept, in a thread that `settle` ends.

        Packing leaves the interpreter free.
        """
        if self.keeps and self._packing is None:
            self._packing = threading.Thread(target=self._pack_all, name="pack")
            self._packing.start()

    def settle(self, *, cancel: bool = False) -> None:
        """Wait until all are packed and the thread has ended: processes must not fork beside it.

        Raises what packing raised; what is missing then is packed when it is asked for. With
        `cancel`, only the one that is being packed is waited for, and nothing is raised.
        """
        thread = self._packing
        if thread is None:
            return
        self._ended = cancel
        thread.join()
        self._packing, error, self._error = None, self._error, None
        if error is not None and not cancel:
            raise error

    def _pack_all(self) -> None:
        try:
            for name, use in self._uses.items():
                if self._ended:
                    return
                self._kept[name] = _pack(use)
        except Exception as error:  # told by `settle`
            self._error = error


def _pack(use: WeightUse) -> NDArray[np.generic]:
    array = use.array()
    for constant in use.constants:
        if not np.may_share_memory(array, constant.array):
            release(constant.array)
    return array
