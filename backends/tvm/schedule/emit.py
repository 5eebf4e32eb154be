"""Small pieces of TIR that every emitter writes: indices, loops and whole vectors.

All index arithmetic is `int64`, the type of the dims of Relax; `NarrowDataType` makes it 32 bits
wide again wherever the bounds are known. Functions here must be called inside an open `prim_func`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, TypeAlias

from tvm.ir import Expr
from tvm.script.ir_builder import IRBuilder
from tvm.tirx import AllocBuffer, Buffer, For, IntImm, Ramp, SeqStmt, const, stmt_seq
from tvm.tirx.script import builder as T

if TYPE_CHECKING:
    from tunesmith.ir.target import Machine

Dim: TypeAlias = int | Expr

FLOAT_BYTES = 4


def lanes_of(machine: Machine) -> int:
    """Return how many fp32 values a vector register of `machine` holds."""
    return machine.vector_bytes // FLOAT_BYTES


def index(value: Dim) -> Expr:
    """Return `value` as an `int64` expression."""
    if isinstance(value, int):
        return IntImm("int64", value)
    return value if str(value.ty) == "int64" else value.astype("int64")


def static(value: Dim) -> int | None:
    """Return `value` as an `int` if it is known now."""
    if isinstance(value, int):
        return value
    return int(value.value) if isinstance(value, IntImm) else None


def loop(extent: Dim, *, parallel: bool = False) -> AbstractContextManager[Expr]:
    """Open a serial or parallel loop over `range(extent)`."""
    kind = T.parallel if parallel else T.serial
    frame: AbstractContextManager[Expr] = kind(index(extent))
    return _task(frame) if parallel and _FLUSHING else frame


_FLUSHING: list[bool] = []  # whether the kernel that is being written takes denormals for zero
_FLUSH_BITS = 0x8040  # of MXCSR: results that are denormal become zero, operands count as zero


@contextmanager
def flushing(*, wanted: bool) -> Iterator[None]:
    """Take denormal numbers for zero in what is written inside, on each thread of it.

    A multiplication that meets one takes over a hundred cycles on x86, and trained weights hold
    millions of them. What callers have set is set again afterwards.
    """
    if not wanted:
        yield
        return
    _FLUSHING.append(True)
    try:
        with _flushed():
            yield
    finally:
        _FLUSHING.pop()


@contextmanager
def _task(frame: AbstractContextManager[Expr]) -> Iterator[Expr]:
    with frame as variable, _flushed():
        yield variable


@contextmanager
def _flushed() -> Iterator[None]:
    """Change the control register, and change it back."""
    words = T.alloc_buffer((2,), "int32")
    old, new = (T.address_of(words[i]) for i in range(2))
    T.evaluate(T.call_llvm_intrin("void", "llvm.x86.sse.stmxcsr", old))
    T.buffer_store(words, words[0] | const(_FLUSH_BITS, "int32"), [1])
    T.evaluate(T.call_llvm_intrin("void", "llvm.x86.sse.ldmxcsr", new))
    yield
    T.evaluate(T.call_llvm_intrin("void", "llvm.x86.sse.ldmxcsr", old))


_LANES: list[tuple[Expr, int]] = []  # of the vectorized loops that are being written


@contextmanager
def vector_loop(lanes: int) -> Iterator[Expr]:
    """Open a loop over the lanes of one vector. Cells of values that it holds stand before it.

    Inside they would be shrunk to one element, which all lanes then write.
    """
    with IRBuilder() as builder:
        with T.vectorized(index(lanes)) as lane:
            _LANES.append((lane, lanes))
            try:
                yield lane
            finally:
                _LANES.pop()
    whole = builder.get()
    body = list(whole.body) if isinstance(whole.body, SeqStmt) else [whole.body]
    cells = [s for s in body if isinstance(s, AllocBuffer)]
    if cells:
        rest = stmt_seq(*(s for s in body if not isinstance(s, AllocBuffer)))
        whole = For(whole.loop_var, whole.min, whole.extent, whole.kind, rest)
    for statement in (*cells, whole):
        T.add_to_parent(statement)


def ceil_div(value: Dim, divisor: Dim) -> Dim:
    """Return `value / divisor`, rounded up; a divisor that is 0 counts as 1."""
    known, by = static(value), static(divisor)
    if by is None:
        some = T.max(index(divisor), 1)
        return T.Bind((index(value) + (some - 1)) // some)
    by = max(by, 1)
    return (index(value) + (by - 1)) // by if known is None else -(-known // by)


def times(left: Dim, right: Dim) -> Dim:
    """Return the product of two dims."""
    one, two = static(left), static(right)
    return one * two if one is not None and two is not None else index(left) * right


def piece(number: Expr, each: Dim, total: Dim) -> tuple[Expr, Dim]:
    """Return where piece `number` of `total` begins, which are cut into `each`, and its length.

    Where both are known now the last piece overlaps the one before it, else it may be shorter.
    """
    one, two = static(each), static(total)
    if one is not None and two is not None:
        return T.Bind(T.min(number * one, index(two - one))), one
    first = index(opaque(number * each))
    return first, opaque(T.min(index(each), index(total) - first))


def minimum(left: Dim, right: Dim) -> Dim:
    """Return the smaller of two dims."""
    one, two = static(left), static(right)
    if one is not None and two is not None:
        return min(one, two)
    return T.min(index(left), index(right))


def opaque(value: Dim) -> Dim:
    """Return `value`, if it is not known now as a variable that no pass of TVM looks behind.

    Several passes substitute variables by what they are bound to; with sizes that are known at run
    time only, divided and multiplied, that made the compilation of one kernel take minutes.
    """
    known = static(value)
    if known is not None:
        return known
    cell = T.alloc_buffer((1,), "int64")
    T.buffer_store(cell, index(value), [index(0)])
    return T.Bind(cell[index(0)])


def held(value: Expr) -> Expr:
    """Return `value` out of a cell of its own, so that it is computed once.

    What a variable is bound to, several passes and the code generator put in its place, over and
    over: a chain of a dozen of them never compiles. Behind memory they do not look, and LLVM keeps
    the cell in a register.
    """
    lane, lanes = _LANES[-1] if _LANES else (index(0), 1)
    cell = T.alloc_buffer((lanes,), str(value.ty))
    T.buffer_store(cell, value, [lane])
    return cell[lane]


def registers(count: int, lanes: int, dtype: str = "float32") -> list[Buffer]:
    """Allocate `count` buffers of one vector each, which LLVM promotes to registers.

    One buffer a vector, in scope `global`: TVM puts only that scope, and only up to 1 KiB, on the
    stack. In scope `local` each would be a call for workspace, and live in memory.
    """
    return [T.alloc_buffer((lanes,), dtype) for _ in range(count)]


def lanes_at(start: Dim, lanes: int) -> Expr:
    """Return the index of `lanes` neighbours from `start`."""
    if lanes == 1:
        return index(start)
    return Ramp(index(start), IntImm("int64", 1), lanes)


def load(buffer: Buffer, start: Dim, lanes: int) -> Expr:
    """Load one vector of a flat buffer."""
    return buffer[lanes_at(start, lanes)]


def save(buffer: Buffer, start: Dim, lanes: int, value: Expr) -> None:
    """Store one vector into a flat buffer."""
    T.buffer_store(buffer, value, [lanes_at(start, lanes)])


def widened(value: Expr) -> Expr:
    """Return one vector of numbers as float32, which holds all of them.

    They are float32, float16 or small integers; unsigned ones of 16 bits are those of bfloat16.
    """
    kind, _, lanes = str(value.ty).partition("x")
    vector = f"x{lanes}" if lanes else ""
    if kind != "uint16":
        return value if kind == "float32" else value.astype(f"float32{vector}")
    wide = value.astype(f"uint32{vector}")
    return T.reinterpret(f"float32{vector}", wide << const(16, f"uint32{vector}"))


def splat(value: float | Expr, lanes: int) -> Expr:
    """Return a vector with `value` in every lane."""
    one = const(value, "float32") if isinstance(value, float) else value
    return one if lanes == 1 else T.broadcast(one, lanes)


def fill(buffers: Sequence[Buffer], lanes: int, value: float) -> None:
    """Set every lane of one-vector buffers to `value`."""
    for buffer in buffers:
        save(buffer, 0, lanes, splat(value, lanes))


def ask(buffer: Buffer, at: Sequence[Expr], *, write: bool = False, near: int = 2) -> None:
    """Ask for the cache line of an element, to read or to write it.

    `near` is 3 for the first cache, 2 for the second. An address that nobody has does no harm.
    """
    flags = [T.int32(int(write)), T.int32(near), T.int32(1)]  # the last: data, not code
    where = T.address_of(buffer[tuple(at)])
    T.evaluate(T.call_llvm_intrin("void", "llvm.prefetch.p0", where, *flags))


def branch(condition: Expr, then: Callable[[], None], otherwise: Callable[[], None]) -> None:
    """Choose between two bodies at run time."""
    with T.If(condition):
        with T.Then():
            then()
        with T.Else():
            otherwise()


def branch_if(condition: Expr, then: Callable[[], None]) -> None:
    """Run a body only if `condition` holds at run time."""
    with T.If(condition), T.Then():
        then()
