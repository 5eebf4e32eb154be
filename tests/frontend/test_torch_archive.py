"""Programs that were made to hurt: nothing pickled, evaluated or named gets as far as PyTorch."""

from __future__ import annotations

import io
import json
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tunesmith.frontend.torch_archive import MODEL, SAMPLES, vetted_copy
from tunesmith.ir.diagnostics import FrontendError

WEIGHTS = "data/weights/model_weights_config.json"
CONSTANTS = "data/constants/model_constants_config.json"
SYMBOL = "Symbol('s77', positive=True, integer=True)"


def tensor(sizes: list[int], **changes: object) -> dict[str, Any]:
    """The row of a weight in `weight_0`."""
    strides = [1] * len(sizes)
    meta = {
        "sizes": [{"as_int": n} for n in sizes],
        "strides": [{"as_int": n} for n in strides],
        "storage_offset": {"as_int": 0},
    }
    return {"path_name": "weight_0", "use_pickle": False, "tensor_meta": meta} | changes


def program() -> dict[str, Any]:
    """What counts of a program: a node, a size, a structure of arguments."""
    node = {
        "target": "torch.ops.aten.relu.default",
        "inputs": [{"name": "self", "arg": {"as_tensor": {"name": "x"}}, "kind": 1}],
        "metadata": {"stack_trace": 'File "a.py", line 1\n    import os'},
        "name": "relu",
    }
    size = {"as_expr": {"expr_str": SYMBOL, "hint": {"as_int": 3}}}
    spec = json.dumps([1, {"type": "builtins.tuple", "context": "null", "children_spec": []}])
    return {
        "graph_module": {"graph": {"nodes": [node], "sizes": [size]}, "signature": {}},
        "module_call_graph": [{"fqn": "", "signature": {"in_spec": spec, "out_spec": spec}}],
        "range_constraints": {"s77": {"min_val": 1, "max_val": 9}, "2*s77": {"min_val": 2}},
        "guards_code": ["__import__('os').system('true')"],
    }


def entries() -> dict[str, bytes]:
    """The files of a plain program."""
    return {
        "archive_format": b"pt2",
        "archive_version": b"0",
        MODEL: json.dumps(program()).encode(),
        WEIGHTS: json.dumps({"config": {"up.weight": tensor([4])}}).encode(),
        CONSTANTS: json.dumps({"config": {}}).encode(),
        "data/weights/weight_0": bytes(16),
        SAMPLES: b"never read",
    }


def write(path: Path, files: dict[str, bytes], compression: int = zipfile.ZIP_STORED) -> Path:
    """An archive of these files."""
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in files.items():
            archive.writestr(f"m/{name}", content)
    return path


def with_json(name: str, change: Callable[[Any], object]) -> dict[str, bytes]:
    """The plain program with one of its JSON files changed."""
    files = entries()
    content = json.loads(files[name])
    change(content)
    return files | {name: json.dumps(content).encode()}


def with_node(**changes: object) -> dict[str, bytes]:
    """The plain program with another node."""
    return with_json(MODEL, lambda p: p["graph_module"]["graph"]["nodes"][0].update(changes))


def with_size(text: str) -> dict[str, bytes]:
    """The plain program with another size."""
    return with_json(
        MODEL, lambda p: p["graph_module"]["graph"]["sizes"][0]["as_expr"].update(expr_str=text)
    )


def with_weight(row: object, name: str = "up.weight") -> dict[str, bytes]:
    """The plain program with another weight."""
    return with_json(WEIGHTS, lambda p: p.update(config={name: row}))


def with_spec(kind: str, context: str = "null") -> dict[str, bytes]:
    """The plain program with other containers of its arguments."""
    spec = json.dumps([1, {"type": kind, "context": context, "children_spec": []}])
    return with_json(MODEL, lambda p: p["module_call_graph"][0]["signature"].update(in_spec=spec))


def test_a_plain_program_is_copied_without_what_is_not_needed(tmp_path: Path) -> None:
    path = write(tmp_path / "m.pt2", entries() | {"data/aotinductor/model/a.so": b"code"})
    out = io.BytesIO()
    vetted_copy(path, out)
    with zipfile.ZipFile(out) as archive:
        names = {name.removeprefix("model/") for name in archive.namelist()}
        assert names == set(entries())
        assert archive.read(f"model/{SAMPLES}") == b""
        assert archive.read("model/data/weights/weight_0") == bytes(16)
        found = json.loads(archive.read(f"model/{MODEL}"))
    assert found["guards_code"] == []
    assert found["graph_module"]["graph"]["nodes"][0]["metadata"] == {}


@pytest.mark.parametrize(
    "text",
    [
        SYMBOL, "s0", f"Add(Mul(Integer(2), {SYMBOL}), Integer(1))",
        f"FloorDiv({SYMBOL}, Integer(2))", f"Pow({SYMBOL}, Integer(2))", "Max(1, s0 + 3)",
    ],
)  # fmt: skip
def test_arithmetic_on_sizes_is_let_through(tmp_path: Path, text: str) -> None:
    out = io.BytesIO()
    vetted_copy(write(tmp_path / "m.pt2", with_size(text)), out)
    assert out.getvalue()


class Bomb:
    """What a pickle can do when it is read."""

    def __reduce__(self) -> tuple[object, ...]:
        return exec, ("raise SystemExit('unpickled')",)


