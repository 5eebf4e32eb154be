"""Reshaping, permuting, joining and repeating."""

# mypy: disable-error-code="no-any-return"
# (operators hand back `Any`: their results are read from their types)

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tunesmith.ir import opset as ops
from tunesmith.ir.dims import Dim, exact_div, product
from tunesmith.ir.ops import Expr

from ..onnx_call import Call, Result, Table
from ..onnx_shapes import same, text_of
from .building import expand_to, flatten_to, permute, reshape_to, slice_to

__all__ = ["MOVEMENT", "equate_parts", "repeated", "reshaped"]


def reshaped(call: Call, shape: tuple[Dim, ...], wanted: tuple[Dim, ...], zero_copies: bool,
             ) -> tuple[Dim, ...]:  # fmt: skip
    """The shape that `Reshape` means by `wanted`, with 0 and -1 worked out."""
    sizes: list[Dim] = []
    free: int | None = None
    for index, size in enumerate(wanted):
        if size == 0 and zero_copies:
            if index >= len(shape):
                call.fail(f"its shape copies axis {index}, there are {len(shape)}")
            sizes.append(shape[index])
        elif size == -1:
            if free is not None:
                call.fail("its shape has two open sizes")
            free = index
            sizes.append(1)
        else:
            if same(size, 0) is not True and isinstance(size, int) and size < -1:
                call.fail(f"its shape has the size {size}")
            sizes.append(size)
    if free is None:
        return tuple(sizes)
    total, rest = product(shape), product(sizes)
    open_size = exact_div(total, rest) if rest != 0 else 0
    if open_size is None:
        call.fail(
            f"{text_of(shape)} does not divide into {text_of(wanted)}",
            hint="fix the sizes with `shapes` or `dims` if they do divide",
        )
    sizes[free] = open_size
    return tuple(sizes)


def _reshape(call: Call) -> Result:
    x = call.x()
    wanted = call.sizes(1, "shape")
    return reshape_to(x, reshaped(call, x.shape, wanted, not call.integer("allowzero", 0)))


def _reshape_attribute(call: Call) -> Result:
    x = call.x()
    return reshape_to(x, reshaped(call, x.shape, call.integer_list("shape") or (), True))


def _flatten(call: Call) -> Result:
    x = call.x()
    rank = len(x.shape)
    axis = call.integer("axis", 1)
    if not -rank <= axis <= rank:
        call.fail(f"axis {axis} is not one of {rank}")
    return reshape_to(x, flatten_to(x.shape, axis + rank if axis < 0 else axis))


def _squeeze(call: Call) -> Result:
    x = call.x()
    rank = len(x.shape)
    axes = call.axes(13)
    if axes is None:
        return reshape_to(x, (size for size in x.shape if size != 1))
    chosen = {call.axis(axis, rank) for axis in axes}
    for axis in chosen:
        if x.shape[axis] != 1:
            try:
                call.builder.equate(x.shape[axis], 1)
            except ValueError:
                call.fail(f"axis {axis} of {text_of(x.shape)} is not 1")
    return reshape_to(x, (size for i, size in enumerate(x.shape) if i not in chosen))


def _unsqueeze(call: Call) -> Result:
    x = call.x()
    axes = call.axes(13)
    if axes is None:
        call.fail("its list of axes is missing")
    rank = len(x.shape) + len(axes)
    chosen = {call.axis(axis, rank) for axis in axes}
    if len(chosen) != len(axes):
        call.fail(f"its list of axes {list(axes)} names an axis twice")
    sizes = iter(x.shape)
    return reshape_to(x, [1 if i in chosen else next(sizes) for i in range(rank)])


def _transpose(call: Call) -> Result:
    x = call.x()
    return permute(x, call.integer_list("perm") or reversed(range(len(x.shape))))


def _concat(call: Call) -> Result:
    parts = call.all()
    axis = call.axis(call.integer("axis", 1 if call.opset < 4 else None), len(parts[0].shape))
    kept = [part for part in parts if part.shape[axis] != 0] or parts[:1]
    return kept[0] if len(kept) == 1 else ops.concat(*kept, axis=axis)


def _expand(call: Call) -> Result:
    x = call.x()
    return expand_to(x, call.broadcast(x.shape, call.sizes(1, "shape")))


def tiled(x: Expr, repeats: tuple[Dim, ...]) -> Expr:
    """`x` repeated along its axes."""
    narrow: list[Dim] = []
    wide: list[Dim] = []
    for size, times in zip(x.shape, repeats, strict=True):
        if times != 1 and size != 1:
            narrow += [1, size]
            wide += [times, size]
        else:
            narrow.append(size)
            wide.append(times if size == 1 else size)
    result = [size * times for size, times in zip(x.shape, repeats, strict=True)]
    return reshape_to(expand_to(reshape_to(x, narrow), wide), result)


