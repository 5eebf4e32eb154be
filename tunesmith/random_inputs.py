"""Sizes and inputs to try a model with, when the user gives none: sensible, seeded, never zeros."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tunesmith.ir.diagnostics import InputError
from tunesmith.runtime.manifest import numpy_type
from tunesmith.runtime.shapes import ShapeSolver, parse_dim

if TYPE_CHECKING:
    from tunesmith.ir.graph import Graph, Value
    from tunesmith.runtime.manifest import Manifest, SymbolSpec, TensorSpec

__all__ = [
    "fitting", "index_bounds", "make_inputs", "sizes_of", "sizes_to_bench",
    "sizes_to_verify", "small_inputs",
]  # fmt: skip

Array = NDArray[np.generic]

ID_BOUND = 100  # ids are below this, unless the size of the embedding is known
_OPEN = 64  # stands in for an upper bound where there is none
_TYPICAL = 128
_KEEPS_ELEMENTS = ("cast", "reshape", "transpose", "expand")  # all of them, as they are


def make_inputs(
    specs: Sequence[TensorSpec],
    sizes: Mapping[str, int],
    *,
    seed: int = 0,
    bounds: Mapping[str, int] | None = None,
) -> dict[str, Array]:
    """Random inputs of the given sizes.

    An input whose value was fixed when compiling has it, and one that tells a size has that.
    Floats are standard normal; integers are ids from 1 to `bounds[name]` (or the rows that the
    input picks from, or 100), exclusive. A name that ends in `mask` gives ones with padded tails
    after the first row, `position` ids count, `type` ids (segments) are 0 or 1.
    """
    random = np.random.default_rng(seed)
    lengths: dict[tuple[int, ...], NDArray[np.int64]] = {}
    inputs: dict[str, Array] = {}
    for spec in specs:
        if (value := spec.array) is not None:
            inputs[spec.name] = value
            continue
        if spec.binds is not None:
            inputs[spec.name] = np.asarray(sizes[spec.binds], numpy_type(spec.dtype))
            continue
        shape = tuple(parse_dim(d).evaluate(sizes) if isinstance(d, str) else d for d in spec.dims)
        bound = (bounds or {}).get(spec.name, spec.rows)
        inputs[spec.name] = _one(spec, shape, random, lengths, bound)
    return inputs


def _one(
    spec: TensorSpec,
    shape: tuple[int, ...],
    random: np.random.Generator,
    lengths: dict[tuple[int, ...], NDArray[np.int64]],
    bound: int | None,
) -> Array:
    dtype = numpy_type(spec.dtype)
    name = spec.name.lower()
    if "mask" in name and len(shape) >= 1 and shape[-1] > 0:
        rows = lengths.setdefault(shape, _lengths(random, shape))
        return np.asarray((np.arange(shape[-1]) < rows[..., None]).astype(dtype))
    if dtype.kind == "b":
        return np.asarray(random.integers(0, 2, shape).astype(bool))
    if "float" in spec.dtype:
        return np.asarray(random.standard_normal(shape).astype(dtype))
    if "position" in name and shape:
        return np.broadcast_to(np.arange(shape[-1], dtype=dtype), shape).copy()
    high = 2 if "type" in name or "segment" in name else bound or ID_BOUND
    if dtype.kind in "iu":
        high = min(high, int(np.iinfo(str(dtype)).max) + 1)
    elif "int" in spec.dtype:  # of four bits, or two
        high = 1 << int(spec.dtype[-1]) - (not spec.dtype.startswith("u"))
    if high <= 2:
        return np.asarray(random.integers(0, 2, shape).astype(dtype))
    return np.asarray(random.integers(1, high, shape).astype(dtype))


def _lengths(random: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.int64]:
    """How much of each row is real: all of the first, at least half of every other."""
    most = shape[-1]
    rows = random.integers(max(1, most // 2), most, shape[:-1], endpoint=True)
    rows = np.asarray(rows)
    if rows.ndim and rows.shape[0]:
        rows[0] = most
    return rows if rows.ndim else np.asarray(most)


def _high(symbol: SymbolSpec) -> int:
    return symbol.max if symbol.max is not None else max(symbol.min, _OPEN)


def sizes_to_verify(symbols: Sequence[SymbolSpec]) -> list[dict[str, int]]:
    """Several sizes inside the bounds: all least, the middle, and each symbol at its most.

    >>> from tunesmith.runtime.manifest import SymbolSpec
    >>> sizes_to_verify([SymbolSpec("b", 1, 8), SymbolSpec("s", 1, 128)])
    [{'b': 1, 's': 1}, {'b': 5, 's': 65}, {'b': 8, 's': 1}, {'b': 1, 's': 128}]
    """
    least = {s.name: max(s.min, 1) for s in symbols}
    middle = {s.name: min((max(s.min, 1) + _high(s)) // 2 | 1, _high(s)) for s in symbols}
    trials = [least, middle, *({**least, s.name: _high(s)} for s in symbols[:4])]
    return [sizes for i, sizes in enumerate(trials) if sizes not in trials[:i]]


def sizes_to_bench(symbols: Sequence[SymbolSpec]) -> dict[str, int]:
    """Typical sizes: a batch at its least, others at most 128.

    A batch is a symbol of that name, or the first of several.

    >>> from tunesmith.runtime.manifest import SymbolSpec
    >>> sizes_to_bench([SymbolSpec("b", 1, 8), SymbolSpec("s", 1, 512)])
    {'b': 1, 's': 128}
    >>> sizes_to_bench([SymbolSpec("batch_size", 1, 512)])
    {'batch_size': 1}
    """

    def is_batch(place: int, name: str) -> bool:
        return "batch" in name.lower() or (place == 0 and len(symbols) > 1)

    return {
        s.name: max(s.min, 1) if is_batch(i, s.name) else max(s.min, min(_high(s), _TYPICAL))
        for i, s in enumerate(symbols)
    }


def fitting(manifest: Manifest, sizes: Mapping[str, int]) -> dict[str, int]:
    """The sizes, with a past of at least no rows, and shorter where it would not fit a cache.

    What is changed is the length of the past, or of all rows, whichever has a name of its own.
    """
    least = {symbol.name: symbol.min for symbol in manifest.symbols}
    fitted = dict(sizes)
    for cache in manifest.caches:
        output = next(t for t in manifest.outputs if t.name == cache.output)
        buffer = next(t for t in manifest.inputs if t.name == cache.input)
        after = str(output.dims[cache.axis])
        name = cache.before if cache.before in least else after
        if name not in least:
            continue  # a number, or a sum of sizes: no one of them is to be changed
        short = -parse_dim(cache.before).evaluate(fitted)
        over = parse_dim(after).evaluate(fitted) - int(buffer.dims[cache.axis])
        fitted[name] = max(least[name], fitted[name] + max(short, 0) - max(over, 0))
    return fitted


def check_sizes(sizes: Mapping[str, int], symbols: Sequence[SymbolSpec]) -> None:
    """Refuse sizes of symbols that a model does not have, or outside of their bounds."""
    known = {symbol.name: symbol for symbol in symbols}
    for name, size in sizes.items():
        symbol = known.get(name)
        if symbol is None:
            listed = ", ".join(f"`{n}`" for n in known) or "none"
            close = get_close_matches(name, known, 1)
            hint = f"did you mean `{close[0]}`?" if close else f"its symbols: {listed}"
            raise InputError(f"the model has no symbol `{name}`", hint=hint)
        if size < symbol.min or (symbol.max is not None and size > symbol.max):
            most = "on" if symbol.max is None else f"to {symbol.max}"
            raise InputError(f"`{name}` is {size}, outside of {symbol.min} {most}",
                             hint=f"compile with a wider `--dim {name}=…`")  # fmt: skip


def sizes_of(
    specs: Sequence[TensorSpec],
    shapes: Mapping[str, Sequence[int]],
    defaults: Mapping[str, int],
) -> dict[str, int]:
    """The value of each symbol that makes inputs have `shapes`; `defaults` for the rest."""
    by_name = {spec.name: spec for spec in specs}
    for name, shape in shapes.items():
        if name not in by_name:
            known = ", ".join(f"`{n}`" for n in by_name)
            raise InputError(f"there is no input `{name}`", hint=f"the inputs are {known}")
        if len(shape) != len(by_name[name].dims):
            raise InputError(
                f"input `{name}` has {len(by_name[name].dims)} axes, not {len(shape)}",
                hint=f"it takes {by_name[name]}",
            )
    given = [by_name[name].dims for name in shapes]
    sizes, wrong = ShapeSolver(given).solve([tuple(shape) for shape in shapes.values()])
    if wrong is not None:
        (index, axis), size = wrong
        name, shape = list(shapes.items())[index]
        raise InputError(
            f"axis {axis} of input `{name}` is {shape[axis]}, not {size}",
            hint=f"it takes {by_name[name]}",
        )
    return {**defaults, **sizes}


def small_inputs(graph: Graph, *, seed: int = 0, least: bool = False) -> dict[str, Array]:
    """Random inputs of a graph, at small sizes that differ from each other, or at the least."""
    from tunesmith.runtime.manifest import TensorSpec

    wanted = itertools.chain((2, 7, 5, 3), itertools.repeat(4))
    sizes = {
        s.name: max(s.low, 1) if least else max(s.low, min(size, s.high or size))
        for s, size in zip(graph.symbols().values(), wanted, strict=False)
    }
    specs = [
        TensorSpec(
            value.name,
            value.type.dtype.numpy.name,
            tuple(d if isinstance(d, int) else str(d) for d in value.type.shape),
        )
        for value in graph.inputs
    ]
    return make_inputs(specs, sizes, seed=seed, bounds=index_bounds(graph))


def index_bounds(graph: Graph) -> dict[str, int]:
    """For each integer input that picks rows of a constant table: how many rows the table has."""
    bounds: dict[str, int] = {}
    for value in graph.inputs:
        if value.type.dtype.is_integer:
            rows = list(_tables(value))
            if rows:
                bounds[value.name] = min(rows)
    return bounds


def _tables(value: Value) -> Iterator[int]:
    """The sizes of the tables that a value, or a rearranged copy of it, indexes."""
    work, seen = [value], {value}
    while work:
        current = work.pop()
        for node, place in current.users:
            if node.op.name == "gather" and place == 1 and node.operands[0] is not None:
                axis = node.attributes.get("axis", 0)
                size = node.operands[0].type.shape[axis] if isinstance(axis, int) else None
                if isinstance(size, int):
                    yield size
            elif node.op.name in _KEEPS_ELEMENTS and len(seen) < 1000:
                fresh = [result for result in node.results if result not in seen]
                seen.update(fresh)
                work.extend(fresh)
