"""A `.pt2` archive, read without PyTorch, checked, and written anew with nothing else in it.

`torch.export.load` unpickles the sample inputs, and whatever else a file says is pickled; it lets
SymPy evaluate the sizes as Python, looks operators up by any path that begins with `torch`, and
generates code from the names in the file. So only tensors, known operators, arithmetic on sizes
and plain names get as far as PyTorch.
"""

from __future__ import annotations

import ast
import json
import re
import zipfile
from collections.abc import Iterator, Mapping
from math import prod
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, TypeGuard

from tunesmith.ir.diagnostics import FrontendError

from .limits import LIMITS

__all__ = ["vetted_copy"]

MODEL = "models/model.json"
SAMPLES = "data/sample_inputs/model.pt"
VERSION = "archive_version"
CONFIGS = {  # what describes the tensors of a folder, and how their files are called
    "data/weights/model_weights_config.json": ("data/weights/", re.compile(r"weight_\d+")),
    "data/constants/model_constants_config.json": ("data/constants/", re.compile(r"tensor_\d+")),
}
COPIED = ("archive_format", VERSION, "byteorder", ".data/version")
DROPPED: dict[str, type] = {
    "metadata": dict,
    "guards_code": list,
}  # where a node was in the source; assertions as text

OPERATORS = re.compile(
    r"torch\.ops\.(aten|prims|higher_order)\.(?!from_file|save|load|__)[A-Za-z_]\w*(\.[A-Za-z]\w*)?"
    r"|torch\.ops\.aten\.__i?(and|or|xor|lshift|rshift)__\.[A-Za-z]+"
    r"|torch\.sym_(float|int|ite|max|min|not|sqrt|sum)"
    r"|torch\._sym_sqrt"
    r"|_operator\.(add|sub|mul|floordiv|truediv|mod|neg|pos|pow|eq|ne|lt|le|gt|ge|and_|or_|getitem)"
    r"|math\.(ceil|floor|trunc)"
)
NAME = re.compile(r"[A-Za-z0-9_.]*")
CONTAINERS = (
    None, "builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict",
    "torch.fx.immutable_collections.immutable_list",
    "torch.fx.immutable_collections.immutable_dict",
)  # fmt: skip
ARITHMETIC = (
    ast.Expression, ast.Name, ast.Load, ast.Constant, ast.BinOp, ast.UnaryOp, ast.Call,
    ast.Compare, ast.Add, ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.USub, ast.UAdd,
    ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE,
)  # fmt: skip
FUNCTIONS = {
    "FloorDiv", "CleanDiv", "CeilDiv", "IntTrueDiv", "FloatTrueDiv", "Mod", "PythonMod", "Max",
    "Min", "ModularIndexing", "ToFloat", "FloorToInt", "CeilToInt", "TruncToInt", "TruncToFloat",
    "RoundToInt", "Eq", "Ne", "Lt", "Le", "Gt", "Ge", "And", "Or", "Not", "Piecewise", "Abs",
    "floor", "ceiling", "Symbol", "Integer", "Rational", "Float", "Add", "Mul", "Equality",
    "Unequality", "StrictLessThan", "LessThan", "StrictGreaterThan", "GreaterThan", "Pow",
    "PowByNatural",
}  # fmt: skip
POWERS = {"Pow", "PowByNatural"}
ASSUMPTIONS = {"integer", "positive", "nonnegative", "negative", "real", "zero", "nonzero"}
SYMBOL = re.compile(r"[a-z]+\d+")


