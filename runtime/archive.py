"""The container of an artifact: a zip of stored entries, of which only one form is accepted.

The writer lays files out in the one way below, and the reader rebuilds every header from the
directory and compares bytes. So nothing can hide between entries, before or after them, or in a
local header that contradicts the directory; compression, encryption, links, comments, duplicate
and odd names are refused because the writer has no way to produce them. Any zip tool can read it.
"""

from __future__ import annotations

import os
import re
import struct
import zlib
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import BinaryIO

from tunesmith.ir.diagnostics import ArtifactError

__all__ = ["ArchiveWriter", "Entry", "read_directory", "read_entry"]

PAGE = 4096
LARGE = 0xFFFFFFFF  # from this size on, numbers move into zip64 fields
MAX_ENTRIES = 64
MAX_DIRECTORY = 1 << 16

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_LOCAL = struct.Struct("<4s5H3I2H")
_CENTRAL = struct.Struct("<4s6H3I5H2I")
_END = struct.Struct("<4s4H2IH")
_END64 = struct.Struct("<4sQ2H2I4Q")
_LOCATOR = struct.Struct("<4sIQI")
_DATE = 0x21  # 1 January 1980: the same content is the same bytes
_REGULAR_FILE = 0o100644 << 16
_PADDING_ID = 0xD935  # the extra field that Android's zipalign made customary
_EXTRA64 = struct.Struct("<2H2Q")
_MIN_EXTRA = _EXTRA64.size + 6
_SYNCED_BYTES = 64 << 20
_sync: Callable[[int], None] = getattr(os, "fdatasync", os.fsync)  # not on all systems


@dataclass(frozen=True)
class Entry:
    """One file: where its header and its bytes start, how many there are, their CRC."""

    name: str
    header: int
    data: int
    size: int
    crc: int


