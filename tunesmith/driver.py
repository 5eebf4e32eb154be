"""Where every layer meets: a model becomes an artifact."""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from tunesmith.frontend import Source, import_model, is_program, open_program
from tunesmith.frontend.onnx_values import as_value
from tunesmith.ir.diagnostics import FrontendError
from tunesmith.ir.dims import Dim, dim
from tunesmith.ir.graph import Graph, Node, Value
from tunesmith.ir.in_place import kept_outputs
from tunesmith.ir.symbols import bound_symbol, data_symbols
from tunesmith.ir.target import Target
from tunesmith.ir.work import flops
from tunesmith.passes.base import Note, PassContext
from tunesmith.passes.caches import cache_bounds, place_caches
from tunesmith.passes.pipeline import Pipeline
from tunesmith.presets import PRESETS
from tunesmith.random_inputs import index_bounds
from tunesmith.runtime.artifact import Artifact
from tunesmith.runtime.manifest import (
    DTYPES,
    CacheSpec,
    Json,
    Manifest,
    SymbolSpec,
    TargetSpec,
    TensorSpec,
)

if TYPE_CHECKING:
    import onnx
    from numpy.typing import ArrayLike

    from tunesmith.backends.base import Lowered, TuningRecords
    from tunesmith.oracle import Session

__all__ = ["Progress", "compile_model", "optimize"]

Progress = Callable[[str], None]

_HASHED_BYTES = 16 << 20  # in few pieces: a thread gets the interpreter back late after each