def vetted_copy(path: Path, target: BinaryIO) -> None:
    """Write to `target` what `path` holds of a saved `torch.export` program that is safe to load.

    Raises:
        FrontendError: the file is no such program, holds something pickled, names what is not an
            operator, or declares more than it has.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            _copy(_Reader(archive, path), target)
    except (OSError, zipfile.BadZipFile, NotImplementedError) as error:
        text = getattr(error, "strerror", None) or error
        raise FrontendError(
            f"this is not a program that `torch.export.save` wrote: {text}", where=str(path)
        ) from error


class _Reader:
    """The entries of an archive by their names below its one folder."""

    def __init__(self, archive: zipfile.ZipFile, path: Path) -> None:
        self.archive = archive
        self.where = str(path)
        self.entries: dict[str, zipfile.ZipInfo] = {}
        folders = set()
        for entry in archive.infolist():
            folder, _, name = entry.filename.partition("/")
            folders.add(folder)
            plain = re.fullmatch(r"[\w.-]+(/[\w.-]+)*", name, re.ASCII) and ".." not in name
            if not plain or name in self.entries:
                self.fail(f"its entry `{entry.filename[:80]}` is not as `torch.export.save` names")
            if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1:
                self.fail(f"its entry `{name}` is compressed or encrypted")
            self.entries[name] = entry
        if len(folders) != 1 or VERSION not in self.entries or MODEL not in self.entries:
            self.fail(
                "this is not one program that `torch.export.save` wrote",
                hint="save it with `torch.export.save(torch.export.export(module, args), path)`, "
                "by PyTorch 2.9 or later",
            )

    def fail(self, message: str, hint: str | None = None) -> NoReturn:
        """Refuse the file."""
        raise FrontendError(message, where=self.where, hint=hint)

    def size(self, name: str) -> int:
        """The bytes of an entry; it must be there."""
        if name not in self.entries:
            self.fail(f"its entry `{name}` is missing")
        return self.entries[name].file_size

    def json(self, name: str) -> Any:
        """An entry that is JSON."""
        if self.size(name) > LIMITS.program_bytes:
            self.fail(f"`{name}` is larger than {LIMITS.program_bytes} bytes")
        try:
            return json.loads(self.archive.read(self.entries[name]))
        except (ValueError, RecursionError) as error:
            self.fail(f"`{name}` cannot be read: {error}")


def _copy(reader: _Reader, target: BinaryIO) -> None:
    program = _checked(reader.json(MODEL), reader)
    configs = {name: reader.json(name) for name in CONFIGS}
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED) as out:
        for name in COPIED:
            if name in reader.entries:
                if reader.size(name) > 64:
                    reader.fail(f"`{name}` is not a version")
                out.writestr(f"model/{name}", reader.archive.read(reader.entries[name]))
        out.writestr(f"model/{MODEL}", json.dumps(program))
        out.writestr(f"model/{SAMPLES}", b"")  # which PyTorch would unpickle
        for name, (folder, pattern) in CONFIGS.items():
            out.writestr(f"model/{name}", json.dumps(configs[name]))
            for file in _tensors(configs[name], folder, pattern, reader):
                _stream(reader, folder + file, out)


def _stream(reader: _Reader, name: str, out: zipfile.ZipFile) -> None:
    with (
        reader.archive.open(reader.entries[name]) as source,
        out.open(f"model/{name}", "w", force_zip64=True) as sink,
    ):
        while chunk := source.read(1 << 22):
            sink.write(chunk)


def _tensors(config: Any, folder: str, pattern: re.Pattern[str], reader: _Reader) -> Iterator[str]:
    """The files of tensors, each once, if they hold what is declared."""
    seen = set()
    try:
        rows: Mapping[str, Any] = config["config"]
        for name, row in rows.items():
            file = row["path_name"]
            if not NAME.fullmatch(name):
                reader.fail(f"a tensor is called `{name[:80]}`")
            if row["use_pickle"] is not False or not pattern.fullmatch(file):
                reader.fail(
                    f"`{name}` is a pickled object, and nothing is unpickled",
                    hint="export the program with plain tensors: no subclasses, no script objects",
                )
            meta = row["tensor_meta"]
            sizes, strides = ([int(d["as_int"]) for d in meta[k]] for k in ("sizes", "strides"))
            first = int(meta["storage_offset"]["as_int"])
            if len(sizes) > LIMITS.rank or len(sizes) != len(strides):
                reader.fail(f"`{name}` has {len(sizes)} axes", f"the limit is {LIMITS.rank}")
            if min([first, *sizes, *strides]) < 0:
                reader.fail(f"`{name}` has a negative size")
            last = first + sum((n - 1) * s for n, s in zip(sizes, strides, strict=True)) + 1
            if prod(sizes) and last > reader.size(folder + file):
                held = reader.size(folder + file)
                reader.fail(f"`{name}` declares {sizes}, and its file has {held} bytes")
            if file not in seen:
                reader.size(folder + file)
                seen.add(file)
                yield file
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        reader.fail(f"the table of its tensors in `{folder}` cannot be read: {error!r}")


def _checked(program: Any, reader: _Reader) -> Any:
    """The program, without what is not needed; every text in it is one that PyTorch may see."""
    work: list[tuple[str, Any]] = [("program", program)]
    nodes = 0
    while work:
        key, value = work.pop()
        if isinstance(value, dict):
            for dropped, empty in DROPPED.items():
                if dropped in value:
                    value[dropped] = empty()
            nodes += "target" in value
            if nodes > LIMITS.nodes:
                reader.fail(f"the program has more than {LIMITS.nodes} nodes")
            if "as_custom_obj" in value:
                reader.fail("the program holds an object that is no tensor")
            for name, inner in value.items():
                if not NAME.fullmatch(name) and not _is_expression(name):
                    reader.fail(f"`{name[:80]}` is not a name")
                work.append((name, inner))
        elif isinstance(value, list):
            work += [(key, inner) for inner in value]
        elif isinstance(value, str):
            _check_text(key, value, reader)
    return program


def _check_text(key: str, value: str, reader: _Reader) -> None:
    match key:
        case "target" | "as_operator":
            if OPERATORS.fullmatch(value) is None:
                reader.fail(
                    f"`{value[:80]}` is not an operator of a PyTorch program",
                    hint="custom operators cannot be compiled: decompose them before `export`",
                )
        case "expr_str":
            if not _is_expression(value):
                reader.fail(f"`{value[:80]}` is not arithmetic on sizes")
        case "in_spec" | "out_spec":
            _check_structure(value, reader)
        case "as_string" | "torch_version":  # repeated as literals, never as code
            if len(value) > LIMITS.name_bytes or not value.isprintable():
                reader.fail(f"a text of the program is too long: `{value[:40]}`")
        case _:
            if len(value) > LIMITS.name_bytes or NAME.fullmatch(value) is None:
                reader.fail(f"`{value[:80]}`, its `{key}`, is not a name")


def _is_expression(text: str) -> bool:
    """Whether a text is arithmetic on symbols, which SymPy may evaluate."""
    if len(text) > LIMITS.name_bytes:
        return False
    try:
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    parts = list(ast.walk(tree))
    called = {id(part.func) for part in parts if isinstance(part, ast.Call)}
    named = {id(part.args[0]) for part in parts if _names_symbol(part)}
    powers = 0
    for part in parts:
        match part:
            case ast.Call(func=ast.Name(id=name), args=arguments) if name in POWERS:
                powers += 1
                if len(arguments) != 2 or not _small(arguments[1]):
                    return False
            case ast.Name(id=name):
                if id(part) not in called and SYMBOL.fullmatch(name) is None:
                    return False
                if id(part) in called and name not in FUNCTIONS:
                    return False
            case ast.Constant(value=str(value)):
                if id(part) not in named or SYMBOL.fullmatch(value) is None:
                    return False
            case ast.Constant(value=value):
                if not isinstance(value, int | float) or abs(value) >= 1 << 63:
                    return False
            case ast.keyword(arg=name, value=ast.Constant(value=bool())):
                if name not in ASSUMPTIONS:
                    return False
            case _ if not isinstance(part, ARITHMETIC):
                return False
    return powers <= 1  # of powers of powers, a line of text can ask for more than there is


def _small(part: ast.expr) -> bool:
    """Whether an exponent is a small number."""
    if isinstance(part, ast.Call) and len(part.args) == 1:
        part = part.args[0]
    return isinstance(part, ast.Constant) and part.value in range(9)


def _names_symbol(part: ast.AST) -> TypeGuard[ast.Call]:
    """Whether this is `Symbol("s0", …)`: text anywhere else would be evaluated."""
    return (
        isinstance(part, ast.Call)
        and isinstance(part.func, ast.Name)
        and part.func.id == "Symbol"
        and len(part.args) == 1
    )


def _check_structure(text: str, reader: _Reader) -> None:
    """How arguments and results nest: plain containers of Python only, with plain keys."""
    if not text:
        return
    try:
        _, spec = json.loads(text)
        work = [spec]
        while work:
            part = work.pop()
            context = json.loads(part["context"]) if part["context"] else None
            keys = context if isinstance(context, list) else []
            plain = context in (None, "null", []) or all(
                isinstance(k, int) or (isinstance(k, str) and NAME.fullmatch(k)) for k in keys
            )
            if part["type"] not in CONTAINERS or not plain or isinstance(context, dict):
                reader.fail(
                    f"its arguments or results are held by a `{str(part['type'])[:80]}`",
                    hint="export a module that takes and gives tensors, tuples, lists and dicts",
                )
            work += part["children_spec"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        reader.fail(f"the structure of its arguments cannot be read: {error}")
