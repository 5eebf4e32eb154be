"""`tunesmith demo`: a real sentence embedding model, from its file to similarities."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

import numpy as np
import typer
from numpy.typing import NDArray

from tunesmith.cli_console import Progress, out
from tunesmith.ir.diagnostics import CompilerError

if TYPE_CHECKING:
    from tunesmith.oracle import Arrays, OnnxSession
    from tunesmith.runtime import Executable

__all__ = ["DIMS", "SENTENCES", "demo_command", "embed", "pool", "similarities"]

Run = Callable[["Arrays"], Mapping[str, NDArray[np.generic]]]

DIMS = {"batch": (1, 8), "sequence": (1, 128)}
OUTPUT = "last_hidden_state"

SENTENCES = (
    "A cat is sleeping on the sofa.",
    "A kitten naps on the couch.",
    "The central bank raised interest rates again.",
    "Borrowing money has become more expensive.",
    "How do I reset the password of my account?",
    "I forgot my login and cannot get in.",
)
LONG = (
    "The committee met on Tuesday to discuss the plan for the old harbor, which had been closed for"
    " eleven years; engineers explained at length how the quay could be made safe again, what the"
    " work would cost, how long it would take, and which of the three proposed designs they"
    " preferred, while residents asked about noise, traffic, parking and the height of the new"
    " buildings, and the mayor promised, as she had done twice before, that nothing would be"
    " decided until everybody who wished to speak had been heard and every letter answered."
)
TRIALS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("one word", ("Hello",)),
    ("one sentence", SENTENCES[:1]),
    ("one long text", (LONG,)),
    ("three, padded", (SENTENCES[2], "Yes.", SENTENCES[4])),
    ("eight, padded", (*SENTENCES, "Fine.", LONG)),
)
TIMED: tuple[tuple[int, int], ...] = ((1, 16), (8, 128))


class Encoding(Protocol):
    """What the tokenizer makes of one sentence."""

    @property
    def ids(self) -> list[int]:
        """Its tokens."""
        ...

    @property
    def attention_mask(self) -> list[int]:
        """1 where a token is real."""
        ...

    @property
    def type_ids(self) -> list[int]:
        """0 for the first sentence of a pair."""
        ...


class Tokenizer(Protocol):
    """A tokenizer of the `tokenizers` package, as far as the demo needs it."""

    def encode_batch(self, input: Sequence[str]) -> list[Encoding]:
        """Encode sentences, padded to the longest."""
        ...


def load_tokenizer() -> Tokenizer:
    """The tokenizer of the model: cut at 128 tokens, padded to the longest sentence of a batch."""
    try:
        import tokenizers
    except ImportError as error:
        raise CompilerError(
            "the demo needs the package `tokenizers`", hint="pip install 'tunesmith[demo]'"
        ) from error
    tokenizer = tokenizers.Tokenizer.from_file(str(_sample("minilm-tokenizer")))
    tokenizer.enable_truncation(DIMS["sequence"][1])
    tokenizer.enable_padding()
    return cast("Tokenizer", tokenizer)


def _sample(name: str) -> Path:
    from tunesmith.samples import INSTALL, locate

    try:
        return locate(name)
    except (LookupError, ValueError) as error:
        raise CompilerError(str(error), hint=f"run `make demo`, or `{INSTALL}`") from error


def tokenize(tokenizer: Tokenizer, sentences: Sequence[str]) -> dict[str, NDArray[np.int64]]:
    """Sentences as the inputs of the model."""
    rows = tokenizer.encode_batch(list(sentences))
    return {
        "input_ids": np.array([r.ids for r in rows], np.int64),
        "attention_mask": np.array([r.attention_mask for r in rows], np.int64),
        "token_type_ids": np.array([r.type_ids for r in rows], np.int64),
    }


def pool(hidden: NDArray[np.generic], mask: NDArray[np.int64]) -> NDArray[np.float64]:
    """The mean over the real tokens of each sentence, of length 1."""
    weights = mask[..., None].astype(np.float64)
    mean = (np.asarray(hidden, np.float64) * weights).sum(axis=1) / weights.sum(axis=1)
    unit: NDArray[np.float64] = mean / np.linalg.norm(mean, axis=1, keepdims=True)
    return unit


def embed(run: Run, tokenizer: Tokenizer, sentences: Sequence[str]) -> NDArray[np.float64]:
    """The embeddings of sentences, of length 1."""
    inputs = tokenize(tokenizer, sentences)
    return pool(run(inputs)[OUTPUT], inputs["attention_mask"])


def similarities(embeddings: NDArray[np.float64]) -> NDArray[np.float64]:
    """The cosine of each pair."""
    return embeddings @ embeddings.T


def demo_command(threads: int | None) -> None:
    """Compile, verify, embed and time; exit 1 if an output differs."""
    tokenizer = load_tokenizer()
    model = _sample("minilm-l6-int8")
    path = Path("minilm-l6-int8.tsm")
    _compile(model, path, threads)
    from tunesmith.oracle import OnnxSession
    from tunesmith.runtime import load

    executable = load(path, threads=threads)
    session = OnnxSession(model, threads=executable.threads)
    passed = _verify(executable, session, tokenizer)
    _similarities(executable, session, tokenizer)
    _latency(executable, session)
    if not passed:
        raise typer.Exit(1)


def _compile(model: Path, path: Path, threads: int | None) -> None:
    from tunesmith import report
    from tunesmith.driver import compile_model

    _title("compile: all-MiniLM-L6-v2, 8-bit weights, any batch to 8 and any length to 128")
    start = time.perf_counter()
    with Progress("compile") as progress:
        artifact = compile_model(model, dims=DIMS, threads=threads, verify=True, progress=progress)
        progress("save")
        artifact.save(path)
    took = time.perf_counter() - start
    summary = report.compile_summary(artifact.manifest, path, took, path.stat().st_size)
    out("\n".join(summary))


def _verify(executable: Executable, session: OnnxSession, tokenizer: Tokenizer) -> bool:
    from tunesmith import oracle, report
    from tunesmith.cli_verify import verify_once

    _title(f"verify: real sentences, beside ONNX Runtime {oracle.version()}")
    passed = True
    for label, sentences in TRIALS:
        inputs = tokenize(tokenizer, sentences)
        found = verify_once(executable, session, inputs)
        passed = passed and all(r.passed for r in found)
        batch, sequence = inputs["input_ids"].shape
        for line in report.verdict_lines(found, {"batch": batch, "sequence": sequence}):
            out(f"{line}  {label}")
    return passed


def _similarities(executable: Executable, session: OnnxSession, tokenizer: Tokenizer) -> None:
    _title("similarities: cosine of the mean over the tokens")
    ours = similarities(embed(executable.run, tokenizer, SENTENCES))
    theirs = similarities(embed(session.run, tokenizer, SENTENCES))
    for index, (sentence, row) in enumerate(zip(SENTENCES, ours, strict=True), 1):
        out(f"{index} {sentence:46}" + "".join(f"{value:7.3f}" for value in row))
    out(f"largest difference to ONNX Runtime: {np.abs(ours - theirs).max():.2g}")


def _latency(executable: Executable, session: OnnxSession) -> None:
    from tunesmith import __version__, bench, oracle, report
    from tunesmith.random_inputs import make_inputs

    versions = {"tunesmith": str(__version__), "onnxruntime": oracle.version()}
    for batch, sequence in TIMED:
        _title(f"latency: batch {batch}, {sequence} tokens, {executable.threads} threads")
        feeds = make_inputs(executable.inputs, {"batch": batch, "sequence": sequence})
        engines: dict[str, Callable[[], object]] = {
            "tunesmith": lambda feeds=feeds: executable.run(feeds),  # type: ignore[misc]  # bound now
            "onnxruntime": lambda feeds=feeds: session.run(feeds),  # type: ignore[misc]  # bound now
        }
        measured = bench.interleave(engines, rounds=7, min_seconds=1.5)
        out("\n".join(report.bench_lines(measured, versions)))


def _title(text: str) -> None:
    out(f"\n== {text}")
