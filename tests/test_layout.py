"""The architecture: who may import whom, what is heavy, and what a wheel would hold."""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# A folder, and the folders that it may import besides itself; `tunesmith` may import all.
MAY_IMPORT: dict[str, set[str]] = {
    "ir": set(),
    "frontend": {"ir"},
    "passes": {"ir"},
    "runtime": {"ir"},
    "backends": {"ir", "runtime"},
    "autotune": {"ir", "backends", "runtime"},
}
# A heavy import, and the only places where it may stand.
HEAVY: dict[str, tuple[str, ...]] = {
    "onnx": ("frontend/onnx", "ir/onnx_export"),
    "torch": ("frontend/torch_import.py",),
    "onnxscript": ("frontend/torch_import.py",),
    "onnx_ir": ("frontend/torch_import.py",),
    "tvm": ("backends/tvm/", "autotune/"),
    "tvm_ffi": ("runtime/tvm_module.py", "backends/tvm/", "autotune/"),
    "onnxruntime": ("tunesmith/oracle.py",),
    "networkx": ("passes/", "backends/"),
    "sqlalchemy": ("autotune/",),
    "ray": ("autotune/ray_workers.py",),
}
FOLDERS = tuple(MAY_IMPORT)
# What a fresh process may take; the machines of CI are shared, so the limits have slack.
IMPORT_SECONDS, HELP_SECONDS, SLACK = 0.3, 0.5, 2.0

in_checkout = pytest.mark.skipif(
    not (ROOT / "pyproject.toml").is_file(), reason="only a checkout has the sources"
)


def sources() -> list[str]:
    """Every Python file of the product, by its path from the root."""
    front = [p for p in (ROOT / "tunesmith").glob("*.py") if not p.is_symlink()]
    rest = [p for folder in FOLDERS for p in (ROOT / folder).rglob("*.py")]
    return sorted(str(p.relative_to(ROOT)) for p in front + rest)