def _data_offset(name: str, header: int) -> int:
    """Where the bytes start: weights on a page, so that they can be mapped, others at 64."""
    step = PAGE if name == "weights.bin" else 64
    return -(-(header + _LOCAL.size + len(name) + _MIN_EXTRA) // step) * step


def _local(entry: Entry) -> bytes:
    """The local header, filled up with padding to where the bytes start."""
    large = entry.size >= LARGE
    size = LARGE if large else entry.size
    extra = _EXTRA64.pack(1, 16, entry.size, entry.size) if large else b""
    room = entry.data - entry.header - _LOCAL.size - len(entry.name)
    head = _LOCAL.pack(b"PK\3\4", 45 if large else 20, 0, 0, 0, _DATE, entry.crc, size, size,
                       len(entry.name), room)  # fmt: skip
    padding = struct.pack("<3H", _PADDING_ID, room - len(extra) - 4, 64)
    return (head + entry.name.encode() + extra + padding).ljust(entry.data - entry.header, b"\0")


def _central(entry: Entry) -> bytes:
    """The entry's row in the directory."""
    large, far = entry.size >= LARGE, entry.header >= LARGE
    numbers = [entry.size] * (2 * large) + [entry.header] * far
    extra = struct.pack(f"<2H{len(numbers)}Q", 1, 8 * len(numbers), *numbers) if numbers else b""
    size = LARGE if large else entry.size
    version = 45 if numbers else 20
    row = _CENTRAL.pack(b"PK\1\2", 0x0300 | version, version, 0, 0, 0, _DATE, entry.crc, size,
                        size, len(entry.name), len(extra), 0, 0, 0, _REGULAR_FILE,
                        LARGE if far else entry.header)  # fmt: skip
    return row + entry.name.encode() + extra


def _tail(entries: list[Entry]) -> bytes:
    """The directory and the end records of an archive of `entries`."""
    start = entries[-1].data + entries[-1].size
    directory = b"".join(map(_central, entries))
    count, size = len(entries), len(directory)
    end64 = b""
    if start >= LARGE:
        end64 = _END64.pack(b"PK\6\6", _END64.size - 12, 0x032D, 45, 0, 0, count, count, size,
                            start)  # fmt: skip
        end64 += _LOCATOR.pack(b"PK\6\7", 0, start + size, 1)
    end = _END.pack(b"PK\5\6", 0, 0, count, count, size, min(start, LARGE), 0)
    return directory + end64 + end


class ArchiveWriter:
    """Writes entries one after the other into an empty file, which it does not close.

    Much data is on its way to the disk while more is written: whoever syncs the file in the end
    does not wait for all of it.
    """

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.entries: list[Entry] = []

    def add(self, name: str, chunks: Iterable[bytes | memoryview]) -> Entry:
        """Write one entry; its size is known when the chunks end."""
        if not _NAME.fullmatch(name) or any(name == entry.name for entry in self.entries):
            raise ArtifactError(f"{name!r} cannot be the name of another file in an artifact")
        if len(self.entries) == MAX_ENTRIES:
            raise ArtifactError(f"an artifact holds no more than {MAX_ENTRIES} files")
        header = self.entries[-1].data + self.entries[-1].size if self.entries else 0
        data = _data_offset(name, header)
        self.file.seek(data)
        size = 0
        crc = 0
        synced = 0
        with ThreadPoolExecutor(2) as pool:
            sync: Future[None] | None = None
            pending: Future[int] | None = None
            for chunk in chunks:
                crc = pending.result() if pending is not None else 0
                pending = pool.submit(zlib.crc32, chunk, crc)  # beside the writing
                self.file.write(chunk)
                size += len(chunk)
                if size - synced >= _SYNCED_BYTES and (sync is None or sync.done()):
                    if sync is not None:
                        sync.result()  # the system tells of an error only once
                    synced, sync = size, pool.submit(_sync, self.file.fileno())
            crc = pending.result() if pending is not None else 0
            if sync is not None:
                sync.result()
        entry = Entry(name, header, data, size, crc)
        self.file.seek(header)
        self.file.write(_local(entry))
        self.entries.append(entry)
        return entry

    def finish(self) -> None:
        """Write the directory."""
        last = self.entries[-1]
        self.file.seek(last.data + last.size)
        self.file.write(_tail(self.entries))


def read_directory(fd: int, size: int) -> dict[str, Entry]:
    """The entries of an archive of `size` bytes, in the order they lie in the file."""
    start, directory_size = _find_directory(fd, size)
    entries = _parse_directory(os.pread(fd, directory_size, start))
    end = 0
    for entry in entries:
        if entry.header != end:
            raise ArtifactError(f"`{entry.name}` does not start where the file before it ends")
        if entry.data > start or entry.size > start - entry.data:
            raise ArtifactError(f"`{entry.name}` does not lie inside the file")
        if os.pread(fd, entry.data - entry.header, entry.header) != _local(entry):
            raise ArtifactError(f"the header of `{entry.name}` contradicts the directory")
        end = entry.data + entry.size
    tail = _tail(entries)
    if end != start or os.pread(fd, len(tail) + 1, start) != tail:
        raise ArtifactError("the directory is damaged")
    return {entry.name: entry for entry in entries}


def read_entry(fd: int, entry: Entry, limit: int) -> bytes:
    """The bytes of an entry, if there are at most `limit` and the CRC is right."""
    if entry.size > limit:
        raise ArtifactError(f"`{entry.name}` is larger than {limit} bytes")
    parts = []
    done = 0
    while done < entry.size:
        part = os.pread(fd, entry.size - done, entry.data + done)
        if not part:
            raise ArtifactError(f"`{entry.name}` is cut off")
        parts.append(part)
        done += len(part)
    content = parts[0] if len(parts) == 1 else b"".join(parts)
    if zlib.crc32(content) != entry.crc:
        raise ArtifactError(f"`{entry.name}` is damaged")
    return content


def _find_directory(fd: int, size: int) -> tuple[int, int]:
    """Where the directory starts, and its size, by the end records."""
    not_artifact = ArtifactError(
        "this is not an artifact, or it was cut off",
        hint="an artifact is a `.tsm` file written by tunesmith; copy or compile it again",
    )
    if size < _END.size or os.pread(fd, 4, 0) != b"PK\3\4":
        raise not_artifact
    end = os.pread(fd, _END.size, size - _END.size)
    if len(end) != _END.size or not end.startswith(b"PK\5\6"):
        raise not_artifact
    _, _, _, _, count, directory_size, start, _ = _END.unpack(end)
    tail = _END.size
    if start == LARGE:
        tail += _LOCATOR.size + _END64.size
        end64 = os.pread(fd, _END64.size, size - tail) if size >= tail else b""
        if len(end64) != _END64.size or not end64.startswith(b"PK\6\6"):
            raise not_artifact
        start = _END64.unpack(end64)[-1]
    if start + directory_size + tail != size or directory_size > MAX_DIRECTORY:
        raise not_artifact
    if not 0 < count <= MAX_ENTRIES:
        raise ArtifactError(f"{count} files are not what an artifact holds")
    return start, directory_size


def _parse_directory(rows: bytes) -> list[Entry]:
    """The entries as the directory states them; the caller compares every byte afterwards."""
    damaged = ArtifactError("the directory is damaged")
    entries: list[Entry] = []
    at = 0
    while at < len(rows):
        if len(rows) - at < _CENTRAL.size or len(entries) == MAX_ENTRIES:
            raise damaged
        fields = _CENTRAL.unpack_from(rows, at)
        crc, size, name_size, extra_size, header = fields[7], fields[9], *fields[10:12], fields[16]
        at += _CENTRAL.size
        name = rows[at : at + name_size].decode("latin-1")
        extra = rows[at + name_size : at + name_size + extra_size]
        at += name_size + extra_size
        if not _NAME.fullmatch(name) or any(name == entry.name for entry in entries):
            raise ArtifactError(f"{name!r} is a duplicate or an odd name of a file")
        numbers = list(struct.unpack(f"<{(extra_size - 4) // 8}Q", extra[4:])) if (
            extra_size in (12, 20, 28) and len(extra) == extra_size) else []  # fmt: skip
        if size == LARGE:
            if len(numbers) < 2:
                raise damaged
            size, numbers = numbers[0], numbers[2:]
        if header == LARGE:
            if not numbers:
                raise damaged
            header = numbers[0]
        if size >= 1 << 62 or header >= 1 << 62:
            raise damaged
        entries.append(Entry(name, header, _data_offset(name, header), size, crc))
    if not entries:
        raise damaged
    return entries
