"""How a kernel is called, as text: what a process needs that has its library and nothing else.

Whoever measures a kernel has no compiler, no graph and no knobs. It has a library, this text, and
the weights by their names, which are digests of content and layout: equal ones are sent once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray

from tunesmith.ir.dims import evaluate_dim
from tunesmith.ir.graph import Value
from tunesmith.ir.types import DType

from .kernels.kernel import Kernel, WeightUse
from .kernels.literals import TVM_DTYPE

__all__ = ["Launch", "Operand", "launch_of", "weights_of"]

Array = NDArray[np.generic]


@dataclass(frozen=True)
class Operand:
    """An argument or a result: elements of a NumPy type; a weight has the name of its content."""

    dtype: str
    shape: tuple[int, ...]
    weight: str = ""  # 64 hexadecimal digits; empty for inputs, which are drawn at random


@dataclass(frozen=True)
class Launch:
    """Arguments, then sizes, then results: the order in which a kernel takes them.

    `apart` is how many bytes of copies of a weight keep it out of all caches; 0 for one copy.
    """

    reads: tuple[Operand, ...]
    sizes: tuple[int, ...]
    results: tuple[Operand, ...]
    apart: int = 0

    def text(self) -> str:
        """JSON that `parse` reads."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def parse(cls, text: str) -> Launch:
        """The launch that this text describes; `ValueError` or `TypeError` if it is none."""
        facts = json.loads(text)
        return cls(
            tuple(_operand(each) for each in facts["reads"]),
            tuple(int(size) for size in facts["sizes"]),
            tuple(_operand(each) for each in facts["results"]),
            int(facts["apart"]),
        )

    @property
    def weights(self) -> list[str]:
        """The names of the weights that it reads."""
        return sorted({operand.weight for operand in self.reads if operand.weight})


def _operand(facts: Mapping[str, object]) -> Operand:
    shape = facts["shape"]
    if not isinstance(shape, list) or not all(isinstance(n, int) and n >= 0 for n in shape):
        raise ValueError(f"{shape} is no shape")
    dtype = np.dtype(str(facts["dtype"]))
    if dtype.kind not in "biuf" and dtype != DType.bf16.numpy:
        raise ValueError(f"a kernel has no elements of type {dtype}")
    return Operand(dtype.name, tuple(shape), str(facts["weight"]))


def launch_of(kernel: Kernel, sizes: Mapping[str, int], spread: int) -> Launch:
    """How `kernel` is called where its symbols have `sizes`.

    `spread` is how many bytes of weights a run of the model passes over: where the last cache
    cannot hold them, each call takes another copy of the kernel's weights, so that they come from
    memory as they do in the model.
    """
    reads = []
    for value in kernel.reads:
        use = kernel.weight_use(value)
        if use is not None:
            dtype = np.dtype(TVM_DTYPE[value.type.dtype])
            reads.append(Operand(dtype.name, use.shape(), _weight_name(use)))
            continue
        reads.append(_flat(value, sizes))
    last = kernel.machine.l3_bytes
    return Launch(
        tuple(reads),
        tuple(sizes[symbol.name] for symbol in kernel.symbols),
        tuple(_flat(value, sizes) for value in kernel.group.outputs),
        2 * last if spread > last else 0,
    )


def weights_of(kernel: Kernel) -> dict[str, Callable[[], Array]]:
    """What gives each weight of a kernel as the kernel reads it, by the name in its launch."""
    uses = (kernel.weight_use(value) for value in kernel.reads)
    return {_weight_name(use): use.array for use in uses if use is not None}


def _flat(value: Value, sizes: Mapping[str, int]) -> Operand:
    return Operand(value.type.dtype.numpy.name, (evaluate_dim(value.type.size, sizes),))


def _weight_name(use: WeightUse) -> str:
    digests = "+".join(constant.digest for constant in use.constants)
    apart = f" {use.together}" if use.together > 1 else ""
    text = f"{digests} {use.key[1]} {use.shape()}{apart}"
    return hashlib.sha256(text.encode()).hexdigest()
