"""The only file that touches `tvm_ffi` and `libtvm_runtime`: a library in, a callable out.

Threads. TVM keeps one pool of workers for each Python thread that runs kernels. Its size is read
from the environment when the pool is made and never grows, but a call may use fewer. So the first
load fixes the size of the pools of this process (`TVM_NUM_THREADS`), and each executable says how
many of them it uses. Workers are not bound to cores (`TVM_BIND_THREADS`): TVM would bind the
calling thread as well. After a fork the pool is gone; a call that needs it is an error, not a hang.
"""

from __future__ import annotations

import ctypes
import importlib.util
import itertools
import os
import re
import sys
import threading
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol, cast

import numpy as np
from numpy.typing import NDArray

from tunesmith.ir.diagnostics import ArtifactError, InputError

from .cpu import physical_cores
from .profiler import NativeHook

__all__ = [
    "PACKAGES", "TvmModule", "aligned_copy", "bits_of", "claim_threads", "package_versions",
]  # fmt: skip

Array = NDArray[np.generic]

PACKAGES = ("apache-tvm", "apache-tvm-ffi")  # kernels and runtime are made for each other
ALIGNMENT = 64
_NONE: Mapping[int, str] = {}
_CPU, _POOLED = 1, 2  # DLPack's code for the CPU; the allocator that keeps what is freed
_SPINS = "3000"  # of a worker that waits for the next kernel: a millisecond, where TVM spins for 80
_ANY_CORES = 1  # affinity mode "big": without binding it only sets how many workers are used


# ---------------------------------------------------------------------------------- the libraries


@cache
def package_versions() -> dict[str, str]:
    """The installed versions of the packages that kernels depend on."""
    versions = {}
    for name in PACKAGES:
        with suppress(metadata.PackageNotFoundError):
            versions[name] = metadata.version(name)
    return versions


@cache
def _ffi() -> ModuleType:
    """`tvm_ffi`, with TVM's runtime library loaded: no compiler, and no torch.

    `tvm_ffi` imports torch if it can, which takes seconds; nothing here needs that.
    """
    blocked = "torch" not in sys.modules
    if blocked:
        sys.modules["torch"] = None  # type: ignore[assignment]  # makes `import torch` fail
    try:
        import tvm_ffi
    except ImportError as error:
        raise ArtifactError(
            f"cannot load the TVM runtime: {error}", hint="install tunesmith with its dependencies"
        ) from error
    finally:
        if blocked:
            del sys.modules["torch"]
    library = _runtime_library()
    try:
        ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)
    except OSError as error:
        raise ArtifactError(f"cannot load the TVM runtime: {error}") from error
    module: ModuleType = tvm_ffi
    return module


def _runtime_library() -> Path:
    """Where `libtvm_runtime` is, found without importing `tvm`."""
    folders = [Path(os.environ["TVM_LIBRARY_PATH"])] if "TVM_LIBRARY_PATH" in os.environ else []
    spec = importlib.util.find_spec("tvm")
    for place in (spec.submodule_search_locations or ()) if spec else ():
        folders.append(Path(place) / "lib")
    suffix = "dylib" if sys.platform == "darwin" else "so"
    for folder in folders:
        if (library := folder / f"libtvm_runtime.{suffix}").is_file():
            return library
    raise ArtifactError(
        f"cannot find `libtvm_runtime.{suffix}`",
        hint="install apache-tvm, or set TVM_LIBRARY_PATH to the folder of the library",
    )


# --------------------------------------------------------------------------------------- threads

_lock = threading.Lock()
_capacity = 0  # workers in each pool of this process; 0 before the first load
_default = 0
_local = threading.local()  # .used: workers set on this Python thread; .process: where it was made


