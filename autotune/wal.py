"""SQLite's write-ahead log, looked at for what SQLite itself passes over in silence.

After a kill the log may end in the middle of a frame: SQLite takes every frame up to the first one
whose checksum does not fit, and forgets the rest. It does the same if a frame in the middle was
damaged, and then transactions that were acknowledged are gone without a word. The two can be told
apart: behind a torn end there is nothing, behind damage there are more frames of the same log.
Format: https://www.sqlite.org/fileformat2.html#walformat
"""

from __future__ import annotations

import struct
from pathlib import Path

__all__ = ["lost_transactions"]

_HEADER, _FRAME = 32, 24  # bytes
_BIG_ENDIAN = 0x377F0683  # the mark of a log with checksums over big-endian words


def lost_transactions(log: Path) -> int:
    """How many transactions end behind the first damaged frame of a log; 0 if there is no log.

    At least one if the header is damaged, for then all are lost. Damage of the very last frame
    cannot be told from a kill while it was written.
    """
    try:
        data = log.read_bytes()
    except FileNotFoundError:
        return 0
    if len(data) <= _HEADER:
        return 0
    magic, _, page_size = struct.unpack(">III", data[:12])
    order = ">" if magic == _BIG_ENDIAN else "<"
    sums = _checksum(data[:24], (0, 0), order)
    if sums != struct.unpack(">II", data[24:32]) or magic & ~1 != _BIG_ENDIAN & ~1:
        return 1
    salts = data[16:24]
    size = _FRAME + page_size
    frames = [data[at : at + size] for at in range(_HEADER, len(data) - size + 1, size)]
    whole = 0
    for frame in frames:
        if frame[8:16] != salts:
            break
        sums = _checksum(frame[_FRAME:], _checksum(frame[:8], sums, order), order)
        if sums != struct.unpack(">II", frame[16:24]):
            break
        whole += 1
    behind = frames[whole + 1 :]  # those of an older round of the same file have other salts
    return sum(frame[8:16] == salts and frame[4:8] != b"\0\0\0\0" for frame in behind)


def _checksum(data: bytes, start: tuple[int, int], order: str) -> tuple[int, int]:
    first, second = start
    words = struct.unpack(f"{order}{len(data) // 4}I", data)
    for left, right in zip(words[::2], words[1::2], strict=True):
        first = (first + left + second) & 0xFFFFFFFF
        second = (second + right + first) & 0xFFFFFFFF
    return first, second
