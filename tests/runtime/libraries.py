"""Build the libraries that the tests of the runtime pack and load: `python libraries.py FOLDER`.

Runs in a process of its own, so that the compiler is never loaded where the runtime is tested.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any


def build(folder: Path) -> None:
    """Write `tiny.so`, `many.so` and `wide.so`."""
    sys.modules["torch"] = None  # type: ignore[assignment]  # tvm_ffi would import it
    import tvm
    from tvm import relax, te, tirx

    target = tvm.target.Target({"kind": "llvm", "num-cores": 2})
    tensor = relax.TensorType

    def save(name: str, module: Any) -> None:
        pipeline = relax.get_default_pipeline(target)
        executable = tvm.compile(module, target, relax_pipeline=pipeline)
        executable.export_library(str(folder / f"{name}.so"))

    # tiny: relu(x @ w)
    n = tirx.Var("n", "int64")
    x = relax.Var("x", tensor((n, 4), "float32"))
    w = relax.Var("w", tensor((4, 3), "float32"))
    builder = relax.BlockBuilder()
    with builder.function("main", [x, w]):
        with builder.dataflow():
            product = builder.emit(relax.op.matmul(x, w))
            y = builder.emit_output(builder.emit(relax.op.nn.relu(product)))
        builder.emit_func_output(y)
    save("tiny", builder.get())

    # many: dtypes, ranks and every way in which an output can share memory
    n, m = tirx.Var("n", "int64"), tirx.Var("m", "int64")
    x = relax.Var("x", tensor((n, m), "float32"))
    ids = relax.Var("ids", tensor((n,), "int64"))
    half = relax.Var("half", tensor((), "float16"))
    flag = relax.Var("flag", tensor((m,), "bool"))
    w = relax.Var("w", tensor((2, 3), "int8"))
    v = relax.Var("v", tensor((), "float32"))
    builder = relax.BlockBuilder()
    with builder.function("main", [x, ids, half, flag, w, v]):
        with builder.dataflow():
            scaled = builder.emit_output(builder.emit(relax.op.multiply(x, v)))
            flat = builder.emit_output(builder.emit(relax.op.reshape(x, relax.ShapeExpr([m * n]))))
            more = builder.emit_output(builder.emit(relax.op.add(ids, ids)))
            root = builder.emit_output(builder.emit(relax.op.add(half, half)))
            negated = builder.emit_output(builder.emit(relax.op.logical_not(flag)))
        builder.emit_func_output(
            relax.Tuple([scaled, x, w, scaled, flat, more, root, negated, ids]))  # fmt: skip
    save("many", builder.get())

    # wide: a parallel kernel
    rows = tirx.Var("rows", "int64")
    a = te.placeholder((rows, 1024), name="a")
    b = te.compute((rows, 1024), lambda i, j: a[i, j] * 2.0, name="b")
    schedule = tvm.s_tir.Schedule(te.create_prim_func([a, b]))
    outer, _ = schedule.get_loops(schedule.get_sblock("b"))
    schedule.parallel(outer)
    kernel = schedule.mod["main"].without_attr("global_symbol")
    kernel = kernel.with_attr("tirx.is_scheduled", True).with_attr("op_pattern", 8)
    x = relax.Var("x", tensor((rows, 1024), "float32"))
    builder = relax.BlockBuilder()
    with builder.function("main", [x]):
        with builder.dataflow():
            call = relax.call_tir(builder.add_func(kernel, "double"), [x],
                                  tensor((rows, 1024), "float32"))  # fmt: skip
            y = builder.emit_output(builder.emit(call))
        builder.emit_func_output(y)
    save("wide", builder.get())


if __name__ == "__main__":
    build(Path(sys.argv[1]))
