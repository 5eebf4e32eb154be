"""A fresh artifact beside ONNX Runtime, in a child process, before anybody relies on it."""

from __future__ import annotations

import json
import os
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from tunesmith.ir.diagnostics import BackendError
from tunesmith.oracle import OnnxSession, compare, version
from tunesmith.random_inputs import make_inputs, sizes_to_verify
from tunesmith.runtime import Artifact, load
from tunesmith.runtime.manifest import Json

if TYPE_CHECKING:
    import onnx

    from tunesmith.ir.graph import Graph

__all__ = ["check_in_child"]

_MOST = 65  # a symbol is not tried above this: every branch and tail of the kernels is met below


def check_in_child(
    artifact: Artifact, source: str | Path | onnx.ModelProto | Graph
) -> dict[str, Json]:
    """Run both at several sizes and report the differences: what `Manifest.tolerance` holds.

    The child is forked from the compiler, which has run no kernel: the artifact needs no file, and
    a kernel that crashed would not take the compiler with it.

    Raises:
        BackendError: an output differs by more than its tolerance, or the child ended early.
    """
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        with os.fdopen(write, "w") as pipe:
            try:
                pipe.write(json.dumps(_check(artifact, source)))
            except BaseException:  # the parent has to hear of everything
                pipe.write(json.dumps({"error": traceback.format_exc(limit=-3)}))
        os._exit(0)
    os.close(write)
    with os.fdopen(read) as pipe:
        text = pipe.read()
    _, status = os.waitpid(child, 0)
    if status or not text:
        raise BackendError(
            f"the compiled model ended the process that tried it (status {status})",
            hint="this is a fault of tunesmith: please report it with the model",
        )
    result: dict[str, Json] = json.loads(text)
    if "error" in result:
        raise BackendError(f"the compiled model could not be checked: {result['error']}")
    if not result["passed"]:
        raise BackendError(
            f"the compiled model differs from ONNX Runtime: {json.dumps(result['outputs'])}",
            hint="`tunesmith opt --check-each onnxruntime` names the pass",
        )
    return result


def _check(artifact: Artifact, source: str | Path | onnx.ModelProto | Graph) -> dict[str, Json]:
    from tunesmith.ir.graph import Graph

    if isinstance(source, Graph) or Path(str(source)).suffix == ".nir":
        from tunesmith.ir.onnx_export import export_onnx
        from tunesmith.ir.text import parse_graph

        graph = source if isinstance(source, Graph) else parse_graph(Path(str(source)).read_text())
        source = export_onnx(graph)
    session = OnnxSession(Path(source) if isinstance(source, str) else source, threads=1)
    executable = load(artifact, threads=1)
    manifest = executable.manifest
    rows: list[Json] = []
    passed = True
    for number, sizes in enumerate(sizes_to_verify(manifest.symbols)):
        held = {s.name: max(min(sizes[s.name], _MOST), s.min) for s in manifest.symbols}
        bounds = {t.name: t.rows for t in manifest.inputs if t.rows is not None}
        feeds = make_inputs(manifest.inputs, held, seed=number, bounds=bounds)
        theirs = session.run({n: feeds[n] for n in session.input_names if n in feeds})
        for row in compare(executable.run(feeds), theirs):
            passed = passed and row.passed
            rows.append({
                "name": row.name, "sizes": {**held}, "passed": row.passed, "max_abs": row.max_abs,
                "max_rel": row.max_rel, "max_ulp": row.max_ulp, "reason": row.reason,
            })  # fmt: skip
    return {"passed": passed, "oracle": f"onnxruntime {version()}", "outputs": rows}
