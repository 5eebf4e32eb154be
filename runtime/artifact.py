"""`NAME.tsm`: one file that holds a compiled model, written whole and read with suspicion."""

from __future__ import annotations

import hashlib
import mmap
import os
import secrets
import stat
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from tunesmith.ir.constants import release
from tunesmith.ir.diagnostics import ArtifactError

from .archive import ArchiveWriter, Entry, read_directory, read_entry
from .manifest import (
    CHUNK_BYTES,
    DTYPES,
    FileSpec,
    Manifest,
    WeightSpec,
    align,
    numpy_type,
    weights_hash,
)

__all__ = ["Artifact"]

Array = NDArray[np.generic]

MANIFEST, LIBRARY, WEIGHTS, GRAPH = "manifest.json", "kernels.so", "weights.bin", "graph.nir"
_LIMITS = {MANIFEST: 64 << 20, LIBRARY: 1 << 30, GRAPH: 256 << 20}  # of what is read into memory
_NOTE_LIMIT = 64 << 20
_HASHED_LATER = 64 << 20  # bytes of weights in memory that are written and not hashed yet


@dataclass(eq=False, kw_only=True)
class Artifact:
    """A compiled model: fresh from the compiler, or read from a file by `open`.

    `weights` are in the order in which the entry point takes them. Those of an opened artifact are
    views of the mapped file, private to this process: nothing is read before it is needed. So a
    file in use may be replaced, as `save` does, but never shortened in place.
    """

    manifest: Manifest
    library: bytes | Path
    weights: Mapping[str, Array] = field(default_factory=dict)
    graph: str | None = None
    notes: Mapping[str, bytes] = field(default_factory=dict)
    path: Path | None = None
    _mapped: NDArray[np.uint8] | None = None

    def library_bytes(self) -> bytes:
        """The library, in full; for an opened artifact the very bytes that were hashed."""
        if isinstance(self.library, bytes):
            return self.library
        try:
            return self.library.read_bytes()
        except OSError as error:
            raise _io_error("read", self.library, error) from error

    def save(self, path: str | Path) -> Path:
        """Write the file: it appears under its name when it is complete and durable, or never."""
        path = Path(path)
        self.manifest.check()
        temporary = path.with_name(f".{path.name[:100]}.{secrets.token_hex(8)}.tmp")
        try:
            with open(temporary, "xb") as file:
                try:
                    self._write(file)
                    file.flush()
                    os.fsync(file.fileno())
                    os.replace(temporary, path)
                except BaseException:
                    os.unlink(temporary)
                    raise
            _sync_folder(path.parent)
        except OSError as error:
            raise _io_error("write", path, error) from error
        except ArtifactError as error:
            error.where = error.where or str(path)
            raise
        return path

    def _write(self, file: BinaryIO) -> None:
        """Write the entries; the manifest last, as it holds the hashes of all others."""
        archive = ArchiveWriter(file)
        files: dict[str, FileSpec] = {}

        def add(name: str, content: bytes) -> None:
            archive.add(name, [content])
            files[name] = FileSpec(hashlib.sha256(content).hexdigest(), len(content))

        add(LIBRARY, self.library_bytes())
        if self.graph is not None:
            add(GRAPH, self.graph.encode())
        for name, note in self.notes.items():
            if name in (*_LIMITS, WEIGHTS):
                raise ArtifactError(f"`{name}` cannot be the name of a note")
            add(name, note)
        weights: list[WeightSpec] = []
        if self.weights:
            entry = archive.add(WEIGHTS, _weight_chunks(self.weights.items(), weights))
            files[WEIGHTS] = FileSpec(weights_hash(weights), entry.size)
        sealed = replace(self.manifest, weights=tuple(weights), files=files)
        sealed.check()
        archive.add(MANIFEST, [sealed.to_json().encode()])
        archive.finish()

    @classmethod
    def open(cls, path: str | Path) -> Artifact:
        """Read and check everything but the content of the weights, which is mapped.

        The file is opened once, without following a link, and all that is used comes from that one
        descriptor. See `verify_weights` for the rest.
        """
        path = Path(path)
        try:
            # Non-blocking, as opening a named pipe would wait for its other end.
            fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            raise _io_error("open", path, error) from error
        try:
            return _read(fd, path)
        except OSError as error:
            raise _io_error("read", path, error) from error
        except ArtifactError as error:
            error.where = error.where or str(path)
            raise
        finally:
            os.close(fd)

    def verify_weights(self) -> None:
        """Hash the weights of an opened artifact, and refuse what the manifest does not promise."""
        if self._mapped is None:
            return
        end = 0
        for spec in self.manifest.weights:
            if self._mapped[end : spec.offset].any():
                raise ArtifactError(f"the gap before weight `{spec.name}` is not empty",
                                    where=str(self.path))  # fmt: skip
            end = spec.offset + spec.nbytes
            for index, expected in enumerate(spec.chunks):
                first = spec.offset + index * CHUNK_BYTES
                chunk = self._mapped[first : min(first + CHUNK_BYTES, end)]
                if hashlib.sha256(chunk.data).hexdigest() != expected:
                    raise ArtifactError(f"weight `{spec.name}` is damaged in chunk {index}",
                                        where=str(self.path),
                                        hint="copy or compile the artifact again")  # fmt: skip


