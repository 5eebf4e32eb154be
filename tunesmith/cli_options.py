"""The options that several commands take, typed."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "At",
    "Atol",
    "Backend",
    "Cache",
    "Compiled",
    "Database",
    "Dim",
    "Emit",
    "Engine",
    "Grouping",
    "Inputs",
    "Json",
    "Level",
    "Model",
    "Pipe",
    "Rtol",
    "Seed",
    "Shape",
    "TargetName",
    "Threads",
    "Tries",
    "Value",
]


class Emit(Enum):
    """What `opt` writes."""

    text = "text"
    onnx = "onnx"


class Engine(Enum):
    """What `opt --check-each` compares with."""

    interpreter = "interpreter"
    onnxruntime = "onnxruntime"


class Grouping(Enum):
    """What a row of `profile` stands for."""

    kernel = "kernel"
    kind = "kind"
    node = "node"


Model = Annotated[
    Path, typer.Argument(metavar="MODEL", help="The model: `.onnx`, `.pt2` or `.nir`.")
]
Compiled = Annotated[Path, typer.Argument(metavar="MODEL.tsm", help="The compiled model.")]
Shape = Annotated[
    list[str] | None,
    typer.Option("--shape", metavar="NAME:1x128", help="The shape of an input; repeatable."),
]
Dim = Annotated[
    list[str] | None,
    typer.Option(
        "--dim", metavar="NAME=1..8", help="The bounds, or the value, of a symbol; repeatable."
    ),
]
Value = Annotated[
    list[str] | None,
    typer.Option(
        "--value", metavar="NAME=[1,2]", help="The elements of an input, fixed; repeatable."
    ),
]
Cache = Annotated[
    int | None,
    typer.Option(
        "--cache",
        metavar="ROWS",
        min=1,
        help="Write key/value caches in place, into buffers with room for so many rows.",
    ),
]
Threads = Annotated[
    int | None, typer.Option("--threads", min=1, max=1024, help="Threads; all cores if not given.")
]
Json = Annotated[
    Path | None, typer.Option("--json", metavar="FILE", help="Also write JSON; `-` is stdout.")
]
Inputs = Annotated[
    Path | None, typer.Option("--inputs", metavar="IN.npz", help="Arrays by input name.")
]
Database = Annotated[
    str | None, typer.Option("--db", metavar="URL", help="The records of tuning: a file, or a URL.")
]
At = Annotated[
    list[str] | None,
    typer.Option("--at", metavar="NAME=128", help="The size of a symbol to tune at; repeatable."),
]
TargetName = Annotated[str, typer.Option("--target", help="See `tunesmith targets`.")]
Level = Annotated[
    int, typer.Option("-O", min=0, max=3, metavar="0..3", help="How much to optimize: -O0 to -O3.")
]
Pipe = Annotated[
    str | None, typer.Option("-p", "--pipeline", help="Passes; those of -O if not given.")
]
Backend = Annotated[
    bool, typer.Option("--backend/--no-backend", help="Also compile and run what comes out.")
]
Seed = Annotated[int, typer.Option(min=0, help="Of the random inputs.")]
Tries = Annotated[int, typer.Option(min=1, max=100, help="Random inputs, at different sizes.")]
Atol = Annotated[float | None, typer.Option(min=0, help="Absolute tolerance.")]
Rtol = Annotated[float | None, typer.Option(min=0, help="Relative tolerance.")]
