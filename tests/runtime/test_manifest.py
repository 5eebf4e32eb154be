"""The manifest: round trip, and each lie refused by name."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tunesmith.ir.diagnostics import ArtifactError
from tunesmith.runtime.manifest import (
    CacheSpec,
    FileSpec,
    Manifest,
    SymbolSpec,
    TensorSpec,
    WeightSpec,
)

from .conftest import tiny_manifest

HASH = "0" * 64


def full() -> Manifest:
    return replace(
        tiny_manifest(),
        weights=(WeightSpec("w", "float32", (4, 3), 0, 48, (HASH,)),
                 WeightSpec("none", "int8", (0, 2), 64, 0, ()),
                 WeightSpec("s", "float64", (), 64, 8, (HASH,))),
        files={"kernels.so": FileSpec(HASH, 10)},
        tolerance={"rtol": 1e-3},
        passes=({"name": "fuse", "changed": True},),
        source_sha256=HASH,
        versions={"tunesmith": "0.1.0"},
    )  # fmt: skip


def test_round_trip() -> None:
    manifest = full()
    text = manifest.to_json()
    assert Manifest.from_json(text) == manifest
    assert Manifest.from_json(text).to_json() == text


def cached() -> Manifest:
    """A manifest with a cache, and an input that tells its length."""
    return replace(
        full(),
        inputs=(TensorSpec("x", "float32", ("n", 4)), TensorSpec("k", "float32", ("n", 9, 2)),
                TensorSpec("p", "int64", (), binds="p")),
        outputs=(TensorSpec("y", "float32", ("n", 3)),
                 TensorSpec("z", "float32", ("n", "p + 1", 2))),
        symbols=(SymbolSpec("n", 0, 5), SymbolSpec("p", 0, 8)),
        caches=(CacheSpec("k", "z", 1, "p"),),
    )  # fmt: skip


def test_a_cache_comes_back() -> None:
    manifest = cached()
    assert Manifest.from_json(manifest.to_json()) == manifest
    assert [symbol.name for symbol in manifest.given] == ["n", "p"]


def edit(path: str, value: object) -> Callable[[Any], None]:
    def change(rows: Any) -> None:
        *parents, last = [int(p) if p.isdigit() else p for p in path.split("/")]
        for parent in parents:
            rows = rows[parent]
        rows[last] = value

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (edit("format_version", 3), "format version 3 is not known"),
        (edit("format_version", "1"), "format version '1' is not known"),
        (edit("format_version", True), "format version True is not known"),
        (edit("extra", 1), "unknown key `extra`"),
        (lambda rows: rows.pop("inputs"), "lacks `inputs`"),
        (edit("inputs", {}), "manifest.inputs is not of type `list`"),
        (edit("inputs/0/dims/0", 1.5), "dims is not of type `int`"),
        (edit("inputs/0/dims/0", True), "dims is not of type `int`"),
        (edit("inputs/0/dims/0", -1), "has the size -1"),
        (edit("inputs/0/dims/0", "k"), "symbol `k`, which is not declared"),
        (edit("inputs/0/dims/0", "n +"), "has an odd dim"),
        (edit("inputs/0/dims/0", "3"), "should be a number"),
        (edit("inputs/0/dtype", "float8"), "unknown dtype `float8`"),
        (edit("inputs/0/value", "AAAA"), "has an odd value"),
        (edit("inputs/0/value", "?"), "has an odd value"),
        (edit("inputs/0/value", 1), "value is not of type `str`"),
        (edit("outputs/0/value", "AAAA"), "is given, yet fixed"),
        (edit("inputs/0/name", ""), "without a proper name"),
        (edit("inputs/0/name", "a\0b"), "without a proper name"),
        (edit("outputs", []), "outputs is empty"),
        (edit("symbols/0/max", 0), "has no size at all"),
        (edit("symbols/0/min", -1), "negative minimum"),
        (edit("symbols/0/name", "a b"), "is not a symbol"),
        (edit("target/threads", 0), "target.threads"),
        (edit("target/features", [1]), "target.features[0]"),
        (edit("source_sha256", "xyz"), "source_sha256"),
        (edit("weights/0/shape/0", 5), "has a size that is not its shape's"),
        (edit("weights/0/shape/0", -4), "impossible shape"),
        (edit("weights/0/shape", [2**63, 2**63]), "impossible shape"),
        (edit("weights/2/offset", 48), "does not lie where it should"),
        (edit("weights/2/offset", 4096), "does not lie where it should"),
        (edit("weights/0/chunks", []), "needs 1 hashes"),
        (edit("weights/0/chunks/0", "ff"), "odd hash"),
        (edit("weights/1/name", "w"), "names something twice"),
        (edit("files", {"../x": {"sha256": HASH, "size": 1}}), "is not a file name"),
        (edit("files/kernels.so/size", -1), "negative size"),
        (edit("files/kernels.so/sha256", "00"), "is not a sha256"),
        (edit("tolerance", 3), "tolerance is not of type `dict`"),
    ],
)
def test_lies_are_refused(change: Callable[[Any], object], message: str) -> None:
    rows = json.loads(full().to_json())
    change(rows)
    with pytest.raises(ArtifactError) as caught:
        Manifest.from_json(json.dumps(rows, indent=1) + "\n")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (edit("caches/0/input", "q"), "caches.q is of an input or output that is not there"),
        (edit("caches/0/output", "q"), "caches.k is of an input or output that is not there"),
        (edit("caches/0/output", "y"), "caches.k does not fit its tensors"),
        (edit("caches/0/axis", 3), "caches.k does not fit its tensors"),
        (edit("caches/0/axis", -1), "caches.k does not fit its tensors"),
        (edit("caches/0/axis", 2), "caches.k differs in an axis that does not grow"),
        (edit("caches/0/before", "q"), "uses the symbol `q`"),
        (edit("caches/0/before", "p +"), "has an odd dim"),
        (edit("caches/0/more", 1), "unknown key `more`"),
        (edit("inputs/1/dims/1", "p"), "caches.k has room for no fixed number"),
        (edit("inputs/1/dtype", "int8"), "caches.k does not fit its tensors"),
        (lambda rows: rows["caches"].append(rows["caches"][0]), "caches names something twice"),
        (edit("inputs/2/binds", "q"), "binds `q`, not a symbol"),
        (edit("inputs/0/binds", "p"), "is not one int64"),
        (edit("inputs/2/dtype", "int32"), "is not one int64"),
        (edit("outputs/0/binds", "p"), "cannot bind a size"),
    ],
)
def test_lies_of_caches_are_refused(change: Callable[[Any], object], message: str) -> None:
    rows = json.loads(cached().to_json())
    change(rows)
    with pytest.raises(ArtifactError) as caught:
        Manifest.from_json(json.dumps(rows, indent=1) + "\n")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "text",
    ["", "[]", "null", "{", "[" * 100_000, '{"format_version": 4}', '{"format_version": NaN}',
     '{"a": ' + "1" * 5000 + "}"],
)  # fmt: skip
def test_text_that_is_no_manifest(text: str) -> None:
    with pytest.raises(ArtifactError):
        Manifest.from_json(text)


def test_only_canonical_text_is_read() -> None:
    text = full().to_json()
    doubled = text.replace('"name": "tiny",', '"name": "other",\n "name": "tiny",')
    for odd in (text + " ", text.replace("\n ", "\n  ", 1), doubled):
        with pytest.raises(ArtifactError, match="canonical"):
            Manifest.from_json(odd)


def test_report_must_be_json() -> None:
    for value in (float("nan"), {1, 2}):
        with pytest.raises(ArtifactError, match="does not fit into JSON"):
            replace(tiny_manifest(), report={"x": value}).to_json()  # type: ignore[dict-item]  # the point


def test_specs_print_as_types() -> None:
    assert str(TensorSpec("x", "float32", ("2*S + 1", 4))) == "float32[2*S + 1, 4]"