def _read(fd: int, path: Path) -> Artifact:
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        raise ArtifactError("this is not a regular file", hint="an artifact is one `.tsm` file")
    if status.st_nlink > 1:
        raise ArtifactError("this file has more than one name, so others may change it",
                            hint="make a copy and load that")  # fmt: skip
    entries = read_directory(fd, status.st_size)
    if MANIFEST not in entries:
        raise ArtifactError(f"there is no `{MANIFEST}`: this is not an artifact")
    try:
        text = read_entry(fd, entries[MANIFEST], _LIMITS[MANIFEST]).decode()
    except UnicodeDecodeError as error:
        raise ArtifactError("the manifest is not text") from error
    manifest = Manifest.from_json(text)
    _check_files(manifest, entries)
    contents = {
        name: _read_hashed(fd, entry, manifest.files[name])
        for name, entry in entries.items()
        if name not in (MANIFEST, WEIGHTS)
    }
    library = contents.pop(LIBRARY)
    graph = contents.pop(GRAPH, None)
    mapped = _map(fd, entries[WEIGHTS]) if WEIGHTS in entries else None
    return Artifact(
        manifest=manifest,
        library=library,
        weights={} if mapped is None else {w.name: _view(mapped, w) for w in manifest.weights},
        graph=None if graph is None else graph.decode(errors="replace"),
        notes=contents,
        path=path,
        _mapped=mapped,
    )


def _check_files(manifest: Manifest, entries: Mapping[str, Entry]) -> None:
    """The archive holds exactly what the manifest names, with the sizes that it states."""
    if odd := set(entries) ^ {MANIFEST, *manifest.files}:
        raise ArtifactError(f"manifest and archive disagree about `{min(odd)}`")
    if LIBRARY not in entries:
        raise ArtifactError(f"there is no `{LIBRARY}`")
    if (WEIGHTS in entries) != bool(manifest.weights):
        raise ArtifactError(f"manifest and archive disagree about `{WEIGHTS}`")
    for name, spec in manifest.files.items():
        if entries[name].size != spec.size:
            raise ArtifactError(f"`{name}` does not have the size that the manifest states")
    if manifest.weights:
        last = manifest.weights[-1]
        if manifest.files[WEIGHTS].size != last.offset + last.nbytes:
            raise ArtifactError(f"`{WEIGHTS}` does not end where its last weight ends")
        if manifest.files[WEIGHTS].sha256 != weights_hash(manifest.weights):
            raise ArtifactError(f"the hash of `{WEIGHTS}` is not that of its chunks")


def _read_hashed(fd: int, entry: Entry, spec: FileSpec) -> bytes:
    content = read_entry(fd, entry, _LIMITS.get(entry.name, _NOTE_LIMIT))
    if hashlib.sha256(content).hexdigest() != spec.sha256:
        raise ArtifactError(f"`{entry.name}` does not have the hash that the manifest states")
    return content


def _map(fd: int, entry: Entry) -> NDArray[np.uint8]:
    """The bytes of an entry, mapped copy-on-write: writable, as DLPack wants, yet ours alone."""
    if entry.size == 0:
        return np.empty(0, np.uint8)
    first = entry.data - entry.data % mmap.ALLOCATIONGRANULARITY
    size = entry.data - first + entry.size
    pages = mmap.mmap(fd, size, access=mmap.ACCESS_COPY, offset=first)
    return np.frombuffer(pages, np.uint8, entry.size, entry.data - first)


def _view(mapped: NDArray[np.uint8], spec: WeightSpec) -> Array:
    if spec.nbytes == 0:
        return np.empty(spec.shape, numpy_type(spec.dtype))
    return np.ndarray(spec.shape, numpy_type(spec.dtype), mapped.data, spec.offset)


def _weight_chunks(
    weights: Iterable[tuple[str, Array]], specs: list[WeightSpec]
) -> Iterator[memoryview | bytes]:
    """The bytes of `weights.bin`; fills `specs` when they end."""
    end = 0
    rows: list[tuple[WeightSpec, list[Future[str]]]] = []
    waiting: deque[tuple[list[Future[str]], Array]] = deque()  # written, and not hashed yet
    with ThreadPoolExecutor(1) as pool:  # which hashes while the chunks are written
        for name, weight in weights:  # one of which may be packed only now
            array = np.asarray(weight, order="C")  # not ascontiguousarray: it makes 0-d into 1-d
            dtype = array.dtype.name
            if dtype not in DTYPES or not array.dtype.isnative:
                raise ArtifactError(f"weight `{name}` has the dtype `{array.dtype}`",
                                    hint=f"possible are {', '.join(DTYPES)}")  # fmt: skip
            offset = align(end)
            yield bytes(offset - end)
            data = array.reshape(-1).view(np.uint8).data
            hashes = []
            for first in range(0, len(data), CHUNK_BYTES):
                chunk = data[first : first + CHUNK_BYTES]
                hashes.append(pool.submit(_sha256, chunk))
                yield chunk
            end = offset + len(data)
            rows.append((WeightSpec(name, dtype, array.shape, offset, len(data), ()), hashes))
            waiting.append((hashes, array))
            while sum(one.nbytes for _, one in waiting) > _HASHED_LATER:
                _finish(*waiting.popleft())
        while waiting:
            _finish(*waiting.popleft())
    for spec, hashes in rows:
        specs.append(replace(spec, chunks=tuple(one.result() for one in hashes)))


def _finish(hashes: list[Future[str]], array: Array) -> None:
    wait(hashes)
    release(array)


def _sha256(chunk: memoryview) -> str:
    return hashlib.sha256(chunk).hexdigest()


def _sync_folder(folder: Path) -> None:
    """Make the new name durable."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _io_error(verb: str, path: Path, error: OSError) -> ArtifactError:
    hint = None
    if path.is_symlink():
        hint = f"`{path.name}` is a symbolic link: name the file that it points to"
    elif path.is_dir():
        hint = f"`{path.name}` is a folder: name a `.tsm` file"
    reason = error.strerror or str(error)
    return ArtifactError(f"cannot {verb} the file: {reason.lower()}", where=str(path), hint=hint)