def repeated(x: Expr, axis: int, times: int) -> Expr:
    """Each element of an axis `times` times in a row."""
    before, size, after = x.shape[:axis], x.shape[axis], x.shape[axis + 1 :]
    split = reshape_to(x, (*before, size, 1, *after))
    wide = expand_to(split, (*before, size, times, *after))
    return reshape_to(wide, (*before, size * times, *after))


def _tile(call: Call) -> Result:
    x = call.x()
    repeats = call.sizes(1, "list of repeats")
    if len(repeats) != len(x.shape):
        call.fail(f"{len(repeats)} repeats do not fit {len(x.shape)} axes")
    return tiled(x, repeats)


def equate_parts(call: Call, parts: Sequence[Dim], size: Dim) -> None:
    """Hold the parts of an axis against its size: together they make it."""
    total: Dim = 0
    for part in parts:
        total = total + part
    try:
        call.builder.equate(total, size)
    except ValueError:
        call.fail(f"parts of {text_of(parts)} do not make {size}")


def _split(call: Call) -> Result:
    x = call.x()
    axis = call.axis(call.integer("axis", 0), len(x.shape))
    count = len(call.outputs)
    size = x.shape[axis]
    sizes: tuple[Dim, ...]
    given = call.integer_list("split") if call.opset < 13 else None
    if call.opset >= 13 and call.has(1):
        sizes = call.sizes(1, "list of sizes")
    elif given is not None:
        sizes = given
    else:
        each = exact_div(size, count)
        if each is None:
            if not isinstance(size, int):
                call.fail(f"whether {count} parts divide {size} is not known")
            each = -(-size // count)
        sizes = (*[each] * (count - 1), size - each * (count - 1))
    if len(sizes) != count:
        call.fail(f"{len(sizes)} sizes do not make {count} results")
    equate_parts(call, sizes, size)
    start: Dim = 0
    known = call.known(0)
    if known is not None and all(isinstance(part, int) for part in sizes):
        ends = np.cumsum([int(str(part)) for part in sizes])[:-1]
        return [call.content(part, call.dtype()) for part in np.split(known, ends, axis)]
    parts = []
    for part in sizes:
        parts.append(slice_to(x, axis, start, start + part))
        start = start + part
    return parts


def _depth_to_space(call: Call) -> Result:
    x = call.x()
    batch, channels, height, width = x.shape
    block = call.integer("blocksize")
    depth = exact_div(channels, block * block)
    if depth is None:
        call.fail(f"{channels} channels do not make blocks of {block}")
    if call.text("mode", "DCR") == "DCR":
        split: tuple[Dim, ...] = (batch, block, block, depth, height, width)
        perm = (0, 3, 4, 1, 5, 2)
    else:
        split, perm = (batch, depth, block, block, height, width), (0, 1, 4, 2, 5, 3)
    shape = (batch, depth, height * block, width * block)
    return reshape_to(permute(reshape_to(x, split), perm), shape)


def _space_to_depth(call: Call) -> Result:
    x = call.x()
    batch, channels, height, width = x.shape
    block = call.integer("blocksize")
    rows, columns = exact_div(height, block), exact_div(width, block)
    if rows is None or columns is None:
        call.fail(f"{height} by {width} does not divide into blocks of {block}")
    split = reshape_to(x, (batch, channels, rows, block, columns, block))
    mode = call.text("mode", "DCR")
    perm = (0, 3, 5, 1, 2, 4) if mode == "DCR" else (0, 1, 3, 5, 2, 4)
    return reshape_to(permute(split, perm), (batch, channels * block * block, rows, columns))


def _identity(call: Call) -> Result:
    return call.tensor(0)


def _dropout(call: Call) -> Result:
    trained = call.opset >= 12 and call.has(2) and call.scalar(2) is not False
    if trained and not (call.has(1) and call.scalar(1) == 0):  # which drops nothing
        call.fail("its training mode is not off", hint="export the model for inference")
    results: list[Expr] = [call.x()]
    if call.wants(1):
        dtype = ops.equal(call.x(), call.x()).dtype if call.opset >= 10 else call.dtype()
        results.append(ops.full(value=True, shape=call.shape(), dtype=dtype))
    return results


def _dropout_if_tested(call: Call) -> Result:
    if not call.integer("is_test", 0):
        call.fail("its training mode is not off", hint="export the model for inference")
    call.refuse_result(1, "the mask")
    return call.x()


MOVEMENT: Table = {
    "Concat": ((4, _concat),),
    "DepthToSpace": ((1, _depth_to_space),),
    "Dropout": ((1, _dropout_if_tested), (7, _dropout)),
    "Expand": ((8, _expand),),
    "Flatten": ((1, _flatten),),
    "Identity": ((1, _identity),),
    "Reshape": ((1, _reshape_attribute), (5, _reshape)),
    "SpaceToDepth": ((1, _space_to_depth),),
    "Split": ((2, _split),),
    "Squeeze": ((1, _squeeze),),
    "Tile": ((6, _tile),),
    "Transpose": ((1, _transpose),),
    "Unsqueeze": ((1, _unsqueeze),),
}
