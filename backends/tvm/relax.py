"""Graph → Relax module: one call a kernel, weights as parameters, shapes as they were."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf

import numpy as np
from tvm import relax, tirx
from tvm.ir import Expr as Prim
from tvm.ir import IRModule

from tunesmith.ir.dims import Dim, DimExpr, FloorDiv, Sym, bounds, dim
from tunesmith.ir.graph import Graph, Node, Value
from tunesmith.ir.symbols import bound_symbol, data_symbols, symbol_sources
from tunesmith.ir.target import Target
from tunesmith.ir.types import TensorType
from tunesmith.ir.work import flops
from tunesmith.runtime.manifest import Json

from ..base import Lowered, TuningRecords
from .groups import Plan, form_groups
from .index import Sizes
from .kernels.kernel import Kernel, WeightUse, build_kernel
from .kernels.literals import TVM_DTYPE
from .schedule.knobs import Knobs
from .siblings import join_products
from .weights import PackedWeights

__all__ = ["lower_graph"]

_PLANNED_BYTES = 1 << 32  # a result that may be larger is allocated at the size it has
_TIED_BYTES = 1 << 20  # smaller ones are not worth comparing
_PICKS = frozenset({"gather", "gather_elements", "gather_nd", "slice"})


def lower_graph(graph: Graph, target: Target, records: TuningRecords | None = None) -> Lowered:
    """Form groups, write each distinct kernel once, and call them in order.

    Inside, every tensor is flat; inputs and outputs have their shapes. The parameters of `main`
    are the inputs of the graph, then the weights, in the order of `Lowered.weights`.
    """
    plan = join_products(form_groups(graph, target.machine), target.machine)
    kernels = [build_kernel(group, plan.in_memory, target.machine) for group in plan.groups]
    if records is not None:
        for kernel in kernels:
            kernel.chosen = _recorded(kernel, records)
    return _Module(graph, target, plan, kernels).lower()


def _recorded(kernel: Kernel, records: TuningRecords) -> Knobs | None:
    """Knobs that were measured to be better than the default ones."""
    template = kernel.template
    if template is None:
        return None
    found = records.knobs(template.title, kernel.workload, template.features)
    knobs = None if found is None else template.knobs(found)
    return None if knobs == template.default else knobs


class _InputSizes(Sizes):
    """The symbols as the inputs tell them: an axis is one, or one follows from an axis.

    Relax binds plain variables only, so an axis of `32*S` elements is a variable of its own.
    """

    def __init__(self, types: Sequence[TensorType]) -> None:
        super().__init__()
        self.axes: dict[tuple[int, int], tirx.Var] = {}
        self.limits: dict[str, int] = {}
        self.meanings: dict[str, Dim] = {s.name: dim(s) for t in types for s in t.symbols()}
        self._derived: dict[str, Prim] = {}
        for source in symbol_sources(types):
            if source.rest == 0 and source.factor == 1:
                continue
            name = source.symbol.name
            axis = self.axes[source.input, source.axis] = self.variable(f"{name}.axis")
            rest, factor = self.expr(source.rest), self.expr(source.factor)
            self._derived[name] = tirx.floordiv(axis - rest, factor)
            self.meanings[axis.name] = types[source.input].shape[source.axis]
            self.limits[axis.name] = bounds(types[source.input].shape[source.axis])[1] or 0

    def named(self) -> dict[str, Dim]:
        """What each variable of the module stands for."""
        return {name: size for name, size in self.meanings.items() if name in self.variables}

    def atom(self, atom: Sym | FloorDiv) -> Prim:
        """A symbol, or a quotient, as an expression."""
        if isinstance(atom, Sym) and atom.name in self._derived:
            return self._derived[atom.name]
        return super().atom(atom)


class _Module:
    """The module while it is written."""

    def __init__(self, graph: Graph, target: Target, plan: Plan, kernels: list[Kernel]) -> None:
        self.graph, self.target, self.plan, self.kernels = graph, target, plan, kernels
        self.sizes = _InputSizes([value.type for value in graph.inputs])
        self.builder = relax.BlockBuilder()
        self.uses: dict[object, WeightUse] = {}
        self.functions: dict[str, Callable[[], tirx.PrimFunc]] = {}
        self.table: list[dict[str, Json]] = []
        self.flat: dict[Value, relax.Expr] = {}

    def lower(self) -> Lowered:
        """Write `main` and the kernels it calls."""
        _tie_tables(self.kernels)
        for kernel in self.kernels:
            for value in kernel.reads if kernel.group.kind != "bind" else ():
                use = kernel.weight_use(value)
                if use is not None:
                    self.uses.setdefault(use.key, use)
        params = [relax.Var(f"in{i}", self._type(i, v)) for i, v in enumerate(self.graph.inputs)]
        slots: dict[object, relax.Expr] = {}
        for number, (key, use) in enumerate(self.uses.items()):
            dtype = TVM_DTYPE[use.constant.type.dtype]
            slots[key] = relax.Var(f"w{number}", relax.TensorType(use.shape(), dtype))
        weights = PackedWeights([*self.uses.values()])
        weights.begin()
        try:
            module = self._main(params, slots)
        except BaseException:
            weights.settle(cancel=True)
            raise
        return Lowered(
            self.graph, self.target, module, self.functions, weights, weights.nbytes, self.table,
            self.sizes.named(), {k.name: k for k in self.kernels if k.template is not None},
            weights.settle,
        )  # fmt: skip

    def _main(self, params: list[relax.Var], slots: dict[object, relax.Expr]) -> IRModule:
        """The module: inputs as flat views, the kernels in order, outputs with their shapes."""
        with self.builder.function("main", [*params, *slots.values()]):
            with self.builder.dataflow():
                used = {value for kernel in self.kernels for value in kernel.reads}
                used |= {v for k in self.kernels if (v := k.group.overwritten) is not None}
                for value, var in zip(self.graph.inputs, params, strict=True):
                    if value in used:
                        self.flat[value] = self._view(var, (value.type.size,), value.type)
                for kernel in self.kernels:
                    if kernel.group.kind == "bind":
                        self._bind(kernel.group.anchor)
                    else:
                        self._call(kernel, slots)
                outputs = [
                    self.builder.emit_output(self._reshape(self.flat[v], v.type.shape, v.type))
                    for v in self.graph.outputs
                ]
            self.builder.emit_func_output(outputs[0] if len(outputs) == 1 else relax.Tuple(outputs))
        module: IRModule = self.builder.get()
        symbols = {**self.graph.symbols(), **data_symbols(self.graph)}.values()
        if all(symbol.high for symbol in symbols) and self._largest() <= _PLANNED_BYTES:
            # with every size bounded, storage is planned and shared before anything runs
            limits = {symbol.name: symbol.high for symbol in symbols} | self.sizes.limits
            main = module["main"].with_attr("tir_var_upper_bound", limits)
            module["main"] = main
        return module

    def _largest(self) -> float:
        """Bytes of the largest result at the greatest sizes."""
        results = [
            value
            for kernel in self.kernels
            for value in kernel.group.outputs
            if kernel.group.overwritten is None
        ]
        most = [(bounds(v.type.size)[1], v.type.dtype.bytes) for v in results]
        return max((inf if size is None else size * width for size, width in most), default=0)

    def _type(self, input: int, value: Value) -> relax.TensorType:
        shape = [
            self.sizes.axes.get((input, axis), self.sizes.expr(size))
            for axis, size in enumerate(value.type.shape)
        ]
        return relax.TensorType(shape, TVM_DTYPE[value.type.dtype])

    def _reshape(self, x: relax.Expr, shape: tuple[object, ...], type: TensorType) -> relax.Expr:
        dims = [self.sizes.expr(d) for d in shape]  # type: ignore[arg-type]  # dims of a shape
        return relax.call_pure_packed(
            "vm.builtin.reshape",
            x,
            relax.ShapeExpr(dims),
            ty_args=relax.TensorType(dims, TVM_DTYPE[type.dtype]),
        )

    def _view(self, x: relax.Expr, shape: tuple[object, ...], type: TensorType) -> relax.Expr:
        return self.builder.emit(self._reshape(x, shape, type))

    def _bind(self, node: Node) -> None:
        """Read a number, and let it be the value of a size: of a symbol, or running fails."""
        (count,) = node.present_operands
        size = node.attributes["size"]
        assert isinstance(size, int | DimExpr)
        shape: relax.Expr
        if (known := count.constant) is not None:
            shape = relax.ShapeExpr([int(known.array.item())])
        else:
            shape = relax.call_pure_packed(
                "vm.builtin.tensor_to_shape", self.flat[count], ty_args=relax.ShapeType(ndim=1)
            )
        shape = self.builder.emit(shape)
        self.builder.match_cast(shape, relax.ShapeType([self.sizes.expr(size)]))
        if (symbol := bound_symbol(node)) is not None:
            self.sizes.meanings.setdefault(symbol.name, size)

    def _call(self, kernel: Kernel, slots: dict[object, relax.Expr]) -> None:
        name = kernel.name
        self.functions.setdefault(name, kernel.function)
        arguments: list[relax.Expr | tirx.Var] = []
        for value in kernel.reads:
            use = kernel.weight_use(value)
            arguments.append(self.flat[value] if use is None else slots[use.key])
        arguments += [self.sizes.expr(dim(symbol)) for symbol in kernel.symbols]
        self.table.append(_row(kernel, name))
        taken = kernel.group.overwritten
        if taken is not None:  # calls stay in their order, so this one is before its readers'
            memory = self.flat[kernel.group.anchor.result] = self.flat[taken]
            call = relax.call_pure_packed(name, *arguments, memory, ty_args=relax.TupleType([]))
            self.builder.emit(call)
            return
        types = [
            relax.TensorType((self.sizes.expr(v.type.size),), TVM_DTYPE[v.type.dtype])
            for v in kernel.group.outputs
        ]
        result = self.builder.emit(relax.call_dps_packed(name, arguments, types))
        outputs = kernel.group.outputs
        for number, value in enumerate(outputs):
            self.flat[value] = (
                result
                if len(outputs) == 1
                else self.builder.emit(relax.TupleGetItem(result, number))
            )


def _tie_tables(kernels: list[Kernel]) -> None:
    """Store an embedding once that is also the weight of the layer in front of the logits.

    Picking a row out of panels is slow for its few bytes, and saves the largest tensor of a model.
    """
    packed = [
        use
        for kernel in kernels
        if kernel.group.kind == "gemm" and kernel.weight is not None
        for use in [kernel.weight_use(kernel.weight)]
        if use is not None and not use.others and use.constant.nbytes >= _TIED_BYTES
    ]
    for kernel in kernels:
        for table in kernel.tables:
            constant = table.constant
            assert constant is not None
            for use in packed:
                weight = use.constant
                if constant.type.dtype is not weight.type.dtype:
                    continue
                if constant.type.shape == weight.type.shape[::-1] and np.array_equal(
                    constant.array, weight.array.T
                ):
                    kernel.tied[table] = use
                    break


def _row(kernel: Kernel, name: str) -> dict[str, Json]:
    """What the manifest says of a kernel: what it stands for, and how much work it is."""
    operations: Dim = 0
    for node in kernel.inlined:
        operations = operations + flops(node)
    moved: Dim = 0
    weights: Dim = 0
    taken = kernel.group.overwritten
    written = kernel.group.outputs if taken is None else kernel.group.anchor.operands[1:]
    for value in (*kernel.reads, *kernel.packed[1:], *(v for v in written if v is not None)):
        size = _elements(value, kernel) * value.type.dtype.bytes
        moved = moved + size
        weights = weights + (size if value.constant is not None else 0)
    return {
        "kernel": name,
        "kind": kernel.group.kind,
        "nodes": [n.op.name for n in kernel.inlined],
        "from": [n.location.name for n in kernel.inlined if n.location.name],
        "flops": str(operations),
        "bytes": str(moved),
        "weight_bytes": str(weights),
        "knobs": None if kernel.knobs is None else {**kernel.knobs.numbers()},
        "tuned": kernel.chosen is not None,
    }


def _elements(value: Value, kernel: Kernel) -> Dim:
    """How many elements of a value a kernel touches: of what it only picks from, what it picks."""
    users = [n for n in kernel.inlined if value in n.operands]
    if users and all(n.op.name in _PICKS and n.operands[0] is value for n in users):
        return users[0].result.type.size
    return value.type.size