def claim_threads(threads: int | None) -> int:
    """How many workers an executable will use; the first call in a process sets the most."""
    global _capacity, _default
    if threads is not None and not 1 <= threads <= 1024:
        raise InputError(f"{threads} threads", hint="ask for 1 or more, or leave `threads` out")
    with _lock:
        if not _capacity:
            asked = os.environ.get("TVM_NUM_THREADS") or os.environ.get("OMP_NUM_THREADS") or ""
            _default = int(asked) if asked.isdigit() and int(asked) else physical_cores()
            _capacity = max(_default, threads or 1)
            os.environ["TVM_NUM_THREADS"] = str(_capacity)
            os.environ.setdefault("TVM_BIND_THREADS", "0")
            os.environ.setdefault("TVM_THREAD_POOL_SPIN_COUNT", _SPINS)
        wanted = threads or _default
        if wanted > _capacity:
            raise InputError(
                f"{wanted} threads, but the first load in this process made pools of {_capacity}",
                hint=f"load the largest first, or start Python with TVM_NUM_THREADS={wanted}",
            )
        return wanted


def _use_threads(threads: int, exact: bool) -> None:
    """Let calls from this Python thread use that many workers, or fewer if need not be `exact`."""
    process = os.getpid()
    forked = getattr(_local, "process", process) != process
    if forked and threads > 1:
        raise InputError(
            "this process was forked after a model had run, and has lost its worker threads",
            hint="run models after forking only, or use the `spawn` start method",
        )
    ffi = _ffi()
    ffi.get_global_func("runtime.config_threadpool")(_ANY_CORES, threads)
    if forked:
        return  # one thread is the calling one, but the pool stays broken: ask again next time
    actual = int(ffi.get_global_func("runtime.NumThreads")())
    if exact and actual != threads:
        raise InputError(
            f"{threads} threads, but TVM has already made a pool of {actual} for this thread",
            hint=f"start Python with TVM_NUM_THREADS={threads}",
        )
    _local.used, _local.process = threads, process


# ---------------------------------------------------------------------------------------- tensors


def aligned_copy(array: Array) -> Array:
    """A compact copy that starts on a 64-byte boundary, as kernels assume of weights."""
    buffer = np.empty(array.nbytes + ALIGNMENT, np.uint8)
    start = -buffer.ctypes.data % ALIGNMENT
    copy: Array = np.ndarray(array.shape, array.dtype, buffer.data, start)
    copy[...] = array
    return copy


def bits_of(tensor: object, dtype: str) -> Array:
    """The memory of another package's tensor as unsigned integers, without a copy.

    Raises:
        ValueError: it holds elements of another type than `dtype`.
    """
    ffi = _ffi()
    taken: Any = ffi.from_dlpack(tensor)
    if str(taken.dtype) != dtype:
        raise ValueError(f"its elements are {taken.dtype}, not {dtype}")
    view = ffi.get_global_func("runtime.TVMTensorCreateView")
    plain = f"uint{np.dtype(dtype).itemsize * 8}"
    bits: Array = np.from_dlpack(view(taken, ffi.Shape(taken.shape), plain, 0))
    return bits


def _tensor(array: Array, alignment: int) -> tuple[object, int]:
    """An array as TVM's tensor, and its address; a copy only if TVM cannot take it as it is.

    Elements of a type that is not NumPy's own, such as bfloat16, go as integers of their size: it
    hands over no others, and kernels read them so.
    """
    if array.dtype.isbuiltin == 2:
        array = array.view(f"u{array.itemsize}")
    if array.size == 0:
        return _empty_tensor(array), 0
    if not array.flags.c_contiguous:
        array = aligned_copy(array)
    from_dlpack = _ffi().from_dlpack
    if array.flags.writeable:
        tensor = from_dlpack(array)
    else:  # only the newer protocol can hand over read-only memory; kernels never write to it
        tensor = from_dlpack(cast(Any, array).__dlpack__(max_version=(1, 0)))
    address: int = tensor.data_ptr()
    if address % alignment:
        tensor = from_dlpack(aligned_copy(array))
        address = tensor.data_ptr()
    return tensor, address


