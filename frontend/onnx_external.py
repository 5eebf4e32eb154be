"""External data of ONNX tensors: mapped from plain files in the model's folder, and only those."""

from __future__ import annotations

import os
import stat
from pathlib import Path, PurePosixPath

import numpy as np
from numpy.typing import NDArray
from onnx import TensorProto

from tunesmith.ir.diagnostics import FrontendError

__all__ = ["map_external"]

KEYS = ("location", "offset", "length", "checksum")


def map_external(tensor: TensorProto, folder: Path | None, needed: int) -> NDArray[np.uint8]:
    """The bytes of a tensor that lie in another file, mapped read-only, not read."""
    where = f"initializer `{tensor.name}`"
    entries: dict[str, str] = {}
    for entry in tensor.external_data:
        if not isinstance(entry.key, str) or not isinstance(entry.value, str):
            raise FrontendError("its external data is not text", where=where)
        if entry.key not in KEYS:
            raise FrontendError(
                f"its external data has the unknown key `{entry.key[:64]}`",
                where=where,
                hint=f"known keys: {', '.join(KEYS)}",
            )
        if entry.key in entries:
            raise FrontendError(f"its external data names `{entry.key}` twice", where=where)
        entries[entry.key] = entry.value
    if folder is None:
        raise FrontendError(
            "its elements lie in another file, and the model has no folder",
            where=where,
            hint="pass the path of the model instead of its object",
        )
    offset = _number(entries.get("offset", "0"), "offset", where)
    length = _number(entries.get("length", str(needed)), "length", where)
    if length != needed:
        raise FrontendError(
            f"its external data declares {length} bytes, the tensor needs {needed}", where=where
        )
    path = _plain_file(entries.get("location", ""), folder, where)
    return _map(path, offset, needed, where)


def _number(text: str, key: str, where: str) -> int:
    if not (text.isascii() and text.isdigit()) or len(text) > 19:
        raise FrontendError(f"`{key}` of its external data is not a number of bytes", where=where)
    return int(text)


def _plain_file(location: str, folder: Path, where: str) -> Path:
    """The file that `location` names, if no part of the way leaves the folder or is a link."""
    hint = "external data must be a plain file inside the model's folder"
    parts = PurePosixPath(location).parts
    odd = not location or "\0" in location or "\\" in location or ":" in location
    if odd or location.startswith("/") or os.path.isabs(location) or ".." in parts or not parts:
        raise FrontendError(f"its external data is at `{location[:256]}`", where=where, hint=hint)
    path = folder
    for index, part in enumerate(parts):
        path = path / part
        try:
            status = os.lstat(path)
        except (OSError, ValueError) as error:
            raise FrontendError(f"its external data is missing: `{path}`", where=where) from error
        last = index == len(parts) - 1
        if not (stat.S_ISREG(status.st_mode) if last else stat.S_ISDIR(status.st_mode)):
            raise FrontendError(
                f"its external data is at `{location[:256]}`, not a plain file",
                where=where,
                hint=hint,
            )
        if last:
            _check_links(status, path, where)
    return path


def _check_links(status: os.stat_result, path: Path, where: str) -> None:
    """Refuse a file that also has another name, which may lie anywhere."""
    if not stat.S_ISREG(status.st_mode) or status.st_nlink != 1:
        raise FrontendError(
            f"its external data `{path.name}` is not a file of its own",
            where=where,
            hint="a link to another file is refused: copy the data",
        )


def _map(path: Path, offset: int, needed: int, where: str) -> NDArray[np.uint8]:
    flags = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        descriptor = os.open(path, flags)
    except OSError as error:
        raise FrontendError(f"its external data cannot be opened: {error}", where=where) from error
    with os.fdopen(descriptor, "rb") as stream:
        status = os.fstat(stream.fileno())
        _check_links(status, path, where)  # again: what was opened may be another file by now
        if offset + needed > status.st_size:
            raise FrontendError(
                f"its external data ends at byte {offset + needed}, the file at {status.st_size}",
                where=where,
            )
        if needed == 0:
            return np.zeros(0, np.uint8)
        return np.memmap(stream, dtype=np.uint8, mode="r", offset=offset, shape=(needed,))