def imports(path: str) -> Iterator[tuple[str, bool]]:
    """The absolute names that a file imports, and whether only for type checkers."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"), path)
    package = ["tunesmith", *Path(path).parent.parts]
    package = package[1:] if package[1:2] == ["tunesmith"] else package
    for_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, id(node) in for_types
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *filter(None, [node.module])])
            for alias in node.names:
                yield f"{module}.{alias.name}", id(node) in for_types


def run_python(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A fresh process that sees the same `tunesmith`."""
    paths = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.run(
        [sys.executable, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        env=os.environ | {"PYTHONPATH": paths} | environment,
    )


@in_checkout
@pytest.mark.parametrize("path", sources())
def test_layers(path: str) -> None:
    folder = Path(path).parts[0]
    for name, _ in imports(path):
        parts = name.split(".")
        assert parts[0] not in FOLDERS, f"{path} imports `{name}`: say `tunesmith.{name}`"
        if folder == "tunesmith" or parts[0] != "tunesmith":
            continue
        assert len(parts) > 1, f"{path} imports the front door"
        allowed = {folder} | MAY_IMPORT[folder]
        assert parts[1] in allowed, f"{path} imports `{name}`, may import {sorted(allowed)}"


@in_checkout
@pytest.mark.parametrize("path", sources())
def test_heavy_imports(path: str) -> None:
    for name, for_types in imports(path):
        places = HEAVY.get(name.split(".")[0])
        if places is not None and not for_types:
            assert path.startswith(places), f"{path} imports `{name}`, which may stand in {places}"


@in_checkout
@pytest.mark.parametrize("path", sources())
def test_imports_are_relative_inside_a_folder_and_absolute_across(path: str) -> None:
    folder = Path(path).parts[0]
    if folder == "tunesmith":
        return
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"), path)
    depth = len(Path(path).parts) - 1
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            inside = f"tunesmith.{folder}"
            absolute = node.level == 0 and node.module is not None
            own = absolute and f"{node.module}.".startswith(f"{inside}.")
            assert not own, f"{path}:{node.lineno}: inside `{folder}`, import relatively"
            assert node.level <= depth, f"{path}:{node.lineno}: across folders, import absolutely"


@in_checkout
def test_every_package_is_listed() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    tools = settings["tool"]["setuptools"]
    on_disk = {"tunesmith"}
    for path in sources():
        folder = Path(path).parent
        if folder.parts[0] != "tunesmith":
            on_disk.add(".".join(["tunesmith", *folder.parts]))
    assert set(tools["packages"]) == on_disk
    assert tools["package-dir"] == {f"tunesmith.{folder}": folder for folder in FOLDERS}


@in_checkout
def test_every_folder_with_code_is_a_package() -> None:
    for path in sources():
        assert (ROOT / path).with_name("__init__.py").is_file(), f"{path}: no `__init__.py` beside"


@in_checkout
def test_links_show_the_folders() -> None:
    for folder in FOLDERS:
        link = ROOT / "tunesmith" / folder
        if link.exists():  # a checkout without links works as well
            assert link.is_symlink()
            assert link.resolve() == ROOT / folder


@in_checkout
def test_no_grab_bags() -> None:
    forbidden = {"utils.py", "common.py", "misc.py", "core.py", "helpers.py"}
    assert not [p for p in sources() if Path(p).name in forbidden]
    libraries = {f"{name}.py" for name in HEAVY}
    assert not [p for p in sources() if Path(p).name in libraries], "an adapter has its own name"


@in_checkout
def test_files_are_small() -> None:
    long = {p: n for p in sources() if (n := len((ROOT / p).read_text().splitlines())) > 500}
    assert not long, "the hard limit is 500 lines"


def test_running_needs_numpy_its_types_and_tvms_small_runtime_alone() -> None:
    code = (
        "import json, sys, tunesmith.runtime.executable, tunesmith.runtime.artifact\n"
        "tunesmith.runtime.load\n"
        "known = {*sys.stdlib_module_names, 'tunesmith'}\n"
        "files = {n.split('.')[0] for n, m in sys.modules.items() if hasattr(m, '__file__')}\n"
        "print(json.dumps(sorted(files - known)))"
    )
    done = run_python("-c", code)
    assert done.returncode == 0, done.stderr
    loaded = {name for name in json.loads(done.stdout) if not name.startswith("_")}
    assert loaded <= {"numpy", "ml_dtypes", "tvm_ffi"}


@pytest.mark.parametrize("module", ["tunesmith", "tunesmith.runtime", "tunesmith.cli"])
def test_nothing_heavy_is_imported_early(module: str) -> None:
    code = f"import json, sys, {module}; print(json.dumps(sorted(sys.modules)))"
    done = run_python("-c", code)
    assert done.returncode == 0, done.stderr
    loaded = {name.split(".")[0] for name in json.loads(done.stdout)}
    heavy = {*HEAVY, "typer"} if module == "tunesmith" else set(HEAVY)
    assert not loaded & heavy
    if module != "tunesmith.runtime":
        assert "numpy" not in loaded


def fastest(*arguments: str) -> float:
    """The least processor time of five runs: what the code costs, whatever else runs."""
    times = []
    for _ in range(5):
        code = (
            "import resource, subprocess, sys;"
            "subprocess.run(sys.argv[1:], check=True, capture_output=True);"
            "used = resource.getrusage(resource.RUSAGE_CHILDREN);"
            "print(used.ru_utime + used.ru_stime)"
        )
        done = run_python("-c", code, sys.executable, *arguments)
        assert done.returncode == 0, done.stderr
        times.append(float(done.stdout))
    return min(times)


def test_importing_is_quick() -> None:
    assert fastest("-c", "import tunesmith") < IMPORT_SECONDS * SLACK


def test_help_is_quick() -> None:
    assert fastest("-m", "tunesmith", "--help") < HELP_SECONDS * SLACK


def test_the_front_door_is_complete() -> None:
    code = (
        "import tunesmith\n"
        "for name in tunesmith.__all__: assert getattr(tunesmith, name) is not None\n"
        "assert set(tunesmith.__all__) <= set(dir(tunesmith))\n"
        "assert isinstance(tunesmith.__version__, str)\n"
    )
    done = run_python("-c", code)
    assert done.returncode == 0, done.stderr


@in_checkout
def test_constraints_are_complete_and_without_addresses() -> None:
    from importlib.metadata import PackageNotFoundError, requires

    text = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    pins = {}
    for line in text.splitlines():
        match = re.fullmatch(r"([A-Za-z0-9._-]+)==([A-Za-z0-9._!]+)", line)
        assert match, f"`{line}` is not `name==version`"
        pins[_normal(match[1])] = match[2]
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = settings["optional-dependencies"].values()
    wanted = [*settings["dependencies"], *(r for extra in extras for r in extra)]
    missing, seen = set(), set()
    while wanted:
        requirement = wanted.pop()
        if re.search(r"extra\s*==", requirement):
            continue
        name = _normal(re.split(r"[\s<>=!~;\[(]", requirement, maxsplit=1)[0])
        if name in seen:
            continue
        seen.add(name)
        try:
            wanted += requires(name) or []
        except PackageNotFoundError:  # an extra that is not installed, or not for this platform
            if name in map(_normal, settings["dependencies"]):
                missing.add(name)
            continue
        if name not in pins:
            missing.add(name)
    assert not missing, f"constraints.txt lacks {sorted(missing)}"


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


@in_checkout
def test_the_doctor_knows_the_pinned_pair() -> None:
    from tunesmith.cli_doctor import PAIR

    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for name, version in PAIR.items():
        assert f"{name}=={version}" in settings["dependencies"]


def test_the_pinned_pair_of_tvm_works() -> None:
    """In a child: pairs that do not fit crash the process."""
    code = """
import sys
sys.modules["torch"] = None  # tvm_ffi imports it if it can, which takes seconds
import tvm
from tvm import te
x = te.placeholder((4,), "float32", "x")
y = te.compute((4,), lambda i: x[i] + 1, "y")
module = tvm.IRModule({"main": te.create_prim_func([x, y])})
tvm.ir.assert_structural_equal(tvm.ir.load_json(tvm.ir.save_json(module)), module)
"""
    done = run_python("-c", code)
    assert done.returncode == 0, done.stderr
