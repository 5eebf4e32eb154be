"""What an artifact holds, as data: tensors, symbols, target, weights, the hash of every file."""

from __future__ import annotations

import hashlib
import json
import re
from base64 import b64decode, b64encode
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from math import prod
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from tunesmith.ir.diagnostics import ArtifactError

from .shapes import parse_dim

__all__ = [
    "CHUNK_BYTES", "DTYPES", "FORMAT_VERSION", "WEIGHT_ALIGNMENT", "CacheSpec", "FileSpec", "Json",
    "Manifest", "SymbolSpec", "TargetSpec", "TensorSpec", "WeightSpec", "align", "array_text",
    "numpy_type", "weights_hash",
]  # fmt: skip

FORMAT_VERSION = 4
WEIGHT_ALIGNMENT = 64  # what a vectorized kernel may assume of each pointer
CHUNK_BYTES = 4 << 20  # weights are hashed in pieces of this size
DTYPES = {
    "bool": 1, "int8": 1, "uint8": 1, "int16": 2, "uint16": 2, "float16": 2, "bfloat16": 2,
    "int32": 4, "uint32": 4, "float32": 4, "int64": 8, "uint64": 8, "float64": 8,
    "float8_e4m3fn": 1, "float8_e4m3fnuz": 1, "float8_e5m2": 1, "float8_e5m2fnuz": 1,
    "float8_e8m0fnu": 1, "float4_e2m1fn": 1, "int4": 1, "uint4": 1, "int2": 1, "uint2": 1,
}  # fmt: skip

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]
T = TypeVar("T")

_FILE_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SYMBOL = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_RANK_LIMIT = 32


def array_text(array: NDArray[np.generic]) -> str:
    """A few elements, on one line."""
    return np.array2string(array, threshold=8, edgeitems=4, separator=", ").replace("\n", "")


@dataclass(frozen=True)
class TensorSpec:
    """An input or an output: a dim is a number, or text such as `S` or `2*S + 1`.

    An input that picks rows of a table has their number in `rows`: elements lie in [-rows, rows).
    An input whose elements were fixed when compiling has them in `value`: little-endian, base64.
    An input of one i64 that is the value of a symbol, which no shape tells, names it in `binds`.
    """

    name: str
    dtype: str
    dims: tuple[int | str, ...]
    rows: int | None = None
    value: str | None = None
    binds: str | None = None

    @property
    def array(self) -> NDArray[np.generic] | None:
        """The elements that were fixed when compiling; `ValueError` if the text holds others."""
        if self.value is None:
            return None
        data = b64decode(self.value, validate=True)
        dtype = np.dtype(self.dtype).newbyteorder("<")
        found = np.frombuffer(data, dtype).astype(self.dtype)
        return found.reshape([int(size) for size in self.dims])

    def holding(self, array: NDArray[np.generic]) -> TensorSpec:
        """The same tensor with its elements fixed to these."""
        data = array.astype(np.dtype(self.dtype).newbyteorder("<")).tobytes()
        return replace(self, value=b64encode(data).decode())

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join(map(str, self.dims))}]"


@dataclass(frozen=True)
class SymbolSpec:
    """A symbol and the sizes it may have, ends included; a `max` of `None` is open."""

    name: str
    min: int = 1
    max: int | None = None


@dataclass(frozen=True)
class CacheSpec:
    """An input that is written in place: a buffer, whose first rows along `axis` are the output.

    `before` is how many rows count already, in symbols; the size of the output is how many do
    afterwards, and that of the input, a number, how many there is room for.
    """

    input: str
    output: str
    axis: int
    before: str


@dataclass(frozen=True)
class TargetSpec:
    """The machine that the kernels were made for; `threads` is what they were tuned with."""

    triple: str
    cpu: str
    features: tuple[str, ...] = ()
    threads: int = 1


