"""Key/value caches that are written in place: the buffers of a sequence, and how many rows count.

A decoder that was compiled with `--cache` takes buffers where the model took the past, and writes
new rows behind those that count. Nothing of the past is copied, and nothing is allocated for it.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tunesmith.ir.diagnostics import InputError

from .manifest import CacheSpec, Manifest
from .shapes import DimText, ShapeSolver, parse_dim

if TYPE_CHECKING:
    from .executable import Executable, Inputs

__all__ = ["Cache", "Room", "plain_inputs"]

Array = NDArray[np.generic]


@dataclass(frozen=True)
class Room:
    """One buffer: which input and output it is, and how many rows count before and after a step."""

    input: int
    output: int
    axis: int
    capacity: int
    before: DimText
    after: DimText

    @classmethod
    def of(cls, manifest: Manifest, spec: CacheSpec) -> Room:
        """The room of one cache of a manifest."""
        input = next(i for i, t in enumerate(manifest.inputs) if t.name == spec.input)
        output = next(i for i, t in enumerate(manifest.outputs) if t.name == spec.output)
        after = manifest.outputs[output].dims[spec.axis]
        capacity = manifest.inputs[input].dims[spec.axis]
        assert isinstance(capacity, int), "checked by the manifest"
        text = parse_dim(after) if isinstance(after, str) else DimText(str(after), after)
        return cls(input, output, spec.axis, capacity, parse_dim(spec.before), text)

    def rows(self, buffer: Array, sizes: Mapping[str, int]) -> Array:
        """The rows that count after a step: a view."""
        return first_rows(buffer, self.axis, self.after.evaluate(sizes))


def first_rows(buffer: Array, axis: int, count: int) -> Array:
    """The first `count` elements along `axis`: a view."""
    return buffer[(*(slice(None),) * axis, slice(0, count))]


class Cache:
    """The keys and values of one sequence, or of one batch of them, in buffers of its own.

    `run` is a step: it takes the inputs that are no caches, and afterwards more rows count. One
    thread at a time may use a cache; others have caches of their own, and share the model.

    `cache["past_key_values.0.key"]`, or `cache["present.0.key"]`, is a view of the rows that count,
    for NumPy and whatever speaks DLPack. Copy what has to outlive `truncate` and `fill`.
    """

    def __init__(self, executable: Executable, symbols: Mapping[str, int]) -> None:
        manifest = executable.manifest
        if not manifest.caches:
            raise InputError("the model has no cache that is written in place",
                             where=manifest.name, hint="compile it with `--cache CAPACITY`"
                             )  # fmt: skip
        self._executable = executable
        self._sizes = dict(symbols)
        self._rooms = [Room.of(manifest, spec) for spec in manifest.caches]
        self._buffers = {
            spec.input: executable.empty(spec.input, **symbols) for spec in manifest.caches
        }
        self._names = {
            name: (spec.input, spec.axis)
            for spec in manifest.caches
            for name in (spec.output, spec.input)
        }
        self._past = {room.before.text: room.before for room in self._rooms}
        self._lengths = {spec.name for spec in manifest.inputs if spec.binds in self._past}
        self._length = 0
        self._lock = threading.Lock()

    @property
    def length(self) -> int:
        """How many rows count."""
        return self._length

    @property
    def capacity(self) -> int:
        """How many rows there is room for."""
        return min(room.capacity for room in self._rooms)

    def __getitem__(self, name: str) -> Array:
        """A view of the rows that count, by the name of an input or output of the model."""
        if name not in self._names:
            raise InputError(f"there is no cache `{name}`",
                             hint=f"there are {', '.join(f'`{n}`' for n in self._buffers)}"
                             )  # fmt: skip
        buffer, axis = self._names[name]
        return first_rows(self._buffers[buffer], axis, self._length)

    def run(self, inputs: Inputs) -> dict[str, Array]:
        """One step; the outputs are those of `Executable.run`, those of caches as views.

        Raises:
            InputError: there is no room for the new rows, an input does not fit the batch of this
                cache or says another length, or another thread is using the cache. Nothing counts
                then that did not count before.
        """
        with self._alone():
            given: dict[str, Any] = dict(inputs)
            for name in given.keys() & self._buffers.keys():
                raise InputError("is held by the cache", where=f"input `{name}`",
                                 hint="leave it out; `fill` takes a past that is there already"
                                 )  # fmt: skip
            self._check_sizes(given)
            for name in self._lengths - given.keys():
                given[name] = np.asarray(self._length, np.int64)
            outputs, sizes = self._executable.step(given | self._buffers, self._check_length)
            self._length = self._rooms[0].after.evaluate(sizes)
            return outputs

    def fill(self, past: Mapping[str, Array]) -> None:
        """Begin with these rows, by the name of an input or output: those of a prompt, say."""
        with self._alone():
            found = {self._names[name][0]: array for name, array in past.items()
                     if name in self._names}  # fmt: skip
            for name in self._buffers.keys() - found.keys():
                raise InputError(f"the past of `{name}` is missing",
                                 hint=f"a past has {', '.join(f'`{n}`' for n in self._buffers)}"
                                 )  # fmt: skip
            lengths = set()
            for name, array in found.items():
                buffer, axis = self._buffers[name], self._names[name][1]
                fits = array.ndim == buffer.ndim and array.dtype == buffer.dtype
                rows = array.shape[axis] if fits else 0
                if not fits or first_rows(buffer, axis, rows).shape != array.shape:
                    raise InputError(
                        f"is {array.dtype}{list(array.shape)}, the cache {buffer.dtype}"
                        f"{list(buffer.shape)}", where=f"past `{name}`",
                        hint=f"all but axis {axis} agree, which has {buffer.shape[axis]} at most",
                    )  # fmt: skip
                lengths.add(rows)
            if len(lengths) > 1:
                raise InputError(f"the past has {min(lengths)} rows here and {max(lengths)} there",
                                 hint="all parts of a past are equally long")  # fmt: skip
            for name, array in found.items():
                rows = array.shape[self._names[name][1]]
                first_rows(self._buffers[name], self._names[name][1], rows)[...] = array
                self._length = rows

    def truncate(self, length: int = 0) -> None:
        """Let only the first `length` rows count: to begin anew, or to take back some steps."""
        with self._alone():
            if not 0 <= length <= self._length:
                raise InputError(f"cannot keep {length} rows of {self._length}",
                                 hint=f"keep 0 to {self._length}")  # fmt: skip
            self._length = length

    @contextmanager
    def _alone(self) -> Iterator[None]:
        if not self._lock.acquire(blocking=False):
            raise InputError("another thread is using this cache",
                             hint="a cache is one sequence: give each thread `cache()` of its own"
                             )  # fmt: skip
        try:
            yield
        finally:
            self._lock.release()

    def _check_sizes(self, given: Mapping[str, Any]) -> None:
        """Refuse another batch by the input that has it, not by the buffers."""
        for spec in self._executable.inputs:
            shape = getattr(given.get(spec.name), "shape", ())
            for axis, (size, actual) in enumerate(zip(spec.dims, shape, strict=False)):
                wanted = self._sizes.get(str(size))
                if wanted is not None and wanted != actual:
                    raise InputError(f"has {actual} along axis {axis}, and the cache was made for "
                                     f"`{size}` {wanted}", where=f"input `{spec.name}`",
                                     hint=f"make another: `cache({size}={actual})`")  # fmt: skip

    def _check_length(self, sizes: Mapping[str, int]) -> None:
        """Refuse inputs that count other rows than the cache does."""
        for name, size in self._past.items():
            if size.evaluate(sizes) != self._length:
                raise InputError(
                    f"the inputs make `{name}` {size.evaluate(sizes)}, and {self._length} rows of "
                    "the cache count", hint="a mask covers what counts and the new rows",
                )  # fmt: skip


def plain_inputs(manifest: Manifest, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """The inputs as the model itself takes them: of each cache the rows that count, and no more."""
    if not manifest.caches:
        return dict(feeds)
    shapes = [tuple(np.shape(feeds[spec.name])) for spec in manifest.inputs]
    sizes, _ = ShapeSolver([spec.dims for spec in manifest.inputs]).solve(shapes)
    bound = [spec for spec in manifest.inputs if spec.binds is not None]
    sizes |= {str(spec.binds): int(np.asarray(feeds[spec.name])) for spec in bound}
    plain = {name: feeds[name] for name in feeds.keys() - {spec.name for spec in bound}}
    for spec in manifest.caches:
        rows = parse_dim(spec.before).evaluate(sizes)
        plain[spec.input] = np.ascontiguousarray(first_rows(plain[spec.input], spec.axis, rows))
    return plain