def _tensors(
    arrays: Iterable[Array], alignment: int | None = None
) -> tuple[list[object], list[tuple[int, int]]]:
    """Arrays as TVM's tensors, and the addresses where the memory of each begins and ends.

    Each begins at a multiple of `alignment`, or without one of the size of its elements. The arrays
    are taken one by one: those that are copied, and made as they are taken, need not all be there.
    """
    tensors, spans = [], []
    for array in arrays:
        tensor, address = _tensor(array, alignment or array.itemsize)
        tensors.append(tensor)
        spans.append((address, address + array.nbytes))
    return tensors, spans


def _empty_tensor(array: Array) -> object:
    """NumPy gives an array without elements strides of zero, which kernels refuse."""
    steps = np.cumprod((1, *array.shape[:0:-1]))[::-1] * array.itemsize
    memory = np.zeros(ALIGNMENT, np.uint8).view(array.dtype)
    shaped = np.lib.stride_tricks.as_strided(memory, array.shape, tuple(map(int, steps)))
    tensor: object = _ffi().from_dlpack(shaped)
    return tensor


# ----------------------------------------------------------------------------------------- module

_UNFIT = re.compile(r"\((-?\d+) vs\. (-?\d+)\).*match_cast")  # a size that data binds
_loads = itertools.count(1)


class TvmModule:
    """A compiled library on the Relax virtual machine, its last parameters bound to the weights.

    Each Python thread that calls has a virtual machine of its own; library and weights are shared.
    """

    def __init__(
        self, library: bytes, entry: str, weights: Iterable[Array], threads: int, *, exact: bool
    ) -> None:
        self.threads = threads
        self._exact = exact
        ffi = _ffi()
        self._tensor_type: type = ffi.Tensor
        try:
            self._weights, spans = _tensors(weights, ALIGNMENT)
            self._entry, self._library = entry, _load_library(library)
            self._contexts = threading.local()
            machine, _ = self._context()
            arity = int(machine["get_function_arity"](entry))
        except ArtifactError:
            raise
        except Exception as error:  # TVM raises whatever it likes
            raise ArtifactError(f"the library cannot be used: {_first_line(error)}") from error
        self._weight_spans = _Spans(spans)
        self.inputs = arity - len(self._weights)

    def _context(self) -> tuple[_Library, Callable[..., Any]]:
        """The virtual machine of the calling thread, and the entry point with its weights."""
        known: tuple[_Library, Callable[..., Any]] | None
        known = getattr(self._contexts, "value", None)
        if known is None:
            machine: _Library = self._library["vm_load_executable"]()
            machine["vm_initialization"](_CPU, 0, _POOLED)
            machine["save_function"](self._entry, "tunesmith.bound", 1, *self._weights)
            known = self._contexts.value = (machine, machine["tunesmith.bound"])
        return known

    def __call__(self, arrays: Sequence[Array], written: Mapping[int, str] = _NONE) -> list[Array]:
        """Run the entry point. The results own their memory: nothing else refers to it.

        `written` are the places and names of the inputs that it writes to: contiguous, aligned to
        their elements, and not read-only, which the caller sees to.

        Raises:
            InputError: an input that is written to shares memory with another, or sizes that the
                inputs hold do not fit.
            ArtifactError: a kernel failed.
        """
        if self.threads != getattr(_local, "used", 0) or _local.process != os.getpid():
            _use_threads(self.threads, self._exact)
        tensors, spans = _tensors(arrays)
        taken = _Spans(spans)
        if written and taken.merged:
            _refuse_shared(spans, written)
        try:
            result = self._context()[1](*tensors)
        except Exception as error:  # whatever TVM raises, its trace tells a user nothing
            if (wrong := _UNFIT.search(str(error))) is not None:
                raise InputError(
                    f"what the inputs hold asks for a size of {wrong[1]} where {wrong[2]} is right",
                    hint="an operator of the model counts less than nothing, or more than there is",
                ) from error
            raise ArtifactError(f"the model failed while running: {_first_line(error)}") from error
        results = [result] if isinstance(result, self._tensor_type) else list(result)
        return [self._own(tensor, taken) for tensor in results]

    def watch(self, hook: Callable[[str, bool], None] | NativeHook | None) -> None:
        """Have `hook` called around each call inside, from this thread; `None` ends it."""
        ffi = _ffi()
        function = None
        if isinstance(hook, NativeHook):
            make = ffi.Function.__from_extern_c__
            function = make(hook.address, keep_alive_object=hook.function)
        elif hook is not None:
            function = ffi.convert(lambda _function, name, before, *_: hook(name, bool(before)))
        self._context()[0]["set_instrument"](function)

    def _own(self, tensor: object, taken: _Spans) -> Array:
        """A result as an array; a copy if it shares memory with an input, weight or other result.

        `taken` are the inputs' and, added here, the earlier results' addresses.
        """
        array: Array = np.from_dlpack(tensor)  # type: ignore[arg-type]  # TVM has no types
        if array.nbytes == 0:
            return np.empty(array.shape, array.dtype)
        start: int = tensor.data_ptr()  # type: ignore[attr-defined]  # TVM has no types
        end = start + array.nbytes
        if self._weight_spans.meets(start, end) or not taken.add(start, end):
            return array.copy()
        return array


