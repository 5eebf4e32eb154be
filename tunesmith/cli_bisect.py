"""`tunesmith bisect` and `tunesmith reduce`: what is wrong, and the least model that shows it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from tunesmith.cli_compile import require_file
from tunesmith.cli_console import note, out
from tunesmith.cli_values import check_output, parse_dims, parse_shapes, write_json
from tunesmith.ir.diagnostics import CompilerError

if TYPE_CHECKING:
    from tunesmith.drift import Check, Drift, Feeds
    from tunesmith.ir.graph import Graph

__all__ = ["Search", "bisect_command", "reduce_command"]


@dataclass(frozen=True, kw_only=True)
class Search:
    """What the command lines of both ask for."""

    pipeline: str | None
    level: int
    target: str
    shapes: Sequence[str]
    dims: Sequence[str]
    backend: bool
    seed: int
    tries: int
    atol: float | None
    rtol: float | None


def bisect_command(model: Path, search: Search, output: Path | None, json: Path | None) -> None:
    """Name what drifts first, and exit 1; or say that nothing does."""
    graph, check, feeds = _begin(model, search, output)
    from tunesmith.drift import find_drift

    drift = find_drift(graph, feeds, check)
    show = note if str(json) == "-" else out
    if drift is None:
        show(f"PASSED {_what(check)} keep the outputs on {len(feeds)} inputs")
    else:
        show(f"FAILED {_who(drift)}: {drift.what}")
        show(
            f"at {_sizes(drift.graph, drift.feeds)}; the graph before has {len(drift.graph)} nodes"
        )
        if output is not None:
            _save(drift.graph, drift, check, output)
            show(f"written {output}")
    if json is not None:
        write_json(json, {"passed": drift is None, **({} if drift is None else _facts(drift))})
    if drift is not None:
        raise typer.Exit(1)


def reduce_command(
    model: Path, search: Search, output: Path, seconds: float, json: Path | None
) -> None:
    """Shrink the model as long as the same thing drifts, and write what is left."""
    if output.suffix not in (".nir", ".onnx"):
        raise typer.BadParameter(f"`{output}` is neither `.nir` nor `.onnx`")
    graph, check, feeds = _begin(model, search, output)
    from tunesmith.drift import find_drift
    from tunesmith.reduce import reduce_drift

    drift = find_drift(graph, feeds, check)
    if drift is None:
        raise CompilerError(
            f"{_what(check)} keep the outputs on {len(feeds)} inputs: there is nothing to reduce",
            hint="try more inputs with `--tries`, other sizes with `--dim`, or another `--seed`",
        )
    note(f"{_who(drift)}: {drift.what}")
    # As text, only what drifts has to run; as ONNX, whoever reads it runs all passes again.
    whole = graph if output.suffix == ".onnx" else drift.graph
    check = check if output.suffix == ".onnx" else check.only(drift.name)
    found = reduce_drift(whole, drift, check, seconds=seconds)
    _save(found.graph, found.drift, check, output)
    before, after = (_count(g) for g in (whole, found.graph))
    show = note if str(json) == "-" else out
    show(f"reduced  {before} nodes to {after}, after {found.tried} graphs")
    if not found.complete:
        show(f"stopped  after {seconds:g} s: `--time` gives it longer")
    show(f"shows    {_who(found.drift)}: {found.drift.what}")
    show(f"written  {output}")
    if json is not None:
        facts = {"before": before, "after": after, "tried": found.tried, "output": str(output)}
        write_json(json, facts | {"complete": found.complete} | _facts(found.drift))


def _begin(model: Path, search: Search, output: Path | None) -> tuple[Graph, Check, list[Feeds]]:
    shapes, dims = parse_shapes(search.shapes), parse_dims(search.dims)
    require_file(model)
    if output is not None:
        check_output(output, model)
    from tunesmith.backends.targets import find_target
    from tunesmith.drift import Check
    from tunesmith.frontend import import_model
    from tunesmith.passes.pipeline import Pipeline
    from tunesmith.presets import PRESETS
    from tunesmith.random_inputs import small_inputs

    text = search.pipeline if search.pipeline is not None else PRESETS[f"O{search.level}"]
    pipeline = Pipeline.parse(text)
    graph = import_model(model, shapes=shapes or None, dims=dims or None)
    target = find_target(search.target, 1)
    check = Check(pipeline, target, search.backend, search.atol, search.rtol)
    feeds: list[Feeds] = [
        small_inputs(graph, seed=search.seed + i, least=i % 2 == 1) for i in range(search.tries)
    ]
    return graph, check, feeds


def _save(graph: Graph, drift: Drift, check: Check, path: Path) -> None:
    from tunesmith.drift import BACKEND

    if path.suffix == ".onnx":
        from tunesmith.ir.onnx_export import save_onnx

        save_onnx(graph, path)
        return
    from tunesmith.ir.store import save_graph

    # A golden test without its expectation, if it is a pass.
    run = "" if drift.name == BACKEND else f"// RUN {check.only(drift.name).pipeline}\n"
    save_graph(graph, path, head=f"// {_who(drift)}: {' '.join(drift.what.split())}\n{run}")


def _what(check: Check) -> str:
    parts = [f"{len(check.pipeline.passes)} passes"] + ["the backend"] * check.backend
    return " and ".join(parts)


def _who(drift: Drift) -> str:
    from tunesmith.drift import BACKEND

    return "the backend" if drift.name == BACKEND else f"`{drift.name}`, run {drift.run}"


def _sizes(graph: Graph, feeds: Feeds) -> str:
    from tunesmith.drift import sizes_now

    sizes = sizes_now(graph, feeds)
    return " ".join(f"{name}={size}" for name, size in sizes.items()) or "its sizes"


def _count(graph: Graph) -> int:
    return sum(node.op.name != "constant" for node in graph.nodes)


def _facts(drift: Drift) -> dict[str, object]:
    from tunesmith.drift import sizes_now

    return {
        "name": drift.name, "run": drift.run, "what": drift.what, "nodes": _count(drift.graph),
        "sizes": sizes_now(drift.graph, drift.feeds),
    }  # fmt: skip
