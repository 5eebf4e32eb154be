"""A loaded model: arrays in by name, arrays out by name, and every misfit refused with a reason."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from tunesmith.ir.diagnostics import ArtifactError, InputError

from .artifact import Artifact
from .cache import Cache, Room
from .cpu import check_target
from .manifest import Manifest, SymbolSpec, TensorSpec, array_text, numpy_type
from .profiler import Probe, Profile, profile_calls
from .shapes import DimText, ShapeSolver, parse_dim
from .tvm_module import TvmModule, aligned_copy, bits_of, claim_threads, package_versions

__all__ = ["Executable", "load"]

Array = NDArray[np.generic]


class SupportsDLPack(Protocol):
    """A tensor of another package, which hands over its memory."""

    def __dlpack__(self, *, stream: Any = None) -> Any:
        """A capsule of the memory."""
        ...

    def __dlpack_device__(self) -> tuple[int, int]:
        """Where the memory is."""
        ...


Inputs = Mapping[str, Array | SupportsDLPack]


def load(
    path: str | Path | Artifact, *, threads: int | None = None, strict: bool = False
) -> Executable:
    """Load a model from a `.tsm` file, or straight from the compiler.

    `threads` defaults to the cores that this process may use, `TVM_NUM_THREADS` to override. The
    first load in a process sets the most that later ones may ask for. `strict` hashes the weights,
    which ordinary loading does not: it takes about a second for a gigabyte.
    """
    artifact = path if isinstance(path, Artifact) else Artifact.open(path)
    if strict:
        artifact.verify_weights()
    return Executable(artifact, threads=threads)


class Executable:
    """A model that is ready to run.

    Any Python thread may call `run`, several at a time: each has workers of its own, which it
    keeps until the process ends, the weights are shared, and the interpreter lock is free while
    kernels run. An input is a NumPy array, or whatever else hands over CPU memory by DLPack (a
    torch tensor); if it is contiguous, it is used where it is, else it is copied. Outputs are fresh
    arrays, the caller's to keep and to change. An input whose elements were fixed when compiling
    may be left out; given, it must hold just these.

    A model that was compiled with `--cache` writes to the buffers that are its caches, and these
    outputs are the rows of the buffers that count now: `cache` looks after all of that.
    """

    def __init__(self, artifact: Artifact, *, threads: int | None = None) -> None:
        self.manifest: Manifest = artifact.manifest
        self._where = str(artifact.path) if artifact.path else self.manifest.name
        self.manifest.check()
        check_target(self.manifest.target, self._where)
        self._check_versions()
        self.threads = claim_threads(threads)
        self._names = tuple(spec.name for spec in self.inputs)
        self._dtypes = tuple(numpy_type(spec.dtype) for spec in self.inputs)
        fixed = ((spec.name, spec.array) for spec in self.inputs)
        self._fixed = {name: array for name, array in fixed if array is not None}
        self._solver = ShapeSolver([spec.dims for spec in self.inputs])
        if self._solver.missing:
            raise ArtifactError(f"no input gives the size of `{self._solver.missing[0]}`",
                                where=self._where)  # fmt: skip
        self._binds = [(i, s.binds) for i, s in enumerate(self.inputs) if s.binds is not None]
        self._rooms = [Room.of(self.manifest, spec) for spec in self.manifest.caches]
        counts: dict[object, Room] = {}
        for room in self._rooms:
            counts.setdefault((room.capacity, room.before, room.after), room)
        self._distinct = [*counts.values()]
        self._written = {room.input: self._names[room.input] for room in self._rooms}
        kept = {room.output for room in self._rooms}
        self._computed = tuple(spec for i, spec in enumerate(self.outputs) if i not in kept)
        self._output_dtypes = tuple(numpy_type(spec.dtype) for spec in self._computed)
        known = {symbol for _, _, symbol in self._solver.gives} | {s for _, s in self._binds}
        self._promised = [
            (i, axis, parse_dim(dim) if isinstance(dim, str) else DimText(str(dim), dim))
            for i, spec in enumerate(self._computed)
            for axis, dim in enumerate(spec.dims)
            if isinstance(dim, int) or known.issuperset(parse_dim(dim).symbols)
        ]
        self._bounded = [s for s in self.manifest.symbols if s.min > 0 or s.max is not None]
        try:
            self._module = TvmModule(
                artifact.library_bytes(), self.manifest.entry, artifact.weights.values(),
                self.threads, exact=threads is not None,
            )  # fmt: skip
        except ArtifactError as error:
            error.where = error.where or self._where
            raise
        if self._module.inputs != len(self.inputs):
            raise ArtifactError(
                f"`{self.manifest.entry}` takes {self._module.inputs} inputs besides the weights, "
                f"the manifest states {len(self.inputs)}", where=self._where)  # fmt: skip

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """What `run` takes."""
        return self.manifest.inputs

    @property
    def outputs(self) -> tuple[TensorSpec, ...]:
        """What `run` gives, in this order."""
        return self.manifest.outputs

    def empty(self, name: str, **symbols: int) -> Array:
        """An uninitialized array for an input, which starts where vectors and cache lines do."""
        spec = next((s for s in self.inputs if s.name == name), None)
        if spec is None:
            raise self._unknown_input(name)
        try:
            shape = [parse_dim(d).evaluate(symbols) if isinstance(d, str) else d for d in spec.dims]
        except KeyError as error:
            raise InputError(f"the size of `{error.args[0]}` is missing", where=_input(spec),
                             hint=f"`{name}` is {spec}") from error  # fmt: skip
        return aligned_copy(np.broadcast_to(np.zeros((), numpy_type(spec.dtype)), shape))

    def run(self, inputs: Inputs) -> dict[str, Array]:
        """Run the model once; the outputs come in their declared order."""
        return self.step(inputs)[0]

    def cache(self, **symbols: int) -> Cache:
        """Empty key/value caches for sizes such as `batch=1`; see `Cache`."""
        return Cache(self, symbols)

    def step(
        self, inputs: Inputs, check: Callable[[Mapping[str, int]], None] | None = None
    ) -> tuple[dict[str, Array], dict[str, int]]:
        """`run`, with the sizes of symbols; `check` may refuse these before anything is written."""
        arrays, sizes = self._accept(inputs)
        if check is not None:
            check(sizes)
        try:
            results = self._module(arrays, self._written)
        except ArtifactError as error:
            error.where = error.where or self._where
            raise
        results = self._checked(results, sizes)
        named = dict(zip((spec.name for spec in self._computed), results, strict=True))
        if not self._rooms:
            return named, sizes
        for room in self._rooms:
            named[self.outputs[room.output].name] = room.rows(arrays[room.input], sizes)
        return {spec.name: named[spec.name] for spec in self.outputs}, sizes

    def profile(
        self,
        inputs: Inputs,
        *,
        rounds: int = 20,
        warmup: int = 3,
        cpu_time: bool = False,
        probe: Probe | None = None,
    ) -> Profile:
        """Run the model many times and measure each kernel: `docs/profile.md`.

        `cpu_time` leaves out the time in which other processes ran; for one thread only. `probe`
        is called before each round, with the clock, and says what the machine reaches then.
        """
        _, sizes = self._accept(inputs)

        def run() -> None:
            self._checked(self._module(self._accept(inputs)[0], self._written), sizes)

        return profile_calls(self._module, run, self.manifest, sizes, rounds=rounds,
                             warmup=warmup, cpu_time=cpu_time, probe=probe)  # fmt: skip

    def __call__(self, **inputs: Array | SupportsDLPack) -> dict[str, Array]:
        """`run`, for names that are Python names."""
        return self.run(inputs)

    def _accept(self, inputs: Inputs) -> tuple[list[Array], dict[str, int]]:
        """The inputs in order and the sizes of symbols, after every check."""
        if self._fixed:
            inputs = {**self._fixed, **inputs}
        if len(inputs) != len(self._names):
            self._refuse_names(inputs)
        arrays = []
        for spec, dtype in zip(self.inputs, self._dtypes, strict=True):
            try:
                array = inputs[spec.name]
            except KeyError:
                self._refuse_names(inputs)
                raise
            if not isinstance(array, np.ndarray):
                array = _from_dlpack(spec, array)
            if dtype.isbuiltin == 2 and array.dtype == f"V{dtype.itemsize}":
                array = array.view(dtype)  # an `.npz` file holds its elements without a name
            if array.dtype != dtype:
                raise InputError(f"has the dtype `{array.dtype}`, not `{spec.dtype}`",
                                 where=_input(spec),
                                 hint=f'convert it: `.astype("{spec.dtype}")`')  # fmt: skip
            if array.ndim != len(spec.dims):
                raise InputError(f"has the shape {array.shape}, of rank {array.ndim}",
                                 where=_input(spec), hint=f"it takes {spec}")  # fmt: skip
            arrays.append(array)
        sizes, wrong = self._solver.solve([array.shape for array in arrays])
        if wrong is not None:
            (index, axis), size = wrong
            spec, shape = self.inputs[index], arrays[index].shape
            known = ", ".join(f"`{s}` is {sizes[s]}" for s in size.symbols if s in sizes)
            raise InputError(
                f"has the shape {shape}: axis {axis} is {shape[axis]}, not {size}",
                where=_input(spec),
                hint=f"it takes {spec}" + (f", and {known} by the other axes" if known else ""),
            )
        for index, name in self._binds:
            sizes[name] = int(arrays[index])
        if self._rooms:
            self._check_rooms(arrays, sizes)
        for symbol in self._bounded:
            value = sizes.get(symbol.name)
            if value is not None and not _fits(value, symbol):
                raise self._out_of_bounds(symbol, value)
        for spec, array in zip(self.inputs, arrays, strict=True):
            if spec.rows is not None and array.size:
                _check_rows(spec, array, spec.rows)
        for name, fixed in self._fixed.items():
            _check_value(name, arrays[self._names.index(name)], fixed)
        return arrays, sizes

    def _check_rooms(self, arrays: Sequence[Array], sizes: Mapping[str, int]) -> None:
        """Refuse buffers that cannot be written to, and more rows than they have room for."""
        for room in self._distinct:
            before, after = room.before.evaluate(sizes), room.after.evaluate(sizes)
            if not 0 <= before <= after <= room.capacity:
                raise InputError(
                    f"has room for {room.capacity} rows; {before} count, and this step makes them "
                    f"{after}", where=_input(self.inputs[room.input]),
                    hint="compile the model with a greater `--cache`, or begin anew",
                )  # fmt: skip
        for room in self._rooms:
            if not arrays[room.input].flags.carray:
                raise InputError("is written to, and is read-only or not contiguous",
                                 where=_input(self.inputs[room.input]),
                                 hint="`Executable.cache` makes buffers that fit")  # fmt: skip

    def _checked(self, results: Sequence[Array], sizes: Mapping[str, int]) -> list[Array]:
        """The kernels must do as the manifest says; an axis that depends on data is free.

        Kernels give types that NumPy lacks as their bits; the results are of these types.
        """
        if len(results) != len(self._computed):
            raise ArtifactError(f"the model gave {len(results)} outputs, not {len(self._computed)}",
                                where=self._where)  # fmt: skip
        results = [
            result.view(dtype)
            if dtype.isbuiltin == 2 and result.dtype == f"u{dtype.itemsize}"
            else result
            for result, dtype in zip(results, self._output_dtypes, strict=True)
        ]
        stated_types = zip(results, self._computed, self._output_dtypes, strict=True)
        right = all(
            result.dtype == dtype and result.ndim == len(spec.dims)
            for result, spec, dtype in stated_types
        ) and all(
            results[i].shape[axis] == size.evaluate(sizes) for i, axis, size in self._promised
        )  # fmt: skip
        if not right:
            given = ", ".join(f"{r.dtype}{list(r.shape)}" for r in results)
            stated = ", ".join(map(str, self._computed))
            raise ArtifactError(f"the model gave {given}, the manifest states {stated}",
                                where=self._where)  # fmt: skip
        return results

    def _refuse_names(self, inputs: Inputs) -> None:
        """Raise for an unknown name first: it explains the missing one."""
        for name in inputs:
            if name not in self._names:
                raise self._unknown_input(name)
        for spec in self.inputs:
            if spec.name not in inputs:
                raise InputError(f"input `{spec.name}` is missing", where=self._where,
                                 hint=f"it takes {spec}")  # fmt: skip

    def _unknown_input(self, name: object) -> InputError:
        from difflib import get_close_matches

        plain = {known.lower(): known for known in self._names}
        close = [plain[key] for key in get_close_matches(str(name).lower(), plain, 1)]
        listed = ", ".join(f"`{n}`" for n in self._names)
        hint = f"did you mean `{close[0]}`?" if close else f"the inputs are {listed or 'none'}"
        return InputError(f"there is no input `{name}`", where=self._where, hint=hint)

    def _out_of_bounds(self, symbol: SymbolSpec, value: int) -> InputError:
        places = [(place[0], name) for place, _, name in self._solver.gives] + self._binds
        index = next(index for index, name in places if name == symbol.name)
        most = "on" if symbol.max is None else f"to {symbol.max}"
        return InputError(f"makes `{symbol.name}` {value}, outside of {symbol.min} {most}",
                          where=_input(self.inputs[index]),
                          hint="compile the model with a wider bound for this size")  # fmt: skip

    def _check_versions(self) -> None:
        """Kernels call into the runtime by its binary interface, which changes between versions."""
        for package, installed in package_versions().items():
            made_for = self.manifest.versions.get(package, installed)
            if made_for != installed:
                raise ArtifactError(f"made with {package} {made_for}, installed is {installed}",
                                    where=self._where,
                                    hint="compile the model again, or install that version"
                                    )  # fmt: skip


def _from_dlpack(spec: TensorSpec, tensor: SupportsDLPack) -> Array:
    """The memory of another package's tensor as an array, without a copy."""
    name = type(tensor).__name__
    if not hasattr(tensor, "__dlpack__"):
        raise InputError(f"is a `{name}`, not an array", where=_input(spec),
                         hint=f"it takes {spec}")  # fmt: skip
    try:
        dtype = numpy_type(spec.dtype)
        if dtype.isbuiltin == 2:  # NumPy takes no such tensor
            return bits_of(tensor, spec.dtype).view(dtype)
        return np.from_dlpack(tensor)
    except Exception as error:  # each package raises its own: on a GPU, needs a gradient, bf16
        raise InputError(f"is a `{name}` that cannot be read: {error}", where=_input(spec),
                         hint="give a contiguous tensor in CPU memory, without a gradient",
                         ) from error  # fmt: skip


def _check_rows(spec: TensorSpec, array: Array, rows: int) -> None:
    """Refuse a place outside the table that the input picks rows of."""
    low, high = int(array.min()), int(array.max())
    if low < -rows or high >= rows:
        raise InputError(
            f"holds {low if low < -rows else high}, and the table it picks rows of has {rows}",
            where=_input(spec), hint=f"its elements lie in [{-rows}, {rows - 1}]",
        )  # fmt: skip


def _check_value(name: str, array: Array, value: Array) -> None:
    """Refuse elements other than those that the model was compiled for, to the bit."""
    if array is not value and array.tobytes() != value.tobytes():
        raise InputError(
            f"holds {array_text(array)}, and the model was compiled for {array_text(value)}",
            where=f"input `{name}`",
            hint="leave this input out, or compile the model again with the other value",
        )


def _fits(value: int, symbol: SymbolSpec) -> bool:
    return value >= symbol.min and (symbol.max is None or value <= symbol.max)


def _input(spec: TensorSpec) -> str:
    return f"input `{spec.name}`"