class _Spans:
    """Ranges of addresses, those that overlap merged, so that one look finds what meets another."""

    def __init__(self, spans: Sequence[tuple[int, int]]) -> None:
        self.starts: list[int] = []
        self.ends: list[int] = []
        self.merged = False
        for start, end in sorted(span for span in spans if span[0] != span[1]):
            if self.ends and start < self.ends[-1]:
                self.ends[-1] = max(self.ends[-1], end)
                self.merged = True
            else:
                self.starts.append(start)
                self.ends.append(end)

    def meets(self, start: int, end: int) -> bool:
        """Whether a range has an address in common with one of these."""
        place = bisect_right(self.ends, start)
        return place < len(self.ends) and self.starts[place] < end

    def add(self, start: int, end: int) -> bool:
        """Take in a range, if it meets none of these; whether it was taken in."""
        if self.meets(start, end):
            return False
        place = bisect_right(self.ends, start)
        self.starts.insert(place, start)
        self.ends.insert(place, end)
        return True


def _refuse_shared(spans: Sequence[tuple[int, int]], written: Mapping[int, str]) -> None:
    """Raise if an input that is written to has an address in common with another."""
    for index, name in written.items():
        start, end = spans[index]
        for other, (low, high) in enumerate(spans):
            if other != index and max(start, low) < min(end, high):
                raise InputError("is written to, and shares memory with another input",
                                 where=f"input `{name}`",
                                 hint="give each cache a buffer of its own")  # fmt: skip


class _Library(Protocol):
    """What TVM makes of a library, and the virtual machine: functions by name."""

    def __getitem__(self, name: str, /) -> Callable[..., Any]: ...


def _load_library(library: bytes) -> _Library:
    """Load exactly these bytes, from memory that nobody can change any more.

    The path is spelled differently each time: the dynamic linker takes two loads of one path for
    the same library, and numbers of descriptors return.
    """
    if not library.startswith(b"\x7fELF"):
        raise ArtifactError("the library is not an ELF file, so it was not made for Linux")
    import fcntl

    fd = os.memfd_create("tunesmith-kernels", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        with open(fd, "wb", closefd=False) as file:
            file.write(library)
        seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
        spelling = f"{next(_loads):b}".replace("0", "./").replace("1", ".//")
        path = f"/proc/self/fd/{spelling}{fd}"
        _check_symbols(path)
        loaded: _Library = _ffi().get_global_func("ffi.Module.load_from_file.so")(path, "so")
        return loaded
    finally:
        os.close(fd)


def _check_symbols(path: str) -> None:
    """Resolve every symbol now: TVM does it late, and a missing one would end the process."""
    try:
        probe = ctypes.CDLL(path, os.RTLD_NOW | os.RTLD_LOCAL)
    except OSError as error:
        raise ArtifactError(f"the library cannot be loaded: {error}",
                            hint="the model was linked against something that is not here"
                            ) from error  # fmt: skip
    close = ctypes.CDLL(None).dlclose
    close.argtypes = [ctypes.c_void_p]
    close(probe._handle)


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0]
