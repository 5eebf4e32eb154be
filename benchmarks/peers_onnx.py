"""Engines that read ONNX files themselves: ONNX Runtime in three ways, and OpenVINO."""

from __future__ import annotations

import logging
from typing import Any

from benchmarks.peers_contract import Job, Loaded, Unsupported, named, size_of

__all__ = [
    "load_fixed", "load_openvino", "load_optimized", "load_plain", "optimize", "start_onnxruntime",
    "start_openvino",
]  # fmt: skip

OPTIMIZED = "optimized.onnx"


def start_onnxruntime() -> None:
    """Import ONNX Runtime."""
    import onnxruntime  # noqa: F401


def _session(job: Job, path: str, *, fixed: bool) -> Loaded:
    """A session with all optimizations; its workers spin after a run, as by default."""
    import onnxruntime

    feeds = dict(job.feeds())
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = job.threads
    options.inter_op_num_threads = 1
    if fixed:
        for name, size in _symbols(job).items():
            options.add_free_dimension_override_by_name(name, size)
    providers = ["CPUExecutionProvider"]
    session: Any = onnxruntime.InferenceSession(path, options, providers=providers)
    names = list(job.outputs)
    feeds = {value.name: feeds[value.name] for value in session.get_inputs()}
    return Loaded(
        run=lambda: session.run(names, feeds),
        outputs=lambda results: named(job, results),
        engaged={
            "threads": str(session.get_session_options().intra_op_num_threads),
            "providers": ",".join(session.get_providers()),
        },
    )


def _symbols(job: Job) -> dict[str, int]:
    """The sizes of the axes that the file gives a name, from the shapes of the inputs."""
    import onnx

    model = onnx.load(job.model, load_external_data=False)
    feeds = job.feeds()
    found = {}
    for value in model.graph.input:
        dims = value.type.tensor_type.shape.dim
        for dim, size in zip(dims, feeds[value.name].shape if value.name in feeds else ()):  # noqa: B905  # initializers may be inputs
            if dim.dim_param:
                found[dim.dim_param] = int(size)
    return found


def load_plain(job: Job) -> Loaded:
    """The file as it is."""
    loaded = _session(job, str(job.model), fixed=False)
    return _sized(loaded, size_of(job.model))


def load_fixed(job: Job) -> Loaded:
    """The file with its dynamic axes fixed."""
    loaded = _session(job, str(job.model), fixed=True)
    return _sized(loaded, size_of(job.model))


def load_optimized(job: Job) -> Loaded:
    """The file that `optimize` wrote."""
    path = job.folder / OPTIMIZED
    return _sized(_session(job, str(path), fixed=False), size_of(path))


def _sized(loaded: Loaded, size: int) -> Loaded:
    return Loaded(loaded.run, loaded.outputs, size, engaged=loaded.engaged)


def optimize(job: Job) -> None:
    """Run ONNX Runtime's transformer optimizer over the file."""
    if not job.optimizer:
        raise Unsupported("the transformer optimizer has no model type for it")
    logging.disable(logging.WARNING)  # it warns about every pattern that it does not find
    from onnxruntime.transformers import optimizer

    # Zeros let it find the heads; a graph without a fused operator is the plain file again.
    model = optimizer.optimize_model(
        str(job.model), model_type=job.optimizer, num_heads=0, hidden_size=0, use_gpu=False
    )
    fused = {name: n for name, n in model.get_fused_operator_statistics().items() if n}
    if not fused:
        raise Unsupported("the transformer optimizer fuses nothing in it")
    path = job.folder / OPTIMIZED
    model.save_model_to_file(str(path), use_external_data_format=job.model.stat().st_size > 1.8e9)
    print(f"fused: {fused}")


def start_openvino() -> None:
    """Import OpenVINO."""
    import openvino  # noqa: F401


def load_openvino(job: Job) -> Loaded:
    """Compile for latency, in f32, for the shapes of the inputs: its best honest setting."""
    import openvino

    feeds = dict(job.feeds())
    core = openvino.Core()
    model = core.read_model(str(job.model))
    model.reshape({name: list(array.shape) for name, array in feeds.items()})
    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_PRECISION_HINT": "f32",
        "INFERENCE_NUM_THREADS": job.threads,
        "NUM_STREAMS": 1,
        "DYNAMIC_QUANTIZATION_GROUP_SIZE": 0,  # the same work: no activation becomes int8
        "ENABLE_CPU_PINNING": False,  # the board pins the whole process
    }
    compiled: Any = core.compile_model(model, "CPU", settings)
    request = compiled.create_infer_request()

    def run() -> Any:
        return request.infer(feeds, share_inputs=True, share_outputs=True)

    shown = (
        "INFERENCE_PRECISION_HINT",
        "INFERENCE_NUM_THREADS",
        "NUM_STREAMS",
        "EXECUTION_MODE_HINT",
    )
    return Loaded(
        run=run,
        outputs=lambda results: named(job, [results[i] for i in range(len(job.outputs))]),
        file_bytes=size_of(job.model),
        engaged={name: str(compiled.get_property(name)) for name in shown},
    )