HOSTILE: dict[str, tuple[dict[str, bytes], str]] = {
    "pickled weight": (with_weight(tensor([4], use_pickle=True)), "nothing is unpickled"),
    "script object": (with_weight(tensor([4], path_name="custom_obj_0")), "nothing is unpickled"),
    "weight outside": (with_weight(tensor([4], path_name="../../x")), "nothing is unpickled"),
    "missing file": (with_weight(tensor([4], path_name="weight_9")), "weight_9` is missing"),
    "short weight": (with_weight(tensor([4096])), r"declares \[4096\], and its file has 16"),
    "huge weight": (with_weight(tensor([1 << 40, 1 << 40])), "its file has 16 bytes"),
    "negative weight": (with_weight(tensor([-4])), "negative size"),
    "rank": (with_weight(tensor([1] * 17)), "17 axes"),
    "odd weight name": (with_weight(tensor([4]), "a\n    b"), "a tensor is called"),
    "broken table": (with_weight([1]), "cannot be read"),
    "system": (with_node(target="torch.os.system"), "`torch.os.system` is not an operator"),
    "load": (with_node(target="torch.serialization.load"), "not an operator"),
    "from_file": (with_node(target="torch.ops.aten.from_file.default"), "not an operator"),
    "methodcaller": (with_node(target="_operator.methodcaller"), "not an operator"),
    "dunder": (with_node(target="torch.ops.aten.__class__.mro"), "not an operator"),
    "extension": (with_node(target="#backend:op"), "not an operator"),
    "custom operator": (with_node(target="torch.ops.mine.op.default"), "custom operators"),
    "code in a name": (with_node(name="x):\n  import os\n  (y"), "is not a name"),
    "custom object": (with_node(inputs=[{"as_custom_obj": {"name": "o"}}]), "no tensor"),
    "import in a size": (with_size("__import__('os').system('true')"), "not arithmetic"),
    "lambda in a size": (with_size("(lambda: 1)()"), "not arithmetic"),
    "attribute in a size": (with_size("s0.__class__"), "not arithmetic"),
    "text in a size": (with_size("Add('exec(1)', s0)"), "not arithmetic"),
    "symbol of code": (with_size("Symbol('exec(1)')"), "not arithmetic"),
    "power of a power": (with_size("Pow(Pow(9, 8), 8)"), "not arithmetic"),
    "huge power": (with_size("Pow(9, 99999999)"), "not arithmetic"),
    "power operator": (with_size("9**9**9"), "not arithmetic"),
    "enum": (with_spec("builtins.dict", '{"__enum__": true, "fqn": "os:x"}'), "are held by"),
    "named tuple": (with_spec("collections.namedtuple", '"os.x"'), "are held by"),
    "broken structure": (with_spec("builtins.tuple", "{"), "cannot be read"),
    "odd entry": (entries() | {"../x": b""}, "not as `torch.export.save` names"),
    "no program": ({"archive_version": b"0"}, "not one program"),
    "no json": (entries() | {MODEL: b"["}, "cannot be read"),
    "deep json": (entries() | {MODEL: b"[" * 200_000}, "cannot be read"),
}  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE)
def test_refused(tmp_path: Path, name: str) -> None:
    files, message = HOSTILE[name]
    with pytest.raises(FrontendError, match=message):
        vetted_copy(write(tmp_path / "m.pt2", files), io.BytesIO())


def test_other_archives_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "m.pt2", entries(), zipfile.ZIP_DEFLATED)
    with pytest.raises(FrontendError, match="compressed"):
        vetted_copy(path, io.BytesIO())
    path.write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(FrontendError, match=r"not a program that `torch\.export\.save` wrote"):
        vetted_copy(path, io.BytesIO())
    with pytest.raises(FrontendError, match="No such file"):
        vetted_copy(tmp_path / "missing.pt2", io.BytesIO())
    with pytest.warns(UserWarning, match="Duplicate"):
        with zipfile.ZipFile(path, "w") as archive:
            for _ in range(2):
                archive.writestr("m/archive_version", b"0")
    with pytest.raises(FrontendError, match="not as"):
        vetted_copy(path, io.BytesIO())


def test_samples_that_run_code_are_never_read(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    from tunesmith.frontend import import_model

    module = torch.nn.Linear(4, 4).eval()
    torch.export.save(torch.export.export(module, (torch.ones(2, 4),)), tmp_path / "good.pt2")
    with zipfile.ZipFile(tmp_path / "good.pt2") as archive:
        files = {n.partition("/")[2]: archive.read(n) for n in archive.namelist()}
    buffer = io.BytesIO()
    torch.save((Bomb(),), buffer)
    bad = write(tmp_path / "bad.pt2", files | {SAMPLES: buffer.getvalue()})
    with pytest.raises(SystemExit, match="unpickled"):  # what PyTorch itself does with it
        torch.export.load(bad)
    assert len(import_model(bad).outputs) == 1


@pytest.mark.parametrize("name", ["m.pt", "m.pth"])
def test_pickles_are_refused_by_their_suffix(tmp_path: Path, name: str) -> None:
    from tunesmith.frontend import import_model

    with pytest.raises(FrontendError, match=r"nothing is unpickled(.|\n)*torch.export.save"):
        import_model(tmp_path / name)
