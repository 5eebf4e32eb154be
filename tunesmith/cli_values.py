"""What users type and hand over: shapes, dims, `.npz` files; and files that are written whole."""

from __future__ import annotations

import json
import os
import re
import secrets
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, TYPE_CHECKING

import typer

from tunesmith.ir.diagnostics import CompilerError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import ArrayLike, NDArray

    Arrays = dict[str, NDArray[np.generic]]

__all__ = [
    "check_output",
    "fixed_sizes",
    "parse_dims",
    "parse_shapes",
    "parse_values",
    "read_npz",
    "write_json",
    "write_npz",
    "write_text",
]

_SYMBOL = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SHAPE_HINT = "a shape is written `name:1x3x224x224`, or `name:[1,3,224,224]`"
_DIM_HINT = "a dim is written `batch=1..8`, `batch=4`, or `batch=1..` without an upper bound"
_VALUE_HINT = "a value is written `axes=[1,2]`, `k=3`, or `keep=[[true,false]]`"
_MOST = 2**31 - 1


def parse_shapes(texts: Iterable[str]) -> dict[str, tuple[int, ...]]:
    """The shapes of `--shape`, by input name.

    >>> parse_shapes(["ids:1x128", "mask:[2,7]", "scalar:[]"])
    {'ids': (1, 128), 'mask': (2, 7), 'scalar': ()}
    """
    shapes: dict[str, tuple[int, ...]] = {}
    for text in texts:
        name, colon, body = text.rpartition(":")
        if not colon or not name:
            raise typer.BadParameter(f"`{text}` is not a shape\n{_SHAPE_HINT}")
        inner = body.strip()
        bracketed = inner.startswith("[") and inner.endswith("]")
        parts = (inner[1:-1].split(",") if bracketed else inner.split("x")) if inner else []
        parts = [] if bracketed and not inner[1:-1].strip() else [p.strip() for p in parts]
        if not all(p.isascii() and p.isdigit() and 0 < int(p) <= _MOST for p in parts) or not inner:
            raise typer.BadParameter(f"`{text}` has a size that is not 1 or more\n{_SHAPE_HINT}")
        if name in shapes:
            raise typer.BadParameter(f"the shape of `{name}` is given twice")
        shapes[name] = tuple(map(int, parts))
    return shapes


def parse_dims(texts: Iterable[str]) -> dict[str, tuple[int, int]]:
    """The bounds of `--dim`, by symbol; an upper bound of 0 is open.

    >>> parse_dims(["batch=1..8", "seq=64", "n=2.."])
    {'batch': (1, 8), 'seq': (64, 64), 'n': (2, 0)}
    """
    dims: dict[str, tuple[int, int]] = {}
    for text in texts:
        name, equals, body = text.partition("=")
        match = re.fullmatch(r"(\d{1,10})(?:(\.\.)(\d{1,10})?)?", body.strip(), re.ASCII)
        if not equals or match is None or not _SYMBOL.fullmatch(name):
            raise typer.BadParameter(f"`{text}` is not a dim\n{_DIM_HINT}")
        low = int(match[1])
        high = int(match[3]) if match[3] else 0 if match[2] else low
        if low < 1 or (high and high < low) or max(low, high) > _MOST:
            raise typer.BadParameter(f"`{text}` holds no size of 1 or more\n{_DIM_HINT}")
        if name in dims:
            raise typer.BadParameter(f"the dim `{name}` is given twice")
        dims[name] = (low, high)
    return dims


def fixed_sizes(dims: Sequence[str], option: str = "--dim") -> dict[str, int]:
    """The values of `option`, which takes no ranges: `batch=4`."""
    sizes = {}
    for name, (low, high) in parse_dims(dims).items():
        if low != high:
            raise typer.BadParameter(
                f"`{name}` needs one value here\nwrite `{option} {name}={low}`"
            )
        sizes[name] = low
    return sizes


def parse_values(texts: Iterable[str]) -> dict[str, ArrayLike]:
    """The values of `--value`, by input name.

    >>> parse_values(["axes=[1, 2]", "k=3", "keep=[true]"])
    {'axes': [1, 2], 'k': 3, 'keep': [True]}
    """
    values: dict[str, ArrayLike] = {}
    for text in texts:
        name, equals, body = text.partition("=")
        try:
            found = json.loads(body)
        except (ValueError, RecursionError):
            found = None
        if not equals or not name or not isinstance(found, bool | int | float | list):
            raise typer.BadParameter(f"`{text}` is not a value\n{_VALUE_HINT}")
        if name in values:
            raise typer.BadParameter(f"the value of `{name}` is given twice")
        values[name] = found
    return values


def read_npz(path: Path) -> Arrays:
    """The arrays of an `.npz` file; pickled objects are refused."""
    import numpy as np

    hint = "write it with `numpy.savez(path, **tensors)`: one array for each input, by its name"
    if not path.is_file():
        raise CompilerError("there is no such file", where=str(path), hint=hint)
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.lib.npyio.NpzFile):
            with loaded:
                return {name: loaded[name] for name in loaded.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, NotImplementedError) as e:
        raise CompilerError(f"this is not an `.npz` file: {e}", where=str(path), hint=hint) from e
    raise CompilerError("this is one array, not an `.npz` file", where=str(path), hint=hint)


def write_npz(path: Path, arrays: Mapping[str, NDArray[np.generic]]) -> None:
    """Write arrays by name; the file appears when it is complete, or never."""
    import numpy as np

    def write(file: IO[bytes]) -> None:
        with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
            for name, array in arrays.items():  # `numpy.savez` cannot write a tensor named `file`
                plain = np.asarray(array)
                if plain.dtype.isbuiltin == 2:  # whose name NumPy would not read back
                    plain = plain.view(f"V{plain.itemsize}")
                with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array(member, plain, allow_pickle=False)

    _write_whole(path, write)


def write_json(path: Path, value: object) -> None:
    """Write JSON; `-` is stdout. The file appears when it is complete, or never."""
    text = json.dumps(value, indent=2, allow_nan=False) + "\n"
    if str(path) == "-":
        print(text, end="")
        return
    _write_whole(path, lambda file: file.write(text.encode()))


def write_text(path: Path, text: str | bytes) -> None:
    """Write text or bytes; the file appears when it is complete, or never."""
    _write_whole(path, lambda file: file.write(text if isinstance(text, bytes) else text.encode()))


def check_output(path: Path, *sources: Path) -> None:
    """Refuse an output that cannot be written, before the work that it is for."""
    if path.is_dir():
        raise CompilerError("this is a folder", where=str(path), hint="name a file for the output")
    if not path.parent.is_dir():
        raise CompilerError(
            f"there is no folder `{path.parent}`", where=str(path), hint="make the folder first"
        )
    if not os.access(path.parent, os.W_OK):
        raise CompilerError(f"the folder `{path.parent}` is not writable", where=str(path))
    for source in sources:
        if path.exists() and source.exists() and path.samefile(source):
            raise CompilerError("this is the input file", where=str(path), hint="name another file")


def _write_whole(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    temporary = path.with_name(f".{path.name[:100]}.{secrets.token_hex(8)}.tmp")
    try:
        with open(temporary, "xb") as file:
            try:
                write(file)
                file.flush()
                os.replace(temporary, path)
            except BaseException:
                temporary.unlink(missing_ok=True)
                raise
    except OSError as error:
        raise CompilerError(
            f"the file cannot be written: {error.strerror or error}", where=str(path)
        ) from error
