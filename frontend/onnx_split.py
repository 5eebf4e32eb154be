"""A model file taken apart: a thin model, and where the large weights lie in the file.

Protobuf would copy every weight twice on the way to an array. The wire format is simple enough to
leave them out: see protobuf.dev, "Encoding". Whatever is unusual is left to protobuf itself.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

__all__ = ["Split", "split"]

LARGE = 4096  # bytes; smaller weights stay in the model
GRAPH, INITIALIZER = 7, 5  # field numbers of ModelProto and GraphProto …
NAME, RAW_DATA, EXTERNAL_DATA, LOCATION = 8, 9, 13, 14  # … and of TensorProto

Field = tuple[int, int, int, int, int]  # number, wire type, start, start of value, end


class Odd(Exception):
    """The bytes are not what a plain model looks like."""


@dataclass
class Split:
    """The bytes of a model without its large weights, and the place of each in the file."""

    thin: bytes
    path: Path
    places: dict[str, tuple[int, int]] = field(default_factory=dict)

    def read(self, name: str, alignment: int) -> NDArray[np.uint8]:
        """The bytes of a weight: mapped if they are aligned, else read."""
        start, size = self.places[name]
        if start % alignment == 0:
            return np.memmap(self.path, dtype=np.uint8, mode="r", offset=start, shape=(size,))
        return np.fromfile(self.path, np.uint8, size, offset=start)


def split(path: Path) -> Split | None:
    """Take a file apart; `None` if it is better read as a whole."""
    with path.open("rb") as stream:
        try:
            with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _split(data, path)
        except (Odd, ValueError, OSError):
            return None


def _split(data: mmap.mmap, path: Path) -> Split:
    found = Split(b"", path)
    parts: list[bytes] = []
    graphs = 0
    for number, wire, start, value, end in _fields(data, 0, len(data)):
        if number != GRAPH:
            parts.append(data[start:end])
            continue
        graphs += 1
        if graphs > 1 or wire != 2:
            raise Odd
        body = _thin_graph(data, value, end, found)
        parts += [_key(GRAPH), _varint(len(body)), body]
    found.thin = b"".join(parts)
    return found


def _thin_graph(data: mmap.mmap, start: int, end: int, found: Split) -> bytes:
    parts: list[bytes] = []
    for number, wire, first, value, last in _fields(data, start, end):
        large = number == INITIALIZER and wire == 2 and last - value > LARGE
        body = _thin_tensor(data, value, last, found) if large else None
        if body is None:
            parts.append(data[first:last])
        else:
            parts += [_key(INITIALIZER), _varint(len(body)), body]
    return b"".join(parts)


def _thin_tensor(data: mmap.mmap, start: int, end: int, found: Split) -> bytes | None:
    """A tensor without its elements; `None` if they are not in one piece here.

    Some exporters write the location out, also where it is the default one: in the tensor itself.
    """
    name, place = None, None
    parts: list[bytes] = []
    for number, wire, first, value, last in _fields(data, start, end):
        if number == RAW_DATA and wire == 2 and place is None:
            place = (value, last - value)
            continue
        if number in (RAW_DATA, EXTERNAL_DATA) or (
            number == LOCATION and data[value:last] != b"\0"
        ):
            return None
        if number == NAME:
            name = data[value:last].decode()
        parts.append(data[first:last])
    if not name or place is None or place[1] <= LARGE:
        return None
    if name in found.places:
        raise Odd
    found.places[name] = place
    return b"".join(parts)


def _fields(data: mmap.mmap, start: int, end: int) -> Iterator[Field]:
    """The fields of a message."""
    while start < end:
        key, value = _read(data, start, end)
        match key & 7:
            case 0:
                _, last = _read(data, value, end)
            case 1:
                last = value + 8
            case 2:
                size, value = _read(data, value, end)
                last = value + size
            case 5:
                last = value + 4
            case _:
                raise Odd
        if last > end:
            raise Odd
        yield key >> 3, key & 7, start, value, last
        start = last


def _read(data: mmap.mmap, place: int, end: int) -> tuple[int, int]:
    """A variable-length number, and where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        if place >= end:
            raise Odd
        byte = data[place]
        place += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place
    raise Odd


def _varint(value: int) -> bytes:
    parts = bytearray()
    while value > 127:
        parts.append(value & 127 | 128)
        value >>= 7
    parts.append(value)
    return bytes(parts)


def _key(number: int) -> bytes:
    return _varint(number << 3 | 2)
