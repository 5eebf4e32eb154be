"""Products of two activations, every dim known or not: what attention fusion leaves over.

A task is a panel of columns and a block of rows of one product. It copies a panel of the right
operand, contiguous and padded, and then sums tiles in registers as `gemm` does.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal, TypeAlias

from tvm.ir import Expr
from tvm.tirx import Buffer
from tvm.tirx.script import builder as T

from . import emit
from .emit import Dim
from .gemm_knobs import GemmWork
from .gemm_knobs import default as gemm_default
from .knobs import Knobs, knob

if TYPE_CHECKING:
    from tunesmith.ir.target import Machine

Load: TypeAlias = Callable[[Expr, Expr, Expr], Expr]
Store: TypeAlias = Callable[[Expr, Expr, Expr, Expr], None]


@dataclass(frozen=True, kw_only=True)
class MatmulKnobs(Knobs):
    """How a product of two activations is cut into pieces."""

    # rows of sums in registers
    tile_m: int = knob(8, 4, 5, 6, 7, 8, 9, 10, 12, 14)
    # columns of sums in registers; also the width of a copied panel
    tile_n: int = knob(48, 8, 16, 24, 32, 48, 64, 96)
    # steps of K in the innermost loop
    unroll_k: int = knob(4, 1, 2, 4, 8)
    # steps of K that a copied panel holds
    panel_k: int = knob(128, 16, 32, 64, 96, 128, 192, 256, 384, 512)
    # rows that one task computes
    block_m: int = knob(64, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256)


def default(cols: int | None, machine: Machine) -> MatmulKnobs:
    """Take the register tile of `gemm` and a copied panel that fills half of the first cache."""
    knobs = gemm_default(GemmWork(rows=None, inner=1, cols=cols or 1 << 16), machine)
    depth = machine.l1_bytes // 2 // (emit.FLOAT_BYTES * knobs.tile_n)
    return MatmulKnobs(
        tile_m=knobs.tile_m,
        tile_n=knobs.tile_n,
        panel_k=max(16, depth // 16 * 16),
        block_m=8 * knobs.tile_m,
    )


def fits(cols: int | None, machine: Machine, knobs: MatmulKnobs) -> bool:
    """Whether a tile stays in registers and a copied panel in the second cache."""
    lanes = emit.lanes_of(machine)
    vectors = knobs.tile_n // lanes
    return (
        knobs.tile_n % lanes == 0
        and (cols is None or knobs.tile_n < cols + lanes)
        and knobs.tile_m * vectors + vectors + 1 <= machine.vector_registers
        and knobs.block_m >= knobs.tile_m
        and knobs.panel_k * knobs.tile_n * emit.FLOAT_BYTES <= machine.l2_bytes // 2
    )


def emit_batch_matmul(
    *,
    batch: Dim,
    rows: Dim,
    inner: Dim,
    cols: Dim,
    load_a: Load,
    load_b: Load,
    store: Store,
    machine: Machine,
    knobs: MatmulKnobs,
    b_contiguous_in: Literal["j", "k"] = "j",
    parallel: bool = True,
) -> None:
    """Write `store(b, i, j, sum_k load_a(b, i, k) * load_b(b, k, j))` for all `b`, `i` and `j`.

    A row may be stored twice, with the same value, as in `emit_gemm`. An empty `inner` stores 0.
    """
    product = _Product(
        batch, rows, inner, cols, load_a, load_b, store, emit.lanes_of(machine), knobs,
        b_contiguous_in, parallel,
    )  # fmt: skip
    known, tile = emit.static(rows), knobs.tile_m
    if known is not None:
        product.tasks(max(1, min(known, tile)))
        return
    tall = emit.index(rows) >= tile
    emit.branch(tall, partial(product.tasks, tile), partial(product.tasks, 1))


@dataclass(frozen=True)
class _Product:
    """What every part of one product needs to know."""

    batch: Dim
    rows: Dim
    inner: Dim
    cols: Dim
    load_a: Load
    load_b: Load
    store: Store
    lanes: int
    knobs: MatmulKnobs
    b_contiguous_in: str
    parallel: bool

    @property
    def vectors(self) -> int:
        return self.knobs.tile_n // self.lanes

    def tasks(self, height: int) -> None:
        """Run a task for each block of rows, panel of columns and product."""
        width, tall = self.knobs.tile_n, max(1, self.knobs.block_m // height)
        rows, cols, inner = emit.index(self.rows), emit.index(self.cols), emit.index(self.inner)
        panels = emit.index(emit.ceil_div(self.cols, width))
        blocks = emit.index(emit.ceil_div(self.rows, tall * height))
        tasks = emit.index(self.batch) * panels * blocks
        with emit.loop(tasks, parallel=self.parallel) as task:
            b = T.Bind(task // (panels * blocks))
            j0 = T.Bind(task // blocks % panels * width)
            i0 = T.Bind(task % blocks * (tall * height))
            count = T.Bind(T.min((rows - i0 + height - 1) // height, emit.index(tall)))
            right = T.alloc_buffer((self.knobs.panel_k * width,), "float32")
            sums = T.alloc_buffer((tall * height * width,), "float32")
            with emit.loop(tall * height * self.vectors) as n:
                emit.save(sums, n * self.lanes, self.lanes, emit.splat(0.0, self.lanes))
            with emit.loop((inner + self.knobs.panel_k - 1) // self.knobs.panel_k) as panel:
                k0 = T.Bind(panel * self.knobs.panel_k)
                depth = T.Bind(T.min(inner - k0, emit.index(self.knobs.panel_k)))
                self.copy(right, b, k0, depth, j0, cols)
                with emit.loop(count) as step:
                    start = T.Bind(T.min(i0 + step * height, rows - height))
                    self.tile(right, sums, step * (height * width), b, start, k0, depth, height)
            with emit.loop(count) as step, emit.loop(height) as i:
                row = T.Bind(T.min(i0 + step * height, rows - height) + i)
                at = T.Bind((step * height + i) * width)
                self.write(sums, at, b, row, j0, cols)

    def copy(self, right: Buffer, b: Expr, k0: Expr, depth: Expr, j0: Expr, cols: Expr) -> None:
        """Copy a panel of the right operand; columns past the end repeat the last one."""
        width, lanes = self.knobs.tile_n, self.lanes

        def vectors() -> None:
            with emit.loop(depth) as k, emit.loop(self.vectors) as v:
                with emit.vector_loop(lanes) as lane:
                    j = v * lanes + lane
                    value = self.load_b(b, k0 + k, j0 + j)
                    T.buffer_store(right, value, [k * width + j])

        def scalars() -> None:
            with emit.loop(width) as j:
                column = T.Bind(T.min(j0 + j, cols - 1))
                with emit.loop(depth) as k:
                    value = self.load_b(b, k0 + k, column)
                    T.buffer_store(right, value, [k * width + j])

        self.whole_or_part(j0, cols, vectors if self.b_contiguous_in == "j" else scalars, scalars)

    def whole_or_part(
        self, j0: Expr, cols: Expr, whole: Callable[[], None], part: Callable[[], None]
    ) -> None:
        """Choose by whether all columns of a panel exist."""
        known = emit.static(self.cols)
        if whole is part or (known is not None and known % self.knobs.tile_n == 0):
            whole()
        else:
            emit.branch(j0 + self.knobs.tile_n <= cols, whole, part)

    def tile(
        self,
        right: Buffer,
        sums: Buffer,
        base: Expr,
        b: Expr,
        start: Expr,
        k0: Expr,
        depth: Expr,
        height: int,
    ) -> None:
        """Add one panel of `inner` to one tile."""
        width, lanes, unroll = self.knobs.tile_n, self.lanes, self.knobs.unroll_k
        totals = emit.registers(height * self.vectors, lanes)
        emit.fill(totals, lanes, 0.0)

        def step(k: Expr) -> None:
            values = [
                T.Bind(emit.load(right, k * width + v * lanes, lanes)) for v in range(self.vectors)
            ]
            for i in range(height):
                left = T.Bind(emit.splat(self.load_a(b, start + i, k0 + k), lanes))
                for v, value in enumerate(values):
                    total = totals[i * self.vectors + v]
                    emit.save(total, 0, lanes, emit.load(total, 0, lanes) + left * value)

        whole = T.Bind(depth // unroll)
        with emit.loop(whole) as block:
            for u in range(unroll):
                step(T.Bind(block * unroll + u))
        with emit.loop(depth - whole * unroll) as rest:
            step(T.Bind(whole * unroll + rest))
        for n, total in enumerate(totals):
            at = base + (n // self.vectors * width + n % self.vectors * lanes)
            value = emit.load(sums, at, lanes) + emit.load(total, 0, lanes)
            emit.save(sums, at, lanes, value)

    def write(self, sums: Buffer, at: Expr, b: Expr, row: Expr, j0: Expr, cols: Expr) -> None:
        """Store the columns of one row that exist."""

        def vectors(count: Dim) -> None:
            with emit.loop(count) as v, emit.vector_loop(self.lanes) as lane:
                j = v * self.lanes + lane
                self.store(b, row, j0 + j, sums[at + j])

        def part() -> None:
            whole = T.Bind((cols - j0) // self.lanes)
            vectors(whole)
            with emit.loop(cols - j0 - whole * self.lanes) as rest:
                j = whole * self.lanes + rest
                self.store(b, row, j0 + j, sums[at + j])

        self.whole_or_part(j0, cols, partial(vectors, self.vectors), part)
