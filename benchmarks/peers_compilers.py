"""Engines that compile: `torch.compile`, IREE, and TVM with its own pipeline."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.peers_contract import Job, Loaded, Unsupported, folded_model, named, size_of

__all__ = [
    "build_iree", "load_iree", "load_stock", "load_torch", "start_iree", "start_stock",
    "start_torch",
]  # fmt: skip


# --------------------------------------------------------------------------------- torch.compile


def start_torch() -> None:
    """Import PyTorch and its compiler."""
    import torch  # noqa: F401


def load_torch(job: Job) -> Loaded:
    """Compile the module that the ONNX file was exported from, with frozen weights."""
    from benchmarks import zoo

    entry = zoo.TABLE.get(job.subject)
    if entry is None:
        raise Unsupported("there is no PyTorch module of it")
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(job.folder)  # a cold compile, always
    os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"  # no pool of idle processes
    import torch
    from torch._inductor import config

    config.freezing = True  # packs the weights: what PyTorch advises for inference on CPUs
    torch.set_num_threads(job.threads)
    module = zoo.module(entry)
    feeds = job.feeds()
    arguments = [torch.from_numpy(feeds[name]) for name in entry.inputs]
    start = time.perf_counter()
    compiled = torch.compile(module, dynamic=False)

    def run() -> Any:
        with torch.no_grad():
            return compiled(*arguments)

    run()
    return Loaded(
        run=run,
        outputs=lambda results: named(job, [result.numpy() for result in results]),
        file_bytes=4 * sum(parameter.numel() for parameter in module.parameters()),
        compile_s=time.perf_counter() - start,
        engaged={"threads": str(torch.get_num_threads()),
                 "isa": str(torch.backends.cpu.get_cpu_capability())},
    )  # fmt: skip


# ------------------------------------------------------------------------------------------ IREE

_WEIGHTS, _CODE = "weights.irpa", "model.vmfb"
_STACK_BYTES = 1 << 18  # by default 32 kB, which layer norms with AVX-512 overflow


def start_iree() -> None:
    """Import IREE's runtime."""
    import iree.runtime  # noqa: F401


def build_iree(job: Job) -> None:
    """Import the ONNX file at fixed shapes, tidied, and compile it for this CPU."""
    source, module = folded_model(job), job.folder / "model.mlir"
    tools = Path(sys.executable).parent
    _tool(str(tools / "iree-import-onnx"), str(source), "-o", str(module), "--opset-version=18",
          "--externalize-params", f"--save-params-to={job.folder / _WEIGHTS}")  # fmt: skip
    source.unlink()
    _tool(str(tools / "iree-compile"), str(module), "-o", str(job.folder / _CODE),
          "--iree-hal-target-device=local", "--iree-hal-local-target-device-backends=llvm-cpu",
          "--iree-llvmcpu-target-cpu=host", "--iree-opt-level=O3",
          f"--iree-llvmcpu-stack-allocation-limit={_STACK_BYTES}")  # fmt: skip
    module.unlink()


def _tool(*command: str) -> None:
    """Run a tool of IREE; it fails with the first line of what it says."""
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    if done.returncode:
        print(done.stderr[-4000:])
        lines = [line for line in done.stderr.splitlines() if "error:" in line]
        why = (lines or done.stderr.strip().splitlines() or ["no message"])[0 if lines else -1]
        raise Unsupported(f"{Path(command[0]).name}: {why.strip()[-300:]}")


def load_iree(job: Job) -> Loaded:
    """Map the code and the weights; one thread runs in the calling one."""
    import iree.runtime as rt

    if job.threads > 1:
        cores = ",".join(map(str, job.cores))
        rt.flags.parse_flags(
            f"--task_topology_cpu_ids={cores}", f"--task_worker_stack_size={4 * _STACK_BYTES}"
        )
    config = rt.Config("local-sync" if job.threads == 1 else "local-task")
    weights, code = job.folder / _WEIGHTS, job.folder / _CODE
    modules = [rt.create_hal_module(config.vm_instance, config.device)]
    if weights.is_file():
        index = rt.ParameterIndex()
        index.load(str(weights))
        provider = index.create_provider(scope="model")
        modules.insert(0, rt.create_io_parameters_module(config.vm_instance, provider))
    main = rt.VmModule.mmap(config.vm_instance, str(code))
    context = rt.SystemContext(vm_modules=[*modules, main], config=config)
    bound: Any = context.modules[main.name]
    entry = next(n for n in main.function_names if "$" not in n and not n.startswith("__"))
    function = bound[entry]
    arrays = [rt.asdevicearray(config.device, array) for array in job.feeds().values()]

    def outputs(results: Any) -> dict[str, NDArray[np.generic]]:
        many = results if isinstance(results, list | tuple) else [results]
        return dict(named(job, [result.to_host() for result in many]))

    return Loaded(
        run=lambda: function(*arrays),
        outputs=outputs,
        file_bytes=size_of(code, weights),
        engaged={"driver": "local-sync" if job.threads == 1 else "local-task"},
    )


# ------------------------------------------------------------------------------------ stock TVM


def start_stock() -> None:
    """Import TVM without PyTorch, which it would import too."""
    blocked = "torch" not in sys.modules
    if blocked:
        sys.modules["torch"] = None  # type: ignore[assignment]  # makes `import torch` fail
    try:
        import tvm
    finally:
        if blocked:
            del sys.modules["torch"]
    assert tvm


def load_stock(job: Job) -> Loaded:
    """Import with TVM's ONNX frontend, and compile with its default pipeline for CPUs."""
    import onnx
    import tvm
    from tvm import relax
    from tvm.relax.frontend.onnx import from_onnx

    start = time.perf_counter()
    feeds = job.feeds()
    model = onnx.load(folded_model(job))
    names = [v.name for v in model.graph.input if v.name in feeds]
    module = from_onnx(model, {name: list(feeds[name].shape) for name in names})
    module = relax.transform.DecomposeOpsForInference()(module)
    kind = tvm.target.codegen.llvm_get_system_cpu()
    target = tvm.target.Target({"kind": "llvm", "mcpu": kind, "num-cores": job.threads})
    pipeline = relax.get_default_pipeline(target)
    library = tvm.compile(relax.get_pipeline("zero")(module), target, relax_pipeline=pipeline)
    machine: Any = relax.VirtualMachine(library, tvm.cpu())
    arrays = [tvm.runtime.tensor(feeds[name]) for name in names]
    took = time.perf_counter() - start

    def outputs(result: Any) -> dict[str, NDArray[np.generic]]:
        many = [result] if hasattr(result, "numpy") else list(result)
        return dict(named(job, [one.numpy() for one in many]))

    return Loaded(run=lambda: machine["main"](*arrays), outputs=outputs,
                  file_bytes=size_of(job.model), compile_s=took, engaged={"mcpu": str(kind)},
                  )  # fmt: skip