@dataclass(frozen=True)
class WeightSpec:
    """A weight: where it lies in `weights.bin`, and the sha256 of each of its chunks."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    offset: int
    nbytes: int
    chunks: tuple[str, ...]


@dataclass(frozen=True)
class FileSpec:
    """The size and the sha256 of one file of the artifact; of the weights `weights_hash`."""

    sha256: str
    size: int


def weights_hash(weights: Iterable[WeightSpec]) -> str:
    """The sha256 of the hashes of all chunks, in order: content is hashed once, not twice."""
    state = hashlib.sha256()
    for spec in weights:
        for chunk in spec.chunks:
            state.update(bytes.fromhex(chunk))
    return state.hexdigest()


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """All that is known of an artifact without running it.

    The compiler leaves `weights` and `files` empty; `Artifact.save` fills them in.
    """

    name: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    symbols: tuple[SymbolSpec, ...] = ()
    caches: tuple[CacheSpec, ...] = ()
    target: TargetSpec
    versions: Mapping[str, str] = field(default_factory=dict)
    source_sha256: str = ""
    pipeline: str = ""
    passes: tuple[dict[str, Json], ...] = ()
    tolerance: dict[str, Json] | None = None
    weights: tuple[WeightSpec, ...] = ()
    files: Mapping[str, FileSpec] = field(default_factory=dict)
    entry: str = "main"
    report: dict[str, Json] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION

    @property
    def given(self) -> tuple[SymbolSpec, ...]:
        """The symbols that inputs tell; data decides the others while the model runs."""
        dims = (parse_dim(d) for t in self.inputs for d in t.dims if isinstance(d, str))
        names = {name for size in dims for name in size.symbols}
        names |= {t.binds for t in self.inputs if t.binds is not None}
        return tuple(symbol for symbol in self.symbols if symbol.name in names)

    def to_json(self) -> str:
        """The canonical text: the same manifest is always the same bytes."""
        try:
            rows = asdict(self)
            return json.dumps({"format_version": rows.pop("format_version")} | rows,
                              indent=1, allow_nan=False) + "\n"  # fmt: skip
        except (TypeError, ValueError, RecursionError) as error:
            raise ArtifactError(f"the manifest does not fit into JSON: {error}") from error

    @staticmethod
    def from_json(text: str) -> Manifest:
        """Read and check a manifest; anything but canonical text is refused."""
        try:
            value: object = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ArtifactError(f"the manifest is not JSON: {error}") from error
        manifest = _manifest(value)
        manifest.check()
        if manifest.to_json() != text:
            raise ArtifactError("the manifest is not in canonical form")
        return manifest

    def check(self) -> None:
        """Refuse a manifest that contradicts itself; the error names the field."""
        _require(self.format_version == FORMAT_VERSION, "format_version",
                 f"is {self.format_version}, this runtime reads {FORMAT_VERSION}")  # fmt: skip
        for label, text in (("name", self.name), ("entry", self.entry)):
            _require(_is_name(text), label, f"{text!r} is not a name")
        _require(self.target.threads >= 1, "target.threads", "is less than 1")
        _require(self.source_sha256 == "" or bool(_SHA256.fullmatch(self.source_sha256)),
                 "source_sha256", "is not a sha256")  # fmt: skip
        self._check_tensors()
        self._check_caches()
        self._check_weights()
        for name, spec in self.files.items():
            _require(bool(_FILE_NAME.fullmatch(name)), "files", f"{name!r} is not a file name")
            _require(bool(_SHA256.fullmatch(spec.sha256)), f"files.{name}", "is not a sha256")
            _require(spec.size >= 0, f"files.{name}", "has a negative size")

    def _check_tensors(self) -> None:
        for label, names in (
            ("symbols", [s.name for s in self.symbols]),
            ("inputs", [t.name for t in self.inputs]),
            ("outputs", [t.name for t in self.outputs]),
            ("weights", [w.name for w in self.weights]),
        ):
            _require(all(map(_is_name, names)), label, "has an entry without a proper name")
            _require(len(set(names)) == len(names), label, "names something twice")
        _require(bool(self.outputs), "outputs", "is empty")
        for symbol in self.symbols:
            where = f"symbols.{symbol.name}"
            _require(bool(_SYMBOL.fullmatch(symbol.name)), where, "is not a symbol")
            _require(symbol.min >= 0, where, "has a negative minimum")
            _require(symbol.max is None or symbol.max >= symbol.min, where, "has no size at all")
        symbols = {symbol.name for symbol in self.symbols}
        for tensor in (*self.inputs, *self.outputs):
            where = f"`{tensor.name}`"
            _require(tensor.dtype in DTYPES, where, f"has the unknown dtype `{tensor.dtype}`")
            _require(len(tensor.dims) <= _RANK_LIMIT, where, "has too many axes")
            _require(tensor.rows is None or tensor.rows > 0, where, "picks rows of an empty table")
            for size in tensor.dims:
                _check_dim(size, symbols, where)
            _require(tensor.value is None or tensor in self.inputs, where, "is given, yet fixed")
            try:
                _ = tensor.array
            except ValueError as error:
                raise ArtifactError(f"manifest: {where} has an odd value: {error}") from error

    def _check_caches(self) -> None:
        inputs, outputs = ({t.name: t for t in ts} for ts in (self.inputs, self.outputs))
        symbols = {symbol.name for symbol in self.symbols}
        for tensor in (*self.inputs, *self.outputs):
            if tensor.binds is None:
                continue
            where = f"`{tensor.name}`"
            _require(tensor in self.inputs and tensor.value is None, where, "cannot bind a size")
            _require(tensor.binds in symbols, where, f"binds `{tensor.binds}`, not a symbol")
            _require((tensor.dtype, tensor.dims) == ("int64", ()), where, "is not one int64")
        for what in ([c.input for c in self.caches], [c.output for c in self.caches]):
            _require(len(set(what)) == len(what), "caches", "names something twice")
        for cache in self.caches:
            where = f"caches.{cache.input}"
            given, result = inputs.get(cache.input), outputs.get(cache.output)
            if given is None or result is None:
                raise ArtifactError(f"manifest: {where} is of an input or output that is not there")
            _require(given.value is None and given.dtype == result.dtype
                     and 0 <= cache.axis < len(given.dims) == len(result.dims), where,
                     "does not fit its tensors")  # fmt: skip
            others = [[*t.dims[: cache.axis], *t.dims[cache.axis + 1 :]] for t in (given, result)]
            _require(others[0] == others[1], where, "differs in an axis that does not grow")
            _require(isinstance(given.dims[cache.axis], int), where, "has room for no fixed number")
            _check_dim(cache.before, symbols, where)

    def _check_weights(self) -> None:
        end = 0
        for weight in self.weights:
            where = f"weights.{weight.name}"
            _require(weight.dtype in DTYPES, where, f"has the unknown dtype `{weight.dtype}`")
            _require(len(weight.shape) <= _RANK_LIMIT, where, "has too many axes")
            _require(all(0 <= n < 1 << 62 for n in weight.shape), where, "has an impossible shape")
            size = prod(weight.shape) * DTYPES[weight.dtype]
            _require(weight.nbytes == size < 1 << 62, where, "has a size that is not its shape's")
            _require(weight.offset == align(end), where, "does not lie where it should")
            count = -(-weight.nbytes // CHUNK_BYTES)
            _require(len(weight.chunks) == count, where, f"needs {count} hashes of chunks")
            _require(all(map(_SHA256.fullmatch, weight.chunks)), where, "has an odd hash")
            end = weight.offset + weight.nbytes


def numpy_type(name: str) -> np.dtype[np.generic]:
    """The element type of a name in `DTYPES`; those that NumPy lacks are of `ml_dtypes`.

    The narrowest lie one to a byte.
    """
    if hasattr(np, name) or name == "bool":
        return np.dtype(name)
    import ml_dtypes

    found: np.dtype[np.generic] = np.dtype(getattr(ml_dtypes, name))
    return found


def align(size: int, alignment: int = WEIGHT_ALIGNMENT) -> int:
    """The next multiple of `alignment`."""
    return -(-size // alignment) * alignment


def _require(holds: bool, where: str, message: str) -> None:
    if not holds:
        raise ArtifactError(f"manifest: {where} {message}")


def _is_name(text: str) -> bool:
    return 0 < len(text) <= 1024 and text.isprintable()


def _check_dim(size: int | str, symbols: set[str], where: str) -> None:
    if isinstance(size, int):
        _require(size >= 0, where, f"has the size {size}")
        return
    try:
        used = parse_dim(size).symbols
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"manifest: {where} has an odd dim: {error}") from error
    _require(bool(used), where, f"has the dim `{size}`, which should be a number")
    for name in used:
        _require(name in symbols, where, f"uses the symbol `{name}`, which is not declared")


class _Row:
    """A JSON object being read: each key once, each type checked, nothing left over."""

    def __init__(self, value: object, where: str, keys: tuple[str, ...]) -> None:
        self.where = where
        if not isinstance(value, dict):
            raise ArtifactError(f"manifest: {where} is not an object")
        self.values: dict[str, object] = value
        for key in keys:
            _require(key in value, where, f"lacks `{key}`")
        for key in value:
            _require(key in keys, where, f"has the unknown key `{key}`")

    def get(self, key: str, kind: type[T]) -> T:
        return _typed(self.values[key], kind, f"{self.where}.{key}")

    def rows(self, key: str, keys: tuple[str, ...]) -> list[_Row]:
        values: list[object] = self.get(key, list)
        return [_Row(v, f"{self.where}.{key}[{i}]", keys) for i, v in enumerate(values)]

    def many(self, key: str, kind: type[T]) -> tuple[T, ...]:
        values: list[object] = self.get(key, list)
        return tuple(_typed(v, kind, f"{self.where}.{key}[{i}]") for i, v in enumerate(values))


def _typed(value: object, kind: type[T], where: str) -> T:
    if type(value) is not kind:  # `True` is no integer here
        raise ArtifactError(f"manifest: {where} is not of type `{kind.__name__}`")
    return value


def _dim(value: object, where: str) -> int | str:
    return value if isinstance(value, str) else _typed(value, int, where)


def _tensors(row: _Row, key: str) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(
            r.get("name", str), r.get("dtype", str),
            tuple(_dim(d, f"{r.where}.dims") for d in r.get("dims", list)),
            None if r.values["rows"] is None else r.get("rows", int),
            None if r.values["value"] is None else r.get("value", str),
            None if r.values["binds"] is None else r.get("binds", str),
        )
        for r in row.rows(key, tuple(TensorSpec.__dataclass_fields__))
    )  # fmt: skip


def _manifest(value: object) -> Manifest:
    if isinstance(value, dict) and value.get("format_version") != FORMAT_VERSION:
        found = value.get("format_version")
        raise ArtifactError(
            f"format version {found!r} is not known, this runtime reads {FORMAT_VERSION}",
            hint="compile the model again, or install the version of tunesmith that wrote it",
        )
    row = _Row(value, "manifest", tuple(Manifest.__dataclass_fields__))
    target = _Row(row.values["target"], "target", ("triple", "cpu", "features", "threads"))
    versions: dict[str, object] = row.get("versions", dict)
    files: dict[str, object] = row.get("files", dict)
    file_rows = {n: _Row(v, f"files.{n}", ("sha256", "size")) for n, v in files.items()}
    tolerance = row.values["tolerance"]
    return Manifest(
        format_version=row.get("format_version", int),
        name=row.get("name", str),
        inputs=_tensors(row, "inputs"),
        outputs=_tensors(row, "outputs"),
        symbols=tuple(
            SymbolSpec(r.get("name", str), r.get("min", int),
                       None if r.values["max"] is None else r.get("max", int))
            for r in row.rows("symbols", ("name", "min", "max"))
        ),
        caches=tuple(
            CacheSpec(r.get("input", str), r.get("output", str), r.get("axis", int),
                      r.get("before", str))
            for r in row.rows("caches", tuple(CacheSpec.__dataclass_fields__))
        ),
        target=TargetSpec(
            target.get("triple", str), target.get("cpu", str),
            target.many("features", str), target.get("threads", int),
        ),
        versions={k: _typed(v, str, f"versions.{k}") for k, v in versions.items()},
        source_sha256=row.get("source_sha256", str),
        pipeline=row.get("pipeline", str),
        passes=row.many("passes", dict),
        tolerance=None if tolerance is None else row.get("tolerance", dict),
        weights=tuple(
            WeightSpec(r.get("name", str), r.get("dtype", str), r.many("shape", int),
                       r.get("offset", int), r.get("nbytes", int), r.many("chunks", str))
            for r in row.rows("weights", tuple(WeightSpec.__dataclass_fields__))
        ),
        files={n: FileSpec(r.get("sha256", str), r.get("size", int)) for n, r in file_rows.items()},
        entry=row.get("entry", str),
        report=row.get("report", dict),
    )  # fmt: skip
