"""`tunesmith inspect`, `passes` and `targets`: what there is, without running anything."""

from __future__ import annotations

import contextlib
import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tunesmith.cli_compile import require_file
from tunesmith.cli_console import note, out, print_table
from tunesmith.cli_values import write_json
from tunesmith.ir.diagnostics import FrontendError, UnsupportedTarget

if TYPE_CHECKING:
    from tunesmith.ir.graph import Graph
    from tunesmith.passes.base import Pass

__all__ = ["inspect_command", "passes_command", "targets_command"]

_SHOWN = 30


def inspect_command(file: Path, json: Path | None) -> None:
    """Show a compiled model, a graph in text, a program of PyTorch, or an ONNX model."""
    require_file(file)
    match file.suffix.lower():
        case ".tsm":
            lines, facts = _artifact(file)
        case ".nir" | ".pt2":
            lines, facts = _text(file)
        case _:
            lines, facts = _model(file)
    show = note if str(json) == "-" else out
    for line in lines:
        show(line)
    if json is not None:
        write_json(json, facts)


def _artifact(file: Path) -> tuple[list[str], dict[str, object]]:
    """The manifest, the files in it, and its largest weights."""
    from tunesmith import report
    from tunesmith.runtime import Artifact

    artifact = Artifact.open(file)
    manifest = artifact.manifest
    size = file.stat().st_size
    target = manifest.target
    lines = [f"artifact  {file} ({report.megabytes(size)}), format {manifest.format_version}"]
    lines.append(f"model     {manifest.name}, sha256 {manifest.source_sha256 or 'unknown'}")
    lines += [f"input     {report.spec_text(spec)}" for spec in manifest.inputs]
    lines += [f"output    {report.spec_text(spec)}" for spec in manifest.outputs]
    if manifest.symbols:
        lines.append(f"dims      {report.symbols_text(manifest.symbols)}")
    lines.append(f"target    {target.cpu} ({target.triple}), tuned for {target.threads} threads")
    lines.append(f"needs     {', '.join(target.features) or 'no CPU feature'}")
    lines.append(f"pipeline  {manifest.pipeline or 'none'}")
    lines += [f"made with {package} {version}" for package, version in manifest.versions.items()]
    lines += report.graph_lines(manifest.report) + report.tolerance_lines(manifest)
    lines += [
        f"file      {name} ({report.megabytes(spec.size)})" for name, spec in manifest.files.items()
    ]
    weights = sorted(manifest.weights, key=lambda w: -w.nbytes)
    total = sum(w.nbytes for w in weights)
    lines += report.cache_lines(manifest) + report.memory_lines(manifest)
    lines.append(f"weights   {len(weights)}, {report.megabytes(total)}")
    for weight in weights[:_SHOWN]:
        shape = "x".join(map(str, weight.shape)) or "scalar"
        lines.append(f"weight    {weight.name} {weight.dtype} {shape}"
                     f" ({report.megabytes(weight.nbytes)})")  # fmt: skip
    if len(weights) > _SHOWN:
        lines.append(f"weight    … and {len(weights) - _SHOWN} smaller ones")
    facts: dict[str, object] = {"kind": "artifact", "bytes": size}
    return lines, facts | {"manifest": dataclasses.asdict(manifest)}


def _text(file: Path) -> tuple[list[str], dict[str, object]]:
    from tunesmith.frontend import import_model

    graph = import_model(file)
    lines = [f"graph     {file}", *_interface(graph)]
    operators = Counter(node.op.name for node in graph.nodes)
    lines += _histogram("operators", operators)
    return lines, {"kind": "graph", "operators": dict(operators)} | _interface_json(graph)


def _model(file: Path) -> tuple[list[str], dict[str, object]]:
    """The operators of an ONNX model, and what its import says."""
    from tunesmith import report
    from tunesmith.frontend import import_model
    from tunesmith.frontend.onnx_import import read_model

    model, _ = read_model(file)
    versions = {entry.domain or "ai.onnx": entry.version for entry in model.opset_import}
    operators = Counter(
        f"{node.domain}.{node.op_type}" if node.domain not in ("", "ai.onnx") else node.op_type
        for node in model.graph.node
    )
    producer = f"{model.producer_name} {model.producer_version}".strip() or "unknown"
    lines = [f"model     {file} ({report.megabytes(file.stat().st_size)})"]
    lines.append(f"made by   {producer}, IR version {model.ir_version}")
    lines.append(f"opset     {', '.join(f'{name} {v}' for name, v in versions.items()) or 'none'}")
    facts: dict[str, object] = {
        "kind": "model", "opsets": versions, "operators": dict(operators), "producer": producer,
    }  # fmt: skip
    weights = sum(1 for _ in model.graph.initializer)
    try:
        graph = import_model(file)
    except FrontendError as error:
        lines += _histogram("operators", operators)
        lines.append(f"import    {error.message}")
        if error.hint:
            lines.append(f"hint      {error.hint}")
        return lines, facts | {"supported": False, "problem": str(error)}
    lines += _interface(graph)
    lines.append(f"weights   {weights} tensors")
    lines += _histogram("operators", operators)
    lines.append(f"import    supported, {len(graph)} nodes")
    return lines, facts | {"supported": True, "nodes": len(graph)} | _interface_json(graph)


def _interface(graph: Graph) -> list[str]:
    lines = [f"input     {value.name} {value.type}" for value in graph.inputs]
    pairs = zip(graph.output_names, graph.outputs, strict=True)
    return lines + [f"output    {name} {value.type}" for name, value in pairs]


def _interface_json(graph: Graph) -> dict[str, object]:
    pairs = zip(graph.output_names, graph.outputs, strict=True)
    return {
        "inputs": {value.name: str(value.type) for value in graph.inputs},
        "outputs": {name: str(value.type) for name, value in pairs},
    }


def _histogram(title: str, counts: Mapping[str, int]) -> list[str]:
    lines = [f"{title} {sum(counts.values())}, {len(counts)} kinds"]
    rows = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    return lines + [f"{count:9} {name}" for name, count in rows]


def passes_command(json: Path | None) -> None:
    """List the passes in the order of the table."""
    rows = [_pass_row(p) for p in _passes()]
    if json is not None:
        write_json(json, [dict(zip(("name", "options", "doc"), row, strict=True)) for row in rows])
    if str(json) != "-":
        print_table(("pass", "options", "what it does"), rows)


def _passes() -> Iterable[type[Pass]]:
    from tunesmith.passes import PASSES

    return PASSES


def _pass_row(kind: type[Pass]) -> tuple[str, str, str]:
    options = ", ".join(
        f"{f.name.replace('_', '-')}={f.default}" for f in dataclasses.fields(kind) if f.init
    )
    doc = (kind.__doc__ or "").strip().split("\n")[0]
    return kind.name, options or "-", doc


def targets_command(json: Path | None) -> None:
    """List the targets, the machine at hand first."""
    from tunesmith.backends.targets import TARGETS, find_target

    targets = dict(TARGETS)
    with contextlib.suppress(UnsupportedTarget):  # a machine without a target can list them all
        targets = {"host": find_target("host"), **targets}
    rows = [
        (
            name, target.triple, target.cpu, target.machine.isa, str(target.machine.cores),
            ", ".join(target.features) or "-",
        )
        for name, target in targets.items()
    ]  # fmt: skip
    head = ("target", "triple", "cpu", "isa", "cores", "needs")
    if json is not None:
        write_json(json, [dict(zip(head, row, strict=True)) for row in rows])
    if str(json) != "-":
        print_table(head, rows)