@dataclass
class _Clock:
    """Seconds by stage, and what the user is told while they pass."""

    progress: Progress | None
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage and announce it."""
        if self.progress is not None:
            self.progress(name)
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = round(time.perf_counter() - start, 3)

    def count(self, name: str) -> Callable[[int, int], None]:
        """Announce how far a stage is."""

        def told(done: int, total: int) -> None:
            if self.progress is not None:
                self.progress(f"{name} {done}/{total}")

        return told


def optimize(graph: Graph, pipeline: str, context: PassContext) -> Graph:
    """Run a pipeline (a preset or the text of one) over a graph, in place."""
    Pipeline.parse(PRESETS.get(pipeline, pipeline)).run(graph, context)
    return graph


def compile_model(
    source: Source,
    *,
    target: str | Target = "host",
    preset: str = "O2",
    shapes: Mapping[str, Sequence[int]] | None = None,
    dims: Mapping[str, tuple[int, int] | int] | None = None,
    values: Mapping[str, ArrayLike] | None = None,
    cache: int | None = None,
    threads: int | None = None,
    verify: bool = False,
    progress: Progress | None = None,
    records: Callable[[Sequence[SymbolSpec]], TuningRecords] | None = None,
    observe: Callable[[Lowered], object] | None = None,
) -> Artifact:
    """Compile a model to an artifact, which `save` writes and `tunesmith.runtime.load` runs.

    Weights stay in the file of the model, and more than 512 MiB of them are packed when the
    artifact is saved or loaded: leave the file as it is until then.

    Args:
        source: an ONNX file or object, a program of `torch.export` or the `.pt2` file of one, a
            `.nir` text, or a graph (which is changed).
        target: `host`, a name from `tunesmith targets`, or a target that has been found.
        preset: `O0` … `O3`, or the text of a pipeline.
        shapes: fixed shapes by input; then the code is for just these.
        dims: fixed sizes or bounds (`(1, 8)`) by the name of a dynamic axis.
        values: the elements of inputs that are known already, such as axes and sizes; then the
            code is for just these, the inputs may be left out, and other elements are refused.
        cache: rows that key/value caches have room for. The inputs that hold the past are buffers
            then, `[batch, heads, cache, size]`, which are written in place: `Executable.cache`.
        threads: cores to schedule for; by default as many as the target has.
        verify: run the result at several sizes beside ONNX Runtime, or beside PyTorch if it is a
            program of it, and keep the differences in the manifest; needs a target that this
            machine can run.
        progress: called with the name of each stage when it begins.
        records: called with the symbols; what it returns has knobs for kernels that were tuned.
        observe: called with what was lowered, before it is built.

    Raises:
        CompilerError: one of its kinds, with where it happened and what to do.
    """
    from tunesmith.backends.targets import find_target

    clock = _Clock(progress)
    where = target if isinstance(target, Target) else find_target(target, threads)
    with clock.stage("import"):
        model = open_program(source)
        graph = import_model(model, shapes=shapes, dims=dims, values=values)
        if cache is not None and not isinstance(model, Graph):
            graph = _grown(graph, model, cache, shapes, dims, values)
        _check_elements(graph)
        before = len(graph)
        oracle = _oracle(model, graph) if verify else None
    context = PassContext(target=where)
    # hashing leaves the interpreter free, and ends before anything forks
    with ThreadPoolExecutor(1) as pool:
        pool.submit(_digest, list(graph.nodes))  # which the text of the graph needs
        source_hash = pool.submit(_source_hash, source)
        with clock.stage("optimize"):
            optimize(graph, preset, context)
            if cache is not None:
                place_caches(graph, cache, context)
            after = sum(node.op.name != "constant" for node in graph.nodes)
            interface = _interface(graph, values or {})
            caches = tuple(
                CacheSpec(k.input.name, graph.output_names[k.output], k.axis, str(k.before))
                for k in kept_outputs(graph)
            )
            work: Dim = 0
            for node in graph.nodes:
                work = work + flops(node)
        with clock.stage("lower"):
            from tunesmith.backends.tvm.compile import TvmBackend
            from tunesmith.ir.text import print_graph

            text = print_graph(graph)
            backend = TvmBackend()
            tuned = records(interface[2]) if records is not None else None
            lowered = backend.lower(graph, where, tuned)
        try:
            if observe is not None:
                observe(lowered)
            with clock.stage("build"):
                library = backend.build(lowered, clock.count("build"), pool.shutdown)
        except BaseException:
            lowered.settle(cancel=True)
            raise
    manifest = Manifest(
        name=Path(source).stem if isinstance(source, str | Path) else graph.name,
        inputs=interface[0],
        outputs=interface[1],
        symbols=interface[2],
        caches=caches,
        target=TargetSpec(where.triple, where.cpu, where.features, where.machine.cores),
        versions=_versions(),
        source_sha256=source_hash.result(),
        pipeline=PRESETS.get(preset, preset),
        passes=tuple(_note(n) for n in context.notes),
        entry=library.entry,
        report=_report(before, after, context.notes, lowered, clock.seconds)
        | {"arena": library.arena, "weights": lowered.weight_bytes},
    )
    artifact = Artifact(
        manifest=manifest, library=library.code, weights=lowered.weights, graph=text
    )
    if oracle is None:
        return artifact
    from tunesmith.selfcheck import check_in_child

    with clock.stage("verify"):
        tolerance = check_in_child(artifact, oracle, work)
    report: dict[str, Json] = {**manifest.report, "seconds": {**clock.seconds}}
    artifact.manifest = replace(manifest, tolerance=tolerance, report=report)
    return artifact


def _grown(
    graph: Graph,
    model: Source,
    cache: int,
    shapes: Mapping[str, Sequence[int]] | None,
    dims: Mapping[str, tuple[int, int] | int] | None,
    values: Mapping[str, ArrayLike] | None,
) -> Graph:
    """The model, imported with pasts that begin empty and fill a cache, unless the user says more.

    Only import knows what follows from other bounds.
    """
    wanted = {k: v for k, v in cache_bounds(graph, cache).items() if k not in (dims or {})}
    if not wanted or (isinstance(model, str | Path) and Path(model).suffix == ".nir"):
        return graph
    return import_model(model, shapes=shapes, dims={**(dims or {}), **wanted}, values=values)


def _oracle(model: Source, graph: Graph) -> Callable[[], Session]:
    """What opens another engine with the model as it was before any pass."""
    from tunesmith.oracle import OnnxSession

    names = list(graph.output_names)
    if is_program(model):

        def torch_session() -> Session:
            from tunesmith.frontend.torch_import import TorchSession

            return TorchSession(cast("Any", model), names, threads=1)

        return torch_session
    if isinstance(model, str | Path) and Path(model).suffix != ".nir":
        path = Path(model)
        return lambda: OnnxSession(path, threads=1, lean=True)
    if isinstance(model, str | Path | Graph):
        from tunesmith.ir.onnx_export import export_onnx

        model = export_onnx(graph)
    proto: onnx.ModelProto = cast("Any", model)
    return lambda: OnnxSession(proto, threads=1, lean=True)


def _check_elements(graph: Graph) -> None:
    """Refuse what no executable can take or give, before anything is built."""
    ends = [("input", value.name, value) for value in graph.inputs]
    ends += [("output", *end) for end in zip(graph.output_names, graph.outputs, strict=True)]
    for what, name, value in ends:
        if value.type.dtype.numpy.name not in DTYPES:
            raise FrontendError(
                f"an {what} of {value.type.dtype} is not supported yet",
                where=f"{what} `{name}`",
                hint=f"cast it inside the model; possible are {', '.join(DTYPES)}",
            )


def _interface(
    graph: Graph, values: Mapping[str, ArrayLike]
) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...], tuple[SymbolSpec, ...]]:
    rows = index_bounds(graph)
    counted = {k.before for k in kept_outputs(graph)}
    binds = {
        node.present_operands[0]: symbol.name
        for node in graph.nodes
        if (symbol := bound_symbol(node)) is not None
        and dim(symbol) in counted
        and node.present_operands[0].producer is None
    }

    def spec(name: str, value: Value) -> TensorSpec:
        dims = tuple(_dim(size) for size in value.type.shape)
        spec = TensorSpec(name, value.type.dtype.numpy.name, dims, rows.get(name))
        return replace(spec, binds=binds.get(value))

    inputs = tuple(
        spec(v.name, v).holding(as_value(v.name, values[v.name], v.type.dtype))
        if v.name in values
        else spec(v.name, v)
        for v in graph.inputs
    )
    outputs = tuple(
        replace(spec(name, v), rows=None)
        for name, v in zip(graph.output_names, graph.outputs, strict=True)
    )
    named = {**graph.symbols(), **data_symbols(graph)}
    symbols = tuple(SymbolSpec(s.name, s.low, s.high or None) for s in named.values())
    return inputs, outputs, symbols


def _dim(size: Dim) -> int | str:
    return size if isinstance(size, int) else str(size)


def _versions() -> dict[str, str]:
    from tunesmith import __version__
    from tunesmith.runtime.tvm_module import package_versions

    return {"tunesmith": __version__, **package_versions()}


def _source_hash(source: object) -> str:
    if not isinstance(source, str | Path):
        return ""
    state = hashlib.sha256()
    piece = memoryview(bytearray(_HASHED_BYTES))
    with Path(source).open("rb", buffering=0) as file:
        while count := file.readinto(piece):
            state.update(piece[:count])
    return state.hexdigest()


def _digest(nodes: Sequence[Node]) -> None:
    """Hash the constants: each keeps its digest."""
    for node in nodes:
        for value in node.results:
            if value.constant is not None:
                _ = value.constant.digest


def _note(note: Note) -> dict[str, Json]:
    return {
        "pass": note.pass_name,
        "kind": note.kind,
        "what": note.what,
        "where": note.where,
        "reason": note.reason,
    }


def _report(
    before: int, after: int, notes: Sequence[Note], lowered: Lowered, seconds: Mapping[str, float]
) -> dict[str, Json]:
    fused = Counter(n.what for n in notes if n.kind == "match")
    stored = Counter(n.what for n in notes if n.kind == "stored")
    return {
        "nodes_before": before,
        "nodes_after": after,
        "fused": dict(sorted(fused.items())),
        "stored": dict(sorted(stored.items())),
        "near_misses": [*(_note(n) for n in notes if n.kind == "near-miss")],
        "kernels": len(lowered.kernels),
        "kernel_table": [*lowered.kernels],
        "seconds": dict(seconds),
    }
